"""The Grafana dashboard asks for metrics and labels that there are, and its panels fit on the screen."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ocssd_tcp.observe.metrics import FAMILIES, Kind

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "ocssd-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
WIDTH = 24
SCRAPED = {"instance"}  #: labels that Prometheus adds
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
BY_NAME = {
    f"{family.name}{suffix}": family
    for family in FAMILIES
    for suffix in (("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",))
}


def _queries() -> list[str]:
    variables = [entry["definition"] for entry in DASHBOARD["templating"]["list"] if "definition" in entry]
    return [target["expr"] for panel in PANELS for target in panel["targets"]] + variables


@pytest.mark.parametrize("query", _queries())
def test_a_query_names_metrics_and_labels_that_exist(query: str) -> None:
    metrics = re.findall(r"\b((?:ocssd|process)_[a-z_]+)", query)
    assert metrics
    known = set(SCRAPED)
    for metric in metrics:
        assert metric in BY_NAME or metric in PROCESS
        known |= {"le", *BY_NAME[metric].labels} if metric in BY_NAME else set()
    grouped = ",".join(re.findall(r"by \(([^)]*)\)", query)).replace(" ", "").split(",")
    matched = re.findall(r"([a-z_]+)(?:=~|!=|=)\"", query)
    assert {*filter(None, grouped), *matched} <= known


@pytest.mark.parametrize("query", _queries())
def test_counters_and_buckets_are_asked_for_their_rate(query: str) -> None:
    for metric in re.findall(r"\b(ocssd_[a-z_]+)", query):
        is_rising = BY_NAME[metric].kind is not Kind.GAUGE
        assert is_rising == bool(re.search(rf"rate\({metric}\b", query))


def test_every_metric_of_interest_to_an_operator_is_on_the_dashboard() -> None:
    shown = set(re.findall(r"\bocssd_[a-z_]+", " ".join(_queries())))
    absent = {name for name, family in BY_NAME.items() if family.kind is not Kind.HISTOGRAM} - shown
    assert absent == {
        "ocssd_build_info", "ocssd_chunk_resets_most", "ocssd_connections_accepted_total", "ocssd_survey_seconds",
    }  # fmt: skip


def test_legends_name_labels_of_their_query() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"])


def test_panels_have_titles_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["title"] for panel in PANELS}) == len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] + place["w"] <= WIDTH for place in places)
    for one, other in itertools.combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )

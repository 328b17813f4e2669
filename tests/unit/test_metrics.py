"""Every metric of a drive, scraped and parsed as Prometheus does it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ocssd_tcp.commands.tally import OPERATIONS, Outcome
from ocssd_tcp.media.events import Notice
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.ops import Extent
from ocssd_tcp.observe.drive import Drive, Phase
from ocssd_tcp.observe.metrics import FAMILIES, Exporter, Kind
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import NotificationState
from tests.support_observe import watched
from tests.support_target import SMALL, VECTOR_RESET, WRITE, Target, capsule

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
BLOCK = SMALL.block_stride
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def at(tmp_path: Path) -> Iterator[tuple[Target, Drive]]:
    with watched(tmp_path, SMALL, replace(SMALL, num_grp=2, maxoc=5)) as both:
        yield both


async def scraped(drive: Drive) -> Samples:
    """All samples by name and labels."""
    text = (await Exporter(drive).exposition()).decode("ascii")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"ocssd_{name}", frozenset(labels.items())]


async def test_a_drive_that_did_nothing_shows_its_shape(at: tuple[Target, Drive]) -> None:
    samples = await scraped(at[1])
    assert value(samples, "ready") == 1
    assert value(samples, "chunks", nsid="1", state="free") == SMALL.n_chunks
    assert value(samples, "chunks", nsid="2", state="free") == 2 * SMALL.n_chunks
    assert value(samples, "open_chunks_limit", nsid="2") == 5
    assert value(samples, "capacity_bytes", nsid="1") == SMALL.ncap * BLOCK
    assert value(samples, "connections_accepted_total") == 3
    assert value(samples, "connections_refused_total") == 1
    assert value(samples, "wear_index", nsid="1", quantile="0.99") == 0


async def test_commands_are_counted_by_opcode_and_status(at: tuple[Target, Drive]) -> None:
    host = at[0].host()
    host.write(0, bytes(4 * BLOCK))
    host.write(60, bytes(4 * BLOCK))
    host.read(0, 2)
    host.status(VECTOR_RESET, slba=64)
    host.status(0xC5)
    host.status(0xC6)
    samples = await scraped(at[1])
    seen = {
        (dict(labels)["opcode"], dict(labels)["status"]): count
        for (name, labels), count in samples.items()
        if name == "ocssd_commands_total" and dict(labels)["nsid"] == "1"
    }
    assert seen == {
        ("write", "success"): 1,
        ("write", "out_of_order_write"): 1,
        ("read", "success"): 1,
        ("vector_reset", "invalid_reset"): 1,
        ("other", "invalid_opcode"): 2,
    }
    assert value(samples, "commands_total", queue="admin", nsid="0", opcode="fabrics", status="success") >= 1
    assert value(samples, "data_bytes_total", nsid="1", direction="write") == 4 * BLOCK
    assert value(samples, "data_bytes_total", nsid="1", direction="read") == 2 * BLOCK
    assert value(samples, "chunks", nsid="1", state="open") == value(samples, "open_chunks", nsid="1") == 1
    assert value(samples, "readable_bytes", nsid="1") == 4 * BLOCK


async def test_controllers_queues_and_depth(at: tuple[Target, Drive]) -> None:
    host = at[0].host()
    host.connect_io(2)
    stride = BLOCK * SMALL.ws_min
    host.io.feed(capsule(WRITE, 5, nsid=1, slba=0, cdw12=SMALL.ws_min - 1, sgl_length=stride))  # waits for its data
    samples = await scraped(at[1])
    assert value(samples, "controllers", subsystem="nvm") == 1
    assert value(samples, "controllers", subsystem="discovery") == 0
    assert (value(samples, "queues", queue="admin"), value(samples, "queues", queue="io")) == (1, 2)
    assert value(samples, "connections") == 3
    assert (value(samples, "queue_depth", stat="sum"), value(samples, "queue_depth", stat="max")) == (1, 1)


async def test_a_host_that_breaks_the_transport_is_counted(at: tuple[Target, Drive]) -> None:
    at[0].wire().feed(b"\xff" * 128)
    assert value(await scraped(at[1]), "connections_terminated_total") == 1


async def test_faults_and_notifications_are_counted(at: tuple[Target, Drive]) -> None:
    target, drive = at
    injector = FaultInjector(SMALL, [FaultRule(FaultKind.HIGH_ECC), FaultRule(FaultKind.RESET_FAIL, nth=2)])
    drive.injectors = {1: injector}
    assert injector.read(Extent(0, 0, 4), 0b1111) == (0, 0b0001)
    assert [injector.reset(0) for _ in range(3)] == [False, True, False]
    target.directory.subsystem.notifications.add(1, Notice(0, NotificationState.ERROR_RATE_HIGH, 1))
    samples = await scraped(drive)
    kinds = {kind.value: value(samples, "faults_injected_total", nsid="1", kind=kind.value) for kind in FaultKind}
    assert kinds == {"high-ecc": 1, "reset-fail": 1, "read-error": 0, "early-close": 0, "write-next-unit": 0}
    assert value(samples, "notifications_total") == 1


async def test_histograms_are_cumulative_and_in_seconds(at: tuple[Target, Drive]) -> None:
    for seconds in (3e-6, 3e-6, 100.0):
        at[1].events.add(seconds)
    samples = await scraped(at[1])
    assert value(samples, "event_duration_seconds_bucket", le="2e-06") == 0
    assert value(samples, "event_duration_seconds_bucket", le="4e-06") == 2
    assert value(samples, "event_duration_seconds_bucket", le="8.388608") == 2
    assert value(samples, "event_duration_seconds_bucket", le="+Inf") == 3
    assert value(samples, "event_duration_seconds_count") == 3
    assert value(samples, "event_duration_seconds_sum") == pytest.approx(100.000006)


async def test_media_latency_is_told_by_group(at: tuple[Target, Drive]) -> None:
    latencies = at[0].namespaces[1].latencies
    for operation, group in (("read", 1), ("flush", -1)):
        latencies.add_to(latencies.row(OPERATIONS.index(operation), group), 1.0)
    samples = await scraped(at[1])
    assert value(samples, "media_latency_seconds_sum", nsid="2", group="1", operation="read") == 1
    assert value(samples, "media_latency_seconds_sum", nsid="2", group="other", operation="flush") == 1


async def test_plain_commands_are_timed_once_the_drive_is_opened_with_observers(at: tuple[Target, Drive]) -> None:
    target, drive = at
    host = target.host()
    host.write(0, bytes(4 * BLOCK))
    assert not [name for name, _ in await scraped(drive) if name.startswith("ocssd_media_latency")]
    drive.opened(target.directory, {})
    host.read(0)
    host.write(4, bytes(4 * BLOCK))
    drive.closing()
    samples = await scraped(drive)
    for operation in ("read", "write"):
        assert value(samples, "media_latency_seconds_count", nsid="1", group="0", operation=operation) == 1


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.CLOSING])
async def test_a_drive_that_is_not_open_can_be_scraped(at: tuple[Target, Drive], phase: Phase) -> None:
    drive = at[1]
    drive.phase = phase
    if phase is Phase.OPENING:
        drive.directory = None
    samples = await scraped(drive)
    assert value(samples, "ready") == 0
    assert ("process_open_fds", frozenset()) in samples


async def test_namespaces_that_come_and_go_are_followed(at: tuple[Target, Drive]) -> None:
    target, drive = at
    exporter = Exporter(drive)
    removed = target.directory.subsystem.remove_namespace(1)
    assert b'ocssd_chunks{nsid="1"' not in await exporter.exposition()
    target.directory.subsystem.add_namespace(removed)
    assert b'ocssd_chunks{nsid="1"' in await exporter.exposition()


async def test_a_status_without_a_name_is_told_by_its_numbers(at: tuple[Target, Drive]) -> None:
    at[0].namespaces[0].tally[Outcome(True, 0x02, 0x3AB)] = 7
    assert value(await scraped(at[1]), "commands_total", queue="io", nsid="1", opcode="read", status="3/abh") == 7


def test_a_metric_is_named_as_prometheus_wants_it() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert family.doc.endswith(".")


def test_the_manual_lists_every_metric_and_no_other() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `ocssd_")]
    labels = [", ".join(f"`{label}`" for label in family.labels) for family in FAMILIES]
    assert rows == [
        f"| `{family.name}` | {family.kind.value} | {names} | {family.doc} |"
        for family, names in zip(FAMILIES, labels, strict=True)
    ]


async def test_a_scrape_of_a_million_chunks_is_cheap(tmp_path: Path) -> None:
    large = Geometry(num_grp=8, num_pu=16, num_chk=8192, clba=2048, block_bytes=4096)
    with watched(tmp_path, large) as (_target, drive):
        begun = time.process_time()
        samples = await scraped(drive)
        spent = time.process_time() - begun
    assert value(samples, "chunks", nsid="1", state="free") == 1 << 20
    assert spent < 0.25  # tens of milliseconds, with room for machines that do much else

"""The state that the live page shows, its changes, the heartbeat, and the pages of a real daemon's server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from ocssd_tcp.config.values import Address
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.events import Notice
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.ops import Extent
from ocssd_tcp.observe import service
from ocssd_tcp.observe.drive import N_SAMPLES, Drive, quantile
from ocssd_tcp.observe.live import Live, Viewer, encode
from ocssd_tcp.observe.logging import RECENT, configure
from ocssd_tcp.observe.service import Observatory
from ocssd_tcp.observe.survey import Cache, survey
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule
from ocssd_tcp.ocssd.layouts import NotificationState
from ocssd_tcp.transport.aio import Server, SocketOptions
from tests.support_observe import watched
from tests.support_target import HOSTNQN, NQN, SMALL, Target

BLOCK = SMALL.block_stride


@pytest.fixture
def at(tmp_path: Path) -> Iterator[tuple[Target, Drive]]:
    with watched(tmp_path, SMALL, replace(SMALL, num_pu=3)) as both:
        yield both


def live(drive: Drive) -> Live:
    return Live(drive, Cache(survey, 0.0))


# --- the state ------------------------------------------------------------------------------------------


async def test_the_state_tells_of_the_drive_and_its_controllers(at: tuple[Target, Drive]) -> None:
    target, drive = at
    host = target.host()
    host.write(0, bytes(4 * BLOCK))
    host.write(60, bytes(4 * BLOCK))
    state = await live(drive).state(None)
    assert state["drive"]["nqn"] == NQN
    assert state["drive"]["phase"] == "open"
    assert state["namespaces"] == {"number": 2, "listed": [1, 2]}
    (controller,) = state["controllers"]["listed"]
    assert (controller["hostnqn"], controller["queues"], controller["errors"]) == (HOSTNQN, 1, 1)
    assert state["namespace"]["states"] == {"free": 7, "open": 1, "closed": 0, "offline": 0}
    assert state["namespace"]["open"] == [[0, 0, 0, 4, 64]]
    assert state["namespace"]["commands"] == [("write", "out_of_order_write", 1), ("write", "success", 1)]
    assert [row[:4] for row in state["map"]["rows"]] == [[0, 0, 0, 0], [1, 0, 1, 1]]
    json.loads(encode(state))


@pytest.mark.parametrize(("nsid", "shown"), [(None, 1), (2, 2), (99, 1)])
async def test_one_namespace_is_shown_in_detail(at: tuple[Target, Drive], nsid: int | None, shown: int) -> None:
    state = await live(at[1]).state(nsid)
    assert state["namespace"]["nsid"] == state["map"]["nsid"] == shown


async def test_a_drive_without_namespaces_has_a_state(at: tuple[Target, Drive]) -> None:
    for nsid in (1, 2):
        at[0].directory.subsystem.remove_namespace(nsid)
    state = await live(at[1]).state(None)
    assert "namespace" not in state
    assert state["namespaces"] == {"number": 0, "listed": []}


async def test_a_drive_that_opens_has_a_state(at: tuple[Target, Drive]) -> None:
    at[1].directory = None
    assert (await live(at[1]).state(None))["controllers"]["number"] == 0


async def test_the_recent_events_are_lines_of_the_log(at: tuple[Target, Drive], tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        configure("info", stream)
        structlog.get_logger("test").warning("something odd", what="x" * 1000)
        structlog.get_logger("test").debug("of no interest")
    structlog.reset_defaults()
    last = (await live(at[1]).state(None))["recent"][-1]
    assert (last["level"], last["event"]) == ("warning", "something odd")
    assert last["details"].startswith("what=xxx")
    assert len(last["details"]) == 300
    RECENT.clear()


async def test_faults_and_notices_are_recent_events(at: tuple[Target, Drive]) -> None:
    target, drive = at
    geometry = target.namespaces[1].geometry
    injector = FaultInjector(geometry, [FaultRule(FaultKind.READ_ERROR, chk=range(2, 3))])
    drive.injectors = {2: injector}
    injector.read(Extent(geometry.num_chk + 2, 5, 1), 1)
    target.directory.subsystem.notifications.add(2, Notice(0x40, NotificationState.UNRECOVERABLE, 3))
    fault, notice = (await live(drive).state(None))["recent"][-2:]
    assert (fault["level"], fault["event"], fault["details"]) == ("fault", "read-error", "nsid=2 at=0/1/2/5")
    assert (notice["level"], notice["event"]) == ("notice", "unrecoverable")
    assert notice["details"] == "nsid=2 lba=0x40 n_blocks=3"


# --- what a viewer hears --------------------------------------------------------------------------------


def test_a_viewer_hears_everything_once_and_then_changes() -> None:
    viewer = Viewer(1)
    state: dict[str, Any] = {
        "drive": {"a": 1},
        "samples": [[1.0, 5], [2.0, 6]],
        "map": {"nsid": 1, "rows": [[0, 0, 0, 0, "000"], [1, 0, 1, 1, "000"]]},
    }
    assert viewer.news(state) == state
    assert viewer.news({**state}) == {}
    later = {
        "drive": {"a": 2},
        "samples": [[2.0, 6], [3.0, 7]],
        "map": {"nsid": 1, "rows": [[0, 0, 0, 0, "000"], [1, 0, 1, 1, "580"]]},
    }
    assert viewer.news(later) == {
        "drive": {"a": 2},
        "samples": [[3.0, 7]],
        "map": {"nsid": 1, "rows": [[1, 0, 1, 1, "580"]]},
    }


async def test_events_are_server_sent_events(at: tuple[Target, Drive], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocssd_tcp.observe.live.UPDATE_SECONDS", 0.0)
    monkeypatch.setattr("ocssd_tcp.observe.live.MAP_SECONDS", 0.0)
    stream = live(at[1]).events(None)
    assert (await anext(stream)).startswith(b"retry: ")
    first = await anext(stream)
    assert first.startswith(b"data: {")
    assert first.endswith(b"}\n\n")
    assert first.count(b"\n") == 2
    at[0].host().write(0, bytes(4 * BLOCK))
    second = json.loads((await anext(stream)).removeprefix(b"data: "))
    assert [row[0] for row in second["map"]["rows"]] == [0]
    await stream.aclose()


# --- the heartbeat --------------------------------------------------------------------------------------


def test_a_heartbeat_notes_rates(at: tuple[Target, Drive]) -> None:
    target, drive = at
    host = target.host()
    drive.sample(1.0)
    assert not drive.samples  # nothing to compare with
    host.write(0, bytes(8 * BLOCK))
    host.read(0, 4)
    host.read(0, 2)
    host.status(0xC5)
    drive.events.add(3e-6)
    drive.sample(2.0)
    (sample,) = drive.samples
    assert (sample.reads, sample.writes, sample.errors) == (1.0, 0.5, 0.5)
    assert (sample.bytes_read, sample.bytes_written) == (3 * BLOCK, 4 * BLOCK)
    assert (sample.event_p50, sample.media_p99) == (4e-6, 0.0 if not sample.media_p50 else sample.media_p99)


def test_samples_are_bounded(at: tuple[Target, Drive]) -> None:
    for _ in range(N_SAMPLES + 10):
        at[1].sample(1.0)
    assert len(at[1].samples) == N_SAMPLES


def test_a_namespace_that_goes_does_not_make_rates_negative(at: tuple[Target, Drive]) -> None:
    target, drive = at
    target.host().write(0, bytes(4 * BLOCK))
    drive.sample(1.0)
    target.directory.subsystem.remove_namespace(1)
    drive.sample(1.0)
    assert drive.samples[-1].writes == 0


@pytest.mark.parametrize(
    ("buckets", "part", "seconds"),
    [([0, 0], 0.5, 0.0), ([1, 0], 0.5, 1e-6), ([99, 0, 1], 0.99, 1e-6), ([99, 0, 1], 1.0, 4e-6), ([0, 2], 0.0, 2e-6)],
)
def test_a_quantile_is_the_bound_of_its_bucket(buckets: list[int], part: float, seconds: float) -> None:
    assert quantile(buckets, part) == seconds


# --- over HTTP ------------------------------------------------------------------------------------------


async def _get(address: Address, path: str) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: drive\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.fixture
async def observatory(at: tuple[Target, Drive]) -> Any:
    found = Observatory(Server(SocketOptions(8192)))
    address = found.listen(Address("127.0.0.1", 0))
    assert address is not None
    directory: Directory = at[0].directory
    await found.start(directory, {})
    yield found, address
    found.closing()
    await found.stop()


@pytest.mark.parametrize(
    ("path", "content_type", "contents"),
    [
        ("/", "text/html; charset=utf-8", b"<!DOCTYPE html>"),
        ("/?ns=2", "text/html; charset=utf-8", b"<!DOCTYPE html>"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", b"ocssd_ready 1.0"),
        ("/api/state.json?ns=2", "application/json", b'"nsid":2'),
        ("/api/state.json?ns=x", "application/json", b'"nsid":1'),
        ("/healthz", "text/plain; charset=utf-8", b"lag "),
        ("/readyz", "text/plain; charset=utf-8", b"open"),
    ],
)
async def test_a_page_is_served(observatory: Any, path: str, content_type: str, contents: bytes) -> None:
    status, headers, body = await _get(observatory[1], path)
    assert (status, headers["Content-Type"]) == (200, content_type)
    assert contents in body


async def test_a_drive_that_closes_is_not_ready_but_healthy(observatory: Any) -> None:
    observatory[0].closing()
    assert (await _get(observatory[1], "/readyz"))[::2] == (503, b"closing\n")
    assert (await _get(observatory[1], "/healthz"))[0] == 200


async def test_a_loop_that_is_late_is_not_healthy(observatory: Any) -> None:
    observatory[0].drive.lag = service.HEALTHY_LAG_SECONDS
    assert (await _get(observatory[1], "/healthz"))[::2] == (503, b"lag 5.000 s\n")


async def test_nothing_listens_without_an_address(at: tuple[Target, Drive]) -> None:
    server = Server(SocketOptions(8192))
    found = Observatory(server)
    assert found.listen(None) is None
    await found.start(at[0].directory, {})
    assert server.events is None  # and nothing is measured
    found.closing()
    await found.stop()


async def test_the_page_needs_nothing_from_elsewhere_and_may_run_only_its_own_script(observatory: Any) -> None:
    _status, headers, body = await _get(observatory[1], "/")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    page = body.decode()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in page  # what hosts send is text
    assert 'style="' not in page  # the policy would not let it

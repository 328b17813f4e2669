"""Latency and limits dialled on a drive: which filters stand around a namespace, and what geometry says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.commands.dials import Dials, Limit
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.media.filters.base import Filter
from ocssd_tcp.media.filters.latency import FLASH, Latency
from ocssd_tcp.media.filters.limits import Limits
from ocssd_tcp.media.ops import Extent, MediaOp, OpKind
from ocssd_tcp.media.store import open_store
from ocssd_tcp.ocssd.layouts import parse_geometry_page
from tests.support_media import TINY
from tests.support_time import FakeTimers, operation


class Drive:
    """Two namespaces, their dials, and a clock."""

    def __init__(self, path: Path) -> None:
        self.timers = FakeTimers()
        self.store = open_store(path / "drive", [TINY, TINY])
        self.namespaces = [
            Namespace(nsid, engine.geometry, engine, engine, engine.uuid)
            for nsid, engine in enumerate(self.store.engines, 1)
        ]
        self.dials = Dials(self.namespaces, self.timers)

    def filters(self) -> list[list[type]]:
        """The filters around each namespace, outermost first."""
        found: list[list[type]] = []
        for namespace in self.namespaces:
            found.append([])
            media = namespace.media
            while isinstance(media, Filter):
                found[-1].append(type(media))
                media = media.inner
            assert media is namespace.engine
        return found


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    drive = Drive(tmp_path)
    yield drive
    drive.store.close()


def test_nothing_dialled_is_nothing_there(drive: Drive) -> None:
    assert drive.filters() == [[], []]
    assert list(drive.dials.limits()) == []


def test_latency_is_around_every_namespace_and_in_its_geometry_until_it_is_taken_away(drive: Drive) -> None:
    before = [namespace.geometry_page for namespace in drive.namespaces]
    drive.dials.set_latency(FLASH["slc"])
    assert drive.filters() == [[Latency], [Latency]]
    for namespace in drive.namespaces:
        page = parse_geometry_page(namespace.geometry_page)
        assert (page.trdt, page.twrt, page.tcrst) == (60_000, 820_000, 2_000_000)
    drive.dials.set_latency(None)
    assert drive.filters() == [[], []]
    assert [namespace.geometry_page for namespace in drive.namespaces] == before


def test_other_times_keep_what_the_units_are_busy_with(drive: Drive) -> None:
    """Also across a change of the limits, which puts new filters around the namespace."""
    ends: list[float] = []

    def end(_op: MediaOp) -> None:
        ends.append(round(drive.timers.time * 1e9))

    namespace = drive.namespaces[0]
    drive.dials.set_latency(FLASH["slc"])
    for _ in range(2):
        namespace.media.submit(operation(OpKind.READ, [Extent(0, 0, 4)], end))
        drive.dials.set_latency(FLASH["tlc"])
        drive.dials.set_limits(Limit(1, 10**6, 0))
    drive.timers.run()
    assert ends == [60_000, 60_000 + 77_500 + 52_433]


def test_limits_stand_outside_latency_where_they_apply(drive: Drive) -> None:
    drive.dials.set_latency(FLASH["slc"])
    drive.dials.set_limits(Limit(2, 10, 0))
    assert drive.filters() == [[Latency], [Limits, Latency]]
    drive.dials.set_limits(Limit(0, 0, 1 << 20))
    assert drive.filters() == [[Limits, Latency], [Limits, Latency]]
    assert list(drive.dials.limits()) == [Limit(0, 0, 1 << 20), Limit(2, 10, 0)]
    drive.dials.set_limits(Limit(2, 0, 0))
    drive.dials.set_limits(Limit(0, 0, 0))
    assert drive.filters() == [[Latency], [Latency]]


@pytest.mark.parametrize("nsid", [3, -1])
def test_a_limit_for_a_namespace_that_is_not_there_is_refused_and_changes_nothing(drive: Drive, nsid: int) -> None:
    with pytest.raises(ValueError, match=rf"nsid {nsid}: no such namespace; allowed: 0 \(the whole drive\) to 2"):
        drive.dials.set_limits(Limit(nsid, 1, 1))
    assert drive.filters() == [[], []]

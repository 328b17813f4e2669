"""Log page D0h and its event: what a host hears about chunks, and how it is consumed."""

from __future__ import annotations

import pytest

from ocssd_tcp.media.events import CAPACITY, Notice
from ocssd_tcp.ocssd.layouts import CHUNK_NOTIFICATION, NotificationMask, NotificationState
from ocssd_tcp.wire.opcodes import LogPage, Property
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import ENABLE, Host, Target, live

EVENT = 0x00D00007
PAGE = 64 * CHUNK_NOTIFICATION.size  #: what SPDK reads at a time
OFFLINE = NotificationState.UNRECOVERABLE


@pytest.fixture
def target() -> Target:
    return Target()


def happens(target: Target, *lbas: int, nsid: int = 1, n_blocks: int = 0, state: NotificationState = OFFLINE) -> None:
    engine = target.directory.subsystem.namespaces[nsid].engine
    for lba in lbas:
        engine.report(Notice(lba, state, n_blocks))


def entries(host: Host, length: int = PAGE, **options: int) -> list[dict[str, int]]:
    """The entries of the page up to the first empty one; what follows it must be zero."""
    data = host.get_log(LogPage.CHUNK_NOTIFICATION, length, **options).data
    found = [CHUNK_NOTIFICATION.unpack_from(data[at : at + 64]) for at in range(0, len(data) - 63, 64)]
    full = [entry for entry in found if entry["nc"]]
    assert found[: len(full)] == full
    assert not any(data[64 * len(full) :])
    return full


def lbas(host: Host, length: int = PAGE, **options: int) -> list[int]:
    return [entry["lba"] for entry in entries(host, length, **options)]


def test_an_entry_says_what_happened_where(target: Target) -> None:
    happens(target, 0x123, n_blocks=8, state=NotificationState.ERROR_RATE_HIGH)
    happens(target, 0x1000, nsid=3, state=NotificationState.WEAR_INDEX)
    first, second = entries(live(target))
    assert (first["nc"], first["lba"], first["nsid"], first["nlb"]) == (1, 0x123, 1, 7)
    assert (first["state"], first["mask"]) == (1 << 2, NotificationMask.LOGICAL_BLOCK)
    assert (second["nc"], second["lba"], second["nsid"], second["nlb"]) == (2, 0x1000, 3, 0)
    assert (second["state"], second["mask"]) == (1 << 8, NotificationMask.CHUNK)


def test_an_event_is_raised_and_masked_until_the_page_is_read(target: Target) -> None:
    host = live(target)
    for cid in range(3):
        assert host.request_event(cid).held
    happens(target, 1)
    happens(target, 2)
    assert host.events() == [(0, EVENT)]
    assert lbas(host, rae=True) == [1, 2]
    happens(target, 3)
    assert host.events() == [(0, EVENT)]
    assert lbas(host) == [1, 2, 3]
    happens(target, 4)
    assert host.events() == [(0, EVENT), (1, EVENT)]
    assert lbas(host) == [4]


def test_an_event_needs_no_feature_and_waits_for_a_request(target: Target) -> None:
    host = live(target)
    host.set_feature(0x0B, 0)
    happens(target, 1)
    assert host.request_event(0).dw0 == EVENT
    assert host.request_event(1).held


def test_a_discovery_controller_knows_no_chunks(target: Target) -> None:
    host = live(target, nqn="nqn.2014-08.org.nvmexpress.discovery")
    host.request_event(0)
    happens(target, 1)
    assert host.events() == []
    assert host.get_log(LogPage.CHUNK_NOTIFICATION).status == Status.INVALID_LOG_PAGE


def test_a_read_consumes_the_entries_it_takes_and_says_when_there_are_more(target: Target) -> None:
    host = live(target)
    host.request_event(0)
    host.request_event(1)
    happens(target, *range(70))
    assert lbas(host) == list(range(64))
    assert host.events() == [(0, EVENT), (1, EVENT)]
    assert lbas(host) == list(range(64, 70))
    assert lbas(host) == []
    assert len(host.events()) == 2


@pytest.mark.parametrize(
    ("length", "offset", "rae", "left"),
    [
        (128, 0, False, [2, 3]),
        (128, 0, True, [0, 1, 2, 3]),
        (128, 64, False, [0, 1, 2, 3]),
        (68, 0, False, [1, 2, 3]),
        (60, 0, False, [0, 1, 2, 3]),
        (PAGE, 0, False, []),
    ],
)
def test_only_whole_entries_from_offset_0_without_rae_are_consumed(
    target: Target, length: int, offset: int, rae: bool, left: list[int]
) -> None:
    host = live(target)
    happens(target, *range(4))
    host.get_log(LogPage.CHUNK_NOTIFICATION, length, offset, rae=rae)
    assert lbas(host, rae=True) == left


@pytest.mark.parametrize(
    ("nsid", "shown", "left"), [(1, [1, 3], [2]), (3, [2], [1, 3]), (0, [1, 2, 3], []), (0xFFFFFFFF, [1, 2, 3], [])]
)
def test_an_nsid_shows_and_consumes_the_entries_of_its_namespace(
    target: Target, nsid: int, shown: list[int], left: list[int]
) -> None:
    host = live(target)
    happens(target, 1)
    happens(target, 2, nsid=3)
    happens(target, 3)
    assert lbas(host, nsid=nsid) == shown
    assert lbas(host) == left


def test_reading_one_namespace_again_and_again_does_not_raise_the_events_of_another(target: Target) -> None:
    host = live(target)
    for cid in range(3):
        host.request_event(cid)
    happens(target, 1)
    happens(target, 2, nsid=3)
    assert [lbas(host, nsid=1) for _ in range(3)] == [[1], [], []]
    assert host.events() == [(0, EVENT), (1, EVENT)]


def test_an_unknown_namespace_has_no_page(target: Target) -> None:
    assert live(target).get_log(LogPage.CHUNK_NOTIFICATION, nsid=2).status == Status.INVALID_NAMESPACE


def test_when_nobody_reads_the_oldest_are_lost_and_the_count_goes_on(target: Target) -> None:
    happens(target, *range(CAPACITY + 10))
    found = entries(live(target), CAPACITY * 64)
    assert [entry["nc"] for entry in found] == list(range(11, CAPACITY + 11))
    assert found[0]["lba"] == 10


def test_every_controller_hears_and_a_controller_reset_forgets_the_mask(target: Target) -> None:
    hosts = [live(target), live(target)]
    for host in hosts:
        host.request_event(0)
    happens(target, 1)
    assert [host.events() for host in hosts] == [[(0, EVENT)]] * 2
    hosts[0].set_property(Property.CC, 0)
    hosts[0].set_property(Property.CC, ENABLE)
    hosts[0].request_event(7)
    happens(target, 2)
    assert hosts[0].events() == [(0, EVENT), (7, EVENT)]
    assert lbas(hosts[0]) == [1, 2]

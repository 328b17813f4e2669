"""Asynchronous events, Abort, and the error log."""

from __future__ import annotations

import pytest

from ocssd_tcp.wire.layouts import ERROR_LOG_ENTRY
from ocssd_tcp.wire.opcodes import Admin, Feature, Io, LogPage, Property
from ocssd_tcp.wire.status import DNR, Status
from tests.unit.control_host import ENABLE, Host, Outcome, Target, live, namespace, sqe

NAMESPACE_EVENT = 0x00040002


def changed(host: Host, *, rae: bool = False) -> list[int]:
    page = host.get_log(LogPage.CHANGED_NAMESPACES, 4096, rae=rae).data
    return [nsid for i in range(0, 4096, 4) if (nsid := int.from_bytes(page[i : i + 4], "little"))]


def test_one_request_too_many_is_refused_and_the_others_stay() -> None:
    """Conformance 84."""
    host = live(Target())
    assert all(host.request_event(cid).held for cid in (10, 11, 12, 13))
    assert host.request_event(14) == Outcome(Status.ASYNC_EVENT_LIMIT_EXCEEDED)
    assert host.admin(Admin.ABORT, cdw10=12 << 16) == Outcome(dw0=0)
    assert [(cid, reply.status) for cid, reply in host.connections[0].completed] == [(12, Status.ABORT_REQUESTED)]
    assert host.request_event(15).held


def test_added_namespace_is_reported_once_until_its_page_is_read() -> None:
    """Conformance 85."""
    target = Target()
    host = live(target)
    host.request_event(10)
    host.request_event(11)
    target.directory.subsystem.add_namespace(namespace(5))
    target.directory.subsystem.add_namespace(namespace(4))
    assert host.events() == [(10, NAMESPACE_EVENT)]
    assert changed(host) == [4, 5]
    assert changed(host) == []
    target.directory.subsystem.remove_namespace(5)
    assert host.events() == [(10, NAMESPACE_EVENT), (11, NAMESPACE_EVENT)]


def test_retained_event_keeps_page_and_mask() -> None:
    target = Target()
    host = live(target)
    host.request_event(10)
    host.request_event(11)
    target.directory.subsystem.add_namespace(namespace(5))
    assert changed(host, rae=True) == [5]
    target.directory.subsystem.add_namespace(namespace(6))
    assert host.events() == [(10, NAMESPACE_EVENT)]
    assert changed(host) == [5, 6]


def test_event_without_a_request_waits_for_the_next_one() -> None:
    """Conformance 86."""
    target = Target()
    host = live(target)
    target.directory.subsystem.add_namespace(namespace(5))
    assert host.request_event(10) == Outcome(dw0=NAMESPACE_EVENT)
    assert host.request_event(11).held


def test_event_whose_page_was_read_before_it_was_delivered_is_old_news() -> None:
    target = Target()
    host = live(target)
    target.directory.subsystem.add_namespace(namespace(5))
    assert changed(host) == [5]
    assert host.request_event(10).held


def test_event_that_is_switched_off_is_not_sent_but_noted() -> None:
    target = Target()
    host = live(target)
    host.set_feature(Feature.ASYNC_EVENT_CONFIG, 0)
    host.request_event(10)
    target.directory.subsystem.add_namespace(namespace(5))
    assert host.events() == []
    assert changed(host) == [5]


def test_more_changes_than_the_page_holds_are_told_as_all() -> None:
    target = Target()
    host = live(target)
    for nsid in range(10, 10 + 1025):
        target.directory.subsystem.namespace_changed(nsid)
    assert changed(host) == [0xFFFFFFFF]


def test_reset_drops_requests_masks_and_events_without_an_answer() -> None:
    target = Target()
    host = live(target)
    host.request_event(10)
    host.request_event(11)
    target.directory.subsystem.add_namespace(namespace(5))
    host.set_property(Property.CC, ENABLE & ~1)
    assert host.connections[0].dropped == [11]
    assert host.events() == [(10, NAMESPACE_EVENT)]
    host.set_property(Property.CC, ENABLE)
    assert changed(host) == []
    host.request_event(12)
    target.directory.subsystem.add_namespace(namespace(6))
    assert host.events()[1:] == [(12, NAMESPACE_EVENT)]


def test_removed_namespace_is_gone_for_new_commands() -> None:
    """Conformance 105, as far as the admin queue sees it."""
    target = Target()
    host = live(target)
    host.set_feature(Feature.ERROR_RECOVERY, 1 << 16, nsid=3)
    target.directory.subsystem.remove_namespace(3)
    assert host.identify(0, nsid=3).status == Status.INVALID_NAMESPACE
    assert host.admin(Admin.GEOMETRY, nsid=3, sgl_length=4096).status == Status.INVALID_NAMESPACE
    target.directory.subsystem.add_namespace(namespace(3))
    assert not host.association.dulbe(3)


def test_nsid_that_is_taken_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="nsid 1 is active"):
        Target().directory.subsystem.add_namespace(namespace(1))


@pytest.mark.parametrize("sqid", [0, 1, 9])
def test_abort_of_an_unknown_command_succeeds_and_says_so(sqid: int) -> None:
    """Conformance 90."""
    host = live(Target())
    host.connect(1)
    assert host.admin(Admin.ABORT, cdw10=sqid | 77 << 16) == Outcome(dw0=1)


def test_abort_reaches_the_command_on_its_queue() -> None:
    """Conformance 90: the victim completes before the Abort."""
    host = live(Target())
    host.connect(1)
    host.connections[1].abortable.add(77)
    assert host.admin(Admin.ABORT, cdw10=1 | 77 << 16) == Outcome(dw0=0)
    assert host.connections[1].completed[0][0] == 77


def errors(host: Host) -> list[dict[str, int]]:
    page = host.get_log(LogPage.ERROR, 64 * 64).data
    entries = [ERROR_LOG_ENTRY.unpack_from(page, i * 64) for i in range(64)]
    return [entry for entry in entries if entry["count"]]


def test_failing_commands_are_in_the_error_log_newest_first() -> None:
    """Conformance 92."""
    host = live(Target())
    host.connect(1)
    host.identify(0x7F, cid=0x7005)
    write = sqe(Io.WRITE, cid=3, nsid=1, cdw10=5, cdw11=1)
    host.association.failed(host.queues[1], write, Status.WRITE_FAULT, 0xFFFF)
    second, first = errors(host)
    assert (second["count"], second["sqid"], second["cid"], second["nsid"]) == (2, 1, 3, 1)
    assert (second["status"], second["lba"]) == ((Status.WRITE_FAULT | DNR) << 1, 1 << 32 | 5)
    assert (first["count"], first["sqid"], first["cid"], first["nsid"]) == (1, 0, 0x7005, 0)
    assert (first["status"], first["location"]) == (0x8004, 40)
    assert first["trtype"] == 3


def test_error_log_keeps_the_last_64() -> None:
    host = live(Target())
    for _ in range(100):
        host.identify(0x7F)
    assert [entry["count"] for entry in errors(host)] == list(range(100, 36, -1))

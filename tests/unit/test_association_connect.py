"""Connect: exact statuses, and what it points at."""

from __future__ import annotations

import pytest

from ocssd_tcp.controller.subsystem import MAX_CNTLID
from ocssd_tcp.wire.opcodes import Feature, Property
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import ENABLE, HOSTNQN, NQN, OTHER_HOSTNQN, Host, Outcome, Target, live, live_discovery

INVALID = Status.CONNECT_INVALID_PARAMETERS


@pytest.mark.parametrize(
    ("item", "arguments", "expected"),
    [
        (40, {"subnqn": b"nqn.2014-08.org.example:none"}, Outcome(INVALID, 0x00010100)),
        (42, {"sqe_changes": {"recfmt": 1}}, Outcome(Status.CONNECT_INCOMPATIBLE_FORMAT)),
        (43, {"sqe_changes": {"sqsize": 0}}, Outcome(INVALID, 0x2C)),
        (44, {"sqe_changes": {"sqsize": 1024}}, Outcome(INVALID, 0x2C)),
        (45, {"cntlid": 1}, Outcome(INVALID, 0x00010010)),
        (46, {"subnqn": b"n" * 256}, Outcome(INVALID, 0x00010100)),
        (46, {"hostnqn": b"n" * 256}, Outcome(INVALID, 0x00010200)),
        (46, {"hostnqn": b"n" * 224}, Outcome(INVALID, 0x00010200)),
        (46, {"hostnqn": b""}, Outcome(INVALID, 0x00010200)),
        (46, {"hostnqn": b"\xff\xfe"}, Outcome(INVALID, 0x00010200)),
        (46, {"subnqn": b"\xff\xfe"}, Outcome(INVALID, 0x00010100)),
        (47, {"sgl_length": 512}, Outcome(Status.DATA_SGL_LENGTH_INVALID)),
    ],
)
def test_bad_admin_connect_gets_its_exact_status(item: int, arguments: dict[str, object], expected: Outcome) -> None:
    """Conformance 40, 42 to 47."""
    target = Target()
    assert Host(target).connect(**arguments) == expected  # type: ignore[arg-type]
    assert target.directory.associations == []


def test_host_that_is_not_on_the_access_list_is_an_invalid_host() -> None:
    """Conformance 41."""
    target = Target(allowed_hosts=[HOSTNQN])
    assert Host(target, hostnqn=OTHER_HOSTNQN).connect() == Outcome(Status.CONNECT_INVALID_HOST)
    assert Host(target).connect().status == Status.SUCCESS


def test_admin_queue_of_256_entries_is_accepted_whatever_the_io_queues_hold() -> None:
    host = Host(Target(queue_entries=16))
    assert host.connect(sqe_changes={"sqsize": 255}).status == Status.SUCCESS
    assert host.queues[0].entries == 256
    assert host.connect(sqe_changes={"sqsize": 256}) == Outcome(INVALID, 0x2C)


@pytest.mark.parametrize(
    ("item", "qid", "arguments", "expected"),
    [
        (48, 1, {"cntlid": 0x77}, Outcome(INVALID, 0x00010010)),
        (48, 1, {"cntlid": 0xFFFF}, Outcome(INVALID, 0x00010010)),
        (49, 1, {"hostnqn": OTHER_HOSTNQN.encode()}, Outcome(INVALID, 0x00010200)),
        (49, 1, {"hostid": bytes(16)}, Outcome(INVALID, 0x00010200)),
        (51, 65, {}, Outcome(Status.INVALID_QUEUE_ID)),
        (51, 0xFFFF, {}, Outcome(Status.INVALID_QUEUE_ID)),
        (43, 1, {"sqe_changes": {"sqsize": 0}}, Outcome(INVALID, 0x2C)),
        (44, 1, {"sqe_changes": {"sqsize": 1024}}, Outcome(INVALID, 0x2C)),
    ],
)
def test_bad_io_connect_gets_its_exact_status(
    item: int, qid: int, arguments: dict[str, object], expected: Outcome
) -> None:
    """Conformance 43, 44, 48, 49, 51."""
    host = live(Target())
    assert host.connect(qid, **arguments) == expected  # type: ignore[arg-type]
    assert set(host.association.queues) == {0}


def test_io_connect_before_enable_fails_and_works_later() -> None:
    """Conformance 50."""
    host = Host(Target())
    host.connect()
    assert host.connect(1) == Outcome(INVALID, 0x2A)
    host.set_property(Property.CC, ENABLE)
    assert host.connect(1) == Outcome(dw0=host.cntlid)


def test_io_connect_with_wrong_entry_sizes_fails() -> None:
    """Conformance 65: entry sizes that were changed under an enabled controller."""
    host = live(Target())
    host.set_property(Property.CC, 0x00470001)
    assert host.connect(1) == Outcome(INVALID, 0x2A)


def test_qid_in_use_is_refused_and_the_old_queue_stays() -> None:
    """Conformance 52."""
    host = live(Target())
    host.connect(1)
    old, connection = host.queues[1], host.connections[1]
    assert host.connect(1).status == Status.INVALID_QUEUE_ID
    assert host.association.queues[1] is old
    assert connection.closed == []


def test_discovery_controller_has_no_io_queues() -> None:
    """Conformance 53."""
    assert live_discovery(Target()).connect(1) == Outcome(INVALID, 0x2A)


def test_io_queue_has_to_arrive_where_the_admin_queue_did() -> None:
    host = live(Target())
    host.local = ("127.0.0.2", 4420)
    assert host.connect(1) == Outcome(INVALID, 0x2A)


def test_hosts_and_one_host_many_times_get_controllers_of_their_own() -> None:
    """Conformance 56, and ten associations of one host at once."""
    target = Target()
    hosts = [live(target) for _ in range(10)] + [live(target, hostnqn=OTHER_HOSTNQN, hostid=bytes(16))]
    assert len({host.cntlid for host in hosts}) == 11
    for host in hosts:
        assert host.connect(1).dw0 == host.cntlid
        assert host.identify(1).status == Status.SUCCESS


def test_cntlids_go_round_and_nothing_is_left_behind() -> None:
    """Conformance 57."""
    target = Target()
    staying = live(target)
    seen = []
    for _ in range(200):
        host = live(target)
        host.connect(1)
        seen.append(host.cntlid)
        host.lose()
        assert host.connections[1].closed
    assert len(set(seen)) == 200
    assert target.directory.associations == [staying.association]


def test_cntlid_wraps_and_skips_the_ones_in_use() -> None:
    target = Target()
    staying = live(target)
    target.directory.subsystem._next_cntlid = MAX_CNTLID
    assert [live(target).cntlid for _ in range(2)] == [MAX_CNTLID, staying.cntlid + 1]


def test_too_many_controllers_are_busy_until_one_goes() -> None:
    target = Target(max_controllers=2)
    first, _second = live(target), live(target)
    assert Host(target).connect() == Outcome(Status.CONNECT_CONTROLLER_BUSY)
    first.lose()
    assert Host(target).connect().status == Status.SUCCESS


def test_granted_queues_bound_the_qids() -> None:
    """Conformance 76."""
    host = live(Target())
    assert host.set_feature(Feature.NUMBER_OF_QUEUES, 3 << 16 | 3).dw0 == 3 << 16 | 3
    assert [host.connect(qid).status for qid in (1, 2, 3, 4)] == [Status.SUCCESS] * 4
    assert host.connect(5).status == Status.INVALID_QUEUE_ID


@pytest.mark.parametrize(("cattr", "flow_control", "sqhds"), [(0, True, [1, 2, 0]), (4, False, [0xFFFF] * 3)])
def test_sq_flow_control_is_what_connect_asked_for(cattr: int, flow_control: bool, sqhds: list[int]) -> None:
    host = live(Target())
    host.connect(1, sqe_changes={"cattr": cattr, "sqsize": 2})
    assert host.queues[1].flow_control is flow_control
    assert [host.queues[1].advance() for _ in range(3)] == sqhds


def test_reserved_bits_of_connect_are_ignored() -> None:
    """Conformance 124, for the fields of Connect."""
    assert Host(Target()).connect(sqe_changes={"cattr": 0xF8, "sqe_flags": 0x7F}).status == Status.SUCCESS


def test_admin_connection_lost_ends_the_controller_and_closes_its_queues() -> None:
    host = live(Target())
    host.connect(1)
    host.connect(2)
    host.lose()
    assert all(host.connections[qid].closed for qid in (1, 2))
    assert host.target.directory.associations == []
    host.lose()
    assert host.connections[0].closed == []


def test_io_connection_lost_leaves_the_controller_and_frees_the_qid() -> None:
    host = live(Target())
    host.connect(1)
    host.lose(1)
    assert host.identify(1).status == Status.SUCCESS
    assert host.connect(1).status == Status.SUCCESS


def test_stale_loss_of_a_replaced_queue_changes_nothing() -> None:
    host = live(Target())
    host.connect(1)
    old = host.queues[1]
    host.lose(1)
    host.connect(1)
    host.target.directory.disconnected(old, host.target.now)
    assert host.association.queues[1] is host.queues[1]


def test_host_taken_off_the_access_list_is_cut_off() -> None:
    target = Target()
    host, other = live(target), live(target, hostnqn=OTHER_HOSTNQN)
    target.directory.set_allowed_hosts([OTHER_HOSTNQN])
    assert host.connections[0].closed
    assert target.directory.associations == [other.association]
    assert Host(target).connect().status == Status.CONNECT_INVALID_HOST


def test_shutdown_of_the_target_closes_everything() -> None:
    target = Target()
    host, discovering = live(target), live_discovery(target)
    host.connect(1)
    target.directory.shutdown(target.now)
    assert host.connections[0].closed
    assert host.connections[1].closed
    assert discovering.connections[0].closed
    assert target.directory.next_deadline() is None


def test_subsystem_nqn_compares_byte_for_byte() -> None:
    assert Host(Target(), nqn=NQN.upper()).connect() == Outcome(INVALID, 0x00010100)

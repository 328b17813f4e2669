"""The control side as real hosts use it, and as nobody should: whole conversations in memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.commands.registry import Command, Transfer
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.wire.layouts import CONNECT_DATA, SQE
from ocssd_tcp.wire.opcodes import Admin, Cns, Feature, LogPage, Property
from ocssd_tcp.wire.status import CommandError, Status
from tests.unit.control_host import LOCAL, Connection, Host, Target, live, live_discovery

DISABLED = 0x00460000
OK = Status.SUCCESS


@pytest.mark.parametrize("kernel", ["5.10", "6.1"])
def test_linux_gets_from_connect_to_its_namespaces(kernel: str) -> None:
    """The steps of nvme-tcp until a block device exists; each has to succeed."""
    host = Host(Target())
    assert host.connect(kato=5000).status == OK
    assert host.get_property(Property.CAP, size=1).status == OK
    if kernel != "5.10":
        host.set_property(Property.CC, DISABLED)
        assert host.get_property(Property.CC).dw0 == DISABLED
    assert host.set_property(Property.CC, DISABLED | 1).status == OK
    assert host.get_property(Property.CSTS).dw0 == 1
    assert host.get_property(Property.VS).dw0 >= 0x00010201
    steps = [
        host.identify(Cns.CONTROLLER),
        host.get_log(LogPage.EFFECTS, 4096, nsid=0),
        host.identify(Cns.CSI_CONTROLLER),
        host.set_feature(Feature.TIMESTAMP, data=bytes(8)),
        host.get_log(LogPage.SMART),
        host.set_feature(Feature.NUMBER_OF_QUEUES, 1 << 16 | 1),
        host.connect(1, sqe_changes={"sqsize": 127}),
        host.connect(2, sqe_changes={"sqsize": 127}),
        host.admin(Admin.KEEP_ALIVE),
        host.set_feature(Feature.ASYNC_EVENT_CONFIG, 1 << 8),
        host.identify(Cns.ACTIVE_NSIDS),
        host.identify(Cns.NS_DESCRIPTORS, 1),
        host.identify(Cns.INDEPENDENT_NAMESPACE, 1),
        host.identify(Cns.NAMESPACE, 1),
        host.identify(Cns.CSI_NAMESPACE, 1),
    ]
    assert [step.status for step in steps] == [OK] * len(steps)
    assert host.request_event(31).held
    host.set_property(Property.CC, DISABLED | 1 | 1 << 14)
    assert host.get_property(Property.CSTS).dw0 >> 2 & 3 == 2


def test_spdk_gets_from_connect_to_its_namespaces() -> None:
    host = Host(Target())
    host.connect(kato=10_000)
    assert [host.get_property(p).status for p in (Property.VS, Property.CC)] == [OK, OK]
    assert host.get_property(0x3C).status == Status.INVALID_FIELD
    host.set_property(Property.CC, DISABLED | 1)
    assert host.identify(Cns.CONTROLLER).status == OK
    assert host.set_feature(Feature.ASYNC_EVENT_CONFIG, 0xFF | 1 << 8).status == OK
    assert all(host.request_event(cid).held for cid in range(4))
    assert host.get_feature(Feature.KEEP_ALIVE_TIMER).dw0 == 10_000
    assert host.set_feature(Feature.NUMBER_OF_QUEUES, 126 << 16 | 126).dw0 == 63 << 16 | 63
    assert host.identify(Cns.ACTIVE_NSIDS, 3).data == bytes(4096)
    assert host.connect(1).status == OK


def test_nvme_discover_reads_the_header_the_entries_and_the_header_again() -> None:
    host = live_discovery(Target())
    assert host.identify(Cns.CONTROLLER).status == OK
    header = host.get_log(LogPage.DISCOVERY, 20, rae=True).data
    assert len(host.get_log(LogPage.DISCOVERY, 2048, 1024, rae=True).data) == 2048
    assert host.get_log(LogPage.DISCOVERY, 20).data == header
    host.set_property(Property.CC, DISABLED | 1 | 1 << 14)
    host.lose()
    assert host.target.directory.associations == []


_BYTES = st.binary(min_size=64, max_size=64)
_OPCODES = st.sampled_from([*Admin, 0x00, 0x05, 0xFF])


@settings(max_examples=400, deadline=None)
@given(discovery=st.booleans(), opcode=_OPCODES, sqe=_BYTES, sane=st.booleans(), low=st.integers(0, 255))
def test_any_admin_command_is_answered_or_refused(
    discovery: bool, opcode: int, sqe: bytes, sane: bool, low: int
) -> None:
    """Random commands, half of them with legal flags and a small CDW10: no exception but CommandError, no long data."""
    target = Target()
    host = live_discovery(target) if discovery else live(target)
    raw = bytearray(sqe)
    raw[0] = opcode
    if sane:
        raw[1] = 0x40
        raw[SQE.offset("cdw10") : SQE.offset("cdw10") + 4] = bytes((low, 0, 3, 0))
    command = Command(bytes(raw))
    try:
        entry = host.association.check_admin(command)
        data = b""
        if entry.transfer is Transfer.HOST_TO_CONTROLLER:
            assert command.sgl_length <= 4096
            data = bytes(command.sgl_length)
        reply = host.association.execute_admin(host.queues[0], command, data, target.now)
    except CommandError as error:
        host.association.failed(host.queues[0], command, error.status, error.location)
        return
    if reply is not None:
        assert sum(map(len, reply.data)) <= command.sgl_length


@settings(max_examples=200, deadline=None)
@given(sqe=_BYTES, data=st.binary(max_size=64), subnqn=st.binary(max_size=256), length=st.integers(0, 1100))
def test_any_connect_is_answered_or_refused(sqe: bytes, data: bytes, subnqn: bytes, length: int) -> None:
    target = Target()
    directory: Directory = target.directory
    packed = CONNECT_DATA.pack(hostid=data[:16], hostnqn=data[16:], subnqn=subnqn)[:length]
    with pytest.raises(CommandError):
        directory.connect(Connection(), Command(sqe), packed, LOCAL, target.now)
    assert directory.associations == []


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["cc", "kato", "time", "event", "change", "connect", "lose"]), st.integers(0, 2**32 - 1)
        ),
        max_size=30,
    )
)
def test_any_life_of_a_controller_keeps_its_books(steps: list[tuple[str, int]]) -> None:
    """Whatever a host and the clock do: a controller that ended holds no queue, and a live one has its admin queue."""
    target = Target()
    host = live(target, kato=1000)
    for what, value in steps:
        if host.association.ended:
            break
        if what == "cc":
            host.set_property(Property.CC, value & 0xC001 | 0x00460000)
        elif what == "kato":
            host.set_feature(Feature.KEEP_ALIVE_TIMER, value)
        elif what == "time":
            target.pass_time(value % 300)
        elif what == "event":
            host.request_event(value & 0xFFFF)
        elif what == "change":
            target.directory.subsystem.namespace_changed(value)
        elif what == "connect":
            host.connect(value % 4 + 1)
        elif value % 4 in host.queues:
            host.lose(value % 4)
    association = host.association
    assert (association in target.directory.associations) is not association.ended
    assert (0 in association.queues) is not association.ended
    if association.ended:
        assert association.queues == {}
        assert association.next_deadline() is None
    elif not association.enabled:
        assert not association.has_io_queues

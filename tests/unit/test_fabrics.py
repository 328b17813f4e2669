"""Fabrics commands after Connect: what there is, and where."""

from __future__ import annotations

import pytest

from ocssd_tcp.commands.registry import Transfer
from ocssd_tcp.wire.opcodes import Admin, Fctype, Property
from ocssd_tcp.wire.status import CommandError, Status
from tests.unit.control_host import Outcome, Target, live, live_discovery, sqe

INVALID_OPCODE = Outcome(Status.INVALID_OPCODE)


@pytest.mark.parametrize(
    "fctype", [Fctype.CONNECT, Fctype.AUTH_SEND, Fctype.AUTH_RECEIVE, Fctype.DISCONNECT, 0x02, 0xC0]
)
def test_admin_queue_has_property_commands_only(fctype: int) -> None:
    """Conformance 55: a second Connect among them."""
    host = live(Target())
    assert host.fabrics(fctype) == INVALID_OPCODE
    with pytest.raises(CommandError) as refused:
        host.association.check_admin(sqe(Admin.FABRICS, nsid=fctype))
    assert refused.value.status == Status.INVALID_OPCODE


@pytest.mark.parametrize("fctype", [*Fctype, 0x02, 0xC0])
def test_io_queue_has_no_fabrics_command(fctype: int) -> None:
    """Conformance 62, and 55 on an I/O queue."""
    host = live(Target())
    host.connect(1)
    assert host.fabrics(fctype, qid=1) == INVALID_OPCODE


@pytest.mark.parametrize("fctype", [Fctype.PROPERTY_GET, Fctype.PROPERTY_SET])
@pytest.mark.parametrize("sqe_flags", [0x40, 0x00, 0xFF])
def test_property_commands_move_no_data_and_have_reserved_flags(fctype: Fctype, sqe_flags: int) -> None:
    command = sqe(Admin.FABRICS, nsid=fctype | 0xABCDEF00, sqe_flags=sqe_flags, sgl_length=4096)
    assert live(Target()).association.check_admin(command).transfer is Transfer.NONE


def test_property_get_through_the_admin_entry_is_the_same() -> None:
    host = live(Target())
    command = sqe(Admin.FABRICS, nsid=Fctype.PROPERTY_GET, cdw11=Property.VS)
    reply = host.association.execute_admin(host.queues[0], command, b"", host.target.now)
    assert reply is not None
    assert (reply.dw0, reply.dw1) == (0x00010400, 0)


@pytest.mark.parametrize("opc", [0x00, 0x01, 0x04, 0x05, 0x0D, 0x10, 0x11, 0x14, 0x7C, 0x80, 0x84, 0xC1, 0xF1, 0xFF])
def test_admin_opcode_that_is_not_here_is_invalid(opc: int) -> None:
    """Conformance 91: Create and Delete I/O queues among them."""
    assert live(Target()).admin(opc) == INVALID_OPCODE


@pytest.mark.parametrize("opc", [opc for opc in range(256) if opc != Admin.FABRICS])
def test_discovery_controller_refuses_what_it_does_not_have(opc: int) -> None:
    """Conformance 113."""
    allowed = {
        Admin.IDENTIFY, Admin.GET_LOG_PAGE, Admin.KEEP_ALIVE, Admin.SET_FEATURES, Admin.GET_FEATURES,
        Admin.ASYNC_EVENT_REQUEST,
    }  # fmt: skip
    outcome = live_discovery(Target()).admin(opc, sgl_length=4096)
    assert (outcome == INVALID_OPCODE) is (opc not in allowed)

"""Fabrics commands of a connected admin queue: Property Get and Property Set (NVMe-oF 1.1, 3.4 and 3.5).

Connect is the directory's; authentication and Disconnect do not exist here.
"""

from __future__ import annotations

from ocssd_tcp.commands.context import Controller
from ocssd_tcp.commands.registry import Command, Reply, fabrics
from ocssd_tcp.wire.layouts import PROPERTY_SQE
from ocssd_tcp.wire.opcodes import Fctype
from ocssd_tcp.wire.status import CommandError, Status

_SIZES = {0: 4, 1: 8}  #: ATTRIB 2:0 -> bytes


def _invalid(field: str) -> CommandError:
    return CommandError(Status.INVALID_FIELD, location=PROPERTY_SQE.offset(field))


def _size(attrib: int) -> int:
    try:
        return _SIZES[attrib & 7]
    except KeyError:
        raise _invalid("attrib") from None


@fabrics(Fctype.PROPERTY_GET)
def property_get(controller: Controller, command: Command, data: bytes, now: float) -> Reply:
    """The value in DW0, or DW0 and DW1. Invalid Field for an unknown property or a size that is not its own."""
    fields = PROPERTY_SQE.unpack_from(command.sqe)
    value = controller.read_property(fields["ofst"], _size(fields["attrib"]))
    if value is None:
        raise _invalid("ofst")
    return Reply(dw0=value & 0xFFFFFFFF, dw1=value >> 32)


@fabrics(Fctype.PROPERTY_SET)
def property_set(controller: Controller, command: Command, data: bytes, now: float) -> Reply:
    """Write CC, the only property that can be written; Invalid Field otherwise."""
    fields = PROPERTY_SQE.unpack_from(command.sqe)
    if not controller.write_property(fields["ofst"], _size(fields["attrib"]), fields["value"], now):
        raise _invalid("ofst")
    return Reply()

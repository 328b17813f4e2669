"""The dispatch tables: one entry per command, log page, feature and Identify structure, filled by decorators.

An entry says what is checked before its handler runs, and the same entries give the Commands Supported and Effects
log page, so that what a drive says it supports is what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, TypeVar

from ocssd_tcp.wire.layouts import SQE
from ocssd_tcp.wire.opcodes import Admin, Fctype, Io
from ocssd_tcp.wire.status import Status

_unpack_sqe = SQE.struct.unpack_from


class Command:
    """The decoded fields of one SQE. `sqe` is its 64 bytes, for commands that lay them out otherwise.

    `arrival`: when it was looked at, CLOCK_MONOTONIC in ns, if a trace is on; else 0.
    """

    __slots__ = (
        "arrival",
        "cdw2",
        "cdw3",
        "cdw10",
        "cdw11",
        "cdw12",
        "cdw13",
        "cdw14",
        "cdw15",
        "cid",
        "nsid",
        "opc",
        "sgl_address",
        "sgl_length",
        "sgl_type",
        "sqe",
        "sqe_flags",
    )  # fmt: skip

    arrival: int
    opc: int
    sqe_flags: int
    cid: int
    nsid: int
    cdw2: int
    cdw3: int
    sgl_address: int
    sgl_length: int
    sgl_type: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int

    def __init__(self, sqe: bytes) -> None:
        self.sqe = sqe
        self.arrival = 0
        (
            self.opc, self.sqe_flags, self.cid, self.nsid, self.cdw2, self.cdw3, _mptr, self.sgl_address,
            self.sgl_length, self.sgl_type, self.cdw10, self.cdw11, self.cdw12, self.cdw13, self.cdw14, self.cdw15,
        ) = _unpack_sqe(sqe)  # fmt: skip


class Reply:
    """The outcome of a command: status (without DNR; the queue adds it), CQE DW0 and DW1, data for the host.

    `data`: pieces that are sent in order, together at most the command's SGL length. With a status other than
    success, data is sent only if `data_with_error` (decisions: 2/D0h, reset descriptors). `location`: byte offset in
    the SQE of the field at fault, for the error log.
    """

    __slots__ = ("data", "data_with_error", "dw0", "dw1", "location", "status")

    def __init__(
        self,
        status: int = Status.SUCCESS,
        dw0: int = 0,
        dw1: int = 0,
        data: Sequence[bytes | memoryview] = (),
        *,
        data_with_error: bool = False,
        location: int = 0xFFFF,
    ) -> None:
        self.status = status
        self.dw0 = dw0
        self.dw1 = dw1
        self.data = data
        self.data_with_error = data_with_error
        self.location = location


class Queue(Enum):
    """Where a command is legal."""

    ADMIN = "admin"
    IO = "io"


class Transfer(IntEnum):
    """What a command moves. Its direction must be that of the opcode's low two bits, but for the drive's own 93h."""

    NONE = 0  #: SGL1 is not looked at
    HOST_TO_CONTROLLER = 1  #: collected, then the handler runs with all of it
    CONTROLLER_TO_HOST = 2
    WRITE = 3  #: host to controller, and the media says where it goes


class Nsid(Enum):
    """What the NSID field must be."""

    IGNORED = "ignored"
    ACTIVE = "active"  #: an active namespace, else Invalid Namespace or Format
    HANDLER = "handler"  #: the handler's own rule


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: its handler, and what is checked before the handler runs."""

    opcode: int
    name: str
    handler: Callable[..., Any]
    transfer: Transfer
    nsid: Nsid
    discovery: bool  #: legal on a discovery controller
    writes_media: bool  #: LBCC in the effects log page
    data_bytes: Callable[[Command], int] | None  #: bytes that this very command moves at least, where that varies


ADMIN_COMMANDS: list[Entry | None] = [None] * 256
IO_COMMANDS: list[Entry | None] = [None] * 256

_H = TypeVar("_H", bound=Callable[..., Any])
T = TypeVar("T")


class DuplicateError(Exception):
    """A code point registered twice."""


def command(
    queue: Queue,
    opcode: Admin | Io,
    transfer: Transfer,
    *,
    nsid: Nsid = Nsid.IGNORED,
    discovery: bool = False,
    writes_media: bool = False,
    data_bytes: Callable[[Command], int] | None = None,
) -> Callable[[_H], _H]:
    """Register a handler for an opcode; DuplicateError (at import) if there is one."""
    table = ADMIN_COMMANDS if queue is Queue.ADMIN else IO_COMMANDS

    def register(handler: _H) -> _H:
        if table[opcode] is not None:
            raise DuplicateError(f"{queue.value} opcode {opcode:#x}")
        table[opcode] = Entry(opcode, opcode.name.lower(), handler, transfer, nsid, discovery, writes_media, data_bytes)
        return handler

    return register


class Registry(dict[int, T]):
    """Code point -> entry; DuplicateError if one is registered twice."""

    def add(self, code: int, entry: T) -> None:
        if code in self:
            raise DuplicateError(f"code point {code:#x}")
        self[code] = entry


FABRICS_COMMANDS: Registry[Callable[..., Reply]] = Registry()


def fabrics(fctype: Fctype) -> Callable[[_H], _H]:
    """Register the handler of a fabrics command that is legal after Connect on the admin queue."""

    def register(handler: _H) -> _H:
        FABRICS_COMMANDS.add(fctype, handler)
        return handler

    return register

"""Status codes: (status code type, status code), named as in the specifications.

A status is an int: SC in bits 7:0, SCT in bits 10:8, DNR in bit 14. That is the CQE's status field shifted right
by one; the phase bit does not exist in fabrics.
"""

from __future__ import annotations

from enum import IntEnum

DNR = 0x4000  #: Do Not Retry


class Status(IntEnum):
    """SCT << 8 | SC."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    CID_CONFLICT = 0x003
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL_ERROR = 0x006
    ABORT_REQUESTED = 0x007
    ABORTED_SQ_DELETION = 0x008
    MISSING_FUSED = 0x00A
    INVALID_NAMESPACE = 0x00B
    COMMAND_SEQUENCE_ERROR = 0x00C
    DATA_SGL_LENGTH_INVALID = 0x00F
    SGL_TYPE_INVALID = 0x011
    SGL_OFFSET_INVALID = 0x016
    HOST_ID_INCONSISTENT_FORMAT = 0x018
    TRANSIENT_TRANSPORT_ERROR = 0x022
    LBA_OUT_OF_RANGE = 0x080
    CAPACITY_EXCEEDED = 0x081

    INVALID_QUEUE_ID = 0x101
    ABORT_LIMIT_EXCEEDED = 0x103
    ASYNC_EVENT_LIMIT_EXCEEDED = 0x105
    INVALID_LOG_PAGE = 0x109
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    FEATURE_NOT_NS_SPECIFIC = 0x10F
    CONNECT_INCOMPATIBLE_FORMAT = 0x180
    CONNECT_CONTROLLER_BUSY = 0x181
    CONNECT_INVALID_PARAMETERS = 0x182
    CONNECT_RESTART_DISCOVERY = 0x183
    CONNECT_INVALID_HOST = 0x184
    INVALID_QUEUE_TYPE = 0x185

    WRITE_FAULT = 0x280
    UNRECOVERED_READ_ERROR = 0x281
    DEALLOCATED_OR_UNWRITTEN = 0x287
    OFFLINE_CHUNK = 0x2C0
    INVALID_RESET = 0x2C1
    READ_HIGH_ECC = 0x2D0
    WRITE_FAIL_WRITE_NEXT_UNIT = 0x2F0
    WRITE_FAIL_CHUNK_EARLY_CLOSE = 0x2F1
    OUT_OF_ORDER_WRITE = 0x2F2

    @property
    def text(self) -> str:
        """The specification's name, for people."""
        return _TEXTS.get(self, self.name.replace("_", " ").title())


_TEXTS = {
    Status.CID_CONFLICT: "Command ID Conflict",
    Status.DATA_SGL_LENGTH_INVALID: "Data SGL Length Invalid",
    Status.SGL_TYPE_INVALID: "SGL Descriptor Type Invalid",
    Status.SGL_OFFSET_INVALID: "SGL Offset Invalid",
    Status.INVALID_OPCODE: "Invalid Command Opcode",
    Status.INVALID_FIELD: "Invalid Field in Command",
    Status.INVALID_NAMESPACE: "Invalid Namespace or Format",
    Status.LBA_OUT_OF_RANGE: "LBA Out of Range",
    Status.DEALLOCATED_OR_UNWRITTEN: "Deallocated or Unwritten Logical Block",
    Status.READ_HIGH_ECC: "Read High ECC",
    Status.WRITE_FAIL_WRITE_NEXT_UNIT: "Write Fail, Write Next Unit",
    Status.WRITE_FAIL_CHUNK_EARLY_CLOSE: "Write Fail, Chunk Early Close",
    Status.OUT_OF_ORDER_WRITE: "Out of Order Write",
}

_RETRYABLE = frozenset({
    Status.CID_CONFLICT, Status.DATA_TRANSFER_ERROR, Status.INTERNAL_ERROR, Status.ABORT_REQUESTED,
    Status.ABORTED_SQ_DELETION, Status.TRANSIENT_TRANSPORT_ERROR, Status.CONNECT_CONTROLLER_BUSY,
    Status.UNRECOVERED_READ_ERROR, Status.ABORT_LIMIT_EXCEEDED, Status.ASYNC_EVENT_LIMIT_EXCEEDED,
})  # fmt: skip


def on_wire(status: int) -> int:
    """The status with DNR where repeating the command unchanged cannot help: every rule violation."""
    return status if status == Status.SUCCESS or status in _RETRYABLE or status & DNR else status | DNR


def describe(status: int) -> str:
    """A status as people read it: `Out of Order Write (2/F2h, do not retry)`."""
    code = status & 0x7FF
    try:
        name = Status(code).text
    except ValueError:
        name = "Unknown Status"
    suffix = ", do not retry" if status & DNR else ""
    return f"{name} ({code >> 8}/{code & 0xFF:02X}h{suffix})"


class CommandError(Exception):
    """A command is refused with `status` (control path only; the I/O path returns statuses).

    `dw0`: CQE DW0, used by Connect for the offset of the bad parameter. `location`: byte offset in the SQE of the
    field at fault for the error log, FFFFh where there is none.
    """

    def __init__(self, status: Status, *, dw0: int = 0, location: int = 0xFFFF) -> None:
        super().__init__(status.text)
        self.status = status
        self.dw0 = dw0
        self.location = location


class Fes(IntEnum):
    """Fatal Error Status of a TermReq PDU."""

    INVALID_HEADER_FIELD = 1
    SEQUENCE_ERROR = 2
    HEADER_DIGEST_ERROR = 3
    DATA_OUT_OF_RANGE = 4
    DATA_LIMIT_EXCEEDED = 5
    UNSUPPORTED_PARAMETER = 6


class FatalTransportError(Exception):
    """The peer broke NVMe/TCP: answer with a TermReq that quotes `header`, and close.

    `fei`: for FES 1 and 6 the byte offset of the field at fault, from the start of the PDU.
    """

    def __init__(self, fes: Fes, fei: int, why: str, header: bytes = b"") -> None:
        super().__init__(why)
        self.fes = fes
        self.fei = fei
        self.header = header

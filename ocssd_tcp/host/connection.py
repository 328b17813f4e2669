"""One NVMe/TCP queue seen from the host, without I/O: received bytes go in, completed commands come out.

It owns the receive buffer, the command identifiers and the transfer state of every outstanding command. It does not
know sockets, time, or what any command means: a command is an SQE, the data it sends and the place where the data it
gets shall land. Large data lands in the caller's buffer straight from the socket, and leaves from it in pieces.

    connection.start();  socket.sendmsg(connection.take_output())
    n = socket.recv_into(connection.buffer());  for command in connection.received(n): command.completion ...

NVMe/TCP 1.0, 3.3 to 3.6.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from ocssd_tcp.host.errors import TransportError, UsageError
from ocssd_tcp.structdef import struct_of
from ocssd_tcp.wire.digest import DIGEST_BYTES, crc32c
from ocssd_tcp.wire.framer import Frame, Framer
from ocssd_tcp.wire.layouts import C2H_DATA, CAPSULE_RESP, ICRESP, R2T, SQE, TERM_REQ
from ocssd_tcp.wire.opcodes import CONTROL_IN_CAPSULE, SglType
from ocssd_tcp.wire.pdu import (
    CONTROLLER_TO_HOST,
    MAX_ALIGNMENT,
    MIN_MAXH2CDATA,
    Encoder,
    PduFlag,
    PduType,
    icreq,
    term_req,
)
from ocssd_tcp.wire.status import FatalTransportError, Fes, Status

Piece = bytes | bytearray | memoryview

RX_BYTES = 128 << 10
DIRECT_BYTES = 16 << 10  #: a missing rest of data this long is received where it belongs; less is cheaper to copy
PSDT_SGL = 0x40  #: SQE flags: SGL1 is an SGL
_SUCCESS = Status.SUCCESS
_TRANSFER = struct.Struct("<QI3xB")  # SGL1 of an SQE: address, length, type
_SGL_OFFSET = SQE.offset("sgl_address")
_CID = struct.Struct("<H")
_CID_OFFSET = SQE.offset("cid")
_data_fields = struct_of(C2H_DATA, ("cccid", "datao", "datal")).unpack_from
_resp_fields = struct_of(CAPSULE_RESP, ("dw0", "dw1", "cid", "status")).unpack_from
_r2t_fields = struct_of(R2T, ("cccid", "ttag", "r2to", "r2tl")).unpack_from
_FEI_FLAGS = C2H_DATA.offset("flags")
_FEI_CCCID = C2H_DATA.offset("cccid")
_FEI_CID = CAPSULE_RESP.offset("cid")


class Completion(NamedTuple):
    """How a command ended. `status`: SCT << 8 | SC with DNR. `moved`: bytes of data that travelled, either way."""

    status: int
    dw0: int
    dw1: int
    moved: int


class Command:
    """One command, and where its data comes from or goes to.

    `sqe`: 64 bytes; cid and SGL1 are filled in when it is submitted. `data_out`: pieces of data for the controller.
    `data_in`: a writable buffer for the controller's data. `capsule`: bytes that ride in the capsule beside a transport
    SGL (LBA-list form 4). `control`: an admin or fabrics command, whose capsule may always carry 8 KiB. `timed`: an
    answer is due (not so for an Asynchronous Event Request). `token`: the caller's. The buffers belong to the command
    from `submit` until `completion` is set.
    """

    __slots__ = ("_failed_digest", "_last", "capsule", "cid", "completion", "control", "data_in", "data_out",
                 "moved", "out_bytes", "sqe", "timed", "token")  # fmt: skip

    def __init__(
        self,
        sqe: bytes,
        data_out: Sequence[Piece] = (),
        data_in: memoryview | None = None,
        *,
        capsule: bytes = b"",
        control: bool = False,
        timed: bool = True,
        token: Any = None,
    ) -> None:
        self.sqe = sqe
        self.data_out = data_out
        self.data_in = data_in
        self.capsule = capsule
        self.control = control
        self.timed = timed
        self.token = token
        self.out_bytes = sum(map(len, data_out))
        self.cid = -1
        self.completion: Completion | None = None
        self.moved = 0
        self._failed_digest = False
        self._last = False

    @property
    def data_bytes(self) -> int:
        """Bytes of data that the command asks to move."""
        return self.out_bytes if self.data_in is None else len(self.data_in)

    def _slices(self, offset: int, n_bytes: int) -> Iterator[Piece]:
        for piece in self.data_out:
            size = len(piece)
            if offset < size:
                part = memoryview(piece)[offset : offset + n_bytes]
                yield part
                n_bytes -= len(part)
                if not n_bytes:
                    return
                offset = size
            offset -= size


def sqe(
    opcode: int,
    nsid: int = 0,
    *,
    cdw2: int = 0,
    cdw3: int = 0,
    cdw10: int = 0,
    cdw11: int = 0,
    cdw12: int = 0,
    cdw13: int = 0,
    cdw14: int = 0,
    cdw15: int = 0,
) -> bytes:
    """A submission queue entry without cid and SGL1, which are filled in on submission."""
    return SQE.struct.pack(opcode, 0, 0, nsid, cdw2, cdw3, 0, 0, 0, 0, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15)


class State(Enum):
    """Life of a queue connection."""

    NEW = auto()
    INITIALIZING = auto()  #: ICReq sent
    READY = auto()
    FAILED = auto()


_LEGAL = {
    State.INITIALIZING: frozenset({PduType.ICRESP, PduType.C2H_TERM_REQ}),
    State.READY: CONTROLLER_TO_HOST - {PduType.ICRESP},
}


class QueueConnection:
    """The protocol state of one queue.

    `queue_size`: entries; one less is the most commands outstanding. `max_in_capsule`: bytes of data in the capsule of
    an I/O command (IOCCSZ * 16 - 64). `success_flag`: SQ flow control is off, so a C2HData PDU may end its command.
    """

    def __init__(
        self,
        *,
        queue_size: int = 32,
        header_digest: bool = False,
        data_digest: bool = False,
        max_in_capsule: int = CONTROL_IN_CAPSULE,
        success_flag: bool = False,
    ) -> None:
        if queue_size < 2:
            raise UsageError("a queue has at least 2 entries")
        self.state = State.NEW
        self.failure: TransportError | None = None  #: set once, when the connection is beyond use
        self.max_in_capsule = max_in_capsule
        self.success_flag = success_flag
        self.maxh2cdata = 0
        self.outstanding: dict[int, Command] = {}
        self._dgst = (1 if header_digest else 0) | (2 if data_digest else 0)
        # Oldest first: a late second completion then meets an unused cid, not a new command.
        self._cids = deque(range(queue_size - 1))
        self._framer = Framer(CONTROLLER_TO_HOST, {PduType.C2H_DATA: 0xFFFFFFFF})
        self._encoder = Encoder()
        self._output: list[Piece] = []
        self._rx = memoryview(bytearray(RX_BYTES))
        self._start = self._end = 0
        self._data: tuple[Command, int] | None = None  # the C2HData PDU being received: its command and flags
        self._target = memoryview(b"")  # where the rest of its data goes
        self._direct = False
        self._crc = 0
        self._done: list[Command] = []
        self._handlers = {
            PduType.ICRESP: self._icresp,
            PduType.C2H_TERM_REQ: self._c2h_term_req,
            PduType.CAPSULE_RESP: self._capsule_resp,
            PduType.R2T: self._r2t,
        }

    # --- sending ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the initialisation exchange; commands may follow when `state` is READY."""
        self._output.append(icreq(self._dgst))
        self.state = State.INITIALIZING

    @property
    def has_room(self) -> bool:
        """A command identifier is free."""
        return bool(self._cids)

    def submit(self, command: Command) -> None:
        """Send a command. TransportError if the connection is not ready, UsageError if the queue is full."""
        if self.state is not State.READY:
            raise self.failure or TransportError("the connection is not initialised")
        if not self._cids:
            raise UsageError("the queue is full")
        limit = CONTROL_IN_CAPSULE if command.control else self.max_in_capsule
        inline: Sequence[Piece]
        if command.capsule:
            if len(command.capsule) > limit:
                raise UsageError(f"{len(command.capsule)} bytes do not fit into a capsule of {limit}")
            inline, sgl_type = (command.capsule,), SglType.TRANSPORT
        elif 0 < command.out_bytes <= limit:
            inline, sgl_type = command.data_out, SglType.IN_CAPSULE
            command.moved = command.out_bytes
        else:
            inline, sgl_type = (), SglType.TRANSPORT
        command.cid = cid = self._cids.popleft()
        self.outstanding[cid] = command
        sqe = bytearray(command.sqe)
        sqe[1] |= PSDT_SGL
        _CID.pack_into(sqe, _CID_OFFSET, cid)
        _TRANSFER.pack_into(sqe, _SGL_OFFSET, 0, command.data_bytes, sgl_type)
        self._output.append(self._encoder.capsule_cmd(bytes(sqe), sum(map(len, inline))))
        if inline:
            self._send_data(inline)

    def take_output(self) -> list[Piece]:
        """The pieces to send, in order; they are the caller's from now on."""
        output, self._output = self._output, []
        return output

    def abandon(self, failure: TransportError) -> list[Command]:
        """The connection is lost: the commands that will never complete."""
        self.failure = self.failure or failure
        self.state = State.FAILED
        commands = list(self.outstanding.values())
        self.outstanding.clear()
        return commands

    def _send_data(self, pieces: Sequence[Piece]) -> None:
        self._output.extend(pieces)
        if self._encoder.data_digest:
            crc = 0
            for piece in pieces:
                crc = crc32c(piece, crc)
            self._output.append(crc.to_bytes(DIGEST_BYTES, "little"))

    # --- receiving ----------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where the next bytes from the peer shall be stored; `received` says how many were."""
        self._direct = len(self._target) >= DIRECT_BYTES
        return self._target if self._direct else self._rx[self._end :]

    def received(self, n_bytes: int) -> list[Command]:
        """`n_bytes` were stored in `buffer()`: the commands that completed by it, in order.

        If the peer broke the protocol, or ended the connection by a TermReq, `failure` is set afterwards, and the
        output holds the H2CTermReq to send.
        """
        if self._direct:
            self._landed(n_bytes)
        else:
            self._end += n_bytes
        try:
            while self.state is not State.FAILED and self._step():
                pass
        except FatalTransportError as error:
            self._fail(TransportError(f"the drive broke NVMe/TCP: {error} ({_fes_name(error.fes)})", error.fes))
            self._output.append(term_req(PduType.H2C_TERM_REQ, error.fes, error.fei, error.header))
        # At most the header of a PDU is left over, or the digest of its data.
        left = self._end - self._start
        if self._start:
            self._rx[:left] = self._rx[self._start : self._end]
            self._start, self._end = 0, left
        done, self._done = self._done, []
        return done

    def _step(self) -> bool:
        """Take one PDU, or what has arrived of a C2HData PDU; False if more bytes are needed."""
        available = self._end - self._start
        if self._data is not None:
            return self._data_step(*self._data, available)
        frame = self._framer.frame(self._rx, self._start, self._end)
        if frame is None:
            return False
        if frame.type not in _LEGAL[self.state]:
            raise self._violation(Fes.SEQUENCE_ERROR, 0, f"PDU type {frame.type:#04x} out of sequence", frame)
        if frame.type == PduType.C2H_DATA:
            if available < frame.data_offset:
                return False
            self._begin_data(frame)
            self._start += frame.data_offset
            return True
        if available < frame.plen:
            return False
        self._handlers[PduType(frame.type)](frame)
        self._start += frame.plen
        return True

    def _fail(self, failure: TransportError) -> None:
        self.failure = failure
        self.state = State.FAILED

    def _violation(self, fes: Fes, fei: int, why: str, frame: Frame) -> FatalTransportError:
        quoted = min(frame.header_end, self._end - self._start, 128)
        return FatalTransportError(fes, fei, why, bytes(self._rx[self._start : self._start + quoted]))

    def _command(self, cid: int, fei: int, frame: Frame) -> Command:
        command = self.outstanding.get(cid)
        if command is None:
            raise self._violation(Fes.INVALID_HEADER_FIELD, fei, f"no command {cid:#06x} is outstanding", frame)
        return command

    def _icresp(self, frame: Frame) -> None:
        fields = ICRESP.unpack_from(self._rx, self._start)
        maxh2cdata, cpda = fields["maxh2cdata"], fields["cpda"]
        for name, wrong in (
            ("pfv", fields["pfv"] != 0),
            ("cpda", cpda > MAX_ALIGNMENT),
            ("dgst", fields["dgst"] != self._dgst),
            ("maxh2cdata", maxh2cdata < MIN_MAXH2CDATA or maxh2cdata % 4),
        ):
            if wrong:
                why = f"ICResp {name.upper()} {fields[name]}"
                if name == "dgst":
                    why += f" where {self._dgst} was asked for"
                raise self._violation(Fes.INVALID_HEADER_FIELD, ICRESP.offset(name), why, frame)
        self.maxh2cdata = maxh2cdata
        header_digest, data_digest = bool(self._dgst & 1), bool(self._dgst & 2)
        self._framer.header_digest, self._framer.data_digest = header_digest, data_digest
        self._encoder = Encoder(header_digest=header_digest, data_digest=data_digest, alignment=(cpda + 1) * 4)
        self.state = State.READY

    def _c2h_term_req(self, frame: Frame) -> None:
        fields = TERM_REQ.unpack_from(self._rx, self._start)
        fes: Fes | None
        try:
            fes = Fes(fields["fes"])
            name = _fes_name(fes)
        except ValueError:
            fes, name = None, f"FES {fields['fes']:#06x}"
        where = f" at byte {fields['fei']}" if fields["fei"] else ""
        self._fail(TransportError(f"the drive ended the connection: {name}{where}", fes))

    def _capsule_resp(self, frame: Frame) -> None:
        dw0, dw1, cid, status = _resp_fields(self._rx, self._start)
        self._complete(self._command(cid, _FEI_CID, frame), status >> 1 & 0x47FF, dw0, dw1)

    def _complete(self, command: Command, status: int, dw0: int, dw1: int) -> None:
        del self.outstanding[command.cid]
        self._cids.append(command.cid)
        if command._failed_digest and status == _SUCCESS:
            status = Status.TRANSIENT_TRANSPORT_ERROR
        command.completion = Completion(status, dw0, dw1, command.moved)
        self._done.append(command)

    def _r2t(self, frame: Frame) -> None:
        cccid, ttag, offset, r2tl = _r2t_fields(self._rx, self._start)
        command = self._command(cccid, _FEI_CCCID, frame)
        end = offset + r2tl
        if offset != command.moved or not r2tl or end > command.out_bytes:
            raise self._violation(Fes.DATA_OUT_OF_RANGE, 0, f"R2T for bytes {offset} to {end}", frame)
        command.moved = end
        while offset < end:
            n = min(self.maxh2cdata, end - offset)
            flags = PduFlag.LAST if offset + n == end else 0
            self._output.append(self._encoder.data_header(PduType.H2C_DATA, cccid, ttag, offset, n, flags))
            self._send_data(tuple(command._slices(offset, n)))
            offset += n

    # --- data of reads ------------------------------------------------------------------------

    def _begin_data(self, frame: Frame) -> None:
        cccid, datao, datal = _data_fields(self._rx, self._start)
        command = self._command(cccid, _FEI_CCCID, frame)
        target = command.data_in
        if target is None or datao != command.moved or datao + frame.data_bytes > len(target) or command._last:
            raise self._violation(Fes.DATA_OUT_OF_RANGE, 0, f"C2HData with {datal} bytes at {datao}", frame)
        if datal != frame.data_bytes:
            raise self._violation(Fes.INVALID_HEADER_FIELD, C2H_DATA.offset("datal"), f"DATAL {datal}", frame)
        success = frame.flags & PduFlag.SUCCESS
        if success and not (self.success_flag and frame.flags & PduFlag.LAST):
            raise self._violation(Fes.INVALID_HEADER_FIELD, _FEI_FLAGS, "SUCCESS not allowed here", frame)
        command._last = bool(frame.flags & PduFlag.LAST)
        command.moved += datal
        self._data = (command, frame.flags)
        self._target = target[datao : datao + datal]
        self._crc = 0

    def _landed(self, n_bytes: int) -> None:
        """The first `n_bytes` of `_target` are in place."""
        if self._framer.data_digest:
            self._crc = crc32c(self._target[:n_bytes], self._crc)
        self._target = self._target[n_bytes:]

    def _data_step(self, command: Command, flags: int, available: int) -> bool:
        if self._target and available:
            n = min(available, len(self._target))
            self._target[:n] = self._rx[self._start : self._start + n]
            self._landed(n)
            self._start += n
            available -= n
        if self._target:
            return False
        if flags & PduFlag.DDGST:
            if available < DIGEST_BYTES:
                return False
            if self._crc.to_bytes(DIGEST_BYTES, "little") != self._rx[self._start : self._start + DIGEST_BYTES]:
                command._failed_digest = True
            self._start += DIGEST_BYTES
        self._data = None
        if flags & PduFlag.SUCCESS:
            self._complete(command, _SUCCESS, 0, 0)
        return True


def _fes_name(fes: Fes) -> str:
    return fes.name.replace("_", " ").lower()

"""One TCP connection of the target, sans-I/O: bytes in, pieces to send out, time as an argument.

It owns the phase of the connection, its transfers, and the rules of NVMe/TCP that are not about a single PDU. What a
command means is not known here: the entry in the dispatch table says how its data travels and who handles it. The
plain shapes of I/O are handled by `transport.batch` before they get here; both give the same answers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from time import perf_counter

import structlog

from ocssd_tcp.commands.registry import Command, Reply
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.controller.queue import QueuePair
from ocssd_tcp.transport.batch import BatchProcessor, Processor
from ocssd_tcp.transport.execution import Executor
from ocssd_tcp.transport.responder import Responder
from ocssd_tcp.transport.rxbuf import RxBuffer
from ocssd_tcp.transport.transfer import MAXH2CDATA, Transfer
from ocssd_tcp.transport.txqueue import TxQueue
from ocssd_tcp.wire.digest import DIGEST_BYTES, crc32c
from ocssd_tcp.wire.framer import Frame, Framer
from ocssd_tcp.wire.layouts import CAPSULE_CMD, COMMON_HEADER, H2C_DATA, ICREQ
from ocssd_tcp.wire.opcodes import CONTROL_IN_CAPSULE, Admin, Fctype, SglType
from ocssd_tcp.wire.pdu import HOST_TO_CONTROLLER, MAX_ALIGNMENT, Encoder, PduFlag, PduType, icresp, term_req
from ocssd_tcp.wire.status import CommandError, FatalTransportError, Fes, Status

ICREQ_SECONDS = 10.0  #: accept to ICReq
CONNECT_SECONDS = 60.0  #: ICResp to Connect
TRANSFER_SECONDS = 60.0  #: an R2T without any progress
TERMINATION_SECONDS = 30.0  #: C2HTermReq to the peer's FIN; and for the rest of the output of one that is closed
MAX_IDLE = 2  #: PDUs in a row that are not plain, before the rest of a buffer is taken for the same

log = structlog.get_logger("transport")
_LAST = PduFlag.LAST.value
_unpack_h2c = H2C_DATA.struct.unpack_from


class Phase(Enum):
    """The life of a connection."""

    ICREQ = auto()  #: nothing has been agreed
    CONNECT = auto()  #: PDUs flow, no queue yet
    LIVE = auto()  #: a queue is connected
    TERMINATING = auto()  #: a C2HTermReq was sent; what arrives is thrown away until the peer's FIN
    CLOSED = auto()


_LEGAL: dict[Phase, frozenset[int]] = {
    Phase.ICREQ: frozenset({PduType.ICREQ, PduType.H2C_TERM_REQ}),
    Phase.CONNECT: frozenset({PduType.CAPSULE_CMD, PduType.H2C_DATA, PduType.H2C_TERM_REQ}),
    Phase.LIVE: frozenset({PduType.CAPSULE_CMD, PduType.H2C_DATA, PduType.H2C_TERM_REQ}),
}


class TargetConnection:
    """One connection. `local`: the address and port it arrived on. `on_output`: called when something is to be sent,
    or the connection is to be closed, outside of `received()`.

    The owner of the socket receives into `buffer()`, calls `received(n)`, then sends `tx`, and says `sent()`; while
    `tx` is not empty it receives nothing. Once `tx` is empty it closes the socket if `phase` is CLOSED, and shuts down
    its sending half if `phase` is TERMINATING.
    """

    def __init__(
        self,
        directory: Directory,
        rx: RxBuffer,
        in_capsule_bytes: int,
        local: tuple[str, int],
        now: float,
        on_output: Callable[[TargetConnection], None],
        peer: str = "",
    ) -> None:
        self.phase = Phase.ICREQ
        self.tx = TxQueue()
        self.peer = peer
        self.queue: QueuePair | None = None
        self.transfers: dict[int, Transfer] = {}
        self.encoder = Encoder()
        self.responder = Responder(self.tx, self.encoder)
        self.executor: Executor | None = None
        self.why_closed = ""
        #: whether what arrives can change the state of a controller: an admin queue, or no queue yet
        self.is_control = True
        self.rx = rx
        self.tail = b""  #: what has arrived of an incomplete PDU
        self.last_ttag = 0
        self.last_received = now
        self.fill: Transfer | None = None  #: whose H2CData PDU is arriving
        self._batch: Processor | None = None
        self._directory = directory
        self._local = local
        self._on_output = on_output
        self._in_capsule_bytes = in_capsule_bytes
        self._framer = Framer(
            HOST_TO_CONTROLLER,
            {PduType.CAPSULE_CMD: max(in_capsule_bytes, CONTROL_IN_CAPSULE), PduType.H2C_DATA: MAXH2CDATA},
        )
        self._now = now
        self._busy = False
        self._deadline: float | None = now + ICREQ_SECONDS
        self._fill_left = 0  # data bytes of it that have not arrived
        self._fill_crc = 0
        self._direct = False
        self._seen_received = now

    # --- receiving --------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where the next bytes shall be received. Valid until the next call of `buffer()` on any connection."""
        self._direct = False
        fill = self.fill
        if fill is not None and not self.tail:
            direct = fill.direct(self._fill_left)
            if direct is not None:
                self._direct = True
                return direct
        tail = self.tail
        if not tail:
            return self.rx.view
        self.rx.data[: len(tail)] = tail
        return self.rx.view[len(tail) :]

    def received(self, n_bytes: int, now: float) -> None:
        """Handle `n_bytes` > 0 that were received into `buffer()`."""
        self.last_received = now
        if self.queue is not None:
            self.queue.association.traffic = True
        if self._direct:
            self.resume(0, 0, now, n_landed=n_bytes)
        else:
            self.resume(0, len(self.tail) + n_bytes, now)

    def resume(self, position: int, end: int, now: float, *, n_landed: int = 0) -> None:
        """Handle what stands in the receive buffer from `position` to `end`, or `n_landed` bytes that went where they
        belong."""
        self._now = now
        self._busy = True
        view = self.rx.view
        times = self._directory.subsystem.times
        if times is not None:
            times.begin(perf_counter())
        try:
            if n_landed:
                self._landed(n_landed)
            else:
                position = self._consume(self.rx.data, view, position, end)
                self.tail = bytes(view[position:end]) if position < end else b""
        except FatalTransportError as error:
            self._terminate(error)
        except Exception:  # ours: what the stream says next can no longer be trusted
            log.exception("internal error", peer=self.peer)
            self._closed("internal error")
        finally:
            self._busy = False
            if self.responder.ended:
                self.responder.record()
            if times is not None:
                times.end()

    def _consume(self, data: bytearray, view: memoryview, position: int, end: int) -> int:
        """Handle every complete PDU of `data[position:end]`; the offset of the first byte not handled."""
        n_idle = 0  # times in a row that the batch processor found nothing plain: then it is not asked again
        while position < end:
            fill = self.fill
            if fill is not None:
                position = self._continue_fill(fill, view, position, end)
                if self.fill is not None:
                    break
                continue
            batch = self._batch
            if batch is not None and n_idle < MAX_IDLE:
                begin, position = position, batch.process(data, view, position, end)
                if position == end or batch.fills:
                    break
                n_idle = 0 if position > begin else n_idle + 1
                if self.fill is not None:
                    continue
            if self.phase is Phase.TERMINATING or self.phase is Phase.CLOSED:
                return end
            frame = self._framer.frame(view, position, end)
            if frame is None:
                break
            consumed = self._handle(frame, view, position, end)
            if not consumed:
                break
            position += consumed
        return position

    def _handle(self, frame: Frame, view: memoryview, position: int, end: int) -> int:
        """Handle one PDU, if enough of it is there; the bytes it took, 0 if more are needed."""
        kind = frame.type
        if kind not in _LEGAL[self.phase]:
            raise self._fatal(Fes.SEQUENCE_ERROR, 0, f"PDU type {kind:#x} out of sequence", view, position, frame)
        if kind == PduType.H2C_DATA:
            if end - position < frame.data_offset:
                return 0
            self._begin_fill(frame, view, position)
            return frame.data_offset
        if end - position < frame.plen:
            return 0
        if kind == PduType.CAPSULE_CMD:
            self._capsule(frame, view[position : position + frame.plen])
        elif kind == PduType.ICREQ:
            self._icreq(frame, view, position)
        else:
            self._closed("the host sent H2CTermReq")
        return frame.plen

    def _icreq(self, frame: Frame, view: memoryview, position: int) -> None:
        fields = ICREQ.parse(view[position : position + ICREQ.size])
        if fields.pfv != 0:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, ICREQ.offset("pfv"), f"PFV {fields.pfv}", view, position, frame)
        if fields.hpda > MAX_ALIGNMENT:
            raise self._fatal(
                Fes.INVALID_HEADER_FIELD, ICREQ.offset("hpda"), f"HPDA {fields.hpda}", view, position, frame
            )
        dgst = fields.dgst & 3
        self.tx.copy(icresp(dgst, MAXH2CDATA))
        self.encoder = Encoder(
            header_digest=bool(dgst & 1), data_digest=bool(dgst & 2), alignment=(fields.hpda + 1) * 4
        )
        self.responder.encoder = self.encoder
        self._framer.header_digest, self._framer.data_digest = self.encoder.header_digest, self.encoder.data_digest
        self.phase = Phase.CONNECT
        self._deadline = self._now + CONNECT_SECONDS

    def _capsule(self, frame: Frame, pdu: memoryview) -> None:
        """Handle a whole CapsuleCmd PDU."""
        command = Command(bytes(pdu[8 : CAPSULE_CMD.size]))
        data = pdu[frame.data_offset : frame.data_offset + frame.data_bytes]
        batch = self._batch
        if batch is not None and batch.holds(command.cid):
            batch.hand_over()
        if self.executor is not None and self.executor.overflows(0 if batch is None else batch.n_writes):
            raise FatalTransportError(Fes.SEQUENCE_ERROR, 0, "more commands than the queue holds", bytes(pdu[:72]))
        is_io = self.queue is not None and self.queue.qid > 0 and command.opc != Admin.FABRICS
        if len(data) > (self._in_capsule_bytes if is_io else CONTROL_IN_CAPSULE):
            raise FatalTransportError(Fes.DATA_LIMIT_EXCEEDED, 0, f"{len(data)} bytes in a capsule", bytes(pdu[:72]))
        is_broken = False
        if data and self.encoder.data_digest:
            end = frame.data_offset + frame.data_bytes
            is_broken = crc32c(data) != int.from_bytes(pdu[end : end + DIGEST_BYTES], "little")
        if self.executor is not None:
            self.executor.capsule(command, data, self._now, is_broken=is_broken)
        elif is_broken:
            self.responder.respond(command.cid, Status.TRANSIENT_TRANSPORT_ERROR)
        else:
            self._before_connect(command, data)

    def _before_connect(self, command: Command, data: memoryview) -> None:
        """Only Connect is legal; anything else is refused and the connection stays."""
        if command.opc != Admin.FABRICS or command.nsid & 0xFF != Fctype.CONNECT:
            self.responder.respond(command.cid, Status.COMMAND_SEQUENCE_ERROR)
            return
        try:
            if command.sgl_type != SglType.IN_CAPSULE or command.sgl_length != len(data):
                raise CommandError(Status.DATA_SGL_LENGTH_INVALID)
            queue, reply = self._directory.connect(self, command, bytes(data), self._local, self._now)
        except CommandError as error:
            self.responder.respond(command.cid, error.status, error.dw0)
            return
        self.queue = self.responder.queue = queue
        self.phase = Phase.LIVE
        self._deadline = None
        self.executor = Executor(self, queue)
        if queue.qid > 0:
            self.is_control = False
            self._batch = BatchProcessor.pick(self, queue, self._in_capsule_bytes)
        self.responder.reply(command.cid, reply, 0)

    # --- transfers: R2T and H2CData -----------------------------------------------------------------

    def request_data(self, transfer: Transfer) -> None:
        """Send the R2T of a transfer that has been given a place for its data."""
        self.transfers[transfer.ttag] = transfer
        self.responder.r2t(transfer.cid, transfer.ttag, transfer.base, transfer.length)

    def new_ttag(self) -> int:
        """A transfer tag that no live R2T has; never 0 or FFFFh."""
        ttag = self.last_ttag
        while True:
            ttag = ttag % 0xFFFE + 1
            if ttag not in self.transfers and not (self._batch is not None and self._batch.holds_tag(ttag)):
                self.last_ttag = ttag
                return ttag

    def _begin_fill(self, frame: Frame, view: memoryview, position: int) -> None:
        """An H2CData header has arrived: check it against the R2T it answers."""
        _t, _f, _h, _pdo, _plen, cccid, ttag, datao, datal = _unpack_h2c(view, position)
        self._gather()
        transfer = self.transfers.get(ttag)
        wrong: tuple[Fes, int, str] | None = None
        if transfer is None:
            wrong = Fes.INVALID_HEADER_FIELD, H2C_DATA.offset("ttag"), f"TTAG {ttag} answers no R2T"
        elif cccid != transfer.cid:
            wrong = Fes.INVALID_HEADER_FIELD, H2C_DATA.offset("cccid"), f"CCCID {cccid} does not own TTAG {ttag}"
        elif datal != frame.data_bytes:
            wrong = Fes.INVALID_HEADER_FIELD, H2C_DATA.offset("plen"), f"DATAL {datal} and PLEN {frame.plen}"
        elif datao != transfer.base + transfer.received:
            wrong = Fes.DATA_OUT_OF_RANGE, 0, f"DATAO {datao}, expected {transfer.base + transfer.received}"
        elif transfer.received + datal > transfer.length:
            wrong = Fes.DATA_LIMIT_EXCEEDED, 0, f"{datal} bytes exceed the R2T"
        elif frame.flags & _LAST and transfer.received + datal != transfer.length:
            wrong = Fes.INVALID_HEADER_FIELD, H2C_DATA.offset("flags"), "LAST before the R2T is satisfied"
        if wrong is not None or transfer is None:
            fes, fei, why = wrong or (Fes.SEQUENCE_ERROR, 0, "")
            raise self._fatal(fes, fei, why, view, position, frame)
        self.begin_fill(transfer, datal)

    def _gather(self) -> None:
        """Have all writes that wait for data in this connection's own tables."""
        if self._batch is not None and self._batch.n_writes:
            self._batch.hand_over()

    def begin_fill(self, transfer: Transfer, n_bytes: int, crc: int = 0) -> None:
        """The next `n_bytes` that arrive are data of `transfer`. `crc`: of what this PDU has brought already."""
        self.fill, self._fill_left, self._fill_crc = transfer, n_bytes, crc

    def _continue_fill(self, transfer: Transfer, view: memoryview, position: int, end: int) -> int:
        """Take bytes of the H2CData PDU that is arriving; the offset after them."""
        if self._fill_left:
            data = view[position : min(end, position + self._fill_left)]
            transfer.store(data)
            if self.encoder.data_digest:
                self._fill_crc = crc32c(data, self._fill_crc)
            self._fill_left -= len(data)
            position += len(data)
            if self._fill_left:
                return position
        if self.encoder.data_digest:
            if end - position < DIGEST_BYTES:
                return position
            if self._fill_crc != int.from_bytes(view[position : position + DIGEST_BYTES], "little"):
                transfer.failed = Status.TRANSIENT_TRANSPORT_ERROR
            position += DIGEST_BYTES
        self._end_fill(transfer)
        return position

    def _landed(self, n_bytes: int) -> None:
        """Bytes went straight to their place."""
        transfer = self.fill
        if transfer is None:
            return
        if self.encoder.data_digest:
            self._fill_crc = crc32c(transfer.landed_view(n_bytes), self._fill_crc)
        transfer.landed(n_bytes)
        self._fill_left -= n_bytes
        if not self._fill_left and not self.encoder.data_digest:
            self._end_fill(transfer)

    def _end_fill(self, transfer: Transfer) -> None:
        self.fill = None
        self.arrived(transfer)

    def arrived(self, transfer: Transfer) -> None:
        """A PDU with data of `transfer` is complete."""
        if transfer.received == transfer.length:
            del self.transfers[transfer.ttag]
            if self.executor is not None:
                self.executor.transferred(transfer, self._now)

    def sent(self) -> None:
        """All of `tx` has been handed to the kernel."""
        self.responder.n_completed = 0

    def reader(
        self, fd: int, clock: Callable[[], float], otherwise: Callable[[int], None]
    ) -> Callable[[], None] | None:
        """A callback that serves the socket `fd` by the compiled engine, None if that does not serve this queue.

        It calls `otherwise` unless all is done: with an error number of the socket, negative, or one of `Outcome`.
        """
        return self._batch.reader(fd, clock, otherwise) if self._batch is not None else None

    @property
    def n_outstanding(self) -> int:
        """Commands under way, whoever holds them."""
        held = self._batch.n_writes if self._batch is not None else 0
        return held + (len(self.executor.outstanding) if self.executor is not None else 0)

    # --- the end of a connection ----------------------------------------------------------------------

    @staticmethod
    def _fatal(fes: Fes, fei: int, why: str, view: memoryview, position: int, frame: Frame) -> FatalTransportError:
        """The error of a PDU whose header is complete: it quotes the header without its digest."""
        hlen = view[position + COMMON_HEADER.offset("hlen")]
        return FatalTransportError(fes, fei, why, bytes(view[position : position + min(hlen, frame.header_end)]))

    def _terminate(self, error: FatalTransportError) -> None:
        """Send C2HTermReq, drop the queue, and wait for the peer's FIN. A TermReq is never answered with a TermReq."""
        self._directory.n_terminated += 1
        log.warning("host broke NVMe/TCP", peer=self.peer, fes=error.fes.name, fei=error.fei, why=str(error))
        if error.header[:1] == bytes([PduType.H2C_TERM_REQ]):
            self._closed("the host sent a malformed H2CTermReq")
            return
        self._drop()
        self.tx.copy(term_req(PduType.C2H_TERM_REQ, error.fes, error.fei, error.header))
        self.phase = Phase.TERMINATING
        self.why_closed = str(error)
        self._deadline = self._now + TERMINATION_SECONDS

    def _closed(self, why: str) -> None:
        self.why_closed = why
        self._drop()
        self.phase = Phase.CLOSED
        self._deadline = self._now + TERMINATION_SECONDS if self.tx else None

    def _drop(self) -> None:
        """Give up the queue: its commands end without an answer, its reservations are rolled back."""
        queue, self.queue = self.queue, None
        if self._batch is not None:
            self._batch.close()
        self._batch, self.fill, self.tail = None, None, b""
        if self.executor is not None:
            self.executor.drop()
        self.transfers.clear()
        if queue is not None:
            self._directory.disconnected(queue, self._now)

    def close(self, why: str) -> None:
        """End the connection once what is queued has been sent."""
        if self.phase is not Phase.CLOSED:
            self._closed(why)
            self.notify()

    def lost(self, why: str, now: float) -> None:
        """The peer has gone, or the socket is broken."""
        self._now = now
        if self.phase is not Phase.CLOSED:
            self._closed(why)

    # --- what the queue's owner may do (controller.queue.QueueConnection) -----------------------------

    def complete(self, cid: int, reply: Reply) -> None:
        """Finish an outstanding command that was held."""
        if self.executor is not None and self.executor.release(cid):
            self.responder.reply(cid, reply, 0)
            self.notify()

    def abort(self, cid: int) -> bool:
        """Complete an outstanding command with Abort Requested, if it still waits for data."""
        self._gather()
        aborted = self.executor is not None and self.executor.abort(cid)
        if aborted:
            self.notify()
        return aborted

    def drop(self, cid: int) -> None:
        """Forget an outstanding command that was held: it ends without an answer."""
        if self.executor is not None:
            self.executor.release(cid)

    def notify(self) -> None:
        """There is something to send, or the connection is to be closed."""
        if not self._busy:
            self.responder.record()
            self._on_output(self)

    # --- time ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `on_timer` wants to be called, if at all."""
        if self.phase is Phase.LIVE and self._deadline is None and self._waits_for_data():
            self._seen_received = self.last_received
            self._deadline = max(self._now, self.last_received) + TRANSFER_SECONDS
        return self._deadline

    def _waits_for_data(self) -> bool:
        return bool(self.transfers) or (self._batch is not None and self._batch.n_writes > 0)

    def on_timer(self, now: float) -> None:
        """Act on a deadline that has passed."""
        self._now = now
        if self._deadline is None or now < self._deadline:
            return
        self._deadline = None
        if self.phase is Phase.LIVE:
            if self._waits_for_data() and self._seen_received == self.last_received:
                self._closed("the host sent no data for an R2T in time")
        elif self.phase is Phase.ICREQ:
            self._closed("no ICReq in time")
        elif self.phase is Phase.CONNECT:
            self._closed("no Connect in time")
        else:
            self._closed(self.why_closed)

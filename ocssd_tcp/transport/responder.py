"""What a queue sends back: responses, data, R2Ts, as pieces of the send queue, with digests as negotiated."""

from __future__ import annotations

from collections.abc import Sequence

from ocssd_tcp.commands.registry import Reply
from ocssd_tcp.controller.queue import NO_SQHD, QueuePair
from ocssd_tcp.media.memory import Memory
from ocssd_tcp.media.ops import Piece
from ocssd_tcp.transport.tracing import Noted, record
from ocssd_tcp.transport.txqueue import TxQueue
from ocssd_tcp.wire.digest import crc32c
from ocssd_tcp.wire.pdu import Encoder, PduFlag, PduType
from ocssd_tcp.wire.status import Status, on_wire

_SMALL = 16 * 1024  #: data up to this size is copied into the send queue
_CID_CONFLICT = int(Status.CID_CONFLICT)
_LAST = int(PduFlag.LAST)
_LAST_AND_SUCCESS = int(PduFlag.LAST | PduFlag.SUCCESS)


class Responder:
    """Encodes what one connection sends after the IC exchange.

    `queue` is None until Connect has succeeded; a response then reports SQHD 0. `n_completed`: completions since the
    send queue was last empty, for the overflow rule. `traced`: the commands under way that a trace shall record, by
    CID; `ended`: those of them whose responses are queued, with their statuses, until `record()`.
    """

    __slots__ = ("encoder", "ended", "n_completed", "queue", "traced", "tx")

    def __init__(self, tx: TxQueue, encoder: Encoder) -> None:
        self.tx = tx
        self.encoder = encoder
        self.queue: QueuePair | None = None
        self.n_completed = 0
        self.traced: dict[int, Noted] = {}
        self.ended: list[tuple[Noted, int]] = []

    def respond(self, cid: int, status: int = 0, dw0: int = 0, dw1: int = 0) -> None:
        """Queue a CapsuleResp. `status`: without DNR, which is added where the rules demand it."""
        queue = self.queue
        if self.traced and status != _CID_CONFLICT:  # which is no answer to the command that has this CID
            noted = self.traced.pop(cid, None)
            if noted is not None:
                self.ended.append((noted, status))
        sqhd = queue.advance() if queue else 0
        self.n_completed += 1
        self.tx.copy(self.encoder.capsule_resp(dw0, dw1, sqhd, 0, cid, on_wire(status)))

    def record(self) -> None:
        """Let the trace, if there still is one, have the commands whose responses are queued."""
        if self.ended and self.queue is not None:
            ended, self.ended = self.ended, []
            record(self.queue, ended)

    def r2t(self, cid: int, ttag: int, r2to: int, r2tl: int) -> None:
        """Queue an R2T for `r2tl` bytes from offset `r2to` of the command's data."""
        self.tx.copy(self.encoder.r2t(cid, ttag, r2to, r2tl))

    def reply(self, cid: int, reply: Reply, limit: int) -> None:
        """Complete a command: its data, at most `limit` bytes of it, and its response."""
        has_data = reply.data and (reply.status == Status.SUCCESS or reply.data_with_error)
        if has_data and self._buffers(cid, reply, limit):
            return
        self.respond(cid, reply.status, reply.dw0, reply.dw1)

    def _success_flag(self, status: int, dw0: int, dw1: int) -> bool:
        """Whether C2HData can say what the CapsuleResp would: nothing but success, and no SQHD to report."""
        queue = self.queue
        return queue is not None and queue.sqhd == NO_SQHD and not (status or dw0 or dw1)

    def _buffers(self, cid: int, reply: Reply, limit: int) -> bool:
        """Queue a reply's data as one C2HData PDU; whether it also completed the command."""
        buffers: list[bytes | memoryview] = []
        room = limit
        for buffer in reply.data:
            if len(buffer) > room:
                buffer = memoryview(buffer)[:room]
            if buffer:
                buffers.append(buffer)
                room -= len(buffer)
        if room == limit:
            return False
        success = self._success_flag(reply.status, reply.dw0, reply.dw1)
        self._data_header(cid, limit - room, success=success)
        for buffer in buffers:
            if len(buffer) > _SMALL:
                self.tx.add(buffer)
            else:
                self.tx.copy(buffer)
        self._data_digest(buffers)
        return self._completed(cid, success=success)

    def media_data(self, cid: int, memory: Memory, pieces: Sequence[Piece], n_bytes: int, status: int) -> bool:
        """Queue the blocks of a read, sent from where they are; whether that also completed the command."""
        success = self._success_flag(status, 0, 0)
        self._data_header(cid, n_bytes, success=success)
        for offset, length in pieces:
            self.tx.add_memory(memory.base + offset, length)
        if self.encoder.data_digest:
            view = memory.view
            self._data_digest([view[offset : offset + length] for offset, length in pieces])
        return self._completed(cid, success=success)

    def _completed(self, cid: int, *, success: bool) -> bool:
        """Account for data that may have completed its command; whether it did."""
        if success:
            self.n_completed += 1
            noted = self.traced.pop(cid, None) if self.traced else None
            if noted is not None:
                self.ended.append((noted, 0))
        return success

    def _data_header(self, cid: int, n_bytes: int, *, success: bool) -> None:
        flags = _LAST_AND_SUCCESS if success else _LAST
        self.tx.copy(self.encoder.data_header(PduType.C2H_DATA, cid, 0, 0, n_bytes, flags))

    def _data_digest(self, buffers: Sequence[bytes | memoryview]) -> None:
        if self.encoder.data_digest:
            crc = 0
            for buffer in buffers:
                crc = crc32c(buffer, crc)
            self.tx.copy(crc.to_bytes(4, "little"))

"""The rules of the first generation of emulators, for hosts that were written against them: `strict = false`.

| rule               | strict                          | lax                                                       |
|--------------------|---------------------------------|-----------------------------------------------------------|
| place of a write   | the write pointer, else 2/F2h   | any block of the chunk                                    |
| write pointer      | what is below it is written     | counts written blocks; the chunk is Closed when it is full |
| length of a write  | a multiple of ws_min, else 0/02h | at least ws_min, else 0/02h                              |
| Closed, Offline    | 2/80h, nothing changed          | 0/02h, and what the list named before has been counted     |
| reads              | what was written, mw_cunits     | every block that exists; no 2/87h                          |
| resets             | by state and MCCAP, else 2/C0h, 2/C1h | in every state                                       |

What has no place on the drive is 2/80h and 2/C1h in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from ocssd_tcp.media.admission import entry_bits
from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.filters.base import Filter
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind, Piece
from ocssd_tcp.ocssd.layouts import ChunkState


class Lax(Filter):
    """Judges writes and resets by lax rules; reads are the engine's (`Engine.be_lax`). Innermost, around the engine.

    Writes are counted when they are submitted, as the emulators do it; their data are in place when they complete.
    """

    HANDLES = frozenset({OpKind.WRITE, OpKind.RESERVE, OpKind.COMMIT, OpKind.ABORT, OpKind.RESET, OpKind.COPY})
    PASSES = frozenset({OpKind.READ, OpKind.FLUSH})

    __slots__ = ("_engine", "_handlers")

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        engine.be_lax()
        self._engine = engine
        self._handlers = {
            OpKind.WRITE: self._write,
            OpKind.RESERVE: self._reserve,
            OpKind.COMMIT: engine.finish,
            OpKind.ABORT: engine.finish,
            OpKind.RESET: self._reset,
            OpKind.COPY: self._copy,
        }

    def handle(self, op: MediaOp) -> None:
        """Execute an operation by lax rules."""
        self._handlers[op.kind](op)

    # ---- writes

    def _write(self, op: MediaOp) -> None:
        stride = self._engine.geometry.block_stride
        if op.data is None or len(op.data) != sum(extent.n_blocks for extent in op.extents) * stride:
            self._engine.refuse(op)
            return
        self._store(op, op.extents, op.data)

    def _store(self, op: MediaOp, extents: Sequence[Extent], data: memoryview) -> None:
        if self._count(op, extents):
            view, at = self._engine.memory.view, 0
            for offset, length in self._pieces(extents):
                view[offset : offset + length] = data[at : at + length]
                at += length
        self._engine.finish(op)

    def _reserve(self, op: MediaOp) -> None:
        if self._count(op, op.extents):
            op.pieces = self._pieces(op.extents)
        op.done(op)

    def _copy(self, op: MediaOp) -> None:
        if sum(extent.n_blocks for extent in op.extents) != sum(extent.n_blocks for extent in op.destinations):
            self._engine.refuse(op)
            return
        self._engine.find(op)
        pieces, op.pieces = op.pieces, []
        if op.status != MediaStatus.OK:
            op.done(op)
            return
        view = self._engine.memory.view
        self._store(op, op.destinations, memoryview(b"".join(view[start : start + n] for start, n in pieces)))

    def _pieces(self, extents: Sequence[Extent]) -> list[Piece]:
        stride, pieces = self._engine.geometry.block_stride, []
        for chunk, lblk, n_blocks in extents:
            shard, chk = self._engine.locate(chunk)
            pieces.append(Piece(shard.place(chk, lblk), n_blocks * stride))
        return pieces

    def _count(self, op: MediaOp, extents: Sequence[Extent]) -> bool:
        """Count the blocks of a write in list order, up to the first that cannot be written; whether there is none."""
        n_blocks = sum(extent.n_blocks for extent in extents)
        if n_blocks < self._engine.geometry.ws_min:
            op.status = MediaStatus.INVALID_LENGTH
            return False
        entry = 0
        for extent in extents:
            status, n_counted = self._count_run(extent)
            if status != MediaStatus.OK:
                op.status, op.bitmap = status, entry_bits(entry + n_counted, extent.n_blocks - n_counted)
                return False
            entry += extent.n_blocks
        return True

    def _count_run(self, extent: Extent) -> tuple[MediaStatus, int]:
        chunk, lblk, n_blocks = extent
        if chunk < 0 or lblk + n_blocks > self._engine.cnlb(chunk):
            return MediaStatus.WRITE_FAULT, 0
        shard, chk = self._engine.locate(chunk)
        state = shard.state(chk)
        if state in (ChunkState.CLOSED, ChunkState.OFFLINE):
            return MediaStatus.INVALID_LENGTH, 0
        if state == ChunkState.FREE and not shard.open(chk):
            return MediaStatus.WRITE_FAULT, 0
        n_counted = shard.count(chk, lblk, n_blocks)
        return (MediaStatus.OK if n_counted == n_blocks else MediaStatus.INVALID_LENGTH), n_counted

    # ---- resets

    def _reset(self, op: MediaOp) -> None:
        op.extents = [Extent(chunk, 0, n_blocks) for chunk, _, n_blocks in op.extents]
        for chunk in {extent.chunk for extent in op.extents if extent.chunk >= 0}:
            shard, chk = self._engine.locate(chunk)
            if shard.state(chk) == ChunkState.OFFLINE:
                shard.revive(chk)
        self.inner.submit(op)

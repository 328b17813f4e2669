"""A command whose data comes from the host on R2T: where each byte belongs, and how much has arrived."""

from __future__ import annotations

from collections.abc import Sequence

from ocssd_tcp.commands.io import IoCommand
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import Command
from ocssd_tcp.commands.tally import WRITE, PlainTimes
from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.memory import Memory
from ocssd_tcp.media.ops import Extent, MediaOp, Piece
from ocssd_tcp.media.runs import Run
from ocssd_tcp.wire.opcodes import Io

MAXH2CDATA = 128 * 1024  #: most data bytes of one H2CData PDU
DIRECT_MIN = 16 * 1024  #: from here on, receiving straight into the media beats a copy from the receive buffer


class Transfer:
    """Data of one R2T.

    `base`, `length`: R2TO and R2TL. The data lands in `staging`, or in the media's own memory at `pieces` if there is
    an `op` that has reserved them. `failed`: a status to end with instead, once all data has arrived (a wrong data
    digest). A transfer without a place for its data discards it.
    """

    __slots__ = (
        "_into", "_piece", "base", "cid", "failed", "io", "length", "memory", "op", "pieces", "received", "sqe",
        "staging", "ttag",
    )  # fmt: skip

    def __init__(
        self, ttag: int, cid: int, sqe: bytes, *, io: IoCommand | None = None, base: int = 0, length: int = 0
    ) -> None:
        self.ttag = ttag
        self.cid = cid
        self.sqe = sqe
        self.io = io
        self.base = base
        self.length = length
        self.received = 0
        self.failed = 0
        self.op: MediaOp | None = None
        self.pieces: list[Piece] = []
        self.memory: Memory | None = None
        self.staging: bytearray | None = None
        self._piece = 0
        self._into = 0

    @property
    def cmd(self) -> Command:
        """The command that the data belongs to."""
        return self.io.cmd if self.io is not None else Command(self.sqe)

    def stage(self) -> None:
        """Collect the data in a buffer of its own; the caller has bounded `length`."""
        self.staging = bytearray(self.length)

    def place(self, op: MediaOp, engine: Engine) -> None:
        """Put the data where `op` has reserved room."""
        self.op, self.pieces, self.memory = op, op.pieces, engine.memory

    def discard(self) -> None:
        """Swallow what is still to come: nobody owns its place any more."""
        self.op, self.pieces, self.memory, self.staging = None, [], None, None

    def direct(self, limit: int) -> memoryview | None:
        """Where the next bytes (at most `limit`) may be received directly, if that is a run worth a call of its own."""
        if self.memory is None or self._piece >= len(self.pieces):
            return None
        piece = self.pieces[self._piece]
        length = min(piece.length - self._into, limit)
        if length < DIRECT_MIN:
            return None
        offset = piece.offset + self._into
        return self.memory.view[offset : offset + length]

    def landed_view(self, n_bytes: int) -> memoryview:
        """The bytes that have just been received at `direct()`, before `landed()` is told."""
        if self.memory is None:
            return memoryview(b"")
        offset = self.pieces[self._piece].offset + self._into
        return self.memory.view[offset : offset + n_bytes]

    def landed(self, n_bytes: int) -> None:
        """Account for bytes received at `direct()`."""
        self.received += n_bytes
        self._into += n_bytes
        if self._into == self.pieces[self._piece].length:
            self._piece, self._into = self._piece + 1, 0

    def skip(self, n_bytes: int) -> None:
        """Begin after the first `n_bytes`, which are where they belong already."""
        self.received = n_bytes
        while n_bytes and n_bytes >= self.pieces[self._piece].length:
            n_bytes -= self.pieces[self._piece].length
            self._piece += 1
        self._into = n_bytes

    def store(self, data: memoryview) -> None:
        """Copy bytes to where they belong. `data`: at most what is missing."""
        if self.staging is not None:
            self.staging[self.received : self.received + len(data)] = data
        elif self.memory is not None:
            view, position = self.memory.view, 0
            while position < len(data):
                piece = self.pieces[self._piece]
                length = min(piece.length - self._into, len(data) - position)
                offset = piece.offset + self._into
                view[offset : offset + length] = data[position : position + length]
                position += length
                self._into += length
                if self._into == piece.length:
                    self._piece, self._into = self._piece + 1, 0
        self.received += len(data)


class RunTransfer(Transfer):
    """A plain write: runs of blocks, in order, of chunks of their own, set aside by the engine's `PlainRuns`.

    `runs`: (address chunk, lblk, n_blocks) each; `pieces`: where they are in the memory. `arrival`, `started`: when the
    command arrived and when all data had, CLOCK_MONOTONIC in ns, for the trace; else 0.
    """

    __slots__ = ("arrival", "namespace", "runs", "started")

    # What no plain write has. One is made for each of them, so that these are not worth a store.
    io: IoCommand | None = None
    op: MediaOp | None = None
    staging: bytearray | None = None
    base = 0

    def __init__(
        self,
        ttag: int,
        cid: int,
        sqe: bytes,
        length: int,
        namespace: Namespace,
        runs: Sequence[Run],
        places: Sequence[int],
        arrival: int = 0,
    ) -> None:
        """`places`: the absolute memory address of each run. `length`: bytes of all of them."""
        self.ttag, self.cid, self.sqe, self.length = ttag, cid, sqe, length
        self.received = self.failed = self._piece = self._into = self.started = 0
        self.arrival, self.namespace, self.runs = arrival, namespace, runs
        self.memory = memory = namespace.engine.memory
        if len(runs) == 1:
            self.pieces = [Piece(places[0] - memory.base, length)]
        else:
            stride, base = namespace.geometry.block_stride, memory.base
            self.pieces = [Piece(place - base, run[2] * stride) for place, run in zip(places, runs, strict=True)]

    @property
    def cmd(self) -> Command:
        """The command that the data belongs to."""
        command = Command(self.sqe)
        command.arrival = self.arrival
        return command

    def discard(self) -> None:
        """Swallow what is still to come: nobody owns its place any more."""
        self.pieces, self.memory = [], None

    def extents(self) -> list[Extent]:
        """The runs as the media's operations name them."""
        flat_chunk = self.namespace.addresses.flat_chunk
        return [Extent(flat_chunk(chunk), lblk, n_blocks) for chunk, lblk, n_blocks in self.runs]

    def commit(self) -> bool:
        """Commit at once, if nothing stands in the way. False: nothing changed."""
        runs, engine = self.runs, self.namespace.engine
        if not (engine.runs.commit(*runs[0]) if len(runs) == 1 else engine.runs.commit_all(runs)):
            return False
        counters = self.namespace.counters
        counters.writes += 1
        counters.vector_writes += self.sqe[0] == Io.VECTOR_WRITE
        counters.blocks_written += self.length // self.namespace.geometry.block_stride
        return True

    def count(self, times: PlainTimes) -> None:
        """Count a write that has been committed for its time: that of the buffer that brought the last of its data."""
        geometry = self.namespace.geometry
        times.count(self.namespace.latencies, WRITE, self.runs[0][0] >> geometry.grp_shift - geometry.lbk_len)

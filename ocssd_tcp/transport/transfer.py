"""A command whose data comes from the host on R2T: where each byte belongs, and how much has arrived."""

from __future__ import annotations

from ocssd_tcp.commands.io import IoCommand
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import Command
from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.memory import Memory
from ocssd_tcp.media.ops import Extent, MediaOp, Piece

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
    """A plain write to one chunk in order, set aside by `Engine.reserve_run`. `offset`: its place in the memory."""

    __slots__ = ("chunk", "lblk", "n_blocks", "namespace", "offset")

    def __init__(self, ttag: int, cid: int, sqe: bytes, namespace: Namespace) -> None:
        super().__init__(ttag, cid, sqe)
        self.namespace = namespace
        self.chunk = self.lblk = self.n_blocks = self.offset = 0

    def aim(self, chunk: int, lblk: int, n_blocks: int, offset: int, length: int) -> None:
        """Say where the data belongs: `chunk` is the address chunk, `offset` and `length` bytes of the memory."""
        self.chunk, self.lblk, self.n_blocks, self.offset, self.length = chunk, lblk, n_blocks, offset, length
        self.pieces = [Piece(offset, length)]
        self.memory = self.namespace.engine.memory

    def extent(self) -> Extent:
        """The run as the media's operations name it."""
        return Extent(self.namespace.addresses.flat_chunk(self.chunk), self.lblk, self.n_blocks)

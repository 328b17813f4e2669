"""What the media can be asked: operations, their outcome, and the one-method protocol that filters wrap.

Nothing here knows NVMe, the wire, or how a shard stores its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum, auto
from typing import NamedTuple, Protocol

from ocssd_tcp.ocssd.address import Extent

__all__ = ["Extent", "Injector", "Media", "MediaOp", "MediaStatus", "OpKind", "Piece"]


class OpKind(IntEnum):
    """The operations of a drive. A filter declares for each whether it handles or passes it."""

    READ = 0
    WRITE = auto()  #: check, store `data`, advance wp: all of it before `submit` returns, unless a reservation is ahead
    RESERVE = auto()  #: check and set aside; the caller fills `pieces`, then submits COMMIT or ABORT for the same op
    COMMIT = auto()
    ABORT = auto()
    RESET = auto()
    COPY = auto()
    FLUSH = auto()


class MediaStatus(IntEnum):
    """The outcome of an operation; `commands.status_map` says which NVMe status each becomes."""

    OK = 0
    INVALID_LENGTH = auto()  #: a run is not a multiple of ws_min
    INVALID_ADDRESS = auto()  #: a reset address whose block bits are not zero
    WRITE_FAULT = auto()  #: Closed, Offline or non-existing; open-chunk limit; no space for a chunk
    OUT_OF_ORDER = auto()  #: Free or Open, but not at the (reserved) write pointer
    UNWRITTEN = auto()  #: unreadable blocks, and DULBE asked for
    OFFLINE_CHUNK = auto()
    INVALID_RESET = auto()
    READ_ERROR = auto()
    HIGH_ECC = auto()  #: the data is good
    EARLY_CLOSE = auto()
    WRITE_NEXT_UNIT = auto()
    ABORTED = auto()  #: a reservation was rolled back by an earlier one's abort
    INTERNAL = auto()


class Piece(NamedTuple):
    """A range of the drive's flat memory (`Memory.view[offset : offset + length]`)."""

    offset: int
    length: int


class Injector(Protocol):
    """Decides which accesses to the media fail. Asked once for each access that the rules of the drive allow, in the
    order in which operations are admitted."""

    def write(self, extent: Extent) -> tuple[MediaStatus, int] | None:
        """EARLY_CLOSE or WRITE_NEXT_UNIT and the block at fault (counted within the chunk); None: the write is good."""
        ...

    def read(self, extent: Extent, readable: int) -> tuple[int, int]:
        """Of the blocks in the mask `readable` (bit i: block lblk + i): those with a read error, those of high ECC."""
        ...

    def reset(self, chunk: int) -> bool:
        """Whether a reset fails."""
        ...


class MediaOp:
    """One operation, from submission to `done`.

    `extents`: what it touches, in list order (COPY: the sources). `destinations`: COPY only.
    `data`: WRITE only, exactly the blocks in list order (each followed by its metadata); it is read before `submit`
    returns and never kept. `dulbe`: READ and COPY sources. `fua`: READ, WRITE, COMMIT, COPY: done only when the blocks
    are durable. `feedback`: READ: HIGH_ECC is reported; otherwise such a read succeeds.
    `inject`: decides which of the accepted accesses to the media fail; None: none.
    `whole`: RESET only: all entries are checked before the first is reset, and none is if one fails.
    A COMMIT or ABORT is the RESERVE op itself, submitted again with the new kind; or an op with no
    `reservation`, for runs that `PlainRuns` set aside: they are its extents.
    Results: `status`, `bitmap` (bit i: entry i of the list failed; entries are blocks, for RESET chunks) and
    `pieces`: READ: where the blocks are, in list order; RESERVE: where they belong.
    `done` is called exactly once for each submission, perhaps before `submit` returns. It may run later only for
    FLUSH, for `fua`, for RESET, where a filter delays, and for a WRITE, COMMIT or COPY to a chunk that has an earlier
    reservation outstanding: what is acknowledged lies below wp, and wp passes no block that is not there.
    """

    __slots__ = (
        "bitmap", "context", "data", "destinations", "done", "dulbe", "extents", "feedback", "fua", "inject", "kind",
        "pieces", "reservation", "status", "whole",
    )  # fmt: skip

    def __init__(
        self,
        kind: OpKind,
        extents: Sequence[Extent],
        done: Callable[[MediaOp], None],
        *,
        data: memoryview | None = None,
        destinations: Sequence[Extent] = (),
        dulbe: bool = False,
        fua: bool = False,
        feedback: bool = False,
        whole: bool = False,
        context: object = None,
    ) -> None:
        self.kind = kind
        self.extents = extents
        self.done = done
        self.data = data
        self.destinations = destinations
        self.dulbe = dulbe
        self.fua = fua
        self.feedback = feedback
        self.whole = whole
        self.context = context
        self.inject: Injector | None = None
        self.status = MediaStatus.OK
        self.bitmap = 0
        self.pieces: list[Piece] = []
        self.reservation: object = None  #: the engine's own, between RESERVE and COMMIT or ABORT; may be None


class Media(Protocol):
    """Anything that executes operations: the engine, or a filter around it."""

    def submit(self, op: MediaOp) -> None:
        """Execute `op` and call `op.done(op)`. Never raises for anything a host can cause."""
        ...

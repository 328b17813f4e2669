"""Plain runs of sequential chunks, for the batch processor: set aside, committed, reset without an operation.

Everything usual is decided here from the tables; what is not goes to the shard, and what is not plain to the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ocssd_tcp.media.chunk import KIND_MASK, OPEN_SEQUENTIAL, reset_refusals
from ocssd_tcp.media.ops import Extent, MediaOp, OpKind
from ocssd_tcp.media.shard import CNLB_WORD, ENTRY_WORDS, WP_WORD, PuShard
from ocssd_tcp.media.shared import Shared
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.layouts import ChunkState

#: A run of blocks for the batch processor: address chunk, lblk, n_blocks.
Run: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class HotTables:
    """What the batch processor reads for itself, one entry for each address chunk (`slba >> lbk_len`).

    `readable` ('I'): blocks that can be read from block 0 on: Open max(0, wp - mw_cunits), Closed wp, else 0 (random
    chunks too). `address` ('Q'): where block 0 is in the process's memory, 0 if the chunk does not exist.
    `reserved` ('I'): what is under way to the chunk, as `PuShard` says. And for each parallel unit, by address chunk >>
    chk_len, `table` ('Q'): where its chunk entries are in the process's memory, and `dirty` ('B'): 1 from the first
    change on that is not durable.
    """

    readable: memoryview
    address: memoryview
    reserved: memoryview
    table: memoryview
    dirty: memoryview


class PlainRuns:
    """The plain runs of one namespace. `shard_at`: shards by address chunk >> chk_len, None where there is none."""

    __slots__ = (
        "_address", "_addresses", "_chk_len", "_chk_mask", "_dirty", "_entries", "_mw_cunits", "_n_chunks", "_readable",
        "_refusals", "_reserved", "_stride", "_submit", "_words", "_ws_min", "shard_at",
    )  # fmt: skip

    def __init__(
        self,
        shared: Shared,
        addresses: AddressMap,
        tables: HotTables,
        shard_at: list[PuShard | None],
        submit: Callable[[MediaOp], None],
    ) -> None:
        geometry = shared.geometry
        self.shard_at = shard_at
        self._addresses = addresses
        self._submit = submit
        self._n_chunks = addresses.n_address_chunks
        self._chk_len, self._chk_mask = geometry.chk_len, (1 << geometry.chk_len) - 1
        self._stride, self._ws_min, self._mw_cunits = geometry.block_stride, geometry.ws_min, geometry.mw_cunits
        self._readable, self._address = tables.readable, tables.address
        self._reserved, self._dirty = tables.reserved, tables.dirty
        self._refusals = frozenset(reset_refusals(geometry))
        self._words = shared.memory.view.cast("Q")
        #: by address chunk >> chk_len, where in `_words` the chunk entries are; -1 where `shard_at` has None
        self._entries = [(at - shared.memory.base) // 8 if at else -1 for at in tables.table]

    def close(self) -> None:
        """Take no more."""
        self.shard_at[:] = [None] * len(self.shard_at)
        self._entries[:] = [-1] * len(self._entries)

    def reserve(self, address_chunk: int, lblk: int, n_blocks: int) -> int:
        """Set aside a write of one run in order; the absolute memory address where its blocks belong.

        0: not such a write (or one that fails): nothing changed, RESERVE says the rest.
        """
        if address_chunk >= self._n_chunks:
            return 0
        place = self._address[address_chunk]
        at = self._entries[address_chunk >> self._chk_len]
        if not place or at < 0:
            return 0
        chk = address_chunk & self._chk_mask
        at += chk * ENTRY_WORDS
        words = self._words
        # The usual case first: an Open chunk, and no other write to it under way.
        if (
            not self._reserved[address_chunk]
            and words[at + WP_WORD] == lblk
            and words[at] & KIND_MASK == OPEN_SEQUENTIAL
            and lblk + n_blocks <= words[at + CNLB_WORD]
            and not n_blocks % self._ws_min
        ):
            self._reserved[address_chunk] = lblk + n_blocks
        else:
            shard = self.shard_at[address_chunk >> self._chk_len]
            if shard is None or not shard.reserve_run(chk, lblk, n_blocks):
                return 0
        return int(place + lblk * self._stride)

    def commit(self, address_chunk: int, lblk: int, n_blocks: int) -> bool:
        """Commit a run that `reserve` set aside, if no other reservation of its chunk is outstanding.

        False: nothing changed; submit a COMMIT with the run as its one extent.
        """
        pu, chk, end = address_chunk >> self._chk_len, address_chunk & self._chk_mask, lblk + n_blocks
        at = self._entries[pu]
        if at < 0:
            return False
        at += chk * ENTRY_WORDS
        words = self._words
        # The usual case first, as above: an Open chunk that this does not fill.
        if (
            self._reserved[address_chunk] == end
            and words[at + WP_WORD] == lblk
            and words[at] & KIND_MASK == OPEN_SEQUENTIAL
            and end < words[at + CNLB_WORD]
        ):
            words[at + WP_WORD] = end
            mw_cunits = self._mw_cunits
            self._readable[address_chunk] = end - mw_cunits if end > mw_cunits else 0
            self._reserved[address_chunk] = 0
            self._dirty[pu] = 1
            return True
        shard = self.shard_at[pu]
        return shard is not None and shard.commit_run(chk, lblk, n_blocks)

    def reserve_all(self, runs: Sequence[Run]) -> list[int]:
        """As `reserve`, for several runs (address chunk, lblk, n_blocks) that come and go together.

        None of their chunks may have a write under way, so that all of them can land as soon as the data are complete.
        An empty list: not such writes, nothing changed.
        """
        places: list[int] = []
        for run in runs:
            place = self.reserve(*run) if self._is_idle(run[0]) else 0
            if not place:
                for done in runs[: len(places)]:
                    self.abort(*done)
                return []
            places.append(place)
        return places

    def _is_idle(self, address_chunk: int) -> bool:
        """Whether no write to a chunk is under way; False also for one that does not exist."""
        if address_chunk >= self._n_chunks or not self._address[address_chunk]:
            return False
        if not self._reserved[address_chunk]:
            return True
        shard = self.shard_at[address_chunk >> self._chk_len]
        return shard is not None and shard.is_idle(address_chunk & self._chk_mask)

    def commit_all(self, runs: Sequence[Run]) -> bool:
        """Commit what `reserve_all` set aside, all or nothing. False: submit a COMMIT with the runs as its extents."""
        for address_chunk, lblk, n_blocks in runs:
            shard = self.shard_at[address_chunk >> self._chk_len]
            if shard is None or not shard.holds_only(address_chunk & self._chk_mask, lblk, n_blocks):
                return False
        return all(self.commit(*run) for run in runs)

    def reset(self, address_chunk: int) -> bool:
        """Reset a chunk that becomes Free at once: no write to it is under way, it is not worn out, and the disk need
        not hear of it first. False: nothing changed, RESET says the rest."""
        if address_chunk >= self._n_chunks or not self._address[address_chunk]:
            return False
        shard, chk = self.shard_at[address_chunk >> self._chk_len], address_chunk & self._chk_mask
        if shard is None or self._reserved[address_chunk] or shard.state(chk) in self._refusals:
            return False
        return shard.becomes_free(chk) and shard.reset(chk) == ChunkState.FREE

    def abort(self, address_chunk: int, lblk: int, n_blocks: int) -> None:
        """Roll back a run that `reserve` set aside, and all reserved above it. Its owner stores no more."""
        chunk = self._addresses.flat_chunk(address_chunk)
        self._submit(MediaOp(OpKind.ABORT, (Extent(chunk, lblk, n_blocks),), _nothing))


def _nothing(op: MediaOp) -> None:
    """Nobody waits for an operation of this module."""

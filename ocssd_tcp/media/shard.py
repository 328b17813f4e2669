"""One parallel unit: its data, its chunk table, its reservations and its wear. The only code that changes a chunk.

The table is the mapped file of 32-byte log entries; nothing of a chunk is held as a Python object unless writes to it
are outstanding. The order of stores makes every moment of a killed process unambiguous: data, then wp, then the
state; a reset stores wp 0, then the state (`media.table.normalise` is the other half of that rule).
"""

from __future__ import annotations

from collections.abc import Iterable

from ocssd_tcp.media.chunk import (
    FREE_SEQUENTIAL,
    KIND_MASK,
    OPEN_SEQUENTIAL,
    TRANSITIONS,
    ChunkEvent,
)
from ocssd_tcp.media.events import Notice
from ocssd_tcp.media.flushed import FlushedCopy
from ocssd_tcp.media.ops import MediaStatus
from ocssd_tcp.media.reservation import Reservation
from ocssd_tcp.media.shared import Shared
from ocssd_tcp.media.snapshot import Snapshot
from ocssd_tcp.media.space import Space
from ocssd_tcp.media.table import ENTRY_BYTES
from ocssd_tcp.media.written import WrittenMap
from ocssd_tcp.ocssd.layouts import WP_UNDEFINED, ChunkState, ChunkType, NotificationState
from ocssd_tcp.ocssd.wear import resets_of, wear_index

#: A chunk's entry as words of 64 bits: how many, and which is which; CS and CT are the low bytes of word 0.
ENTRY_WORDS, _SLBA, CNLB_WORD, WP_WORD = 4, 1, 2, 3
_FREE = ChunkState.FREE.value

#: In `PuShard.reserved`: what is under way to the chunk is known to its shard only.
BUSY = 0xFFFF_FFFF


class PuShard:
    """One parallel unit. `pu`: its flat index; `chk` counts chunks within it; `lblk`, `n_blocks` are blocks.

    `offset`: where its data begin in the flat memory. `table`: its log entries; `wear`: resets of each chunk (u32);
    `readable`, `reserved`: its parts of the engine's tables; `written`: a bit per block, or None.
    `fd`: its data file, owned by the store. `dirty[0]`: whether the next flush has something to make durable.

    `reserved` is the short form of what is under way to a chunk. 0: nothing. A number of blocks: one plain append, of
    the blocks from wp to there; whoever set it aside may commit it by moving wp (the batch processor does). BUSY: more
    than that, all of it in `_queues` and `_stale`. A plain append becomes a `Reservation` when somebody asks for it.
    """

    __slots__ = (
        "_base", "_clba", "_fenced", "_flushed_states", "_holes", "_in_flight", "_maxoc", "_maxocpu",
        "_mw_cunits", "_pe_cycles", "_queues", "_shared", "_space", "_stale", "_stride", "_words",
        "_ws_min", "dirty", "fd", "flushed", "has_failed", "n_open", "offset", "pu", "readable", "reserved",
        "table", "wear", "written",
    )  # fmt: skip

    def __init__(
        self,
        shared: Shared,
        pu: int,
        *,
        fd: int,
        offset: int,
        table: memoryview,
        wear: memoryview,
        readable: memoryview,
        reserved: memoryview,
        dirty: memoryview,
        written: WrittenMap | None,
        flushed: FlushedCopy,
    ) -> None:
        geometry = shared.geometry
        self._shared = shared
        self.pu = pu
        self.fd = fd
        self.offset = offset
        self.table = table
        self.wear = wear
        self.readable = readable
        self.reserved = reserved
        self.dirty = dirty
        self.written = written
        self.flushed = flushed
        self._words = table.cast("Q")
        self._base = shared.memory.base + offset
        self._stride = geometry.block_stride
        self._clba = geometry.clba
        self._space = Space(fd, self._base, geometry.clba * geometry.block_stride, shared.stats)
        self._ws_min = geometry.ws_min
        self._mw_cunits = geometry.mw_cunits
        self._pe_cycles = geometry.pe_cycles
        self._maxoc = geometry.maxoc
        self._maxocpu = geometry.maxocpu
        self._holes: dict[int, int] = {}  #: sequential chunk, always BUSY -> its first block whose write failed
        self.n_open = 0
        self.has_failed = False
        self._queues: dict[int, list[Reservation]] = {}  #: outstanding reservations of BUSY chunks, oldest first
        self._stale: dict[int, list[Reservation]] = {}  #: rolled back, but their owner may still be storing data
        self._fenced: set[int] = set()  #: reset, but the disk does not know it yet
        self._flushed_states: bytes | None = None
        self._in_flight: bytes | None = None

    # ---- looking

    def state(self, chk: int) -> int:
        """CS of the chunk."""
        return int(self.table[chk * ENTRY_BYTES])

    def is_random(self, chk: int) -> bool:
        """Whether the chunk is of the random-write type."""
        return bool(self.table[chk * ENTRY_BYTES + 1] & ChunkType.RANDOM)

    def cnlb(self, chk: int) -> int:
        """Blocks of the chunk."""
        return int(self._words[chk * ENTRY_WORDS + CNLB_WORD])

    def descriptor(self, chk: int) -> bytes:
        """The chunk's log entry, 32 bytes."""
        return bytes(self.table[chk * ENTRY_BYTES : (chk + 1) * ENTRY_BYTES])

    def place(self, chk: int, lblk: int) -> int:
        """Where a block is in the flat memory."""
        return self.offset + (chk * self._clba + lblk) * self._stride

    def pointer(self, chk: int) -> int:
        """The reserve pointer of a sequential Free or Open chunk: where the next write goes."""
        end = self.reserved[chk]
        if end == BUSY:
            queue = self._queues.get(chk)
            end = queue[-1].end if queue else 0
        return int(end or self._words[chk * ENTRY_WORDS + WP_WORD])

    def is_idle(self, chk: int) -> bool:
        """Whether no write to the chunk is outstanding."""
        return not self.reserved[chk] or (self.reserved[chk] == BUSY and chk not in self._queues)

    def meets_stale(self, chk: int, lblk: int, end: int) -> bool:
        """Whether somebody whose write was rolled back may still be storing data into these blocks."""
        return any(old.lblk < end and lblk < old.end for old in self._stale.get(chk, ()))

    def readable_mask(self, chk: int, lblk: int, n_blocks: int) -> int:
        """Bit i: block lblk + i can be read."""
        if self._shared.is_lax:
            return (1 << min(n_blocks, max(self.cnlb(chk) - lblk, 0))) - 1
        if self.written is None or not (chk in self._holes or self.is_random(chk)):
            return (1 << min(n_blocks, max(self.readable[chk] - lblk, 0))) - 1
        bits = self.written.bits(chk, lblk, n_blocks)
        if chk in self._holes:
            return ~bits & ((1 << min(n_blocks, max(self._limit(chk) - lblk, 0))) - 1)
        if self.state(chk) != ChunkState.OPEN:
            return 0
        return bits & ((1 << min(n_blocks, max(self.cnlb(chk) - lblk, 0))) - 1)

    def _limit(self, chk: int) -> int:
        """Blocks of a sequential chunk that may be read, but for those whose write failed."""
        wp = int(self._words[chk * ENTRY_WORDS + WP_WORD])
        return max(wp - self._mw_cunits, 0) if self.state(chk) == ChunkState.OPEN else wp

    # ---- plain appends: one run, in order, to a sequential chunk

    def _takes(self, chk: int, lblk: int, n_blocks: int) -> bool:
        """Whether a run is a plain append; a Free chunk is open for it afterwards. False: nothing changed."""
        words = self._words
        at = chk * ENTRY_WORDS
        kind = words[at] & KIND_MASK
        if lblk != self.pointer(chk) or n_blocks % self._ws_min or n_blocks <= 0:
            return False
        if lblk + n_blocks > words[at + CNLB_WORD] or chk in self._stale:
            return False
        if kind == OPEN_SEQUENTIAL:
            return True
        return kind == FREE_SEQUENTIAL and (not self.is_idle(chk) or self.open(chk))

    def append(self, chk: int, lblk: int, data: memoryview) -> bool:
        """Store the blocks `data` at the write pointer and advance it. False: not a plain append, nothing changed."""
        n_blocks, rest = divmod(len(data), self._stride)
        if rest or self.reserved[chk] or not self._takes(chk, lblk, n_blocks):
            return False
        start = self.offset + (chk * self._clba + lblk) * self._stride
        self._shared.memory.view[start : start + len(data)] = data
        self._advance(chk, lblk + n_blocks)
        return True

    def reserve_run(self, chk: int, lblk: int, n_blocks: int) -> bool:
        """Set a plain append aside. False: it is none, nothing changed."""
        if not self._takes(chk, lblk, n_blocks):
            return False
        if self.reserved[chk]:
            self.hold(Reservation(self, chk, lblk, lblk + n_blocks))
        else:
            self.reserved[chk] = lblk + n_blocks
        return True

    def commit_run(self, chk: int, lblk: int, n_blocks: int) -> bool:
        """Commit what `reserve_run` set aside, if it is alone in its chunk. False: nothing changed."""
        if not self.holds_only(chk, lblk, n_blocks):
            return False
        if self.reserved[chk] == BUSY:
            del self._queues[chk]
            self._shorten(chk)
        else:
            self.reserved[chk] = 0
        self._advance(chk, lblk + n_blocks)
        return True

    def holds_only(self, chk: int, lblk: int, n_blocks: int) -> bool:
        """Whether a run that `reserve_run` set aside is the only write under way in its chunk."""
        end = self.reserved[chk]
        if end != BUSY:
            return bool(end == lblk + n_blocks and self._words[chk * ENTRY_WORDS + WP_WORD] == lblk)
        queue = self._queues.get(chk)
        if queue is None or len(queue) != 1:
            return False
        head = queue[0]
        return head.lblk == lblk and head.end == lblk + n_blocks and head.admission is None

    def _writes(self, chk: int) -> list[Reservation]:
        """The writes to a chunk that are under way, oldest first, each an object from now on."""
        end = self.reserved[chk]
        if end and end != BUSY:
            self.reserved[chk] = BUSY
            self._queues[chk] = [Reservation(self, chk, self._words[chk * ENTRY_WORDS + WP_WORD], end)]
        return self._queues.get(chk, [])

    def _shorten(self, chk: int) -> None:
        """A queue or a list of stale reservations has gone: nothing may be under way any more."""
        if chk not in self._queues and chk not in self._stale and chk not in self._holes:
            self.reserved[chk] = 0

    def _advance(self, chk: int, wp: int) -> None:
        words = self._words
        at = chk * ENTRY_WORDS
        words[at + WP_WORD] = wp
        self.dirty[0] = 1
        if wp == words[at + CNLB_WORD]:
            self._enter(chk, ChunkEvent.FILLED)
            self.n_open -= 1
            self._shared.n_open -= 1
            self.readable[chk] = wp
        else:
            if words[at] & 0xFF == _FREE:
                self._enter(chk, ChunkEvent.WRITTEN)
            self.readable[chk] = wp - self._mw_cunits if wp > self._mw_cunits else 0
        if self._holes:
            self._stop_at_hole(chk)

    def _stop_at_hole(self, chk: int) -> None:
        """What lies behind a failed write is judged block by block."""
        self.readable[chk] = min(self.readable[chk], self._holes.get(chk, self._clba))

    def _enter(self, chk: int, event: ChunkEvent) -> ChunkState:
        state = TRANSITIONS[self.table[chk * ENTRY_BYTES], event]
        self.table[chk * ENTRY_BYTES] = state
        return state

    # ---- opening

    def open(self, chk: int) -> bool:
        """Make room for a Free chunk's first write: its share of MAXOC and MAXOCPU, and its space on the disk.

        A map of a full disk would be SIGBUS, so the space is allocated before the first byte is stored. False: the
        limits or the disk do not allow it, or the disk does not know yet that the chunk was reset; nothing changed.
        """
        shared = self._shared
        if 0 < self._maxoc <= shared.n_open or 0 < self._maxocpu <= self.n_open or not self.may_open(chk):
            return False
        shared.spares.pop(self._flat(chk), None)
        self.n_open += 1
        shared.n_open += 1
        return True

    def may_open(self, chk: int) -> bool:
        """Whether the disk has room for a chunk, and knows that it was reset. Limits of open chunks aside."""
        if chk in self._fenced:
            return False
        if self._flat(chk) not in self._shared.spares:
            return self._space.allocate(chk)
        return True

    def is_opened(self, chk: int) -> bool:
        """Whether the chunk counts as open: it is, or is about to be."""
        return self.state(chk) == ChunkState.OPEN or (self.state(chk) == ChunkState.FREE and not self.is_idle(chk))

    def _flat(self, chk: int) -> int:
        return self.pu * self._shared.geometry.num_chk + chk

    def unopen(self, chk: int) -> None:
        """Take `open` back: the chunk was not written after all."""
        self.count_open(-1)
        self._spare(chk)

    def _spare(self, chk: int) -> None:
        self._shared.spares[self._flat(chk)] = None

    def release(self, chk: int) -> bool:
        """Give a spare chunk's space back to the disk. False: somebody may still be storing into it."""
        if chk in self._stale:
            return False
        self._space.give_back(chk)
        return True

    # ---- reservations

    def hold(self, reservation: Reservation) -> None:
        """Note a reservation that was checked."""
        chk = reservation.chk
        self._queues[chk] = [*self._writes(chk), reservation]
        self.reserved[chk] = BUSY

    def is_next(self, reservation: Reservation) -> bool:
        """Whether nothing that was reserved earlier stands between the chunk's wp and this reservation."""
        return not reservation.is_ordered or self._queues[reservation.chk][0] is reservation

    def land(self, reservation: Reservation) -> Reservation | None:
        """Make the data of a reservation readable as far as the chunk allows; the reservation that is next, if any."""
        chk = reservation.chk
        queue = self._queues[chk]
        queue.remove(reservation)
        if not queue:
            del self._queues[chk]
            self._shorten(chk)
        if reservation.fault:
            self._fail_write(reservation)
        elif reservation.is_ordered:
            self._advance(chk, reservation.end)
        else:
            self._mark_written(reservation)
        return queue[0] if queue else None

    def _fail_write(self, reservation: Reservation) -> None:
        """The write fails at block `good`: the chunk closes there, or goes on behind a unit that was not written."""
        chk, good = reservation.chk, reservation.good
        self._shared.stats.n_media_errors += 1
        if reservation.fault == MediaStatus.WRITE_NEXT_UNIT:
            if self.written is not None:
                self.written.mark(chk, good, reservation.end - good)
            self._holes.setdefault(chk, good)
            self.reserved[chk] = BUSY
            self._advance(chk, reservation.end)
            return
        self._words[chk * ENTRY_WORDS + WP_WORD] = good
        self._enter(chk, ChunkEvent.CLOSED_EARLY)
        self.count_open(-1)
        self.readable[chk] = good
        self._stop_at_hole(chk)
        self.dirty[0] = 1

    def find_holes(self, chks: Iterable[int]) -> None:
        """At start: which of these sequential chunks have blocks below wp whose write failed."""
        if self.written is None:
            return
        for chk in chks:
            # Those at wp and beyond were marked, but a kill came before wp moved.
            wp = 0 if self.state(chk) == ChunkState.OFFLINE else int(self._words[chk * ENTRY_WORDS + WP_WORD])
            bits = self.written.cut(chk, wp)
            if bits:
                self._holes[chk] = (bits & -bits).bit_length() - 1
                self.reserved[chk] = BUSY
                self._stop_at_hole(chk)

    def _mark_written(self, reservation: Reservation) -> None:
        chk, lblk, n_blocks = reservation.chk, reservation.lblk, reservation.end - reservation.lblk
        view = self._shared.memory.view
        if reservation.staged is not None:
            source, length = reservation.staged
            target = self.place(chk, lblk)
            view[target : target + length] = view[source : source + length]
        if self.written is not None:
            self.written.mark(chk, lblk, n_blocks)
        self._enter(chk, ChunkEvent.WRITTEN)
        self.dirty[0] = 1

    def find(self, chk: int, lblk: int, n_blocks: int) -> Reservation | None:
        """The run that `reserve_run` set aside, whether still good or rolled back meanwhile."""
        known: list[Reservation] = [*self._writes(chk), *self._stale.get(chk, ())]
        for reservation in known:
            if reservation.lblk == lblk and reservation.end == lblk + n_blocks:
                return reservation
        return None

    def drop(self, reservation: Reservation) -> list[Reservation]:
        """Take a reservation back, with all above it, which are returned. A chunk opened for them is Free again."""
        chk, queue = reservation.chk, self._queues.get(reservation.chk, [])
        if reservation not in queue:
            return []
        at = queue.index(reservation)
        victims = queue[at:] if reservation.is_ordered else [reservation]
        queue[at : at + len(victims)] = []
        if not queue:
            del self._queues[chk]
            self._shorten(chk)
            if self.state(chk) == ChunkState.FREE:
                self.unopen(chk)
        return victims[1:]

    def mark_stale(self, reservation: Reservation) -> None:
        """Keep others off the blocks of a reservation that was rolled back behind its owner's back."""
        self._stale.setdefault(reservation.chk, []).append(reservation)
        self.reserved[reservation.chk] = BUSY

    def forget_stale(self, reservation: Reservation) -> None:
        """The owner knows: it stores no more."""
        stale = self._stale.get(reservation.chk)
        if stale is not None and reservation in stale:
            stale.remove(reservation)
            if not stale:
                del self._stale[reservation.chk]
                self._shorten(reservation.chk)

    def outstanding(self, chk: int) -> list[Reservation]:
        """The reservations of a chunk, oldest first."""
        return list(self._writes(chk))

    # ---- reset

    def becomes_free(self, chk: int) -> bool:
        """Whether a reset that nothing stands in the way of makes the chunk Free at once."""
        return wear_index(self.wear[chk] + 1, self._pe_cycles) != 255 and not self._is_on_disk(chk)

    def reset(self, chk: int, *, is_failing: bool = False) -> ChunkState:
        """Reset a chunk that may be reset and has no reservations; Free, or Offline if that failed or wore it out.

        Its space comes back later. If the durable copy of the table holds data of the chunk, it takes no write until
        the disk knows better (`needs_flush`).
        """
        shared = self._shared
        if self.state(chk) == ChunkState.OPEN:
            self.count_open(-1)
        was_free = self.state(chk) == ChunkState.FREE
        self.readable[chk] = 0
        if not self.is_random(chk):
            if self._words[chk * ENTRY_WORDS + WP_WORD] == self.cnlb(chk):
                # A kill shall not leave the chunk as one that closed at its first write.
                self.table[chk * ENTRY_BYTES] = ChunkState.OPEN
            self._words[chk * ENTRY_WORDS + WP_WORD] = 0
        self.wear[chk] = resets = min(self.wear[chk] + 1, 0xFFFF_FFFF)
        shared.n_cycles += 1
        wli = wear_index(resets, self._pe_cycles)
        is_uneven = shared.wear(self._flat(chk), self.table[chk * ENTRY_BYTES + 2], wli)
        self.table[chk * ENTRY_BYTES + 2] = wli
        state = self._enter(chk, ChunkEvent.RESET_FAILED if is_failing or wli == 255 else ChunkEvent.RESET)
        if state == ChunkState.OFFLINE:
            self._words[chk * ENTRY_WORDS + WP_WORD] = WP_UNDEFINED
            shared.n_offline += 1
            shared.stats.n_media_errors += 1
        self.forget_written(chk)
        shared.stats.n_resets += 1
        self.dirty[0] = 1
        if self._is_on_disk(chk):
            self._fenced.add(chk)
        elif not was_free:
            self._spare(chk)
        if is_uneven:
            shared.report(Notice(self._words[chk * ENTRY_WORDS + _SLBA], NotificationState.WEAR_INDEX))
        if state == ChunkState.OFFLINE:
            shared.report(Notice(self._words[chk * ENTRY_WORDS + _SLBA], NotificationState.UNRECOVERABLE))
        return state

    def impose(self, chk: int, state: int, kind: int, wli: int, wp: int) -> None:
        """Make a chunk without reservations what an operator wants it to be, checked before. See `media.override`."""
        shared, was = self._shared, self.state(chk)
        self.count_open((state == ChunkState.OPEN) - (was == ChunkState.OPEN))
        shared.n_offline += (state == ChunkState.OFFLINE) - (was == ChunkState.OFFLINE)
        self.forget_written(chk)
        resets = resets_of(wli, self._pe_cycles)
        shared.n_cycles += resets - self.wear[chk]
        self.wear[chk] = resets
        wli = wear_index(resets, self._pe_cycles)
        shared.wear(self._flat(chk), self.table[chk * ENTRY_BYTES + 2], wli)
        self._words[chk * ENTRY_WORDS + WP_WORD] = wp
        self.table[chk * ENTRY_BYTES : chk * ENTRY_BYTES + 3] = bytes((state, kind, wli))
        is_plain = kind & ChunkType.SEQUENTIAL and state in (ChunkState.OPEN, ChunkState.CLOSED)
        self.readable[chk] = self._limit(chk) if is_plain else 0
        self.dirty[0] = 1
        if state != ChunkState.FREE:
            shared.spares.pop(self._flat(chk), None)
        elif was != ChunkState.FREE:
            self._vacate(chk)

    def _vacate(self, chk: int) -> None:
        """A chunk holds nothing any more: its space is spare, or as soon as the disk knows."""
        if self._is_on_disk(chk):
            self._fenced.add(chk)
        else:
            self._spare(chk)

    # ---- lax rules (`media.filters.lax`)

    def count(self, chk: int, lblk: int, n_blocks: int) -> int:
        """Note blocks that are written at any place of an opened chunk; as many of them as it still takes."""
        if self.is_random(chk):
            if self.written is not None:
                self.written.mark(chk, lblk, n_blocks)
            self._enter(chk, ChunkEvent.WRITTEN)
            self.dirty[0] = 1
            return n_blocks
        wp = int(self._words[chk * ENTRY_WORDS + WP_WORD])
        n_counted = min(n_blocks, self.cnlb(chk) - wp)
        self._advance(chk, wp + n_counted)
        return n_counted

    def revive(self, chk: int) -> None:
        """Make an Offline chunk one that can be reset."""
        if not self.is_random(chk):
            self._words[chk * ENTRY_WORDS + WP_WORD] = 0
        self.table[chk * ENTRY_BYTES] = ChunkState.CLOSED
        self._shared.n_offline -= 1

    def forget_written(self, chk: int) -> None:
        """Clear the chunk's bits in the written map, if there is one."""
        if self._holes.pop(chk, None) is not None:
            self._shorten(chk)
        if self.written is not None:
            self.written.cut(chk, 0)

    def needs_flush(self, chk: int) -> bool:
        """Whether a reset of the chunk is complete only after a flush of this shard."""
        return chk in self._fenced

    def _is_on_disk(self, chk: int) -> bool:
        if self.has_failed:
            return True
        copies = (self.flushed_states(), self._in_flight)
        return any(states is not None and states[chk] != ChunkState.FREE for states in copies)

    def flushed_states(self) -> bytes:
        """CS of every chunk as the durable copy has it; where that cannot be read, it may hold data of any."""
        if self._flushed_states is None:
            try:
                payload = self.flushed.load()
            except OSError:
                payload = None
            unknown = bytes([ChunkState.CLOSED]) * len(self.wear)
            self._flushed_states = payload[: len(self.table) : ENTRY_BYTES] if payload else unknown
        return self._flushed_states

    # ---- durability

    def payload(self) -> bytes:
        """All that the durable copy holds: table, reset counts, written map."""
        return bytes(self.table) + bytes(self.wear) + (bytes(self.written.view) if self.written is not None else b"")

    def restore(self, payload: bytes) -> None:
        """Take over what `payload` gave."""
        n_table, n_wear = len(self.table), self.wear.nbytes
        self.table[:] = payload[:n_table]
        self.wear.cast("B")[:] = payload[n_table : n_table + n_wear]
        if self.written is not None:
            self.written.view[:] = payload[n_table + n_wear :]

    def snapshot(self) -> Snapshot:
        """What a flush shall make durable."""
        self.dirty[0] = 0
        payload = self.payload()
        self._in_flight = payload[: len(self.table) : ENTRY_BYTES]
        return Snapshot(self, payload, frozenset(self._fenced))

    def settle(self, snapshot: Snapshot, *, is_durable: bool) -> None:
        """A flush has ended. Failed: the shard cannot be made durable any more."""
        if not is_durable:
            self.has_failed = True
            self.dirty[0] = 1
            self._shared.stats.n_media_errors += 1
            return
        self._flushed_states, self._in_flight = self._in_flight, None
        for chk in snapshot.fenced:
            self._fenced.discard(chk)
            self._spare(chk)

    # ---- start

    def sweep(self) -> None:
        """Give back the space of all Free chunks that nobody uses: after an unclean stop it may still be allocated."""
        spares, first = self._shared.spares, self.pu * len(self.wear)
        start = -1
        for chk in range(len(self.wear) + 1):
            is_unused = (
                chk < len(self.wear)
                and self.table[chk * ENTRY_BYTES] == ChunkState.FREE
                and not (self.reserved[chk] or chk in self._fenced or first + chk in spares)
            )
            if is_unused and start < 0:
                start = chk
            elif not is_unused and start >= 0:
                self._space.give_back(start, chk - start)
                start = -1

    def count_open(self, n_more: int) -> None:
        """Note how many chunks more are open, or fewer."""
        self.n_open += n_more
        self._shared.n_open += n_more

"""One namespace's storage: every operation of `media.ops`, and all that spans parallel units.

The engine judges addresses and states, finds data and moves it; chunks are changed by their shards only. Nothing here
waits: what must reach the disk goes through the flusher.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence

from ocssd_tcp.media.admission import Admission, Admissions, RefusalError, entry_bits
from ocssd_tcp.media.chunk import reset_refusals
from ocssd_tcp.media.events import Notice, Report
from ocssd_tcp.media.memory import PREDEFINED_BYTES, Staging
from ocssd_tcp.media.ops import Extent, Injector, MediaOp, MediaStatus, OpKind, Piece
from ocssd_tcp.media.override import Overrides
from ocssd_tcp.media.runs import HotTables, PlainRuns
from ocssd_tcp.media.shard import PuShard
from ocssd_tcp.media.shared import Shared, Stats
from ocssd_tcp.media.sync import Flusher, Syncer
from ocssd_tcp.media.table import entries_of
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, ChunkState, NotificationState

_HAVE_DATA = frozenset({MediaStatus.OK, MediaStatus.HIGH_ECC})
#: Outcomes of writes that have stored their blocks, at least in some chunks.
_HAVE_STORED = frozenset({MediaStatus.OK, MediaStatus.EARLY_CLOSE, MediaStatus.WRITE_NEXT_UNIT})


class Engine:
    """The `Media` of one namespace. Made by `media.store`."""

    def __init__(
        self,
        shared: Shared,
        shards: Sequence[PuShard],
        tables: HotTables,
        *,
        identity: uuid.UUID,
        predefined: int,
        sink: int,
        staging: Staging | None,
        syncer: Syncer,
        keep_allocated: int,
        unswept: Iterable[PuShard],
        ncap: int,
    ) -> None:
        geometry = shared.geometry
        self.geometry = geometry
        self.uuid = identity
        self.memory = shared.memory
        self.ncap = ncap  #: blocks that exist: the sum of CNLB
        self.addresses = AddressMap(geometry)
        self.n_address_chunks = self.addresses.n_address_chunks
        self.tables = tables
        self.readable = tables.readable
        self.address = tables.address
        self.log_bytes = geometry.n_chunks * CHUNK_DESCRIPTOR.size  #: size of log page CAh
        self._shared = shared
        self._shards = shards
        self._predefined = predefined
        self._keep_allocated = keep_allocated
        self._unswept = list(unswept)
        self._num_chk = geometry.num_chk
        self._chk_len = geometry.chk_len
        self._chk_mask = (1 << geometry.chk_len) - 1
        self._stride = geometry.block_stride
        self._reset_refusals = reset_refusals(geometry)
        self._flusher = Flusher(syncer)
        self._admissions = Admissions(
            shards, geometry.num_chk, geometry.ws_min, geometry.block_stride, staging, sink, self.finish
        )
        self._overrides = Overrides(shared, shards, self._admissions, self._flush_soon)
        #: by address chunk >> chk_len; None where no parallel unit is, and everywhere once the engine is closed
        self.shard_at: list[PuShard | None] = [None] * (1 << (geometry.grp_len + geometry.pu_len))
        for shard in shards:
            at = self.addresses.address_chunk(shard.pu * geometry.num_chk) >> geometry.chk_len
            self.shard_at[at] = shard
        self.runs = PlainRuns(shared, self.addresses, tables, self.shard_at, self.submit)
        self._handlers: list[Callable[[MediaOp], None]] = [self.refuse] * len(OpKind)
        self._handlers[OpKind.READ] = self._read
        self._handlers[OpKind.WRITE] = self._write
        self._handlers[OpKind.RESERVE] = self._reserve
        self._handlers[OpKind.COMMIT] = self._commit
        self._handlers[OpKind.ABORT] = self._admissions.abort
        self._handlers[OpKind.RESET] = self._reset
        self._handlers[OpKind.COPY] = self._copy
        self._handlers[OpKind.FLUSH] = self._flush

    def submit(self, op: MediaOp) -> None:
        """Execute `op` and call `op.done(op)`. See `media.ops`."""
        self._handlers[op.kind](op)

    def report_to(self, report: Report) -> None:
        """Say to `report` from now on what is worth knowing about chunks."""
        self._shared.report = report

    @property
    def keeps_failed_units(self) -> bool:
        """Whether there is a map for units whose write failed: without one, no write may fail with WRITE_NEXT_UNIT."""
        return all(shard.written is not None for shard in self._shards)

    @property
    def stats(self) -> Stats:
        """What the drive has been through since it was opened."""
        return self._shared.stats

    @property
    def n_open(self) -> int:
        """Chunks that are open, or about to be opened by a write under way."""
        return self._shared.n_open

    @property
    def n_offline(self) -> int:
        """Chunks that are Offline."""
        return self._shared.n_offline

    @property
    def n_cycles(self) -> int:
        """Program/erase cycles that all chunks together have behind them."""
        return self._shared.n_cycles

    @property
    def shards(self) -> Sequence[PuShard]:
        """The parallel units, in the order of their flat index: to look at, not to change."""
        return self._shards

    # ---- chunk information

    def descriptor(self, chunk: int) -> bytes:
        """The 32-byte log entry of a flat chunk, which must exist."""
        pu, chk = divmod(chunk, self._num_chk)
        return self._shards[pu].descriptor(chk)

    def cnlb(self, chunk: int) -> int:
        """Blocks of a flat chunk, which must exist."""
        pu, chk = divmod(chunk, self._num_chk)
        return self._shards[pu].cnlb(chk)

    def log_pieces(self, offset: int, length: int) -> list[memoryview]:
        """Bytes `offset` .. `offset + length` of log page CAh, as views of the tables; nothing past its end."""
        table_bytes = self._num_chk * CHUNK_DESCRIPTOR.size
        end = min(offset + length, self.log_bytes)
        pieces = []
        while offset < end:
            pu, start = divmod(offset, table_bytes)
            stop = min(start + end - offset, table_bytes)
            pieces.append(self._shards[pu].table[start:stop])
            offset += stop - start
        return pieces

    def set_log(self, offset: int, data: bytes) -> None:
        """Overwrite bytes of log page CAh, whole entries inside it. OverrideError, nothing changed."""
        self._overrides.apply(offset // CHUNK_DESCRIPTOR.size, entries_of(memoryview(data)))

    def set_chunk(self, chunk: int, state: ChunkState, wp: int | None = None) -> None:
        """Put a flat chunk, which must exist, into a state. `wp`: see `Overrides`. OverrideError, nothing changed."""
        self._overrides.set_state(chunk, state, wp)

    # ---- for lax rules

    def be_lax(self) -> None:
        """Let every block that exists be read, and chunks be reset in every state but Offline."""
        self._shared.is_lax = True
        self._reset_refusals = {}

    @property
    def is_lax(self) -> bool:
        """Whether lax rules hold."""
        return self._shared.is_lax

    def locate(self, chunk: int) -> tuple[PuShard, int]:
        """The shard of a flat chunk, which must exist, and the chunk's number in it."""
        pu, chk = divmod(chunk, self._num_chk)
        return self._shards[pu], chk

    # ---- read

    def _read(self, op: MediaOp) -> None:
        self.find(op)
        if op.fua and op.status in _HAVE_DATA:  # what a FUA read returns is durable
            self._flush_shards(op, self._shards_of(op.extents))
        else:
            op.done(op)

    def _shards_of(self, extents: Iterable[Extent]) -> set[PuShard]:
        return {self._shards[extent.chunk // self._num_chk] for extent in extents if extent.chunk >= 0}

    def find(self, op: MediaOp) -> None:
        """The pieces of `op.extents`; or UNWRITTEN, its bitmap and no pieces. OCSSD 2.0, read rules."""
        pieces: list[Piece] = []
        bitmap, entry = 0, 0
        for chunk, lblk, n_blocks in op.extents:
            mask, start = 0, 0
            if chunk >= 0:
                pu, chk = divmod(chunk, self._num_chk)
                shard = self._shards[pu]
                start = shard.place(chk, lblk)
                if lblk + n_blocks <= shard.readable[chk]:
                    pieces.append(Piece(start, n_blocks * self._stride))
                    entry += n_blocks
                    continue
                mask = shard.readable_mask(chk, lblk, n_blocks)
            if op.dulbe:
                bitmap |= (~mask & ((1 << n_blocks) - 1)) << entry
            self._add_mixed(pieces, start, n_blocks, mask)
            entry += n_blocks
        if bitmap:
            op.status, op.bitmap = MediaStatus.UNWRITTEN, bitmap
            return
        if op.inject is not None:
            self._spoil(op, op.inject)
        if op.status in _HAVE_DATA:
            op.pieces = pieces

    def _spoil(self, op: MediaOp, inject: Injector) -> None:
        """Let some of the readable blocks fail, or be close to it."""
        errors, high_ecc, entry = 0, 0, 0
        for extent in op.extents:
            chunk, lblk, n_blocks = extent
            if chunk >= 0:
                pu, chk = divmod(chunk, self._num_chk)
                readable = self._shards[pu].readable_mask(chk, lblk, n_blocks)
                bad, weak = inject.read(extent, readable) if readable else (0, 0)
                self._notice(extent, bad, NotificationState.UNRECOVERABLE)
                self._notice(extent, weak, NotificationState.ERROR_RATE_HIGH)
                errors |= bad << entry
                high_ecc |= weak << entry
            entry += n_blocks
        if errors:
            op.status, op.bitmap = MediaStatus.READ_ERROR, errors
            self._shared.stats.n_media_errors += 1
        elif high_ecc and op.feedback:
            op.status, op.bitmap = MediaStatus.HIGH_ECC, high_ecc

    def _notice(self, extent: Extent, mask: int, state: NotificationState) -> None:
        """Report the runs of blocks in a mask (bit i: block lblk + i)."""
        at = extent.lblk
        while mask:
            skipped = (mask & -mask).bit_length() - 1
            mask >>= skipped
            n_blocks = (~mask & (mask + 1)).bit_length() - 1
            self._shared.report(Notice(self.addresses.lba(extent.chunk, at + skipped), state, n_blocks))
            at += skipped + n_blocks
            mask >>= n_blocks

    def _add_mixed(self, pieces: list[Piece], start: int, n_blocks: int, mask: int) -> None:
        """Add blocks from `start` on, those whose bit is clear in `mask` replaced by predefined data."""
        at = 0
        while at < n_blocks:
            bits = mask >> at
            is_readable = bits & 1
            edge = ~bits & (bits + 1) if is_readable else bits & -bits
            run = min(edge.bit_length() - 1, n_blocks - at) if edge else n_blocks - at
            length = run * self._stride
            if is_readable:
                pieces.append(Piece(start + at * self._stride, length))
            while length > 0 and not is_readable:
                pieces.append(Piece(self._predefined, min(length, PREDEFINED_BYTES)))
                length -= PREDEFINED_BYTES
            at += run

    # ---- write

    def _write(self, op: MediaOp) -> None:
        data = op.data
        if data is None or len(data) != sum(extent.n_blocks for extent in op.extents) * self._stride:
            self.refuse(op)
            return
        if len(op.extents) == 1 and op.inject is None:
            chunk, lblk, _ = op.extents[0]
            if chunk >= 0:
                pu, chk = divmod(chunk, self._num_chk)
                if self._shards[pu].append(chk, lblk, data):
                    self.finish(op)
                    return
        self._store(op, op.extents, data)

    def _store(self, op: MediaOp, extents: Sequence[Extent], data: memoryview) -> None:
        admission = self._admit(op, extents, is_staged=False)
        if admission is None:
            return
        view, at = self.memory.view, 0
        for offset, length in admission.pieces:
            view[offset : offset + length] = data[at : at + length]
            at += length
        op.reservation = admission
        self._admissions.commit(op)

    def _admit(self, op: MediaOp, extents: Sequence[Extent], *, is_staged: bool) -> Admission | None:
        try:
            return self._admissions.admit(op, extents, is_staged=is_staged)
        except RefusalError as refusal:
            op.status, op.bitmap = refusal.status, refusal.bitmap
            op.done(op)
            return None

    def _reserve(self, op: MediaOp) -> None:
        if len(op.extents) == 1 and op.extents[0].chunk >= 0 and op.inject is None:
            # The plain shape, as `PlainRuns.reserve`: its reservation is found again by place.
            chunk, lblk, n_blocks = op.extents[0]
            pu, chk = divmod(chunk, self._num_chk)
            shard = self._shards[pu]
            if shard.reserve_run(chk, lblk, n_blocks):
                op.pieces = [Piece(shard.place(chk, lblk), n_blocks * self._stride)]
                op.done(op)
                return
        admission = self._admit(op, op.extents, is_staged=True)
        if admission is not None:
            op.reservation = admission
            op.pieces = admission.pieces
            op.done(op)

    def _commit(self, op: MediaOp) -> None:
        if op.reservation is None and len(op.extents) == 1 and op.extents[0].chunk >= 0:
            chunk, lblk, n_blocks = op.extents[0]
            pu, chk = divmod(chunk, self._num_chk)
            if self._shards[pu].commit_run(chk, lblk, n_blocks):
                self.finish(op)
                return
        self._admissions.commit(op)

    def _copy(self, op: MediaOp) -> None:
        """Sources by the read rules, destinations by the write rules; all is read before anything is written."""
        if sum(extent.n_blocks for extent in op.extents) != sum(extent.n_blocks for extent in op.destinations):
            self.refuse(op)
            return
        self.find(op)
        pieces, op.pieces = op.pieces, []
        if op.status != MediaStatus.OK:  # never HIGH_ECC, which is for reads
            op.done(op)
            return
        view = self.memory.view
        self._store(op, op.destinations, memoryview(b"".join(view[start : start + n] for start, n in pieces)))

    def finish(self, op: MediaOp) -> None:
        """Complete a write that has its outcome; with `fua`, when it is durable."""
        if not op.fua or op.status not in _HAVE_STORED:
            op.done(op)
            return

        def durable(is_durable: bool) -> None:
            if not is_durable:
                op.status = MediaStatus.WRITE_FAULT
                op.bitmap = entry_bits(0, sum(extent.n_blocks for extent in op.extents))
            op.done(op)

        written = op.destinations or op.extents
        self._flusher.request(self._shards_of(written), durable)

    # ---- reset

    def _reset(self, op: MediaOp) -> None:
        """Try every entry, or with `whole` none unless all may be reset. OCSSD 2.0, chunk reset."""
        if any(extent.chunk >= 0 and extent.lblk for extent in op.extents):
            op.status = MediaStatus.INVALID_ADDRESS
            op.done(op)
            return
        if op.whole and self._refuse_reset(op):
            op.done(op)
            return
        flushing: set[PuShard] = set()
        lost: list[MediaOp] = []
        for entry, extent in enumerate(op.extents):
            status = self._reset_verdict(extent.chunk)
            if status == MediaStatus.OK:
                pu, chk = divmod(extent.chunk, self._num_chk)
                shard = self._shards[pu]
                lost += self._admissions.roll_back(shard, chk)
                is_failing = op.inject is not None and op.inject.reset(extent.chunk)
                if shard.reset(chk, is_failing=is_failing) == ChunkState.OFFLINE:
                    status = MediaStatus.OFFLINE_CHUNK
                if shard.needs_flush(chk):
                    flushing.add(shard)
            if status != MediaStatus.OK:
                op.status = op.status or status
                op.bitmap |= 1 << entry
        for other in lost:
            self._admissions.fail(other)
        if flushing:
            self._flush_shards(op, flushing)
        else:
            op.done(op)

    def _reset_verdict(self, chunk: int) -> MediaStatus:
        if chunk < 0:
            return MediaStatus.INVALID_RESET
        pu, chk = divmod(chunk, self._num_chk)
        return self._reset_refusals.get(self._shards[pu].state(chk), MediaStatus.OK)

    def _refuse_reset(self, op: MediaOp) -> bool:
        """Whether some entry may not be reset; `op` then has its outcome."""
        seen: set[int] = set()
        for entry, extent in enumerate(op.extents):
            status = self._reset_verdict(extent.chunk)
            if status == MediaStatus.OK and extent.chunk in seen:
                status = self._reset_refusals.get(ChunkState.FREE, MediaStatus.OK)
            seen.add(extent.chunk)
            if status != MediaStatus.OK:
                op.status = op.status or status
                op.bitmap |= 1 << entry
        return op.status != MediaStatus.OK

    # ---- flush

    def _flush(self, op: MediaOp) -> None:
        self._flush_shards(op, self._shards)

    def _flush_soon(self, shards: Iterable[PuShard]) -> None:
        self._flusher.request(shards, lambda _is_durable: None)

    def _flush_shards(self, op: MediaOp, shards: Iterable[PuShard]) -> None:
        def durable(is_durable: bool) -> None:
            if not is_durable:
                op.status = MediaStatus.INTERNAL
            op.done(op)

        self._flusher.request(shards, durable)

    # ---- housekeeping

    @property
    def wants_idle(self) -> bool:
        """Whether `idle` has something to do."""
        return bool(self._unswept) or len(self._shared.spares) > self._keep_allocated

    def idle(self) -> bool:
        """Give back the space of one chunk, or of one parallel unit after an unclean stop; whether there is more to do.

        For the time between commands: chunks without data keep their space, as many as `keep_allocated`, so that they
        open quickly.
        """
        if self._unswept:
            self._unswept.pop().sweep()
        elif not self.wants_idle or not self._release_oldest():
            return False
        return self.wants_idle

    def _release_oldest(self) -> bool:
        spares = self._shared.spares
        chunk = next(iter(spares))
        del spares[chunk]
        pu, chk = divmod(chunk, self._num_chk)
        if self._shards[pu].release(chk):
            return True
        spares[chunk] = None
        return False

    def close(self) -> bool:
        """Refuse what comes, make everything durable, give spare space back. False if the disk refused."""
        self._handlers = [self.refuse] * len(OpKind)
        self.runs.close()
        is_durable = self._flusher.close(self._shards)
        for shard in self._unswept:
            shard.sweep()
        for _ in range(len(self._shared.spares)):
            self._release_oldest()
        return is_durable

    @staticmethod
    def refuse(op: MediaOp) -> None:
        """Complete an operation that makes no sense."""
        op.status = MediaStatus.INTERNAL
        op.done(op)

"""Writes under way: what may start, what has arrived, what is rolled back.

A write is admitted whole or not at all, across all parallel units that it touches: then its blocks are set aside and
the reserve pointers have moved. It lands (moves wp) when its data are complete and nothing reserved earlier in any of
its chunks is outstanding; so wp covers only what is there, and writes that depend on each other land in the order of
their admission. A write that goes away takes those with it that were reserved above it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ocssd_tcp.media.chunk import WRITE_REFUSALS
from ocssd_tcp.media.memory import PREDEFINED_BYTES, Staging
from ocssd_tcp.media.ops import Extent, Injector, MediaOp, MediaStatus, Piece
from ocssd_tcp.media.reservation import Reservation
from ocssd_tcp.media.shard import PuShard
from ocssd_tcp.ocssd.layouts import ChunkState


class Admission:
    """One write: its reservations, at most one for each sequential chunk, and where its blocks belong.

    `op` is the operation to complete; `is_ready`: its data are complete; `is_dead`: it was rolled back. `status`,
    `bitmap`: what it will end with, as some of its chunks fail.
    """

    __slots__ = ("bitmap", "is_dead", "is_ready", "op", "pieces", "reservations", "status")

    def __init__(self, op: MediaOp | None, reservations: list[Reservation], pieces: list[Piece]) -> None:
        self.op = op
        self.reservations = reservations
        self.pieces = pieces
        self.status = MediaStatus.OK
        self.bitmap = 0
        self.is_ready = False
        self.is_dead = False
        for reservation in reservations:
            reservation.admission = self


class RefusalError(Exception):
    """A write that may not start. `bitmap`: the entries at fault, none for an argument error."""

    def __init__(self, status: MediaStatus, bitmap: int = 0) -> None:
        super().__init__(status.name)
        self.status = status
        self.bitmap = bitmap


def entry_bits(first: int, count: int) -> int:
    """The bits of `count` entries of a list from entry `first` on."""
    return ((1 << count) - 1) << first


class Admissions:
    """The writes under way in one namespace. `finish` is called for every operation that has its outcome."""

    def __init__(
        self,
        shards: Sequence[PuShard],
        num_chk: int,
        ws_min: int,
        block_stride: int,
        staging: Staging | None,
        sink: int,
        finish: Callable[[MediaOp], None],
    ) -> None:
        self._shards = shards
        self._num_chk = num_chk
        self._ws_min = ws_min
        self._stride = block_stride
        self._staging = staging
        self._sink = sink  #: PREDEFINED_BYTES for data that are lost
        self._finish = finish

    # ---- admission

    def admit(self, op: MediaOp, extents: Sequence[Extent], *, is_staged: bool) -> Admission:
        """Check a write whole, then set its blocks aside.

        `is_staged`: the data arrive later, so those for random-write chunks wait elsewhere. Raises RefusalError, with
        nothing changed: INVALID_LENGTH (judged first), WRITE_FAULT or OUT_OF_ORDER. OCSSD 2.0, write rules.
        """
        if any(extent.n_blocks % self._ws_min for extent in extents):
            raise RefusalError(MediaStatus.INVALID_LENGTH)
        opening = self._judge(extents)
        self._open(extents, opening)
        reservations: list[Reservation] = []
        pieces: list[Piece] = []
        ordered: dict[int, Reservation] = {}
        status, bitmap, entry = MediaStatus.OK, 0, 0
        for extent in extents:
            shard, chk = self._locate(extent.chunk)
            length = extent.n_blocks * self._stride
            end = extent.lblk + extent.n_blocks
            piece = Piece(shard.place(chk, extent.lblk), length)
            if shard.is_random(chk):
                reservation = Reservation(shard, chk, extent.lblk, end, is_ordered=False)
                if is_staged:
                    staged = self._staging.take(length) if self._staging is not None else None
                    if staged is None:
                        self._retract(reservations, opening)
                        raise RefusalError(MediaStatus.WRITE_FAULT, entry_bits(0, sum(e.n_blocks for e in extents)))
                    reservation.staged = piece = staged
                reservations.append(reservation)
                pieces.append(piece)
            else:
                held = ordered.get(extent.chunk)
                if held is None:
                    ordered[extent.chunk] = held = Reservation(shard, chk, extent.lblk, end)
                    reservations.append(held)
                n_good = self._write(held, extent, op.inject)
                pieces += [piece] if n_good == extent.n_blocks else self._lose(piece, n_good)
                if held.fault:
                    status = status or held.fault
                    bitmap |= entry_bits(entry + n_good, extent.n_blocks - n_good)
            entry += extent.n_blocks
        for reservation in reservations:
            reservation.shard.hold(reservation)
        admission = Admission(op, reservations, pieces)
        admission.status, admission.bitmap = status, bitmap
        return admission

    def _write(self, held: Reservation, extent: Extent, inject: Injector | None) -> int:
        """Add a run to a sequential chunk's reservation; how many of its blocks will be stored.

        What fails is decided here and not when the data are there, so that it depends on the order of commands only.
        """
        if held.fault:
            return 0
        held.end = extent.lblk + extent.n_blocks
        fault = inject.write(extent) if inject is not None else None
        if fault is None:
            return extent.n_blocks
        held.fault, lblk = fault
        n_good = (lblk - extent.lblk) // self._ws_min * self._ws_min
        held.good = extent.lblk + n_good
        is_closing = held.fault == MediaStatus.EARLY_CLOSE
        held.end = held.shard.cnlb(held.chk) if is_closing else held.good + self._ws_min
        return n_good

    def _lose(self, piece: Piece, n_good: int) -> list[Piece]:
        """A piece whose first `n_good` blocks are stored. The others go where nobody looks, not above the chunk's wp:
        the next write to the chunk may be under way there."""
        length = n_good * self._stride
        pieces = [Piece(piece.offset, length)] if length else []
        lost = range(length, piece.length, PREDEFINED_BYTES)
        return pieces + [Piece(self._sink, min(PREDEFINED_BYTES, piece.length - at)) for at in lost]

    def _locate(self, chunk: int) -> tuple[PuShard, int]:
        pu, chk = divmod(chunk, self._num_chk)
        return self._shards[pu], chk

    def _judge(self, extents: Sequence[Extent]) -> list[int]:
        """The Free chunks that the write opens. RefusalError names every entry at fault, by the status of the first."""
        status, bitmap, entry = MediaStatus.OK, 0, 0
        pointers: dict[int, int] = {}
        opening: list[int] = []
        for extent in extents:
            verdict, n_good = self._judge_run(extent, pointers)
            if verdict != MediaStatus.OK:
                status = status or verdict
                bitmap |= entry_bits(entry + n_good, extent.n_blocks - n_good)
            elif extent.chunk not in opening:
                shard, chk = self._locate(extent.chunk)
                if shard.state(chk) == ChunkState.FREE and shard.is_idle(chk):
                    opening.append(extent.chunk)
            entry += extent.n_blocks
        if status != MediaStatus.OK:
            raise RefusalError(status, bitmap)
        return opening

    def _judge_run(self, extent: Extent, pointers: dict[int, int]) -> tuple[MediaStatus, int]:
        """The verdict on one run, and how many of its first entries are not at fault.

        `pointers`: the reserve pointers as this write has moved them so far.
        """
        chunk, lblk, n_blocks = extent
        if chunk < 0:
            return MediaStatus.WRITE_FAULT, 0
        shard, chk = self._locate(chunk)
        refusal = WRITE_REFUSALS.get(shard.state(chk))
        if refusal is not None:
            return refusal, 0
        cnlb = shard.cnlb(chk)
        if lblk + n_blocks > cnlb:
            return MediaStatus.WRITE_FAULT, min(max(cnlb - lblk, 0), n_blocks)
        if shard.is_random(chk):
            return MediaStatus.OK, 0
        pointer = pointers.get(chunk)
        if pointer is None:
            pointer = shard.pointer(chk)
        if pointer == cnlb:
            # Full as soon as what is under way has landed: nothing that comes later finds it open.
            return MediaStatus.WRITE_FAULT, 0
        if lblk != pointer:
            return MediaStatus.OUT_OF_ORDER, 0
        if shard.meets_stale(chk, lblk, lblk + n_blocks):
            return MediaStatus.WRITE_FAULT, 0
        pointers[chunk] = lblk + n_blocks
        return MediaStatus.OK, 0

    def _open(self, extents: Sequence[Extent], opening: list[int]) -> None:
        refused: list[int] = []
        opened: list[int] = []
        for chunk in opening:
            shard, chk = self._locate(chunk)
            (opened if shard.open(chk) else refused).append(chunk)
        if not refused:
            return
        self._retract([], opened)
        bitmap, entry = 0, 0
        for extent in extents:
            if extent.chunk in refused:
                bitmap |= entry_bits(entry, extent.n_blocks)
            entry += extent.n_blocks
        raise RefusalError(MediaStatus.WRITE_FAULT, bitmap)

    def _retract(self, reservations: list[Reservation], opened: list[int]) -> None:
        for reservation in reservations:
            self._unstage(reservation)
        for chunk in opened:
            shard, chk = self._locate(chunk)
            shard.unopen(chk)

    def _unstage(self, reservation: Reservation) -> None:
        if reservation.staged is not None and self._staging is not None:
            self._staging.give(reservation.staged)
            reservation.staged = None

    # ---- outcome

    def commit(self, op: MediaOp) -> None:
        """The data of a write are complete: it lands now, or after those ahead of it. OUT_OF_ORDER if rolled back."""
        admission = self._admission_of(op)
        if admission is None:
            op.status = MediaStatus.INTERNAL
            self._finish(op)
            return
        admission.op = op
        if admission.is_dead:
            self._resolve(admission)
            self.fail(op)
            return
        admission.is_ready = True
        self._settle([admission])

    def abort(self, op: MediaOp) -> None:
        """A write goes away, and all that was reserved above it in its chunks. Its owner stores no more."""
        admission = self._admission_of(op)
        if admission is None:
            op.status = MediaStatus.INTERNAL
            self._finish(op)
            return
        was_dead = admission.is_dead
        admission.op = None
        lost = [] if was_dead else self._kill([admission])
        self._resolve(admission)
        self._finish(op)
        for other in lost:
            self.fail(other)

    def roll_back(self, shard: PuShard, chk: int) -> list[MediaOp]:
        """Roll back every write under way to a chunk that is being reset; the operations to be failed by `fail`."""
        return self._kill([self._adopt(reservation) for reservation in shard.outstanding(chk)])

    def _admission_of(self, op: MediaOp) -> Admission | None:
        if isinstance(op.reservation, Admission):
            admission, op.reservation = op.reservation, None
            return admission
        runs: list[Reservation] = []
        for chunk, lblk, n_blocks in op.extents:
            shard, chk = self._locate(chunk)
            run = shard.find(chk, lblk, n_blocks) if chunk >= 0 else None
            if run is None:
                return None
            runs.append(run)
        return self._join(runs) if len(runs) > 1 else self._adopt(runs[0]) if runs else None

    @staticmethod
    def _adopt(reservation: Reservation) -> Admission:
        return reservation.admission or Admission(None, [reservation], [])

    def _join(self, runs: list[Reservation]) -> Admission:
        """One write of runs that were set aside one by one: if one of them was rolled back, all are."""
        is_dead = any(run.admission is not None and run.admission.is_dead for run in runs)
        lost = self._kill([self._adopt(run) for run in runs]) if is_dead else []
        joined = Admission(None, runs, [])
        joined.is_dead = is_dead
        for other in lost:
            self.fail(other)
        return joined

    def _settle(self, admissions: list[Admission]) -> None:
        finished: list[MediaOp] = []
        while admissions:
            admission = admissions.pop()
            if not admission.is_ready or not all(held.shard.is_next(held) for held in admission.reservations):
                continue
            admission.is_ready = False
            for held in admission.reservations:
                following = held.shard.land(held)
                self._unstage(held)
                if following is not None and following.admission is not None:
                    admissions.append(following.admission)
            if admission.op is not None:
                admission.op.status, admission.op.bitmap = admission.status, admission.bitmap
                finished.append(admission.op)
        for op in finished:
            self._finish(op)

    def _kill(self, admissions: list[Admission]) -> list[MediaOp]:
        """Roll admissions back, and what depends on them; the operations that were waiting to land."""
        lost: list[MediaOp] = []
        while admissions:
            admission = admissions.pop()
            if admission.is_dead:
                continue
            admission.is_dead = True
            for held in admission.reservations:
                admissions += [self._adopt(above) for above in held.shard.drop(held)]
                if not admission.is_ready and held.is_ordered:
                    held.shard.mark_stale(held)
            if admission.is_ready:
                self._resolve(admission)
                if admission.op is not None:
                    lost.append(admission.op)
        return lost

    def _resolve(self, admission: Admission) -> None:
        for held in admission.reservations:
            held.shard.forget_stale(held)
            self._unstage(held)

    def fail(self, op: MediaOp) -> None:
        """Complete the operation of a write that was rolled back: OUT_OF_ORDER."""
        op.status = MediaStatus.OUT_OF_ORDER
        op.bitmap = entry_bits(0, sum(extent.n_blocks for extent in op.destinations or op.extents))
        self._finish(op)

"""Time as flash takes it: a model of parallel units and buses, and the filter that holds completions until then.

The model is pure arithmetic: given the present moment and what an operation touches it says when the drive would have
been done. A parallel unit does one thing at a time and has one page register, so it is busy from the start of a read
until the bus has taken the data, and from the start of a transfer until the page is programmed. The units of a group
share its bus, which moves one write unit at a time. All times of the model are whole nanoseconds.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ocssd_tcp.media.filters.base import Filter, Timers
from ocssd_tcp.media.filters.hold import TIMED, UNTIMED, Hold
from ocssd_tcp.media.ops import Extent, Media, MediaOp, MediaStatus, OpKind
from ocssd_tcp.ocssd.geometry import U32_MAX, Geometry

SPREAD = 3  #: standard deviations between the typical time and the longest one that geometry reports
_NS = 1_000_000_000

#: Outcomes that the drive knows from its tables, without touching the flash.
REFUSALS = frozenset(
    {
        MediaStatus.INVALID_LENGTH,
        MediaStatus.INVALID_ADDRESS,
        MediaStatus.WRITE_FAULT,
        MediaStatus.OUT_OF_ORDER,
        MediaStatus.UNWRITTEN,
        MediaStatus.INVALID_RESET,
        MediaStatus.ABORTED,
        MediaStatus.INTERNAL,
    }
)


@dataclass(frozen=True, slots=True)
class LatencyParams:
    """Nanoseconds of one write unit's read, program and transfer over the bus, and of a chunk's erase.

    `jitter`: standard deviation of read, program and erase as a share of their time; the bus is clocked and exact.
    """

    read_ns: int
    program_ns: int
    erase_ns: int
    transfer_ns: int
    jitter: float = 0.0
    seed: int = 1

    def timed(self, geometry: Geometry) -> Geometry:
        """`geometry` with the six times of this flash: typical and longest, transfer included. OCSSD 2.0, Geometry."""
        return replace(
            geometry,
            trdt=min(self.read_ns + self.transfer_ns, U32_MAX),
            trdm=min(self._longest(self.read_ns) + self.transfer_ns, U32_MAX),
            twrt=min(self.program_ns + self.transfer_ns, U32_MAX),
            twrm=min(self._longest(self.program_ns) + self.transfer_ns, U32_MAX),
            tcrst=min(self.erase_ns, U32_MAX),
            tcrsm=min(self._longest(self.erase_ns), U32_MAX),
        )

    def _longest(self, mean: int) -> int:
        return mean + round(SPREAD * self.jitter * mean)


#: By cells of the flash: the median of its page types (lower, centre, upper).
FLASH: dict[str, LatencyParams] = {
    "slc": LatencyParams(40_000, 800_000, 2_000_000, 20_000),
    "mlc": LatencyParams(56_000, 1_575_000, 3_000_000, 52_433),
    "tlc": LatencyParams(77_500, 2_225_000, 3_000_000, 52_433),
    "qlc": LatencyParams(89_125, 2_558_750, 3_000_000, 52_433),
}


class Bus:
    """When the bus of a group is taken: disjoint spans in order, those that touch joined to one.

    A transfer takes the first gap that is long enough once its data are there, so one that is planned far ahead for a
    busy unit keeps nobody else from the bus until then.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def forget(self, now: int) -> None:
        """Drop what has passed."""
        n_past = bisect_right(self._ends, now)
        del self._starts[:n_past], self._ends[:n_past]

    def take(self, ready: int, length: int) -> int:
        """Take the bus for `length` from `ready` on, or from the first moment after it; the end of the transfer."""
        if not length:
            return ready
        starts, ends = self._starts, self._ends
        at = bisect_right(ends, ready)
        start = ready
        while at < len(starts) and starts[at] < start + length:
            start = ends[at]
            at += 1
        end = start + length
        joins_before = at > 0 and ends[at - 1] == start
        joins_after = at < len(starts) and starts[at] == end
        if joins_before and joins_after:
            del ends[at - 1], starts[at]
        elif joins_before:
            ends[at - 1] = end
        elif joins_after:
            starts[at] = start
        else:
            starts.insert(at, start)
            ends.insert(at, end)
        return end


class LatencyModel:
    """The flash of one namespace: until when each unit and each bus is taken.

    Extents are charged by the write units that they touch, each extent on its own; those that name no chunk cost
    nothing. Random draws come from one generator for each parallel unit, in the order of its operations, so that the
    same seed and the same commands give the same times however fast they come.
    """

    def __init__(self, geometry: Geometry, params: LatencyParams) -> None:
        self._num_chk = geometry.num_chk
        self._num_pu = geometry.num_pu
        self._ws_min = geometry.ws_min
        self._pu_free = [0] * geometry.n_pu
        self._buses = [Bus() for _ in range(geometry.num_grp)]
        self._now = 0
        self._generators: dict[int, random.Random] = {}
        self._charges: dict[OpKind, Callable[[MediaOp, int], int]] = {
            OpKind.READ: lambda op, begin: self._read(op.extents, begin),
            OpKind.WRITE: lambda op, begin: self._program(op.extents, begin),
            OpKind.COMMIT: lambda op, begin: self._program(op.extents, begin),
            OpKind.RESET: lambda op, begin: self._erase(_tried(op), begin),
            OpKind.COPY: lambda op, begin: self._program(op.destinations, self._read(op.extents, begin)),
        }
        self.configure(params)

    def configure(self, params: LatencyParams) -> None:
        """Other times from now on; what has been charged stays, the generators begin anew."""
        self.params = params
        self._generators.clear()

    def charge(self, op: MediaOp, now: int) -> int:
        """Charge a READ, WRITE, COMMIT, RESET or COPY that begins at `now` (never earlier than the last); its end.

        By its status: a refusal costs nothing, nor does a refused entry of a reset. A copy reads all its sources
        before it programs the first destination.
        """
        self._now = now
        if op.status in REFUSALS and op.kind is not OpKind.RESET:
            return now
        return self._charges[op.kind](op, now)

    def _read(self, extents: Iterable[Extent], begin: int) -> int:
        """Each unit is read from its page, then goes over the bus."""
        params, finish = self.params, begin
        for pu, bus, n_units in self._visits(extents):
            free = max(self._pu_free[pu], begin)
            for _ in range(n_units):
                free = bus.take(free + self._draw(pu, params.read_ns), params.transfer_ns)
            self._pu_free[pu] = free
            finish = max(finish, free)
        return finish

    def _program(self, extents: Iterable[Extent], begin: int) -> int:
        """Each unit comes over the bus once the last one is programmed, then is programmed."""
        params, finish = self.params, begin
        for pu, bus, n_units in self._visits(extents):
            free = max(self._pu_free[pu], begin)
            for _ in range(n_units):
                free = bus.take(free, params.transfer_ns) + self._draw(pu, params.program_ns)
            self._pu_free[pu] = free
            finish = max(finish, free)
        return finish

    def _erase(self, extents: Iterable[Extent], begin: int) -> int:
        finish = begin
        for pu, _, _ in self._visits(extents):
            self._pu_free[pu] = max(self._pu_free[pu], begin) + self._draw(pu, self.params.erase_ns)
            finish = max(finish, self._pu_free[pu])
        return finish

    def _visits(self, extents: Iterable[Extent]) -> Iterator[tuple[int, Bus, int]]:
        """The parallel unit, its bus, and the number of write units, for each extent that exists."""
        ws_min = self._ws_min
        for chunk, lblk, n_blocks in extents:
            if chunk >= 0:
                pu = chunk // self._num_chk
                bus = self._buses[pu // self._num_pu]
                bus.forget(self._now)
                yield pu, bus, (lblk + n_blocks - 1) // ws_min - lblk // ws_min + 1

    def _draw(self, pu: int, mean: int) -> int:
        jitter = self.params.jitter
        if not jitter:
            return mean
        generator = self._generators.get(pu)
        if generator is None:
            generator = self._generators[pu] = random.Random(f"{self.params.seed}/{pu}")
        return max(round(generator.gauss(mean, jitter * mean)), 0)


def _tried(op: MediaOp) -> Iterable[Extent]:
    """The entries of a reset that were not refused; after a check as a whole, none or all."""
    if op.status not in REFUSALS:
        return op.extents
    if op.whole or op.status is not MediaStatus.INVALID_RESET:
        return ()
    return [extent for entry, extent in enumerate(op.extents) if not op.bitmap >> entry & 1]


class Latency(Filter):
    """Holds the completion of what touches the flash until the model's drive would have been done.

    The operation itself is executed at once, so data and chunk states are never late. A write through R2T is charged
    when its data are complete, at COMMIT.
    """

    HANDLES = TIMED
    PASSES = UNTIMED

    __slots__ = ("_hold", "_timers", "model")

    def __init__(self, inner: Media, *, model: LatencyModel, timers: Timers) -> None:
        super().__init__(inner)
        self.model = model
        self._timers = timers
        self._hold = Hold(timers)

    def configure(self, params: LatencyParams) -> None:
        """Other times for what comes; what is held keeps its own."""
        self.model.configure(params)

    def handle(self, op: MediaOp) -> None:
        """Execute `op`, charge it in the order of submission, and hold what has ended."""
        outer, now = op.done, self._timers.now()
        finish: float | None = None
        has_ended = False

        def ended(op: MediaOp) -> None:
            nonlocal has_ended
            has_ended = True
            if finish is not None:  # it waited for the disk, or for a write ahead of it
                self._hold.until(finish, op, outer)

        op.done = ended
        self.inner.submit(op)
        finish = self.model.charge(op, int(now * _NS)) / _NS
        if has_ended:
            self._hold.until(finish, op, outer)

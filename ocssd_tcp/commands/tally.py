"""What is counted while commands run, as plain integers that whoever watches the drive reads when asked.

The batch processor adds its commands a buffer at a time (`Counters`); the complete engine counts its own one by one
(`Tally`), and times what the media does for them (`Latencies`). Plain commands are timed a buffer at a time too
(`PlainTimes`), while somebody watches.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from ocssd_tcp.media.ops import MediaOp, OpKind

N_BUCKETS = 25  #: bucket i: less than 2^i microseconds; the last one: all that took longer than 8 seconds
MAX_LATENCY_GROUPS = 32  #: of a namespace: the first ones, which have histograms of their own
_STATUS_MASK = 0x7FF  #: status code type and status code, without DNR

#: What is timed. The place of a plain command is the low two bits of its opcode, scalar or vector.
OPERATIONS = ("reset", "write", "read", "copy", "flush")
RESET, WRITE, READ, COPY, FLUSH = range(len(OPERATIONS))

#: What the media's operations are to a host. A write whose data come by R2T is timed when they have arrived.
_OPERATION_OF = {
    OpKind.READ: READ,
    OpKind.WRITE: WRITE,
    OpKind.COMMIT: WRITE,
    OpKind.RESET: RESET,
    OpKind.COPY: COPY,
    OpKind.FLUSH: FLUSH,
}


class Outcome(NamedTuple):
    """How a command ended: on an I/O queue or an admin queue, its opcode, its status without DNR."""

    is_io: bool
    opcode: int
    status: int


class Tally(dict[Outcome, int]):
    """Commands by their outcome. Bounded: two kinds of queue, 256 opcodes, and the statuses that there are."""

    __slots__ = ()

    def count(self, *, is_io: bool, opcode: int, status: int = 0) -> None:
        """One command more."""
        key = Outcome(is_io, opcode, status & _STATUS_MASK)
        self[key] = self.get(key, 0) + 1


@dataclass(slots=True)
class Counters:
    """What hosts did to a namespace by reading and writing: blocks, and commands.

    `reads` and `writes` are all of their kind, `vector_reads` and `vector_writes` those of them that were vector
    commands. A read that was answered with data and a warning is counted here, and as a failure in the tally.
    """

    blocks_read: int = 0
    blocks_written: int = 0
    reads: int = 0
    writes: int = 0
    vector_reads: int = 0
    vector_writes: int = 0


def bucket_of(seconds: float) -> int:
    """The bucket of a duration; a clock that stood still or went back counts as the shortest."""
    return min(int(seconds * 1e6).bit_length(), N_BUCKETS - 1) if seconds > 0 else 0


class Histogram:
    """Durations, in buckets whose bounds double. `total`: their sum, seconds."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * N_BUCKETS
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.buckets[bucket_of(seconds)] += 1
        self.total += seconds


class Latencies:
    """How long commands took, by operation and group.

    A histogram is a row of `counts` (rows of N_BUCKETS, as in `Histogram`) and of `totals` (seconds), flat arrays that
    the compiled engine adds to in place. Each operation has a row for each of the first `n_groups` groups, and one more
    for the groups behind them and for what touched no chunk (Flush). What spans groups is counted for its first.
    """

    __slots__ = ("_chunks_per_group", "counts", "n_groups", "totals")

    def __init__(self, chunks_per_group: int, n_groups: int) -> None:
        self._chunks_per_group = chunks_per_group
        self.n_groups = min(n_groups, MAX_LATENCY_GROUPS)
        n_rows = len(OPERATIONS) * (self.n_groups + 1)
        self.counts = array("Q", bytes(8 * n_rows * N_BUCKETS))
        self.totals = array("d", bytes(8 * n_rows))

    def row(self, operation: int, group: int) -> int:
        """The row of an operation, by its place in OPERATIONS, in a group; -1 for no group."""
        n_groups = self.n_groups
        return operation * (n_groups + 1) + (group if 0 <= group < n_groups else n_groups)

    def add(self, op: MediaOp, seconds: float) -> None:
        """Count an operation of the media that has ended: from `submit` to `done`."""
        operation = _OPERATION_OF.get(op.kind)
        if operation is not None:
            chunk = op.extents[0].chunk if op.extents else -1
            self.add_to(self.row(operation, chunk // self._chunks_per_group if chunk >= 0 else -1), seconds)

    def add_to(self, row: int, seconds: float, n: int = 1) -> None:
        """Count `n` commands of this duration."""
        self.counts[row * N_BUCKETS + bucket_of(seconds)] += n
        self.totals[row] += seconds * n

    @property
    def rows(self) -> dict[tuple[int, str], Histogram]:
        """(group, operation) -> a copy of its histogram, where it has any; group -1: the row behind the groups."""
        found: dict[tuple[int, str], Histogram] = {}
        for row, total in enumerate(self.totals):
            buckets = self.counts[row * N_BUCKETS : (row + 1) * N_BUCKETS].tolist()
            if any(buckets):
                operation, group = divmod(row, self.n_groups + 1)
                histogram = found[group if group < self.n_groups else -1, OPERATIONS[operation]] = Histogram()
                histogram.buckets, histogram.total = buckets, total
        return found


class PlainTimes:
    """The plain commands of the buffer that is being handled, each of which takes as long as all of it: the answers go
    out only then.

    Buffers are handled one after the other, so one of these does for a drive. `begun`: when this one was received,
    seconds of `perf_counter` (CLOCK_MONOTONIC); 0 between buffers.
    """

    __slots__ = ("_done", "begun")

    def __init__(self) -> None:
        self.begun = 0.0
        self._done: dict[tuple[Latencies, int], int] = {}

    def begin(self, at: float) -> None:
        """A buffer has been received, or the complete engine takes over what is left of one."""
        if not self.begun:
            self.begun = at

    def count(self, latencies: Latencies, operation: int, group: int) -> None:
        """A command is done."""
        self.count_row(latencies, latencies.row(operation, group), 1)

    def count_all(self, latencies: Latencies, done: Sequence[int]) -> None:
        """Commands are done, each as group << 2 | operation."""
        for key in set(done):
            self.count_row(latencies, latencies.row(key & 3, key >> 2), done.count(key))

    def count_row(self, latencies: Latencies, row: int, n: int) -> None:
        """`n` commands of a row are done."""
        key = latencies, row
        self._done[key] = self._done.get(key, 0) + n

    def end(self) -> None:
        """All of the buffer has been handled."""
        if self._done:
            seconds = perf_counter() - self.begun
            for (latencies, row), n in self._done.items():
                latencies.add_to(row, seconds, n)
            self._done.clear()
        self.begun = 0.0

"""What is counted while commands run, as plain integers that whoever watches the drive reads when asked.

The batch processor adds its commands a buffer at a time (`Counters`); the complete engine counts its own one by one
(`Tally`), and times what the media does for them (`Latencies`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ocssd_tcp.media.ops import MediaOp, OpKind

N_BUCKETS = 25  #: bucket i: less than 2^i microseconds; the last one: all that took longer than 8 seconds
MAX_LATENCY_ROWS = 128  #: of a namespace: groups times operations with a histogram of their own
_STATUS_MASK = 0x7FF  #: status code type and status code, without DNR

#: What is timed, and what it is to a host. A write whose data come by R2T is timed when they have arrived.
OPERATIONS = {
    OpKind.READ: "read",
    OpKind.WRITE: "write",
    OpKind.COMMIT: "write",
    OpKind.RESET: "reset",
    OpKind.COPY: "copy",
    OpKind.FLUSH: "flush",
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


class Histogram:
    """Durations, in buckets whose bounds double. `total`: their sum, seconds."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * N_BUCKETS
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration; a clock that stood still or went back counts as the shortest."""
        index = int(seconds * 1e6).bit_length() if seconds > 0 else 0
        self.buckets[index if index < N_BUCKETS else N_BUCKETS - 1] += 1
        self.total += seconds


class Latencies:
    """How long the media took, by group and operation: from `submit` to `done`.

    `rows`: (group, operation) -> histogram; group -1 holds what touched no chunk (Flush), and what came after
    MAX_LATENCY_ROWS were there. An operation that spans groups is counted for the group of its first extent.
    """

    __slots__ = ("_chunks_per_group", "rows")

    def __init__(self, chunks_per_group: int) -> None:
        self._chunks_per_group = chunks_per_group
        self.rows: dict[tuple[int, str], Histogram] = {}

    def add(self, op: MediaOp, seconds: float) -> None:
        """Count an operation that has ended."""
        operation = OPERATIONS.get(op.kind)
        if operation is None:
            return
        chunk = op.extents[0].chunk if op.extents else -1
        key = (chunk // self._chunks_per_group if chunk >= 0 else -1, operation)
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) >= MAX_LATENCY_ROWS:
                key = (-1, operation)
            row = self.rows.setdefault(key, Histogram())
        row.add(seconds)

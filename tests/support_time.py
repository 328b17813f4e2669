"""A clock that a test holds, and a media that does what the test says: for the filters that deal in time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind


class FakeTimers:
    """Timers whose present is wherever the test has moved it."""

    def __init__(self) -> None:
        self.time = 0.0
        self.armed: list[tuple[float, int, Callable[[], None]]] = []
        self.n_armed = 0

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.n_armed += 1
        heapq.heappush(self.armed, (when, self.n_armed, callback))

    def run(self, until: float = 1e9) -> None:
        """Move on to `until`, with every timer on the way."""
        while self.armed and self.armed[0][0] <= until:
            when, _, callback = heapq.heappop(self.armed)
            self.time = max(self.time, when)
            callback()
        self.time = until


class Obedient:
    """An innermost media: gives each operation `status` and `bitmap`, at once or, if it `defers`, by `finish`."""

    def __init__(self) -> None:
        self.status, self.bitmap = MediaStatus.OK, 0
        self.defers = False
        self.seen: list[MediaOp] = []

    def submit(self, op: MediaOp) -> None:
        op.status, op.bitmap = self.status, self.bitmap
        self.seen.append(op)
        if not self.defers:
            op.done(op)

    def finish(self) -> None:
        """Complete the oldest deferred operation."""
        op = self.seen.pop(0)
        op.done(op)


def operation(
    kind: OpKind,
    extents: Sequence[Extent],
    done: Callable[[MediaOp], None] = lambda op: None,
    *,
    status: MediaStatus = MediaStatus.OK,
    bitmap: int = 0,
    destinations: Sequence[Extent] = (),
    whole: bool = False,
) -> MediaOp:
    """An operation that has its outcome already."""
    op = MediaOp(kind, extents, done, destinations=destinations, whole=whole)
    op.status, op.bitmap = status, bitmap
    return op

"""Completions that wait for their time: one heap, one armed timer, however many operations are held."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from ocssd_tcp.media.filters.base import Timers
from ocssd_tcp.media.ops import MediaOp, OpKind

#: The operations whose completion may be held for their own sake, and those that cost no time of their own.
TIMED = frozenset({OpKind.READ, OpKind.WRITE, OpKind.COMMIT, OpKind.RESET, OpKind.COPY})
UNTIMED = frozenset({OpKind.RESERVE, OpKind.ABORT, OpKind.FLUSH})


class Hold:
    """Operations that have ended inside a filter and whose `done` is called at a later time.

    What is due at the same moment is delivered together, earliest first; equal times in the order they were given.
    """

    __slots__ = ("_armed", "_count", "_heap", "_timers")

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._heap: list[tuple[float, int, MediaOp, Callable[[MediaOp], None]]] = []
        self._count = 0
        self._armed = math.inf  #: when the timer fires that looks here next

    def __len__(self) -> int:
        return len(self._heap)

    def until(self, when: float, op: MediaOp, done: Callable[[MediaOp], None]) -> None:
        """Restore `op.done` to `done` and call it at `when` (seconds of the timers); at once if that has passed."""
        if when <= self._timers.now():
            op.done = done
            done(op)
            return
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, op, done))
        self._arm()

    def _arm(self) -> None:
        """Have the earliest deadline kept. A timer for a later one may still fire: it will find nothing due."""
        if self._heap and self._heap[0][0] < self._armed:
            self._armed = self._heap[0][0]
            self._timers.call_at(self._armed, self._expire)

    def _expire(self) -> None:
        now = self._timers.now()
        if now >= self._armed:
            self._armed = math.inf
        heap = self._heap
        try:
            while heap and heap[0][0] <= now:
                _, _, op, done = heapq.heappop(heap)
                op.done = done
                done(op)
        finally:
            self._arm()

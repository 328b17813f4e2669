"""Timers of less than a millisecond on an event loop whose own timers know only whole ones.

A timerfd wakes the loop a little early, and the loop goes round without sleeping for the rest: sockets are served
meanwhile, and a callback is late by what the loop was doing, not by what it takes to wake up.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

#: How long before a deadline the loop is woken. Waking up takes 20 to 50 us.
LEAD_SECONDS = 50e-6

_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000
_libc = ctypes.CDLL(None, use_errno=True)
_settime = _libc.timerfd_settime
_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Loop(Protocol):
    """What is needed of the event loop."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> Any: ...
    def remove_reader(self, fd: int) -> Any: ...
    def call_soon(self, callback: Callable[[], None]) -> Any: ...


class LoopTimers:
    """Callbacks at a moment of CLOCK_MONOTONIC, seconds. OSError: the system gives no timer."""

    def __init__(self, loop: Loop, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._loop = loop
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._ids = itertools.count()
        self._is_polling = False
        self._spec = (ctypes.c_int64 * 4)()  #: struct itimerspec; its first half, the interval, stays 0
        self._fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "timerfd")
        loop.add_reader(self._fd, self._woken)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, at `when` or as soon as possible after it; never from within `call_at`."""
        heapq.heappush(self._heap, (when, next(self._ids), callback))
        if self._heap[0][0] >= when and not self._is_polling:
            self._await(when)

    def _await(self, when: float) -> None:
        """Have `_poll` run from shortly before `when` on."""
        wake = when - LEAD_SECONDS
        if wake <= self.now():
            self._is_polling = True
            self._loop.call_soon(self._poll)
            return
        self._spec[2], self._spec[3] = divmod(int(wake * _NS), _NS)
        _settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.addressof(self._spec), None)

    def _woken(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # set anew since it fired
        if not self._is_polling:
            self._is_polling = True
            self._poll()

    def _poll(self) -> None:
        """Call what is due; go round once more, or sleep, until the next."""
        heap = self._heap
        try:
            while heap and heap[0][0] <= self.now():
                heapq.heappop(heap)[2]()
        finally:
            self._is_polling = False
            if heap:
                self._await(heap[0][0])

    def close(self) -> None:
        """Call nothing any more."""
        self._heap.clear()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

"""Timers below a millisecond: a real timerfd, a loop that does one thing when told, and a clock that the test holds.

The clock is far behind the machine's, so that every moment at which the timer is set to fire has passed.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator

import pytest

from ocssd_tcp.transport.clock import LEAD_SECONDS, LoopTimers


class ManualLoop:
    """Readers and callbacks, run by `wake` and `go_round`."""

    def __init__(self) -> None:
        self.time = 0.0
        self.readers: dict[int, Callable[[], None]] = {}
        self.soon: list[Callable[[], None]] = []

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def wake(self) -> bool:
        """Serve the timer, if it fires (it is set to moments long past); whether it did."""
        (fd, callback), *_ = self.readers.items()
        fired = bool(select.select([fd], [], [], 0.05)[0])
        if fired:
            callback()
        return fired

    def go_round(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


@pytest.fixture
def loop() -> ManualLoop:
    return ManualLoop()


@pytest.fixture
def timers(loop: ManualLoop) -> Iterator[LoopTimers]:
    timers = LoopTimers(loop, lambda: loop.time)
    yield timers
    timers.close()
    assert not loop.readers


def test_the_loop_is_woken_early_and_goes_round_until_it_is_time(loop: ManualLoop, timers: LoopTimers) -> None:
    calls: list[str] = []
    timers.call_at(1.0, lambda: calls.append("a"))
    assert not loop.soon
    loop.time = 1.0 - LEAD_SECONDS
    assert loop.wake()
    assert len(loop.soon) == 1
    loop.go_round()
    assert calls == []
    assert len(loop.soon) == 1
    loop.time = 1.0
    loop.go_round()
    assert calls == ["a"]
    assert not loop.soon
    assert not loop.wake()


def test_what_is_due_is_called_in_order_of_time_but_not_within_call_at(loop: ManualLoop, timers: LoopTimers) -> None:
    calls: list[int] = []
    for when in (3, 1, 2, 1, 9):
        timers.call_at(when, lambda when=when: calls.append(when))  # type: ignore[misc]
    loop.time = 4.0
    timers.call_at(0.5, lambda: calls.append(0))
    assert calls == []
    loop.go_round()
    assert calls == [0, 1, 1, 2, 3]


def test_an_earlier_time_replaces_a_later_one_and_both_come(loop: ManualLoop, timers: LoopTimers) -> None:
    calls: list[int] = []
    for when in (7, 5):
        timers.call_at(when, lambda when=when: calls.append(when))  # type: ignore[misc]
    for when in (5.0, 7.0):
        loop.time = when
        assert loop.wake()
    assert calls == [5, 7]


def test_a_callback_may_set_the_next_time(loop: ManualLoop, timers: LoopTimers) -> None:
    calls: list[float] = []

    def again() -> None:
        calls.append(loop.time)
        timers.call_at(loop.time + 1, again)

    timers.call_at(1.0, again)
    for when in (1.0, 2.0, 3.0):
        loop.time = when
        assert loop.wake()
    assert calls == [1.0, 2.0, 3.0]


def test_a_callback_that_fails_keeps_no_other_back(loop: ManualLoop, timers: LoopTimers) -> None:
    calls: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    timers.call_at(1.0, fail)
    timers.call_at(1.0, lambda: calls.append("b"))
    loop.time = 1.0
    with pytest.raises(RuntimeError):
        loop.wake()
    loop.go_round()
    assert calls == ["b"]


def test_a_timer_that_was_set_anew_while_the_loop_was_told_of_it_is_no_wake_up(
    loop: ManualLoop, timers: LoopTimers
) -> None:
    calls: list[str] = []
    timers.call_at(1.0, lambda: calls.append("a"))
    assert loop.wake()
    (callback,) = loop.readers.values()
    callback()  # nothing to read
    assert calls == []

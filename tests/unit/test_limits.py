"""Limits in operations and bytes per second: the arithmetic, and the filter under a clock that the test holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.media.filters.limits import BURST_SECONDS, Bucket, Limits, Throttle
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from tests.support_time import FakeTimers, Obedient, operation

STRIDE = 512


class Bench:
    """A filter for each throttle list given, all under one clock; `ends`: when operations came back, ms."""

    def __init__(self, *throttles: list[Throttle]) -> None:
        self.timers = FakeTimers()
        self.timers.time = 1000.0
        self.inner = Obedient()
        self.filters = [
            Limits(self.inner, throttles=entry, block_stride=STRIDE, timers=self.timers) for entry in throttles
        ]
        self.ends: list[int] = []

    def submit(self, kind: OpKind = OpKind.READ, n_blocks: int = 1, *, through: int = 0) -> MediaOp:
        op = operation(kind, [Extent(0, 0, n_blocks)], self.note)
        self.filters[through].submit(op)
        return op

    def note(self, op: MediaOp) -> None:
        self.ends.append(round((self.timers.time - 1000) * 1000))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10_000), st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 50)), min_size=1, max_size=50))
def test_a_bucket_never_gives_more_than_its_rate_and_one_burst(rate: int, takers: list[tuple[float, int]]) -> None:
    bucket, now, last, total = Bucket(rate), 5.0, 5.0, 0
    for pause, n in takers:
        now += pause
        total += n
        when = bucket.take(n, now)
        assert when >= now
        assert when >= last or when == now
        last = when
        assert total <= rate * (when - 5.0 + BURST_SECONDS) + 1e-6


@pytest.mark.parametrize("pause", [0.0, 0.0001, 0.001])
def test_a_bucket_gives_its_rate_to_who_asks_for_it(pause: float) -> None:
    """One at a time, each a moment after the last: what is lost in between is made up for by the burst."""
    bucket, now = Bucket(500), 5.0
    for _ in range(1000):
        now = bucket.take(1, now) + pause
    assert now - 5.0 == pytest.approx(2.0, abs=0.03)


def test_a_bucket_without_a_rate_gives_everything_at_once() -> None:
    assert Bucket(0).take(10**12, 5.0) == 5.0


@pytest.mark.parametrize(
    ("throttle", "blocks", "ends"),
    [
        (Throttle(iops=100), [1, 1, 1], [0, 10, 20]),
        (Throttle(bytes_per_second=100 * STRIDE), [1, 2, 1], [0, 20, 30]),
        (Throttle(100, 50 * STRIDE), [1, 1], [10, 30]),  # bytes are what is short
        (Throttle(100, 1000 * STRIDE), [1, 1, 1], [0, 10, 20]),  # operations are
        (Throttle(), [1000, 1000], [0, 0]),
    ],
)
def test_completions_are_spread(throttle: Throttle, blocks: list[int], ends: list[int]) -> None:
    bench = Bench([throttle])
    for n_blocks in blocks:
        bench.submit(n_blocks=n_blocks)
    bench.timers.run(2000.0)
    assert bench.ends == ends


def test_namespaces_share_the_limit_of_the_drive_and_keep_their_own() -> None:
    drive, own = Throttle(iops=100), Throttle(iops=50)
    bench = Bench([drive, own], [drive, Throttle()])
    for through in (1, 1, 0, 0):
        bench.submit(through=through)
    bench.timers.run(2000.0)
    assert bench.ends == [0, 10, 20, 30]  # the second namespace took of the drive's; the first alone may end at 10, 30


def test_data_are_not_held() -> None:
    bench = Bench([Throttle(iops=1)])
    op = bench.submit(OpKind.WRITE)
    assert bench.inner.seen == [op]
    assert bench.ends == []
    bench.timers.run(2000.0)
    assert op.done == bench.note


@pytest.mark.parametrize("kind", [OpKind.RESERVE, OpKind.ABORT, OpKind.FLUSH])
def test_what_moves_nothing_passes_and_does_not_count(kind: OpKind) -> None:
    bench = Bench([Throttle(iops=100)])
    for _ in range(5):
        bench.submit(kind)
    assert bench.ends == [0] * 5
    bench.submit(OpKind.COMMIT)
    assert bench.ends == [0] * 6


def test_a_reset_counts_as_an_operation_without_bytes() -> None:
    bench = Bench([Throttle(bytes_per_second=1)])
    bench.submit(OpKind.RESET)
    assert bench.ends == [0]


def test_refused_commands_count() -> None:
    bench = Bench([Throttle(iops=100)])
    bench.inner.status = MediaStatus.OUT_OF_ORDER
    for _ in range(3):
        bench.submit(OpKind.WRITE)
    bench.timers.run(2000.0)
    assert bench.ends == [0, 10, 20]


def test_other_limits_hold_for_what_comes() -> None:
    throttle = Throttle(iops=100)
    bench = Bench([throttle])
    for _ in range(3):
        bench.submit()
    throttle.configure(1000, 0)
    bench.submit()
    throttle.configure(0, 0)
    assert not throttle.is_limited
    bench.submit()
    bench.timers.run(2000.0)
    assert bench.ends == [0, 0, 10, 20, 21]

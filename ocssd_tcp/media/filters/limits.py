"""Limits in operations and bytes per second, for the drive and for each namespace.

Pure arithmetic with the time as an argument (`Bucket`, `Throttle`), and the filter that holds completions by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ocssd_tcp.media.filters.base import Filter, Timers
from ocssd_tcp.media.filters.hold import TIMED, UNTIMED, Hold
from ocssd_tcp.media.ops import Media, MediaOp, OpKind

BURST_SECONDS = 0.01  #: what may be saved up while nothing comes


class Bucket:
    """A token bucket that fills at `rate` tokens per second and holds what `BURST_SECONDS` bring.

    A taker may overdraw it and is done when the debt is paid, so those that come later wait longer: an average of
    `rate` over any time longer than the burst. Rate 0: no limit.
    """

    __slots__ = ("_paid", "_rate")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._paid = 0.0  #: the moment at which everything taken is paid for

    def configure(self, rate: float) -> None:
        """Another rate from now on. What has been taken stays as it was."""
        self._rate = rate

    def take(self, n: int, now: float) -> float:
        """Take `n` tokens; when they are there: `now`, or later."""
        if not self._rate:
            return now
        self._paid = max(self._paid, now - BURST_SECONDS) + n / self._rate
        return max(self._paid, now)


class Throttle:
    """The limits of one thing: of a namespace, or of the drive, then shared by all its namespaces. 0: no limit."""

    __slots__ = ("_bytes", "_operations", "bytes_per_second", "iops")

    def __init__(self, iops: int = 0, bytes_per_second: int = 0) -> None:
        self._operations = Bucket(iops)
        self._bytes = Bucket(bytes_per_second)
        self.iops = iops
        self.bytes_per_second = bytes_per_second

    def configure(self, iops: int, bytes_per_second: int) -> None:
        """Other limits from now on."""
        self.iops = iops
        self.bytes_per_second = bytes_per_second
        self._operations.configure(iops)
        self._bytes.configure(bytes_per_second)

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self.iops or self.bytes_per_second)

    def take(self, n_bytes: int, now: float) -> float:
        """Count one operation of `n_bytes`; when it may be completed."""
        return max(self._operations.take(1, now), self._bytes.take(n_bytes, now))


class Limits(Filter):
    """Holds completions until every throttle lets them go; each operation counts when it is submitted.

    A read, write or copy counts with its blocks and their metadata, refused or not; a reset as an operation without
    bytes. A write through R2T counts once, at COMMIT.
    """

    HANDLES = TIMED
    PASSES = UNTIMED

    __slots__ = ("_block_stride", "_hold", "_throttles", "_timers")

    def __init__(self, inner: Media, *, throttles: Sequence[Throttle], block_stride: int, timers: Timers) -> None:
        """`throttles`: all that apply, drive and namespace. `block_stride`: bytes of a block with its metadata."""
        super().__init__(inner)
        self._throttles = throttles
        self._block_stride = block_stride
        self._timers = timers
        self._hold = Hold(timers)

    def handle(self, op: MediaOp) -> None:
        """Execute `op` at once and hold its completion."""
        outer, now = op.done, self._timers.now()
        n_blocks = 0 if op.kind is OpKind.RESET else sum(extent.n_blocks for extent in op.extents)
        n_bytes = n_blocks * self._block_stride
        when = max(throttle.take(n_bytes, now) for throttle in self._throttles)
        op.done = lambda op: self._hold.until(when, op, outer)
        self.inner.submit(op)

"""A running drive as its observers see it: what is there to look at, and a heartbeat that notes how it goes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from ocssd_tcp.commands.tally import N_BUCKETS, Histogram, PlainTimes
from ocssd_tcp.controller.association import Association
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.transport.aio import Server

BEAT_SECONDS = 1.0
N_SAMPLES = 120


class Phase(Enum):
    """The life of a drive."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"


class Sample(NamedTuple):
    """One heartbeat: rates since the one before, per second, and latencies in seconds, 0 where nothing happened.

    `at`: Unix time. `event_*`: of receives and all that follows from them. `media_*`: of commands, as
    `commands.tally` times them. A latency is the upper bound of its bucket.
    """

    at: float
    reads: float
    writes: float
    bytes_read: float
    bytes_written: float
    errors: float
    event_p50: float
    event_p99: float
    media_p50: float
    media_p99: float


class _Totals(NamedTuple):
    """What a heartbeat reads."""

    numbers: tuple[int, int, int, int, int]
    events: list[int]
    media: list[int]


class Drive:
    """A drive and its target. `lag`: how late the last heartbeat was, seconds. `samples`: the last N_SAMPLES of them.

    Made before the drive is open, so that its phase can be told; `opened` and `closing` say where it is.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.events = Histogram()
        self.directory: Directory | None = None
        self.injectors: Mapping[int, FaultInjector] = {}  #: by NSID
        self.phase = Phase.OPENING
        self.started = time.time()
        self.lag = 0.0
        self.samples: deque[Sample] = deque(maxlen=N_SAMPLES)
        self._before: _Totals | None = None
        self._beaten = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, directory: Directory, injectors: Mapping[int, FaultInjector]) -> None:
        """Hosts will be accepted from now on."""
        self.directory = directory
        self.injectors = injectors
        self.server.events = self.events
        directory.subsystem.times = PlainTimes()
        self.phase = Phase.OPEN
        self._beaten = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def closing(self) -> None:
        """The drive goes away."""
        self.phase = Phase.CLOSING
        if self._timer is not None:
            self._timer.cancel()

    @property
    def is_ready(self) -> bool:
        """Whether hosts are served."""
        return self.phase is Phase.OPEN

    @property
    def associations(self) -> list[Association]:
        """Live controllers."""
        return [] if self.directory is None else self.directory.associations

    def queue_depths(self) -> list[tuple[Association, int]]:
        """Commands under way on each I/O queue, and the controller it belongs to."""
        return [
            (connection.queue.association, connection.n_outstanding)
            for connection in self.server.connections
            if connection.queue is not None and connection.queue.qid > 0
        ]

    # --- the heartbeat ------------------------------------------------------------------------------------

    def _beat(self) -> None:
        now = time.monotonic()
        elapsed, self._beaten = now - self._beaten, now
        self.lag = max(elapsed - BEAT_SECONDS, 0.0)
        self.sample(elapsed)
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def sample(self, elapsed: float) -> None:
        """Note what has happened in the last `elapsed` seconds."""
        totals = self._totals()
        before, self._before = self._before, totals
        if before is None:
            return
        rates = (max(new - old, 0) / elapsed for new, old in zip(totals.numbers, before.numbers, strict=True))
        reads, writes, bytes_read, bytes_written, errors = rates
        events, media = _between(before.events, totals.events), _between(before.media, totals.media)
        self.samples.append(
            Sample(
                at=time.time(),
                reads=reads,
                writes=writes,
                bytes_read=bytes_read,
                bytes_written=bytes_written,
                errors=errors,
                event_p50=quantile(events, 0.5),
                event_p99=quantile(events, 0.99),
                media_p50=quantile(media, 0.5),
                media_p99=quantile(media, 0.99),
            )
        )

    def _totals(self) -> _Totals:
        subsystem = None if self.directory is None else self.directory.subsystem
        namespaces = [] if subsystem is None else list(subsystem.namespaces.values())
        tallies = [namespace.tally for namespace in namespaces] + ([subsystem.tally] if subsystem else [])
        numbers = [0] * 4
        for namespace in namespaces:
            counters, stride = namespace.counters, namespace.geometry.block_stride
            numbers[0] += counters.reads
            numbers[1] += counters.writes
            numbers[2] += counters.blocks_read * stride
            numbers[3] += counters.blocks_written * stride
        errors = sum(count for tally in tallies for outcome, count in tally.items() if outcome.status)
        rows = [row.buckets for namespace in namespaces for row in namespace.latencies.rows.values()]
        return _Totals((numbers[0], numbers[1], numbers[2], numbers[3], errors), list(self.events.buckets), _sums(rows))


def _sums(rows: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip([0] * N_BUCKETS, *rows, strict=True)]


def _between(old: Sequence[int], new: Sequence[int]) -> list[int]:
    return [max(after - before, 0) for before, after in zip(old, new, strict=True)]


def quantile(buckets: Sequence[int], part: float) -> float:
    """The upper bound, seconds, of the bucket of a `Histogram` that this part of the durations does not exceed; 0 for
    none."""
    wanted, seen = part * sum(buckets), 0
    for index, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            return 2.0**index / 1e6
    return 0.0

"""The metrics of a drive, each declared once: name, labels, meaning, and where its numbers are read.

Nothing is kept for metrics alone but integers that the data path adds up anyway (`commands.tally`); everything else is
read when somebody scrapes. Chunk tables are surveyed before, in pieces (`observe.survey`), so that `collect` has
nothing long to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from ocssd_tcp import __version__
from ocssd_tcp.accel import engine_name
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.tally import N_BUCKETS, Histogram, Outcome, Tally
from ocssd_tcp.observe.drive import Drive
from ocssd_tcp.observe.survey import Cache, Survey, survey
from ocssd_tcp.ocssd.layouts import ChunkState
from ocssd_tcp.wire.opcodes import Admin, Io
from ocssd_tcp.wire.status import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SURVEY_SECONDS = 1.0  #: a survey of chunks serves all scrapes of this time
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
BOUNDS = [repr(2.0**index / 1e6) for index in range(N_BUCKETS - 1)] + ["+Inf"]  #: of the buckets of `Histogram`

Value: TypeAlias = "float | Histogram"
#: The values of a metric's labels, and the metric's value for them.
Sample: TypeAlias = tuple[Sequence[str], Value]


@dataclass(frozen=True, slots=True)
class Scrape:
    """What the metrics are read from. `surveys`: by NSID; a namespace without one shows no chunks."""

    drive: Drive
    surveys: dict[int, Survey] = field(default_factory=dict)

    @property
    def namespaces(self) -> list[Namespace]:
        """Active ones."""
        directory = self.drive.directory
        return [] if directory is None else list(directory.subsystem.namespaces.values())

    def surveyed(self) -> Iterator[tuple[str, Survey]]:
        """NSID and survey of each namespace that has one."""
        return ((str(nsid), found) for nsid, found in self.surveys.items())


class Kind(Enum):
    """What a value does: go up, go up and down, or spread over buckets."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(NamedTuple):
    """A metric. `name`: as it is scraped, a counter's with `_total`, a histogram's without suffix."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    doc: str
    read: Callable[[Scrape], Iterable[Sample]]


FAMILIES: list[Family] = []


def _family(
    name: str, kind: Kind, doc: str, *labels: str
) -> Callable[[Callable[[Scrape], Iterable[Sample]]], Callable[[Scrape], Iterable[Sample]]]:
    """Declare a metric, read by the function below it."""

    def declare(read: Callable[[Scrape], Iterable[Sample]]) -> Callable[[Scrape], Iterable[Sample]]:
        FAMILIES.append(Family(f"ocssd_{name}", kind, labels, doc, read))
        return read

    return declare


# --- the drive --------------------------------------------------------------------------------------------


@_family("build_info", Kind.GAUGE, "1; which version runs, with which engine.", "version", "engine")
def _build_info(scrape: Scrape) -> Iterable[Sample]:
    yield (__version__, engine_name()), 1


@_family("ready", Kind.GAUGE, "1 while the drive is open and hosts are accepted, else 0.")
def _ready(scrape: Scrape) -> Iterable[Sample]:
    yield (), float(scrape.drive.is_ready)


@_family(
    "loop_lag_seconds", Kind.GAUGE, "How late the event loop was for its last heartbeat, which is due each second."
)
def _loop_lag(scrape: Scrape) -> Iterable[Sample]:
    yield (), scrape.drive.lag


@_family(
    "event_duration_seconds",
    Kind.HISTOGRAM,
    "From a readable socket to its answers in the kernel, per receive; a receive holds one or many commands. "
    "No command that is answered at once took longer in the drive than its receive.",
)
def _events(scrape: Scrape) -> Iterable[Sample]:
    yield (), scrape.drive.events


# --- connections ------------------------------------------------------------------------------------------


@_family("connections", Kind.GAUGE, "TCP connections that are open.")
def _connections(scrape: Scrape) -> Iterable[Sample]:
    yield (), len(scrape.drive.server.connections)


@_family("connections_accepted_total", Kind.COUNTER, "TCP connections accepted.")
def _accepted(scrape: Scrape) -> Iterable[Sample]:
    yield (), scrape.drive.server.n_accepted


@_family("connections_refused_total", Kind.COUNTER, "TCP connections closed at once because there were too many.")
def _refused(scrape: Scrape) -> Iterable[Sample]:
    yield (), scrape.drive.server.n_refused


@_family("connections_terminated_total", Kind.COUNTER, "Connections ended because the host broke NVMe/TCP.")
def _terminated(scrape: Scrape) -> Iterable[Sample]:
    directory = scrape.drive.directory
    yield (), 0 if directory is None else directory.n_terminated


@_family(
    "controllers",
    Kind.GAUGE,
    "Controllers (host associations), of the NVM and of the discovery subsystem.",
    "subsystem",
)
def _controllers(scrape: Scrape) -> Iterable[Sample]:
    kinds = [association.discovery for association in scrape.drive.associations]
    yield ("nvm",), kinds.count(False)
    yield ("discovery",), kinds.count(True)


@_family("queues", Kind.GAUGE, "Queue pairs that are connected.", "queue")
def _queues(scrape: Scrape) -> Iterable[Sample]:
    qids = [qid for association in scrape.drive.associations for qid in association.queues]
    yield ("admin",), qids.count(0)
    yield ("io",), len(qids) - qids.count(0)


@_family(
    "queue_depth", Kind.GAUGE,
    "Commands of I/O queues under way: waiting for data, the disk or a delay. `sum` of all queues, `max` of one.",
    "stat",
)  # fmt: skip
def _queue_depth(scrape: Scrape) -> Iterable[Sample]:
    depths = [depth for _, depth in scrape.drive.queue_depths()]
    yield ("sum",), sum(depths)
    yield ("max",), max(depths, default=0)


# --- commands ---------------------------------------------------------------------------------------------


@_family(
    "commands_total", Kind.COUNTER,
    "Commands that ended, by opcode and status. nsid 0: admin and fabrics commands, and such that named no active "
    "namespace. Opcodes that the drive does not know are `other`.",
    "queue", "nsid", "opcode", "status",
)  # fmt: skip
def _commands(scrape: Scrape) -> Iterable[Sample]:
    directory = scrape.drive.directory
    if directory is not None:
        whole = Tally(directory.subsystem.tally)
        for outcome, count in directory.discovery.tally.items():
            whole[outcome] = whole.get(outcome, 0) + count
        yield from _outcomes("0", whole)
    for namespace in scrape.namespaces:
        yield from _outcomes(str(namespace.nsid), namespace_tally(namespace))


def namespace_tally(namespace: Namespace) -> Tally:
    """All I/O commands of a namespace by outcome."""
    tally, counters = Tally(namespace.tally), namespace.counters

    def good(opcode: Io, count: int) -> None:
        warned = tally.get(Outcome(True, opcode, Status.READ_HIGH_ECC), 0)  # counted as reads, and by their status
        if count > warned:
            tally[Outcome(True, opcode, Status.SUCCESS)] = count - warned

    good(Io.READ, counters.reads - counters.vector_reads)
    good(Io.VECTOR_READ, counters.vector_reads)
    good(Io.WRITE, counters.writes - counters.vector_writes)
    good(Io.VECTOR_WRITE, counters.vector_writes)
    return tally


def _outcomes(nsid: str, tally: Tally) -> Iterator[Sample]:
    """Outcomes as samples; those that have the same labels are one."""
    found: dict[tuple[str, ...], int] = {}
    for (is_io, opcode, status), count in tally.items():
        key = ("io" if is_io else "admin", nsid, opcode_name(is_io, opcode), status_name(status))
        found[key] = found.get(key, 0) + count
    yield from found.items()


def opcode_name(is_io: bool, opcode: int) -> str:
    """An opcode as a label's value."""
    try:
        return (Io if is_io else Admin)(opcode).name.lower()
    except ValueError:
        return "other"


def status_name(status: int) -> str:
    """A status as a label's value: its name, or SCT/SC in hexadecimal."""
    try:
        return Status(status).name.lower()
    except ValueError:
        return f"{status >> 8}/{status & 0xFF:02x}h"


@_family(
    "data_bytes_total",
    Kind.COUNTER,
    "Bytes of blocks (with their metadata) that were read and written.",
    "nsid",
    "direction",
)
def _data_bytes(scrape: Scrape) -> Iterable[Sample]:
    for namespace in scrape.namespaces:
        stride = namespace.geometry.block_stride
        yield (str(namespace.nsid), "read"), namespace.counters.blocks_read * stride
        yield (str(namespace.nsid), "write"), namespace.counters.blocks_written * stride


@_family(
    "media_latency_seconds",
    Kind.HISTOGRAM,
    "How long the drive took for commands, by the group of their first address. Delays of latency models and limits "
    "are in it; plain commands take as long as the receive that they came in.",
    "nsid", "group", "operation",
)  # fmt: skip
def _media_latency(scrape: Scrape) -> Iterable[Sample]:
    for namespace in scrape.namespaces:
        for (group, operation), histogram in namespace.latencies.rows.items():
            yield (str(namespace.nsid), "other" if group < 0 else str(group), operation), histogram


# --- chunks -----------------------------------------------------------------------------------------------


@_family("chunks", Kind.GAUGE, "Chunks by state.", "nsid", "state")
def _chunks(scrape: Scrape) -> Iterable[Sample]:
    for nsid, found in scrape.surveyed():
        for state, count in found.states.items():
            yield (nsid, ChunkState(state).name.lower()), count


@_family("open_chunks", Kind.GAUGE, "Chunks that are open, or about to be opened by a write under way.", "nsid")
def _open_chunks(scrape: Scrape) -> Iterable[Sample]:
    for namespace in scrape.namespaces:
        yield (str(namespace.nsid),), namespace.engine.n_open


@_family("open_chunks_limit", Kind.GAUGE, "How many chunks may be open at once (MAXOC); 0: no limit.", "nsid")
def _open_chunks_limit(scrape: Scrape) -> Iterable[Sample]:
    for namespace in scrape.namespaces:
        yield (str(namespace.nsid),), namespace.geometry.maxoc


@_family("capacity_bytes", Kind.GAUGE, "Bytes of all chunks, with metadata.", "nsid")
def _capacity(scrape: Scrape) -> Iterable[Sample]:
    for namespace in scrape.namespaces:
        yield (str(namespace.nsid),), namespace.engine.ncap * namespace.geometry.block_stride


@_family("readable_bytes", Kind.GAUGE, "Bytes that can be read in sequential chunks, with metadata.", "nsid")
def _readable(scrape: Scrape) -> Iterable[Sample]:
    for namespace in scrape.namespaces:
        found = scrape.surveys.get(namespace.nsid)
        if found is not None:
            yield (str(namespace.nsid),), found.readable * namespace.geometry.block_stride


@_family(
    "wear_index",
    Kind.GAUGE,
    "Wear-level index (0 to 255) that this part of the chunks does not exceed.",
    "nsid",
    "quantile",
)
def _wear(scrape: Scrape) -> Iterable[Sample]:
    for nsid, found in scrape.surveyed():
        for quantile in QUANTILES:
            yield (nsid, f"{quantile:g}"), found.wear_quantile(quantile)


@_family("chunk_resets_total", Kind.COUNTER, "Chunk resets in the life of the drive.", "nsid")
def _resets(scrape: Scrape) -> Iterable[Sample]:
    for nsid, found in scrape.surveyed():
        yield (nsid,), found.n_resets


@_family("chunk_resets_most", Kind.GAUGE, "Resets of the chunk that has had most.", "nsid")
def _most_resets(scrape: Scrape) -> Iterable[Sample]:
    for nsid, found in scrape.surveyed():
        yield (nsid,), found.most_resets


@_family(
    "media_errors_total",
    Kind.COUNTER,
    "Chunks worn out, space not to be had, flushes refused, since the start.",
    "nsid",
)
def _media_errors(scrape: Scrape) -> Iterable[Sample]:
    for namespace in scrape.namespaces:
        yield (str(namespace.nsid),), namespace.engine.stats.n_media_errors


@_family("faults_injected_total", Kind.COUNTER, "Accesses to the media that a rule made fail, by kind.", "nsid", "kind")
def _faults(scrape: Scrape) -> Iterable[Sample]:
    for nsid, injector in scrape.drive.injectors.items():
        for kind, count in injector.n_injected.items():
            yield (str(nsid), kind.value), count


@_family(
    "notifications_total", Kind.COUNTER, "Chunk notifications (log page D0h) that the drive has had for its hosts."
)
def _notifications(scrape: Scrape) -> Iterable[Sample]:
    directory = scrape.drive.directory
    yield (), 0 if directory is None else directory.subsystem.notifications.count


@_family("survey_seconds", Kind.GAUGE, "Time that the last survey of the chunks took of the event loop.", "nsid")
def _survey_seconds(scrape: Scrape) -> Iterable[Sample]:
    for nsid, found in scrape.surveyed():
        yield (nsid,), found.seconds


# --- as Prometheus wants it -------------------------------------------------------------------------------


class DriveCollector(Collector):
    """The metrics of a drive for prometheus_client; what they say of chunks comes from `surveys`."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self.surveys: dict[int, Survey] = {}

    def collect(self) -> Iterator[Metric]:
        """Every metric that has something to say."""
        scrape = Scrape(self._drive, self.surveys)
        for family in FAMILIES:
            yield _metric(family, family.read(scrape))


def _metric(family: Family, samples: Iterable[Sample]) -> Metric:
    if family.kind is Kind.HISTOGRAM:
        histograms = HistogramMetricFamily(family.name, family.doc, labels=family.labels)
        for labels, value in samples:
            if isinstance(value, Histogram):
                histograms.add_metric(labels, _cumulative(value), value.total)
        return histograms
    metric: CounterMetricFamily | GaugeMetricFamily
    if family.kind is Kind.COUNTER:
        metric = CounterMetricFamily(family.name, family.doc, labels=family.labels)
    else:
        metric = GaugeMetricFamily(family.name, family.doc, labels=family.labels)
    for labels, value in samples:
        if not isinstance(value, Histogram):
            metric.add_metric(labels, value)
    return metric


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip(BOUNDS, list(histogram.buckets), strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


class _Ready(Collector):
    """A metric that has been collected."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


class Exporter:
    """Writes the metrics of a drive, and of its process, in the text format of Prometheus."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._collector = DriveCollector(drive)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)
        self.surveys = Cache(survey, SURVEY_SECONDS)

    async def exposition(self) -> bytes:
        """All metrics as text. The loop runs between the pieces of this work."""
        directory = self._drive.directory
        namespaces = [] if directory is None else list(directory.subsystem.namespaces.values())
        self._collector.surveys = {namespace.nsid: await self.surveys.get(namespace.engine) for namespace in namespaces}
        pieces = []
        for metric in self._registry.collect():
            pieces.append(generate_latest(_Ready(metric)))
            await asyncio.sleep(0)
        return b"".join(pieces)

"""Every key of the configuration, declared once: type, default, what is allowed, what it means.

The loader, the commented sample, `--show-config` and the manual's table all come from these declarations. A further
key is one `key(...)` line; a further table is one dataclass and one `table(...)` line in `Config`. Rules that
concern several keys at once are in `rules`.
"""

# ruff: noqa: RUF009  # key() and table() make dataclass fields: nothing mutable is shared

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from ocssd_tcp.config.values import (
    ADVERTISE,
    BOOLEAN,
    HOST_NQN,
    LISTEN,
    LISTEN_OR_NOT,
    NQN,
    OPTIONAL_PATH,
    PATH,
    PEER,
    SPAN,
    UUID_TEXT,
    Address,
    Kind,
    ascii_text,
    choice,
    integer,
    list_of,
    matching,
    number,
    size,
    size_choice,
)
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule
from ocssd_tcp.ocssd.geometry import CHOICES, FLAGS, RANGES, U32_MAX, Geometry
from ocssd_tcp.ocssd.lines import ANY

MAX_NAMESPACES = 1024
_DEFAULT_GEOMETRY = Geometry()
_NANOSECONDS = integer(0, U32_MAX)


class Key(NamedTuple):
    """A declared key. `example` (TOML) stands in the sample for a key that has no default."""

    name: str
    default: Any
    kind: Kind
    doc: str
    example: str


class Table(NamedTuple):
    """A declared table. `content`: its dataclass, whose docstring says what it is for.

    `repeated`: an array of tables, [[name]]. `at_least`: how many there are when the operator writes none.
    `at_most`: how many there can be.
    """

    name: str
    content: type
    repeated: bool
    at_least: int
    at_most: int

    @property
    def heading(self) -> str:
        """As TOML writes it."""
        return f"[[{self.name}]]" if self.repeated else f"[{self.name}]"


def key(default: Any, kind: Kind, doc: str, *, example: str = "") -> Any:
    """A key of a table: its default as the daemon sees it, its kind, and its meaning with the unit."""
    return field(default=default, metadata={"kind": kind, "doc": doc, "example": example})


def table(name: str, content: type, *, repeated: bool = False, at_least: int = 0, at_most: int = 4096) -> Any:
    """A table of the configuration, or an array of tables."""
    return field(metadata={"table": Table(name, content, repeated, at_least, at_most)})


def geometry_key(name: str, doc: str) -> Any:
    """A key that is a field of `Geometry`, which says what its default is and what is allowed."""
    if name in FLAGS:
        kind = BOOLEAN
    elif name in RANGES:
        kind = integer(*RANGES[name])
    else:
        kind = (size_choice if name.endswith("_bytes") else choice)(*CHOICES[name])
    return key(getattr(_DEFAULT_GEOMETRY, name), kind, doc)


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What hosts connect to."""

    listen: tuple[Address, ...] = key(
        (Address("127.0.0.1", 4420),),
        list_of(LISTEN, may_be_empty=False),
        "Where hosts are accepted. Nothing but this machine unless changed.",
    )
    advertise: tuple[Address, ...] = key(
        (),
        list_of(ADVERTISE, may_be_empty=True),
        "What discovery reports instead of `listen`, for hosts behind address translation such as a QEMU guest.",
        example='["10.0.2.2:4420"]',
    )
    nqn: str | None = key(
        None,
        NQN,
        "Name of the subsystem. Absent: made from the drive's UUID.",
        example='"nqn.2014-08.org.example:drive0"',
    )
    allowed_hosts: tuple[str, ...] | None = key(
        None,
        list_of(HOST_NQN, may_be_empty=False),
        "Hosts that may connect, by NQN. Absent: any host.",
        example='["nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"]',
    )
    max_queues: int = key(64, integer(1, 65535), "I/O queues per controller.")
    queue_entries: int = key(1024, integer(2, 32768), "Most entries of an I/O queue (CAP.MQES + 1).")
    max_controllers: int = key(256, integer(1, 65519), "Controllers (host connections) at once.")
    in_capsule_bytes: int = key(
        8192,
        size(0, 264 << 10, 16),
        "Data that a host may send inside an I/O command instead of waiting to be asked for it. 0: none.",
    )
    mdts: int = key(
        7,
        integer(0, 16),
        "Most data of one command, as a power of two of 4 KiB pages: 7 is 512 KiB. 0: no limit. "
        "It has to cover a vector command of 64 blocks with metadata and its list.",
    )
    cpus: tuple[int, ...] = key(
        (),
        list_of(integer(0, 4095), may_be_empty=True),
        "CPUs that the daemon may run on: one of its own keeps its caches warm. Empty: any.",
        example="[2]",
    )
    poll_us: int = key(
        0,
        integer(0, 1_000_000),
        "Microseconds to poll the sockets after an event before sleeping: shorter answers for a busy core. 0: off.",
    )
    congestion: str = key(
        "",
        matching("[a-z0-9_-]{0,15}", 'the name of a TCP congestion control of this kernel ("bbr"), or ""'),
        "TCP congestion control of the connections. Empty: the system's, but not bbr for a host on this machine.",
    )


@dataclass(frozen=True, slots=True)
class ObserveConfig:
    """What the daemon tells its operator."""

    log_level: str = key(
        "info", choice("debug", "info", "warning", "error"), "Least severe line that is logged, to standard error."
    )
    listen: Address | None = key(
        None,
        LISTEN_OR_NOT,
        "Where the live page, metrics and health checks are served to anybody, read-only. Absent or empty: nowhere.",
        example='"127.0.0.1:9420"',
    )


@dataclass(frozen=True, slots=True)
class DriveConfig:
    """Where the drive is, and what it says it is."""

    path: Path = key(
        Path("ocssd-drive"),
        PATH,
        "Folder of the drive, made on the first start. Relative to the configuration file, or to the current folder "
        "where there is none or the path was given with `--set`.",
    )
    serial: str = key("OC000001", ascii_text(20), "Serial number that hosts see.")
    model: str = key("Open-Channel SSD 2.0 (ocssd-tcp)", ascii_text(40), "Model name that hosts see.")
    keep_allocated: int = key(
        64,
        integer(0, 1_000_000),
        "Reset chunks per namespace whose disk space is kept for the next write, not given back.",
    )


@dataclass(frozen=True, slots=True)
class NamespaceConfig:
    """A namespace of the drive: the first is nsid 1, the second nsid 2, and so on."""

    num_grp: int = geometry_key("num_grp", "Groups.")
    num_pu: int = geometry_key("num_pu", "Parallel units per group.")
    num_chk: int = geometry_key("num_chk", "Chunks per parallel unit.")
    clba: int = geometry_key("clba", "Logical blocks per chunk.")
    block_bytes: int = geometry_key("block_bytes", "Bytes of a logical block.")
    metadata_bytes: int = geometry_key("metadata_bytes", "Bytes of metadata that follow each block (extended LBAs).")
    ws_min: int = geometry_key("ws_min", "Blocks of the smallest write; `clba` is a multiple.")
    ws_opt: int = geometry_key("ws_opt", "Blocks of the best write; a multiple of `ws_min`.")
    mw_cunits: int = geometry_key(
        "mw_cunits", "Blocks behind the write pointer of an open chunk that cannot be read yet; at most `clba`."
    )
    maxoc: int = geometry_key("maxoc", "Open chunks at once in the namespace. 0: no limit.")
    maxocpu: int = geometry_key("maxocpu", "Open chunks at once in a parallel unit. 0: only `maxoc` limits.")
    early_reset: bool = geometry_key("early_reset", "Whether an open chunk may be reset (MCCAP bit 2).")
    multi_reset: bool = geometry_key("multi_reset", "Whether a free chunk may be reset again (MCCAP bit 1).")
    vector_copy: bool = geometry_key("vector_copy", "Whether Vector Chunk Copy is offered (MCCAP bit 0).")
    wit: int = geometry_key("wit", "Wear-level index delta that is worth a notification; reported to hosts.")
    pe_cycles: int = geometry_key("pe_cycles", "Program/erase cycles that a chunk endures. 0: no wear.")
    uuid: UUID | None = key(
        None,
        UUID_TEXT,
        "UUID of the namespace. Absent: made once and kept with the drive.",
        example='"b5b0b1ee-4d0e-4c33-9d3c-0a7c2f1d6e01"',
    )
    dlfeat: int = geometry_key(
        "dlfeat", "What unwritten blocks read as (DLFEAT): 0 zeros but not reported, 1 zeros, 2 bytes of FFh."
    )
    strict: bool = key(
        True,
        BOOLEAN,
        "Whether the rules of OCSSD 2.0 hold. Otherwise writes need not be in order, everything can be read and reset, "
        "as on the first emulators (docs/faults.md).",
    )
    allow_set_log_page: bool = key(
        False, BOOLEAN, "Whether hosts may put chunks into any state by Set Log Page (C1h), which is for testers."
    )
    chunk_states: Path | None = key(
        None,
        OPTIONAL_PATH,
        "File of the states that chunks have when the namespace is made (docs/chunk-states.md).",
        example='"states.txt"',
    )
    reset_fail: Path | None = key(
        None, OPTIONAL_PATH, "File of resets that fail (docs/faults.md).", example='"resetfail.txt"'
    )
    write_fail: Path | None = key(
        None, OPTIONAL_PATH, "File of writes that fail (docs/faults.md).", example='"writefail.txt"'
    )

    @property
    def geometry(self) -> Geometry:
        """The geometry that these keys describe. GeometryError where there is no such drive."""
        return Geometry(**{name: getattr(self, name) for name in GEOMETRY_KEYS})


#: The keys that are a field of `Geometry`; its other fields are not the operator's to choose here.
GEOMETRY_KEYS = tuple(entry.name for entry in fields(NamespaceConfig) if hasattr(_DEFAULT_GEOMETRY, entry.name))


@dataclass(frozen=True, slots=True)
class FaultConfig:
    """Accesses to the media that fail, on purpose (docs/faults.md)."""

    kind: str | None = key(
        None, choice(*(kind.value for kind in FaultKind)), "How they fail. Must be there.", example='"read-error"'
    )
    nsid: int = key(1, integer(1, MAX_NAMESPACES), "The namespace.")
    grp: range = key(ANY, SPAN, "Groups.")
    pu: range = key(ANY, SPAN, "Parallel units of a group.")
    chk: range = key(ANY, SPAN, "Chunks of a unit.")
    blk: range = key(ANY, SPAN, "Blocks of a chunk. Resets concern the whole chunk.")
    probability: float = key(1.0, number(0, 1), "Share of the accesses that fail. 1: all.")
    nth: int = key(0, integer(0, (1 << 63) - 1), "The n-th access fails, and no other. 0: the probability decides.")
    seed: int | None = key(
        None,
        integer(0, U32_MAX),
        "Seed of the draws: the same seed and the same commands, the same failures. Absent: a new one at each start, "
        "which is logged.",
        example="42",
    )

    def rule(self, seed: int) -> FaultRule:
        """The rule that these keys describe. `seed`: where they name none."""
        return FaultRule(
            FaultKind(self.kind),
            grp=self.grp,
            pu=self.pu,
            chk=self.chk,
            blk=self.blk,
            probability=self.probability,
            nth=self.nth or None,
            seed=seed if self.seed is None else self.seed,
        )


@dataclass(frozen=True, slots=True)
class LatencyConfig:
    """How long flash takes (docs/latency.md). Without `flash` and without all four times the drive answers at once."""

    flash: str | None = key(
        None, choice("slc", "mlc", "tlc", "qlc"), "Cells of the flash, which give the four times.", example='"tlc"'
    )
    read_ns: int | None = key(
        None, _NANOSECONDS, "Nanoseconds to read a write unit. Absent: as `flash` has it.", example="77500"
    )
    program_ns: int | None = key(
        None, _NANOSECONDS, "Nanoseconds to program a write unit. Absent: as `flash` has it.", example="2225000"
    )
    erase_ns: int | None = key(
        None, _NANOSECONDS, "Nanoseconds to erase a chunk. Absent: as `flash` has it.", example="3000000"
    )
    transfer_ns: int | None = key(
        None,
        _NANOSECONDS,
        "Nanoseconds of a write unit on the bus of its group. Absent: as `flash` has it.",
        example="52433",
    )
    jitter: float = key(
        0.0, number(0, 1), "Standard deviation of reads, programs and erases as a share of their time. 0: none."
    )
    seed: int = key(1, integer(0, U32_MAX), "Seed of the jitter: the same seed and the same commands, the same times.")

    @property
    def times(self) -> dict[str, int | None]:
        """The four times, those that are absent too."""
        return {name: getattr(self, name) for name in ("read_ns", "program_ns", "erase_ns", "transfer_ns")}

    @property
    def is_on(self) -> bool:
        """Whether any time is given."""
        return self.flash is not None or any(value is not None for value in self.times.values())


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """What the drive, or one namespace, does at most in a second (docs/limits.md)."""

    nsid: int = key(0, integer(0, MAX_NAMESPACES), "The namespace. 0: the whole drive.")
    iops: int = key(0, integer(0, 1_000_000_000), "Commands per second. 0: no limit.")
    bytes_per_second: int = key(0, size(0, 1 << 50), "Bytes per second, reads and writes together. 0: no limit.")


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """How a running drive is looked at and changed (docs/control.md)."""

    socket: Path | None = key(
        None,
        OPTIONAL_PATH,
        "Unix socket that `ocssd-tcpd ctl` speaks to, for the daemon's user only. Absent: none.",
        example='"control.sock"',
    )


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Every command in a file, with its times (docs/trace.md)."""

    path: Path | None = key(
        None,
        OPTIONAL_PATH,
        "File of the trace, made anew at each start; an earlier trace there is kept as `<path>.old`. Absent: no trace.",
        example='"drive.trace"',
    )
    size: int = key(
        64 << 20,
        size(64 << 10, 64 << 30),
        "Bytes of the newest commands that are kept, 64 for each; rounded down to a power of two.",
    )


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """What the discovery log says beside this drive, so that one address finds a whole fleet (docs/deployment.md)."""

    peers: tuple[Address, ...] = key(
        (),
        list_of(PEER, may_be_empty=True),
        "Drives whose own entries are listed here too. A name stands for every address that it resolves to; without a "
        "port, 4420.",
        example='["drives.storage.svc.cluster.local"]',
    )
    refresh_seconds: int = key(30, integer(1, 86400), "Seconds between two readings of the peers.")
    referrals: tuple[Address, ...] = key(
        (),
        list_of(ADVERTISE, may_be_empty=True),
        "Discovery services that hosts are referred to; nothing is read from them.",
        example='["10.0.2.2:8009"]',
    )
    only: bool = key(
        False, BOOLEAN, "Whether this is a discovery service alone: its own drive is hidden from all hosts."
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. Only the composition root sees it; each object is given its own part."""

    target: TargetConfig = table("target", TargetConfig)
    observe: ObserveConfig = table("observe", ObserveConfig)
    drive: DriveConfig = table("drive", DriveConfig)
    namespaces: tuple[NamespaceConfig, ...] = table(
        "namespace", NamespaceConfig, repeated=True, at_least=1, at_most=MAX_NAMESPACES
    )
    faults: tuple[FaultConfig, ...] = table("fault", FaultConfig, repeated=True)
    latency: LatencyConfig = table("latency", LatencyConfig)
    limits: tuple[LimitsConfig, ...] = table("limits", LimitsConfig, repeated=True, at_most=MAX_NAMESPACES + 1)
    control: ControlConfig = table("control", ControlConfig)
    trace: TraceConfig = table("trace", TraceConfig)
    discovery: DiscoveryConfig = table("discovery", DiscoveryConfig)


#: Every table by the attribute of `Config` that holds it, in the order of the sample.
TABLES: dict[str, Table] = {entry.name: entry.metadata["table"] for entry in fields(Config) if entry.metadata}


def keys_of(content: type) -> Iterator[Key]:
    """The keys of a table, in the order of declaration."""
    for entry in fields(content):
        yield Key(entry.name, entry.default, **entry.metadata)

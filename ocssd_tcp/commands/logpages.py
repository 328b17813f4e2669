"""Get Log Page and every log page (NVMe Base 1.4, 5.14; NVMe-oF 1.1, 5; Open-Channel SSD 2.0, 5).

A log page is one function that answers with a `PageSource`: how long the page is, and pieces of it for any range.
The checks, the zero fill past its end and the re-arming of its event are the same for all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from ocssd_tcp.commands.context import ERROR_LOG_ENTRIES, Controller
from ocssd_tcp.commands.features import FEATURES
from ocssd_tcp.commands.health import SPARE_THRESHOLD, available_spare, is_spare_low, percentage_used
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import (
    ADMIN_COMMANDS,
    IO_COMMANDS,
    Command,
    Entry,
    Nsid,
    Queue,
    Registry,
    Reply,
    Transfer,
    command,
)
from ocssd_tcp.ocssd.layouts import CHUNK_NOTIFICATION
from ocssd_tcp.wire.layouts import ERROR_LOG_ENTRY, FIRMWARE_LOG, SMART_LOG, SQE
from ocssd_tcp.wire.opcodes import BROADCAST_NSID, Admin, Io, LogPage
from ocssd_tcp.wire.status import CommandError, Status

_ZEROS = memoryview(bytes(64 * 1024))
_LPA_SMART_PER_NS, _LPA_EFFECTS, _LPA_EXTENDED, _LPA_SUPPORTED = 1, 2, 4, 32
_CSUPP, _LBCC = 1, 2
_TRTYPE_TCP = 3
_DATA_UNIT_BYTES = 512_000
_TEMPERATURE_K = 310
_SPARE_IS_LOW = 1 << 0  # Critical Warning
_MAX_CHANGED = 1024
_ALL_NAMESPACES = (0, BROADCAST_NSID)

Pieces: TypeAlias = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class PageSource:
    """A log page as it is now.

    `length`: bytes. `pieces(offset, length)`: that range, which lies inside the page, in order; memoryviews are sent
    as they are. `consume`: called once a read with RAE = 0 has taken its data.
    """

    length: int
    pieces: Callable[[int, int], Pieces]
    consume: Callable[[], None] | None = None


def _whole(page: bytes, consume: Callable[[], None] | None = None) -> PageSource:
    view = memoryview(page)
    return PageSource(len(page), lambda offset, length: (view[offset : offset + length],), consume)


Source: TypeAlias = Callable[[Controller, Command, float], PageSource]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A log page. `io`, `discovery`: on which kind of controller it is. `rearm_at_end`: also a read that reaches the
    end of the page re-arms its event, whatever RAE says (some hosts set RAE in every read)."""

    source: Source
    nsid: Nsid
    io: bool
    discovery: bool
    rearm_at_end: bool


LOG_PAGES: Registry[LogEntry] = Registry()


def log_page(
    lid: LogPage, *, nsid: Nsid = Nsid.IGNORED, io: bool = True, discovery: bool = False, rearm_at_end: bool = False
) -> Callable[[Source], Source]:
    """Register the source of a log page."""

    def register(source: Source) -> Source:
        LOG_PAGES.add(lid, LogEntry(source, nsid, io, discovery, rearm_at_end))
        return source

    return register


def _offered(controller: Controller, entry: LogEntry) -> bool:
    return entry.discovery if controller.discovery else entry.io


def offered_lpa(controller: Controller) -> int:
    """Identify Controller LPA: what the log pages of this controller can do."""
    common = _LPA_EXTENDED | _LPA_SUPPORTED
    return common if controller.discovery else common | _LPA_SMART_PER_NS | _LPA_EFFECTS


@command(Queue.ADMIN, Admin.GET_LOG_PAGE, Transfer.CONTROLLER_TO_HOST, nsid=Nsid.HANDLER, discovery=True)
def get_log_page(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """The requested length, zero-filled past the end of the page.

    Errors: unknown page 1/09h, NSID 0/0Bh, offset at or beyond the end or not dword aligned 0/02h, more than MDTS
    0/02h, more than the host's buffer 0/0Fh.
    """
    entry = LOG_PAGES.get(cmd.cdw10 & 0xFF)
    if entry is None or not _offered(controller, entry):
        raise CommandError(Status.INVALID_LOG_PAGE, location=SQE.offset("cdw10"))
    if entry.nsid is Nsid.ACTIVE and cmd.nsid not in controller.namespaces:
        raise CommandError(Status.INVALID_NAMESPACE, location=SQE.offset("nsid"))
    length = _length(cmd)
    offset = _offset(cmd)
    max_transfer = controller.config.max_transfer
    if max_transfer and length > max_transfer:
        raise CommandError(Status.INVALID_FIELD, location=SQE.offset("cdw10"))
    if length > cmd.sgl_length:
        raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
    page = entry.source(controller, cmd, now)
    if offset % 4 or offset >= page.length:
        raise CommandError(Status.INVALID_FIELD, location=SQE.offset("cdw12"))
    inside = min(length, page.length - offset)
    reply = Reply(data=(*page.pieces(offset, inside), *_zeros(length - inside)))
    retain = cmd.cdw10 >> 15 & 1
    if not retain or (entry.rearm_at_end and offset + length >= page.length):
        controller.rearm(cmd.cdw10 & 0xFF)
    if not retain and page.consume:
        page.consume()  # after the event was re-armed: what is left may raise it again
    return reply


def _length(cmd: Command) -> int:
    return int((cmd.cdw11 & 0xFFFF) << 16 | cmd.cdw10 >> 16) * 4 + 4


def _offset(cmd: Command) -> int:
    return int(cmd.cdw12 | cmd.cdw13 << 32)


def _zeros(n_bytes: int) -> list[memoryview]:
    """Zeros of any length, without memory of their own."""
    whole, rest = divmod(n_bytes, len(_ZEROS))
    return [_ZEROS] * whole + ([_ZEROS[:rest]] if rest else [])


# --- what the controller can do ---------------------------------------------------------------------


def _flags(codes: Iterable[int]) -> bytes:
    """1,024 bytes: a dword per code point, bit 0 for those that are supported."""
    page = bytearray(1024)
    for code in codes:
        page[code * 4] = 1
    return bytes(page)


@log_page(LogPage.SUPPORTED, discovery=True)
def supported_log_pages(controller: Controller, cmd: Command, now: float) -> PageSource:
    """Which log pages there are: LSUPP."""
    return _whole(_flags(lid for lid, entry in LOG_PAGES.items() if _offered(controller, entry)))


@log_page(LogPage.FEATURE_EFFECTS, discovery=True)
def feature_effects(controller: Controller, cmd: Command, now: float) -> PageSource:
    """Which features there are: FSUPP."""
    return _whole(_flags(fid for fid, entry in FEATURES.items() if entry.discovery or not controller.discovery))


@log_page(LogPage.EFFECTS)
def command_effects(controller: Controller, cmd: Command, now: float) -> PageSource:
    """Which commands there are: CSUPP, and LBCC for those that write. Any other bit makes Linux freeze its queues."""
    namespaces = controller.namespaces.values()
    copies = any(namespace.geometry.vector_copy for namespace in namespaces)
    sets_pages = any(namespace.allow_set_log_page for namespace in namespaces)
    admin = _effects(ADMIN_COMMANDS, hidden=() if sets_pages else (Admin.SET_LOG_PAGE,))
    io = _effects(IO_COMMANDS, hidden=() if copies else (Io.VECTOR_COPY,))
    return _whole(admin + io + bytes(2048))


def _effects(table: Sequence[Entry | None], *, hidden: Collection[int]) -> bytes:
    shown = (None if entry is None or entry.opcode in hidden else entry for entry in table)
    effects = (0 if entry is None else _CSUPP | (_LBCC if entry.writes_media else 0) for entry in shown)
    return struct.pack("<256I", *effects)


# --- what happened ----------------------------------------------------------------------------------


@log_page(LogPage.ERROR, discovery=True)
def error_information(controller: Controller, cmd: Command, now: float) -> PageSource:
    """The last errors, newest first; entries with count 0 are unused."""
    entries = [ERROR_LOG_ENTRY.pack(**asdict(entry), trtype=_TRTYPE_TCP) for entry in controller.errors]
    return _whole(b"".join(entries).ljust(ERROR_LOG_ENTRIES * ERROR_LOG_ENTRY.size, b"\0"))


def _counter(value: int) -> bytes:
    return value.to_bytes(16, "little")


def _data_units(pairs: Iterable[tuple[int, int]]) -> bytes:
    """(blocks, bytes of a block) -> thousands of 512 bytes, rounded up."""
    return _counter(-(-sum(blocks * block_bytes for blocks, block_bytes in pairs) // _DATA_UNIT_BYTES))


@log_page(LogPage.SMART, nsid=Nsid.HANDLER)
def smart(controller: Controller, cmd: Command, now: float) -> PageSource:
    """SMART / Health Information: of the drive, or of one namespace. It counts in lives, not from the last start."""
    namespaces = _smart_namespaces(controller, cmd)
    used = [(namespace.usage(), namespace.geometry.block_bytes) for namespace in namespaces]
    health = controller.health
    return _whole(
        SMART_LOG.pack(
            critical_warning=_SPARE_IS_LOW if is_spare_low(namespaces) else 0,
            temperature=_TEMPERATURE_K,
            available_spare=available_spare(namespaces),
            spare_threshold=SPARE_THRESHOLD,
            percentage_used=percentage_used(namespaces),
            data_units_read=_data_units((usage.blocks_read, size) for usage, size in used),
            data_units_written=_data_units((usage.blocks_written, size) for usage, size in used),
            host_reads=_counter(sum(usage.reads for usage, _ in used)),
            host_writes=_counter(sum(usage.writes for usage, _ in used)),
            power_cycles=_counter(health.power_cycles),
            power_on_hours=_counter(int(health.age(now) // 3600)),
            unsafe_shutdowns=_counter(health.unsafe_shutdowns),
            media_errors=_counter(sum(usage.media_errors for usage, _ in used)),
            error_log_entries=_counter(controller.error_count),
        )
    )


def _smart_namespaces(controller: Controller, cmd: Command) -> list[Namespace]:
    if cmd.nsid in _ALL_NAMESPACES:
        return list(controller.namespaces.values())
    if cmd.nsid not in controller.namespaces:
        raise CommandError(Status.INVALID_NAMESPACE, location=SQE.offset("nsid"))
    return [controller.namespaces[cmd.nsid]]


@log_page(LogPage.FIRMWARE)
def firmware_slots(controller: Controller, cmd: Command, now: float) -> PageSource:
    """One slot, active."""
    return _whole(FIRMWARE_LOG.pack(afi=1, frs1=controller.config.firmware.encode("ascii", "replace")[:8].ljust(8)))


@log_page(LogPage.CHANGED_NAMESPACES)
def changed_namespaces(controller: Controller, cmd: Command, now: float) -> PageSource:
    """NSIDs that changed since the page was last read with RAE = 0; too many are told as FFFFFFFFh."""
    changed = sorted(controller.changed_namespaces)
    if len(changed) > _MAX_CHANGED:
        changed = [BROADCAST_NSID]
    page = struct.pack(f"<{len(changed)}I", *changed).ljust(4 * _MAX_CHANGED, b"\0")
    return _whole(page, controller.changed_namespaces.clear)


@log_page(LogPage.DISCOVERY, io=False, discovery=True, rearm_at_end=True)
def discovery_entries(controller: Controller, cmd: Command, now: float) -> PageSource:
    """What this host can reach. Reading its head renews it; the rest comes from the same state of affairs."""
    return _whole(controller.discovery_page(renew=_offset(cmd) == 0))


# --- Open-Channel SSD 2.0 ---------------------------------------------------------------------------


@log_page(LogPage.CHUNK_INFORMATION, nsid=Nsid.ACTIVE)
def chunk_information(controller: Controller, cmd: Command, now: float) -> PageSource:
    """A 32-byte descriptor per chunk, chunks fastest, then parallel units, then groups: views of the chunk tables."""
    engine = controller.namespaces[cmd.nsid].engine
    return PageSource(engine.log_bytes, engine.log_pieces)


@log_page(LogPage.CHUNK_NOTIFICATION, nsid=Nsid.HANDLER)
def chunk_notification(controller: Controller, cmd: Command, now: float) -> PageSource:
    """What happened to chunks, oldest first, then zeros (OCSSD 2.0, 5.4). A read from offset 0 consumes what it takes.

    An NSID shows the entries of that namespace; 0 and FFFFFFFFh show all.
    """
    nsid = None if cmd.nsid in _ALL_NAMESPACES else cmd.nsid
    if nsid is not None and nsid not in controller.namespaces:
        raise CommandError(Status.INVALID_NAMESPACE, location=SQE.offset("nsid"))
    notifications, n_entries = controller.notifications, _length(cmd) // CHUNK_NOTIFICATION.size
    consume = (lambda: notifications.consume(nsid, n_entries)) if _offset(cmd) == 0 else None
    return _whole(notifications.page(nsid), consume)

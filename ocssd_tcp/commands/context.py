"""What an admin command handler may see: its controller, and what the operator said about the subsystem.

An admin handler is `handler(controller, command, data, now) -> Reply | None`. `data`: all bytes that the host sent with
the command (empty if none). `now`: seconds, monotonic. It answers with a Reply, with None if the command is held
(asynchronous events), or raises CommandError. A fabrics handler has the same form and always answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import Command, Reply
from ocssd_tcp.media.events import Notifications

PAGE_BYTES = 4096  #: the unit of MDTS: CAP.MPSMIN is 0
MIN_ADMIN_ENTRIES = 256  #: an admin queue may always be this deep: SPDK's abort tool needs more than 128
AERL = 3  #: Asynchronous Event Requests that are held, 0's based
ERROR_LOG_ENTRIES = 64
KAS_MS = 1000  #: granularity of the keep alive timer

Address: TypeAlias = tuple[str, int]  #: (literal address, port)


@dataclass(frozen=True, slots=True)
class SubsystemConfig:
    """The NVM subsystem as the operator wants it.

    `allowed_hosts`: host NQNs, None for any host. `queue_entries`: most entries of an I/O queue, CAP.MQES + 1.
    `in_capsule_bytes`: of an I/O command. `mdts`: log2 of 4 KiB pages, 0 no limit. `listeners`: where hosts are
    accepted, in fact. `advertise`: what discovery reports instead.
    """

    nqn: str
    serial: str = "OC000001"
    model: str = "Open-Channel SSD 2.0 (ocssd-tcp)"
    firmware: str = "1.0"
    allowed_hosts: Sequence[str] | None = None
    max_queues: int = 64
    queue_entries: int = 1024
    max_controllers: int = 256
    in_capsule_bytes: int = 8192
    mdts: int = 7
    listeners: Sequence[Address] = ()
    advertise: Sequence[Address] = ()

    @property
    def max_transfer(self) -> int:
        """Bytes of the longest data transfer of a command; 0: no limit."""
        return PAGE_BYTES << self.mdts if self.mdts else 0

    @property
    def admin_entries(self) -> int:
        """Most entries of an admin queue."""
        return max(self.queue_entries, MIN_ADMIN_ENTRIES)


@dataclass(slots=True)
class Health:
    """The drive's life, for SMART: counts as of this start, its own included, and `started` (seconds, monotonic)."""

    power_cycles: int = 1
    unsafe_shutdowns: int = 0
    power_on_seconds: float = 0.0
    started: float = 0.0

    def age(self, now: float) -> float:
        """Seconds that the drive has been on in its life."""
        return self.power_on_seconds + max(0.0, now - self.started)


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """An entry of the Error Information log page; `status` as in a CQE."""

    count: int
    sqid: int
    cid: int
    status: int
    location: int
    lba: int
    nsid: int


@dataclass(slots=True)
class Timestamp:
    """The controller's clock: milliseconds `base_ms` at the time `at`. `origin`: 0 since reset, 1 set by the host."""

    base_ms: int = 0
    at: float = 0.0
    origin: int = 0


@dataclass(slots=True)
class FeatureValues:
    """Current feature values; a controller reset begins anew with the defaults.

    `stored`: FID -> CDW11, where the default does not hold. `error_recovery`: NSID -> CDW11; the broadcast NSID stands
    for namespaces without a value of their own.
    """

    stored: dict[int, int] = field(default_factory=dict)
    error_recovery: dict[int, int] = field(default_factory=dict)
    host_behavior: bytes = bytes(512)
    timestamp: Timestamp = field(default_factory=Timestamp)


class Controller(Protocol):
    """What an admin handler may see of the controller that it runs for, and do to it."""

    features: FeatureValues
    granted_queues: int  #: I/O queues, as agreed by feature 07h

    @property
    def cntlid(self) -> int:
        """Controller ID, as Connect returned it."""
        ...

    @property
    def discovery(self) -> bool:
        """Whether this is a discovery controller."""
        ...

    @property
    def hostid(self) -> bytes:
        """The host's 16-byte identifier."""
        ...

    @property
    def subnqn(self) -> str:
        """The NQN that the host connected to."""
        ...

    @property
    def config(self) -> SubsystemConfig:
        """What the operator said."""
        ...

    @property
    def health(self) -> Health:
        """The drive's life."""
        ...

    @property
    def namespaces(self) -> Mapping[int, Namespace]:
        """Active namespaces, by NSID."""
        ...

    @property
    def has_io_queues(self) -> bool:
        """Whether an I/O queue is connected."""
        ...

    @property
    def kato_ms(self) -> int:
        """The keep alive timeout in effect, milliseconds; 0: off."""
        ...

    @property
    def supported_events(self) -> int:
        """The bits of feature 0Bh that mean something here."""
        ...

    @property
    def event_config(self) -> int:
        """Feature 0Bh in effect."""
        ...

    @property
    def errors(self) -> Sequence[ErrorEntry]:
        """The last errors, newest first."""
        ...

    @property
    def error_count(self) -> int:
        """Errors since the controller was made."""
        ...

    @property
    def changed_namespaces(self) -> set[int]:
        """NSIDs that were added, removed or changed since the host last looked."""
        ...

    @property
    def notifications(self) -> Notifications:
        """What the drive says about its chunks."""
        ...

    def controllers(self) -> list[int]:
        """Controller IDs of the subsystem, ascending."""
        ...

    def set_kato(self, kato_ms: int, now: float) -> None:
        """Change the keep alive timeout (rounded up to its granularity; 0: off) and restart the timer."""
        ...

    def keep_alive(self, now: float) -> None:
        """Restart the keep alive timer."""
        ...

    def abort(self, sqid: int, cid: int) -> bool:
        """Complete an outstanding command with Abort Requested; False if there is none that can be stopped."""
        ...

    def hold_event_request(self, cid: int) -> Reply | None:
        """Answer an Asynchronous Event Request with an event that waits, or hold it. CommandError above the limit."""
        ...

    def rearm(self, lid: int) -> None:
        """A log page was read: its event may be sent again."""
        ...

    def discovery_page(self, *, renew: bool) -> bytes:
        """The discovery log page for this host. `renew`: as it is now, not as of the last such call."""
        ...

    def read_property(self, ofst: int, size: int) -> int | None:
        """A controller property of `size` (4 or 8) bytes; None if there is no such."""
        ...

    def write_property(self, ofst: int, size: int, value: int, now: float) -> bool:
        """Write a controller property; False if that is not possible."""
        ...


AdminHandler: TypeAlias = Callable[[Controller, Command, bytes, float], Reply | None]

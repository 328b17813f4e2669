"""A controller and the host it belongs to: from the Connect of its admin queue until that queue's connection ends.

It owns the controller's registers, timers, events, features, error log and staged LBA lists, and knows its queues.
How bytes travel it does not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import structlog

from ocssd_tcp.commands import admin, fabrics, features, identify, logpages, ocssd_admin
from ocssd_tcp.commands.context import (
    ERROR_LOG_ENTRIES,
    Address,
    ErrorEntry,
    FeatureValues,
    Health,
    SubsystemConfig,
    Timestamp,
)
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import (
    ADMIN_COMMANDS,
    FABRICS_COMMANDS,
    Command,
    Entry,
    Nsid,
    Reply,
    Transfer,
)
from ocssd_tcp.controller.discovery import Discovery
from ocssd_tcp.controller.events import DISCOVERY_NOTICE, NAMESPACE_NOTICE, SMART_EVENTS, AsyncEvent, AsyncEvents
from ocssd_tcp.controller.queue import QueuePair
from ocssd_tcp.controller.registers import Action, Event, Ready, Registers, Shutdown
from ocssd_tcp.controller.subsystem import Subsystem
from ocssd_tcp.controller.timers import ASSOCIATION_SECONDS, IDLE_DISCOVERY_MS, KeepAlive, effective_kato
from ocssd_tcp.media.events import Notifications
from ocssd_tcp.media.ops import MediaOp, OpKind
from ocssd_tcp.wire.layouts import SQE
from ocssd_tcp.wire.opcodes import Admin, Feature, Io, Property
from ocssd_tcp.wire.status import CommandError, Status, on_wire

HANDLERS = (admin, fabrics, features, identify, logpages, ocssd_admin)  #: imported for what they register

_PSDT_SGL = 0x40  #: PSDT = 01b, FUSE = 00b
_SQE_FLAGS = 0xC3
_WITH_SLBA = frozenset({Io.READ, Io.WRITE})
MAX_CONTROL_BYTES = 4096  #: longest data that a host may send with an admin command

_FABRICS_ENTRY = Entry(
    Admin.FABRICS, "fabrics", lambda *_: None, Transfer.NONE, Nsid.IGNORED, True, False, None
)  # the handlers are those of FABRICS_COMMANDS

_log = structlog.get_logger(__name__)


class Association:
    """One controller.

    `queues`: QID -> connected queue, 0 the admin queue. `slots`: staged LBA lists. `traffic`: set whenever anything
    arrives on any queue, cleared when the keep alive timer has looked. `local`: where the admin connection arrived.
    `ended`: nothing more happens.
    """

    def __init__(
        self,
        subsystem: Subsystem,
        cntlid: int,
        hostnqn: str,
        hostid: bytes,
        local: Address,
        kato_ms: int,
        now: float,
    ) -> None:
        self.subsystem = subsystem
        self.cntlid = cntlid
        self.hostnqn = hostnqn
        self.hostid = hostid
        self.local = local
        self.queues: dict[int, QueuePair] = {}
        self.slots: dict[int, tuple[int, ...]] = {}
        self.traffic = False
        self.ended = False
        self.registers = Registers(subsystem.config.queue_entries, io_queues=not subsystem.discovery)
        self.features = FeatureValues(timestamp=Timestamp(at=now))
        self.granted_queues = subsystem.config.max_queues
        self.changed_namespaces: set[int] = set()
        self.error_count = 0
        self._errors: deque[ErrorEntry] = deque(maxlen=ERROR_LOG_ENTRIES)
        self._events = AsyncEvents()
        self._connect_kato_ms = self.kato_ms = effective_kato(kato_ms)
        self._keep_alive = KeepAlive(self._period_ms())
        self._association_deadline: float | None = now + ASSOCIATION_SECONDS
        self._flushing: set[int] = set()
        self._discovery_page = b""

    # --- what others ask ----------------------------------------------------------------------

    @property
    def discovery(self) -> bool:
        """Whether this is a discovery controller."""
        return self.subsystem.discovery

    @property
    def subnqn(self) -> str:
        """The NQN that the host connected to."""
        return self.subsystem.nqn

    @property
    def config(self) -> SubsystemConfig:
        """What the operator said."""
        return self.subsystem.config

    @property
    def health(self) -> Health:
        """The drive's life."""
        return self.subsystem.health

    @property
    def namespaces(self) -> dict[int, Namespace]:
        """Active namespaces of the subsystem, by NSID."""
        return self.subsystem.namespaces

    @property
    def notifications(self) -> Notifications:
        """What the drive says about its chunks."""
        return self.subsystem.notifications

    @property
    def enabled(self) -> bool:
        """CC.EN = 1 and CSTS.RDY = 1."""
        return self.registers.ready is Ready.READY

    @property
    def accepts_io_queues(self) -> bool:
        """Whether an I/O queue may connect now."""
        return self.enabled and self.registers.shutdown is Shutdown.NONE and self.registers.entry_sizes_valid

    @property
    def has_io_queues(self) -> bool:
        """Whether an I/O queue is connected."""
        return any(self.queues)

    @property
    def volatile_write_cache(self) -> bool:
        """Feature 06h; when off, every write is durable before it completes."""
        return bool(features.current(self, Feature.VOLATILE_WRITE_CACHE))

    def media_feedback(self, *, vector: bool) -> bool:
        """Feature CAh: whether high ECC is reported on scalar or on vector reads."""
        value = features.current(self, Feature.MEDIA_FEEDBACK)
        return bool(value & (features.VHECC if vector else features.HECC))

    def dulbe(self, nsid: int) -> bool:
        """Feature 05h: whether unwritten blocks are an error."""
        return bool(features.error_recovery(self, nsid) & features.DULBE)

    @property
    def supported_events(self) -> int:
        """The bits of feature 0Bh that mean something here."""
        return DISCOVERY_NOTICE if self.discovery else NAMESPACE_NOTICE | SMART_EVENTS

    @property
    def event_config(self) -> int:
        """Feature 0Bh. Before a host sets it, notices are on, but for a discovery connection without keep alive."""
        default = 0 if self.discovery and not self.kato_ms else self.supported_events & ~SMART_EVENTS
        return self.features.stored.get(Feature.ASYNC_EVENT_CONFIG, default)

    @property
    def errors(self) -> Sequence[ErrorEntry]:
        """The last errors, newest first."""
        return list(self._errors)

    def controllers(self) -> list[int]:
        """Controller IDs of the subsystem, ascending."""
        return sorted(self.subsystem.associations)

    def discovery_page(self, *, renew: bool) -> bytes:
        """The discovery log page for this host; pieces of one page come from one state of affairs."""
        if isinstance(self.subsystem, Discovery) and (renew or not self._discovery_page):
            self._discovery_page = self.subsystem.discovery_page(self.hostnqn, self.local)
        return self._discovery_page

    # --- commands -----------------------------------------------------------------------------

    def check_admin(self, command: Command) -> Entry:
        """What an admin queue's command is, after all checks that need no data (NVMe Base 1.4, 4.2).

        CommandError: fused, PSDT, not enabled, unknown here, NSID, or a length that cannot be right. The entry says
        Transfer.NONE for a command that has none this time.
        """
        if command.opc == Admin.FABRICS:
            if command.nsid & 0xFF not in FABRICS_COMMANDS:
                raise CommandError(Status.INVALID_OPCODE, location=SQE.offset("nsid"))
            return _FABRICS_ENTRY
        if command.sqe_flags & _SQE_FLAGS != _PSDT_SGL:
            raise CommandError(Status.INVALID_FIELD, location=SQE.offset("sqe_flags"))
        if not self.enabled:
            raise CommandError(Status.COMMAND_SEQUENCE_ERROR)
        entry: Entry | None = ADMIN_COMMANDS[command.opc]
        if entry is None or (self.discovery and not entry.discovery):
            raise CommandError(Status.INVALID_OPCODE, location=SQE.offset("opc"))
        if entry.nsid is Nsid.ACTIVE and command.nsid not in self.namespaces:
            raise CommandError(Status.INVALID_NAMESPACE, location=SQE.offset("nsid"))
        n_bytes = entry.data_bytes(command) if entry.data_bytes else None
        if n_bytes == 0:
            return replace(entry, transfer=Transfer.NONE)
        if (
            entry.transfer is Transfer.HOST_TO_CONTROLLER
            and not (n_bytes or 0) <= command.sgl_length <= MAX_CONTROL_BYTES
        ):
            raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
        return entry

    def execute_admin(self, queue: QueuePair, command: Command, data: bytes, now: float) -> Reply | None:
        """Run a checked command. None: it is held, and completed through its connection. CommandError: refused."""
        self._touch(now)
        if command.opc == Admin.FABRICS:
            return self.execute_fabrics(queue, command, data, now)
        entry = ADMIN_COMMANDS[command.opc]
        if entry is None:
            raise CommandError(Status.INVALID_OPCODE)
        reply: Reply | None = entry.handler(self, command, data, now)
        return reply

    def execute_fabrics(self, queue: QueuePair, command: Command, data: bytes, now: float) -> Reply:
        """Run a fabrics command of a connected queue. Invalid Opcode for a second Connect, and on I/O queues."""
        self._touch(now)
        handler = FABRICS_COMMANDS.get(command.nsid & 0xFF) if queue.qid == 0 else None
        if handler is None:
            raise CommandError(Status.INVALID_OPCODE, location=SQE.offset("nsid"))
        return handler(self, command, data, now)

    def failed(self, queue: QueuePair, command: Command, status: int, location: int) -> None:
        """Any command that ended with an error: an entry of the error log."""
        self.error_count += 1
        namespace = self.namespaces.get(command.nsid) if queue.qid and command.opc != Admin.FABRICS else None
        tally = self.subsystem.tally if namespace is None else namespace.tally
        tally.count(is_io=queue.qid > 0, opcode=command.opc, status=status)
        slba = command.cdw10 | command.cdw11 << 32 if queue.qid and command.opc in _WITH_SLBA else 0
        nsid = 0 if command.opc == Admin.FABRICS else command.nsid
        self._errors.appendleft(
            ErrorEntry(self.error_count, queue.qid, command.cid, on_wire(status) << 1, location, slba, nsid)
        )

    def abort(self, sqid: int, cid: int) -> bool:
        """Complete an outstanding command with Abort Requested; False if there is none that can be stopped."""
        queue = self.queues.get(sqid)
        if queue is None:
            return False
        if sqid == 0 and self._events.abort(cid, queue.connection):
            return True
        return queue.connection.abort(cid)

    # --- events -------------------------------------------------------------------------------

    def hold_event_request(self, cid: int) -> Reply | None:
        """Answer an Asynchronous Event Request with an event that waits, or hold it. CommandError above the limit."""
        return self._events.hold(cid)

    def rearm(self, lid: int) -> None:
        """A log page was read: its event may be sent again."""
        self._events.rearm(lid)

    def raise_event(self, event: AsyncEvent) -> None:
        """Report an event, if the host enabled it."""
        admin_queue = self.queues.get(0)
        is_wanted = not event.enabled_by or self.event_config & event.enabled_by
        if admin_queue is not None and self.enabled and is_wanted:
            self._events.raise_event(event, admin_queue.connection)

    def namespace_changed(self, nsid: int) -> None:
        """A namespace came, went or changed."""
        self.changed_namespaces.add(nsid)
        self.raise_event(AsyncEvent.NAMESPACE_CHANGED)

    # --- properties ---------------------------------------------------------------------------

    def read_property(self, ofst: int, size: int) -> int | None:
        """A controller property of `size` (4 or 8) bytes; None if there is no such."""
        return self.registers.read(ofst, size)

    def write_property(self, ofst: int, size: int, value: int, now: float) -> bool:
        """Write CC, and do what follows from it; False for any other property."""
        if ofst != Property.CC or size != 4:
            return False
        for action in self.registers.write_cc(value & 0xFFFFFFFF):
            if action is Action.RESET:
                self._reset(now)
            elif action is Action.SHUT_DOWN:
                self._shut_down(now)
            elif self.enabled:  # started, or resumed after a shutdown
                self._association_deadline = None
                self._keep_alive.start(now)
        return True

    def _reset(self, now: float) -> None:
        """Controller reset: only the admin queue and the properties live on."""
        self._close_io_queues("controller reset")
        admin_queue = self.queues.get(0)
        if admin_queue is not None:
            self._events.reset(admin_queue.connection)
        self.features = FeatureValues(timestamp=Timestamp(at=now))
        self.granted_queues = self.config.max_queues
        self.slots.clear()
        self.changed_namespaces.clear()
        self.kato_ms = self._connect_kato_ms
        self._keep_alive.change(self._period_ms())
        self._wait_for_enable(now)

    def _shut_down(self, now: float) -> None:
        """Close the I/O queues and make everything durable; CSTS.SHST says when that is done."""
        self._wait_for_enable(now)
        self._close_io_queues("controller shutdown")
        waiting = self._flushing = set(self.namespaces)

        def done(op: MediaOp) -> None:
            waiting.discard(op.context)
            if not waiting and self._flushing is waiting:
                self.registers.shutdown_event(Event.FLUSHED)

        for nsid, namespace in list(self.namespaces.items()):
            namespace.media.submit(MediaOp(OpKind.FLUSH, (), done, context=nsid))
        if not waiting:
            self.registers.shutdown_event(Event.FLUSHED)

    # --- time and end -------------------------------------------------------------------------

    def _period_ms(self) -> int:
        return self.kato_ms or (IDLE_DISCOVERY_MS if self.discovery else 0)

    def _wait_for_enable(self, now: float) -> None:
        self._keep_alive.stop()
        self._association_deadline = now + ASSOCIATION_SECONDS

    def _touch(self, now: float) -> None:
        self.traffic = False
        self._keep_alive.restart(now)

    def keep_alive(self, now: float) -> None:
        """Restart the keep alive timer."""
        self._keep_alive.restart(now)

    def set_kato(self, kato_ms: int, now: float) -> None:
        """Change the keep alive timeout (rounded up to its granularity; 0: off) and restart the timer."""
        self.kato_ms = effective_kato(kato_ms)
        self._keep_alive.change(self._period_ms())
        if self._association_deadline is None:
            self._keep_alive.start(now)

    def next_deadline(self) -> float | None:
        """When `on_timer` has something to judge; None: never."""
        deadlines = [d for d in (self._association_deadline, self._keep_alive.deadline) if d is not None]
        return min(deadlines, default=None)

    def on_timer(self, now: float) -> None:
        """End an association that was not enabled in time, or whose host is gone."""
        if self._association_deadline is not None and now >= self._association_deadline:
            self.end("not enabled in time")
        elif self._keep_alive.deadline is not None and now >= self._keep_alive.deadline:
            traffic, self.traffic = self.traffic, False
            if self._keep_alive.expired(now, traffic):
                self.end("keep alive timeout")

    def log(self, event: str, **details: object) -> None:
        """A line about this controller. Peers, monitors and hosts come and go on discovery controllers all day long."""
        write = _log.debug if self.discovery else _log.info
        write(event, subnqn=self.subnqn, cntlid=self.cntlid, hostnqn=self.hostnqn, **details)

    def end(self, why: str) -> None:
        """Close every connection and free the controller. In-flight commands get no answer."""
        if self.ended:
            return
        self.ended = True
        self.log("controller ended", why=why)
        self.registers.ready_event(Event.FAIL)
        self._keep_alive.stop()
        self._association_deadline = None
        self.subsystem.associations.pop(self.cntlid, None)
        self._close_io_queues(why)
        admin_queue = self.queues.pop(0, None)
        if admin_queue is not None:
            admin_queue.connection.close(why)

    def _close_io_queues(self, why: str) -> None:
        for qid in [qid for qid in self.queues if qid]:
            self.queues.pop(qid).connection.close(why)

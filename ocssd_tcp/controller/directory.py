"""All subsystems that hosts can connect to, and Connect itself (NVMe-oF 1.1, 3.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ocssd_tcp.commands.context import Address, Health, SubsystemConfig
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import Command, Reply
from ocssd_tcp.controller.association import Association
from ocssd_tcp.controller.discovery import Discovery
from ocssd_tcp.controller.queue import QueueConnection, QueuePair
from ocssd_tcp.controller.subsystem import Subsystem
from ocssd_tcp.structdef import Layout
from ocssd_tcp.wire.layouts import CONNECT_DATA, CONNECT_SQE, SQE
from ocssd_tcp.wire.opcodes import DYNAMIC_CNTLID
from ocssd_tcp.wire.status import CommandError, Status

_IN_DATA = 1 << 16  #: IATTR: the offset is in the data, not in the SQE
_CATTR_NO_SQ_FLOW = 1 << 2
_MAX_NQN_BYTES = 223


def _invalid(layout: Layout, field: str) -> CommandError:
    """Connect Invalid Parameters that points at a field of the SQE or of the data."""
    offset = layout.offset(field)
    iattr = _IN_DATA if layout is CONNECT_DATA else 0
    location = 0xFFFF if iattr else offset
    return CommandError(Status.CONNECT_INVALID_PARAMETERS, dw0=iattr | offset, location=location)


def _nqn(data: bytes, field: str) -> str:
    """An NQN of Connect's data: at most 223 bytes of UTF-8 and a terminator."""
    text, end, _rest = CONNECT_DATA.unpack_from(data)[field].partition(b"\0")
    if not end or not 0 < len(text) <= _MAX_NQN_BYTES:
        raise _invalid(CONNECT_DATA, field)
    try:
        return str(text, "utf-8")
    except UnicodeDecodeError:
        raise _invalid(CONNECT_DATA, field) from None


class _Request(NamedTuple):
    """A Connect command, decoded; `subsystem` exists and lets the host in."""

    subsystem: Subsystem
    hostnqn: str
    hostid: bytes
    cntlid: int
    qid: int
    sqsize: int
    flow_control: bool
    kato_ms: int
    local: Address


class Directory:
    """The NVM subsystem, its discovery subsystem, and the controllers of both.

    What an operator may change while hosts are connected: `subsystem.add_namespace`, `subsystem.remove_namespace`,
    `set_allowed_hosts`, `discovery.set_listeners`, `discovery.add_referral`, `discovery.remove_referral`.
    `n_terminated`: connections that were ended because the host broke NVMe/TCP.
    """

    def __init__(
        self,
        config: SubsystemConfig,
        namespaces: Iterable[Namespace],
        *,
        health: Health | None = None,
        first_cntlid: int = 1,
    ) -> None:
        """`first_cntlid`: where to begin, best another one at each start, so that hosts that come back meet no CNTLID
        that one of their old controllers still holds."""
        self.subsystem = Subsystem(
            config.nqn,
            config,
            namespaces,
            allowed_hosts=config.allowed_hosts,
            health=health,
            first_cntlid=first_cntlid,
        )
        self.discovery = Discovery(config, self.subsystem, first_cntlid=first_cntlid)
        self.n_terminated = 0
        self._subsystems: dict[str, Subsystem] = {s.nqn: s for s in (self.subsystem, self.discovery)}

    @property
    def associations(self) -> list[Association]:
        """All live controllers."""
        return [association for s in self._subsystems.values() for association in s.associations.values()]

    def connect(
        self, connection: QueueConnection, command: Command, data: bytes, local: Address, now: float
    ) -> tuple[QueuePair, Reply]:
        """Fabrics Connect: the new queue, and the reply with its CNTLID.

        `local`: where the connection arrived. CommandError with the exact status, and in DW0 the offset of the
        parameter at fault (IPO, and IATTR in bit 16).
        """
        request = self._decode(command, data, local)
        if request.qid:
            association = self._connect_io(request)
            queue = self._add_queue(association, connection, request)
        else:
            association = self._connect_admin(request, now)
            queue = self._add_queue(association, connection, request)
            association.log("controller connected", kato_ms=association.kato_ms)
        association.traffic = True
        return queue, Reply(dw0=association.cntlid)

    def _decode(self, command: Command, data: bytes, local: Address) -> _Request:
        """The checks that every Connect passes through, in the order of the specification."""
        if command.sgl_length < CONNECT_DATA.size or len(data) < CONNECT_DATA.size:
            raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
        sqe = CONNECT_SQE.unpack_from(command.sqe)
        if sqe["recfmt"]:
            raise CommandError(Status.CONNECT_INCOMPATIBLE_FORMAT, location=CONNECT_SQE.offset("recfmt"))
        subsystem = self._subsystems.get(_nqn(data, "subnqn"))
        if subsystem is None:
            raise _invalid(CONNECT_DATA, "subnqn")
        hostnqn = _nqn(data, "hostnqn")
        if not subsystem.allows(hostnqn):
            raise CommandError(Status.CONNECT_INVALID_HOST)
        fields = CONNECT_DATA.unpack_from(data)
        return _Request(
            subsystem=subsystem,
            hostnqn=hostnqn,
            hostid=fields["hostid"],
            cntlid=fields["cntlid"],
            qid=sqe["qid"],
            sqsize=sqe["sqsize"],
            flow_control=not sqe["cattr"] & _CATTR_NO_SQ_FLOW,
            kato_ms=sqe["kato"],
            local=local,
        )

    @staticmethod
    def _connect_admin(request: _Request, now: float) -> Association:
        """A new controller (dynamic model)."""
        subsystem = request.subsystem
        if not 1 <= request.sqsize < subsystem.config.admin_entries:
            raise _invalid(CONNECT_SQE, "sqsize")
        if request.cntlid != DYNAMIC_CNTLID:
            raise _invalid(CONNECT_DATA, "cntlid")
        cntlid = subsystem.new_cntlid()
        if cntlid is None:
            raise CommandError(Status.CONNECT_CONTROLLER_BUSY)
        association = Association(
            subsystem, cntlid, request.hostnqn, request.hostid, request.local, request.kato_ms, now
        )
        subsystem.associations[cntlid] = association
        return association

    @staticmethod
    def _connect_io(request: _Request) -> Association:
        """The controller that an I/O queue joins."""
        association = request.subsystem.associations.get(request.cntlid)
        if association is None:
            raise _invalid(CONNECT_DATA, "cntlid")
        if (request.hostnqn, request.hostid) != (association.hostnqn, association.hostid):
            raise _invalid(CONNECT_DATA, "hostnqn")
        if association.discovery or not association.accepts_io_queues:
            raise _invalid(CONNECT_SQE, "qid")
        if request.qid > association.granted_queues or request.qid in association.queues:
            raise CommandError(Status.INVALID_QUEUE_ID, location=CONNECT_SQE.offset("qid"))
        if not 1 <= request.sqsize < association.config.queue_entries:
            raise _invalid(CONNECT_SQE, "sqsize")
        if request.local != association.local:
            raise _invalid(CONNECT_SQE, "qid")
        return association

    @staticmethod
    def _add_queue(association: Association, connection: QueueConnection, request: _Request) -> QueuePair:
        queue = QueuePair(association, connection, request.qid, request.sqsize + 1, flow_control=request.flow_control)
        association.queues[request.qid] = queue
        return queue

    def disconnected(self, queue: QueuePair, now: float) -> None:
        """The connection of a queue has gone; with the admin queue's the whole association goes. Idempotent."""
        association = queue.association
        if association.queues.get(queue.qid) is not queue:
            return
        del association.queues[queue.qid]
        if queue.qid == 0:
            association.end("admin connection closed")

    def set_allowed_hosts(self, hosts: Iterable[str] | None) -> None:
        """Let in these hosts only (None: any), end the controllers of others, and tell discovery controllers."""
        before = self.subsystem.allowed_hosts
        self.subsystem.allowed_hosts = after = None if hosts is None else frozenset(hosts)
        for association in list(self.subsystem.associations.values()):
            if not self.subsystem.allows(association.hostnqn):
                association.end("host no longer allowed")
        self.discovery.access_changed(before, after)

    def next_deadline(self) -> float | None:
        """When `on_timer` has something to do; None: never."""
        deadlines = [association.next_deadline() for association in self.associations]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_timer(self, now: float) -> None:
        """End associations whose time is over."""
        for association in self.associations:
            association.on_timer(now)

    def shutdown(self, now: float) -> None:
        """End every association: connections send what is queued and close; hosts will come back."""
        for association in self.associations:
            association.end("target shutdown")

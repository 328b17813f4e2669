"""A host and a target in memory, without a transport: commands go straight to `Directory` and `Association`."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field
from typing import Any

from ocssd_tcp.commands.context import SubsystemConfig
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import Command, Reply, Transfer
from ocssd_tcp.controller.association import Association
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.controller.queue import QueuePair
from ocssd_tcp.media.events import Report
from ocssd_tcp.media.ops import MediaOp
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR
from ocssd_tcp.wire.layouts import CONNECT_DATA, CONNECT_SQE, IDENTIFY_CONTROLLER, PROPERTY_SQE, SQE
from ocssd_tcp.wire.opcodes import DISCOVERY_NQN, DYNAMIC_CNTLID, Admin, Cns, Fctype, LogPage, Property, SglType
from ocssd_tcp.wire.status import CommandError, Status

NQN = "nqn.2014-08.org.example:drive0"
HOSTNQN = "nqn.2014-08.org.example:host0"
OTHER_HOSTNQN = "nqn.2014-08.org.example:host1"
LOCAL = ("127.0.0.1", 4420)
ENABLE = 0x00460001  #: CC: EN, IOSQES 6, IOCQES 4
GEOMETRY = Geometry(num_grp=2, num_pu=3, num_chk=5, clba=64)


class Connection:
    """A queue's connection that only notes what is done to it. `abortable`: CIDs that wait for data."""

    def __init__(self) -> None:
        self.completed: list[tuple[int, Reply]] = []
        self.dropped: list[int] = []
        self.closed: list[str] = []
        self.abortable: set[int] = set()

    def complete(self, cid: int, reply: Reply) -> None:
        self.completed.append((cid, reply))

    def abort(self, cid: int) -> bool:
        if cid not in self.abortable:
            return False
        self.abortable.discard(cid)
        self.completed.append((cid, Reply(Status.ABORT_REQUESTED)))
        return True

    def drop(self, cid: int) -> None:
        self.dropped.append(cid)

    def close(self, why: str) -> None:
        self.closed.append(why)


class Engine:
    """Chunk tables of a namespace that has never been written: parallel units are pieces of their own."""

    def __init__(self, geometry: Geometry) -> None:
        self.ncap = geometry.ncap
        self.n_cycles = self.n_offline = 0
        self.stats = _Stats()
        self.log_bytes = geometry.n_chunks * CHUNK_DESCRIPTOR.size
        self.page = bytes(i * 7 & 0xFF for i in range(self.log_bytes))
        self._piece = geometry.num_chk * CHUNK_DESCRIPTOR.size
        self.held: list[MediaOp] = []
        self.hold = False

    def report_to(self, report: Report) -> None:
        self.report = report

    def log_pieces(self, offset: int, length: int) -> list[memoryview]:
        view, end, pieces = memoryview(self.page), offset + length, []
        while offset < end:
            stop = min((offset // self._piece + 1) * self._piece, end)
            pieces.append(view[offset:stop])
            offset = stop
        return pieces

    def submit(self, op: MediaOp) -> None:
        if self.hold:
            self.held.append(op)
        else:
            op.done(op)


@dataclass
class _Stats:
    n_media_errors: int = 0


def namespace(nsid: int, geometry: Geometry = GEOMETRY) -> Namespace:
    engine: Any = Engine(geometry)
    return Namespace(nsid, geometry, engine, engine, uuid.UUID(int=0xABCDEF << 64 | nsid))


def config(**changes: Any) -> SubsystemConfig:
    values: dict[str, Any] = {"nqn": NQN, "listeners": [LOCAL]}
    return SubsystemConfig(**(values | changes))


@dataclass
class Outcome:
    """How a command ended."""

    status: Status = Status.SUCCESS
    dw0: int = 0
    dw1: int = 0
    data: bytes = b""
    held: bool = False


def sqe(opc: int, **fields: int) -> Command:
    """A command as Linux builds it: PSDT 01b, and a transport SGL."""
    values = {"sqe_flags": 0x40, "sgl_type": SglType.TRANSPORT} | fields
    return Command(SQE.pack(opc=opc, **values))


class Target:
    """A directory with two namespaces (NSID 1 and 3), and a clock that only tests advance."""

    def __init__(self, **changes: Any) -> None:
        self.now = 1000.0
        self.namespaces = [namespace(1), namespace(3)]
        self.directory = Directory(config(**changes), self.namespaces)

    def pass_time(self, seconds: float) -> None:
        """Let time go by, with every timer called when it is due."""
        end = self.now + seconds
        while (deadline := self.directory.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.directory.on_timer(self.now)
        self.now = end


@dataclass
class Host:
    """One host's view of one controller."""

    target: Target
    nqn: str = NQN
    hostnqn: str = HOSTNQN
    hostid: bytes = bytes(range(16))
    local: tuple[str, int] = LOCAL
    cntlid: int = 0
    queues: dict[int, QueuePair] = field(default_factory=dict)
    connections: dict[int, Connection] = field(default_factory=dict)
    association: Association = field(init=False, repr=False)

    def connect(
        self,
        qid: int = 0,
        *,
        sqe_changes: dict[str, int] | None = None,
        sgl_length: int = 1024,
        kato: int = 0,
        **data_changes: int | bytes,
    ) -> Outcome:
        """Connect a queue; with changes to the SQE or to the data."""
        fields = {"sqe_flags": 0x40, "qid": qid, "sqsize": 31, "kato": kato, "fctype": Fctype.CONNECT}
        raw = bytearray(CONNECT_SQE.pack(opc=Admin.FABRICS, **(fields | (sqe_changes or {}))))
        struct.pack_into("<I", raw, SQE.offset("sgl_length"), sgl_length)
        raw[SQE.offset("sgl_type")] = SglType.IN_CAPSULE
        values: dict[str, int | bytes] = {
            "hostid": self.hostid,
            "cntlid": self.cntlid if qid else DYNAMIC_CNTLID,
            "subnqn": self.nqn.encode(),
            "hostnqn": self.hostnqn.encode(),
        }
        connection = Connection()
        data = CONNECT_DATA.pack(**(values | data_changes))[:sgl_length]
        try:
            queue, reply = self.target.directory.connect(
                connection, Command(bytes(raw)), data, self.local, self.target.now
            )
        except CommandError as error:
            return Outcome(error.status, error.dw0)
        self.queues[queue.qid], self.connections[queue.qid] = queue, connection
        if qid == 0:
            self.association, self.cntlid = queue.association, reply.dw0
        return Outcome(dw0=reply.dw0)

    def set_property(self, ofst: int, value: int, size: int = 0) -> Outcome:
        return self.fabrics(Fctype.PROPERTY_SET, ofst=ofst, attrib=size, value=value)

    def get_property(self, ofst: int, size: int = 0) -> Outcome:
        return self.fabrics(Fctype.PROPERTY_GET, ofst=ofst, attrib=size)

    def fabrics(self, fctype: int, qid: int = 0, **fields: int) -> Outcome:
        raw = PROPERTY_SQE.pack(opc=Admin.FABRICS, sqe_flags=0x40, fctype=fctype, **fields)
        try:
            reply = self.association.execute_fabrics(self.queues[qid], Command(raw), b"", self.target.now)
        except CommandError as error:
            return Outcome(error.status)
        return Outcome(Status(reply.status), reply.dw0, reply.dw1)

    def admin(self, opc: int, data: bytes = b"", **fields: int) -> Outcome:
        """An admin command as the transport runs it: checked, its data collected, executed, its errors noted."""
        if data:
            fields = {"sgl_length": len(data)} | fields
        command = sqe(opc, **fields)
        try:
            entry = self.association.check_admin(command)
            sent = data if entry.transfer is Transfer.HOST_TO_CONTROLLER else b""
            reply = self.association.execute_admin(self.queues[0], command, sent, self.target.now)
        except CommandError as error:
            self.association.failed(self.queues[0], command, error.status, error.location)
            return Outcome(error.status, error.dw0)
        if reply is None:
            return Outcome(held=True)
        return Outcome(Status(reply.status), reply.dw0, reply.dw1, b"".join(bytes(piece) for piece in reply.data))

    def identify(self, cns: int, nsid: int = 0, **fields: int) -> Outcome:
        return self.admin(Admin.IDENTIFY, cdw10=cns, nsid=nsid, **({"sgl_length": 4096} | fields))

    def get_log(
        self, lid: int, length: int = 512, offset: int = 0, *, nsid: int = 0xFFFFFFFF, rae: bool = False
    ) -> Outcome:
        numd = length // 4 - 1
        return self.admin(
            Admin.GET_LOG_PAGE,
            nsid=nsid,
            cdw10=lid | rae << 15 | (numd & 0xFFFF) << 16,
            cdw11=numd >> 16,
            cdw12=offset & 0xFFFFFFFF,
            cdw13=offset >> 32,
            sgl_length=length,
        )

    def set_feature(self, fid: int, value: int = 0, data: bytes = b"", **fields: int) -> Outcome:
        return self.admin(Admin.SET_FEATURES, data, **({"cdw10": fid, "cdw11": value} | fields))

    def get_feature(self, fid: int, value: int = 0, **fields: int) -> Outcome:
        return self.admin(Admin.GET_FEATURES, **({"cdw10": fid, "cdw11": value, "sgl_length": 4096} | fields))

    def request_event(self, cid: int) -> Outcome:
        return self.admin(Admin.ASYNC_EVENT_REQUEST, cid=cid)

    def events(self) -> list[tuple[int, int]]:
        """(CID, DW0) of the held requests that were completed."""
        return [(cid, reply.dw0) for cid, reply in self.connections[0].completed]

    def lose(self, qid: int = 0) -> None:
        """The connection of a queue goes away."""
        self.target.directory.disconnected(self.queues[qid], self.target.now)


def live(target: Target, *, kato: int = 0, **changes: Any) -> Host:
    """A host with an enabled controller."""
    host = Host(target, **changes)
    assert host.connect(kato=kato).status == Status.SUCCESS
    assert host.set_property(Property.CC, ENABLE).status == Status.SUCCESS
    return host


def live_discovery(target: Target, *, kato: int = 0, **changes: Any) -> Host:
    """A host with an enabled discovery controller."""
    return live(target, kato=kato, nqn=DISCOVERY_NQN, **changes)


def discovery_log(host: Host) -> bytes:
    """The whole discovery log page of a host."""
    header = host.get_log(LogPage.DISCOVERY, 1024, rae=True).data
    return host.get_log(LogPage.DISCOVERY, 1024 * (1 + int.from_bytes(header[8:16], "little")), rae=True).data


def controller_page(host: Host) -> dict[str, Any]:
    """Identify Controller, by field."""
    return IDENTIFY_CONTROLLER.unpack_from(host.identify(Cns.CONTROLLER).data)

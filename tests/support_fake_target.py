"""A small NVMe/TCP target with an Open-Channel SSD, for tests of the host: blocking sockets, a thread per connection.

It shares no code with the product's target. It keeps the rules of chunks that the host's tests and its command line
show (order of writes, states, resets), moves data as it is told (`r2t_bytes`, `c2h_bytes`, `success`), and lets a test
replace the answer to any command (`script`).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, ChunkState, geometry_page
from ocssd_tcp.wire.digest import crc32c, digest_bytes
from ocssd_tcp.wire.layouts import (
    CAPSULE_CMD,
    COMMON_HEADER,
    CONNECT_DATA,
    CONNECT_SQE,
    DISCOVERY_ENTRY,
    DISCOVERY_HEADER,
    DSM_RANGE,
    H2C_DATA,
    ICREQ,
    IDENTIFY_CONTROLLER,
    IDENTIFY_NAMESPACE,
    PROPERTY_SQE,
)
from ocssd_tcp.wire.lba_list import data_list_bytes, resolve, unpack_lbas
from ocssd_tcp.wire.opcodes import DISCOVERY_NQN, Admin, Cns, Fctype, Feature, Io, LogPage, Property
from ocssd_tcp.wire.pdu import Encoder, PduFlag, PduType, icresp
from ocssd_tcp.wire.status import DNR, Status

NQN = "nqn.2014-08.org.example:fake"
TINY = Geometry(num_grp=2, num_pu=2, num_chk=3, clba=32, block_bytes=512, ws_min=4, ws_opt=8, mw_cunits=8)


class Answer(NamedTuple):
    """How a command ends. `delay` tells the target to keep it outstanding for ever."""

    status: int = 0
    dw0: int = 0
    dw1: int = 0
    data: bytes = b""
    never: bool = False


def refused(status: Status, bitmap: int = 0) -> Answer:
    return Answer(status | DNR, bitmap & 0xFFFFFFFF, bitmap >> 32)


class FakeDrive:
    """One namespace in memory."""

    def __init__(self, geometry: Geometry, forms: int) -> None:
        self.geometry = geometry
        self.addresses = AddressMap(geometry)
        self.page = geometry_page(geometry, forms=forms)
        self.unit = geometry.block_bytes + geometry.metadata_bytes
        self.blocks: dict[int, bytes] = {}
        self.wp: dict[int, int] = {}
        self.offline: set[int] = set()
        self.n_chunks = geometry.num_grp * geometry.num_pu * geometry.num_chk
        self.slots: dict[int, tuple[int, ...]] = {}

    def state(self, chunk: int) -> ChunkState:
        wp = self.wp.get(chunk, 0)
        if chunk in self.offline:
            return ChunkState.OFFLINE
        if not wp:
            return ChunkState.FREE
        return ChunkState.CLOSED if wp == self.geometry.clba else ChunkState.OPEN

    def descriptor(self, chunk: int) -> bytes:
        return CHUNK_DESCRIPTOR.pack(
            cs=self.state(chunk), ct=1, slba=self.addresses.lba(chunk), cnlb=self.geometry.clba,
            wp=self.wp.get(chunk, 0),
        )  # fmt: skip

    def readable(self, lba: int) -> bool:
        chunk, lblk, _ = self.addresses.extent(lba)
        window = self.geometry.mw_cunits if self.state(chunk) is ChunkState.OPEN else 0
        return lblk + window < self.wp.get(chunk, 0)

    def read(self, lbas: Sequence[int]) -> Answer:
        return Answer(data=b"".join(self.blocks[lba] if self.readable(lba) else bytes(self.unit) for lba in lbas))

    def write(self, lbas: Sequence[int], data: bytes) -> Answer:
        if len(data) != len(lbas) * self.unit:
            return refused(Status.DATA_SGL_LENGTH_INVALID)
        wp = dict(self.wp)
        for extent in self.addresses.runs(lbas):
            if extent.chunk < 0 or self.state(extent.chunk) in (ChunkState.CLOSED, ChunkState.OFFLINE):
                return refused(Status.WRITE_FAULT, 1)
            if extent.n_blocks % self.geometry.ws_min:
                return refused(Status.INVALID_FIELD)
            if extent.lblk != wp.get(extent.chunk, 0):
                return refused(Status.OUT_OF_ORDER_WRITE, 1)
            wp[extent.chunk] = extent.lblk + extent.n_blocks
        self.wp = wp
        for i, lba in enumerate(lbas):
            self.blocks[lba] = data[i * self.unit : (i + 1) * self.unit]
        return Answer()

    def reset(self, slbas: Sequence[int]) -> Answer:
        bitmap, first = 0, Status.SUCCESS
        for i, slba in enumerate(slbas):
            chunk = self.addresses.extent(slba).chunk
            status = Status.SUCCESS
            if chunk < 0 or self.state(chunk) is ChunkState.FREE:
                status = Status.INVALID_RESET
            elif chunk in self.offline:
                status = Status.OFFLINE_CHUNK
            if status:
                bitmap |= 1 << i
                first = first or status
                continue
            self.wp.pop(chunk)
            for lblk in range(self.geometry.clba):
                self.blocks.pop(slba + lblk, None)
        found = b"".join(self.descriptor(self.addresses.extent(slba).chunk) for slba in slbas)
        return refused(first, bitmap)._replace(data=found) if bitmap else Answer(data=found)


@dataclass
class FakeTarget:
    """What the target is, and how it behaves on the wire.

    `script(qid, sqe, data)`: an answer that replaces the target's own, or None. `corrupt`: spoil the data digest.
    `log`: every capsule as (qid, fields of its SQE, its data).
    """

    geometry: Geometry = TINY
    forms: int = 0b11111
    subsystems: Sequence[str] = (NQN,)
    max_queues: int = 4
    in_capsule: int = 8192
    mdts: int = 5
    r2t_bytes: int = 1 << 20
    c2h_bytes: int = 1 << 20
    maxh2cdata: int = 131072
    success: bool = False
    dgst: int | None = None
    corrupt: bool = False
    nsids: Sequence[int] = (1,)
    script: Callable[[int, dict[str, Any], bytes], Answer | None] = lambda *_: None
    log: list[tuple[int, dict[str, Any], bytes]] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.drive = FakeDrive(self.geometry, self.forms)
        self.lock = threading.Lock()
        self.genctr = 1
        self.features: dict[int, int] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeTarget]:
        """Listen on a free port of the loopback until the block ends."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        connections: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections.append(sock)
                threads.append(threading.Thread(target=FakeQueue(self, sock).serve))
                threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield self
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            acceptor.join()
            self.cut(connections)
            for thread in threads:
                thread.join()

    @staticmethod
    def cut(connections: Sequence[socket.socket]) -> None:
        for sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class FakeQueue:
    """One connection of the target."""

    def __init__(self, target: FakeTarget, sock: socket.socket) -> None:
        self.target, self.sock = target, sock
        self.encoder = Encoder()
        self.qid = -1
        self.nqn = ""
        self.properties = {Property.CAP: 0x20 << 32 | 2 << 24 | 1 << 16 | 127, Property.VS: 0x10400, Property.CC: 0}
        self.success = False
        self.capsules: deque[tuple[dict[str, Any], bytes]] = deque()

    def serve(self) -> None:
        with self.sock, contextlib.suppress(OSError, EOFError):
            icreq = ICREQ.unpack_from(self.exactly(128))
            dgst = icreq["dgst"] if self.target.dgst is None else self.target.dgst
            self.sock.sendall(icresp(dgst, self.target.maxh2cdata))
            self.encoder = Encoder(header_digest=bool(dgst & 1), data_digest=bool(dgst & 2))
            while True:
                while not self.capsules:
                    self.pdu()
                self.command(*self.capsules.popleft())

    def exactly(self, n: int) -> bytes:
        data = self.sock.recv(n, socket.MSG_WAITALL) if n else b""
        if len(data) < n:
            raise EOFError
        return data

    def pdu(self) -> tuple[int, bytes, bytes]:
        """The next PDU: type, header, data. A capsule is also queued."""
        head = self.exactly(8)
        kind, flags, hlen, pdo, plen = COMMON_HEADER.struct.unpack(head)
        header = head + self.exactly(hlen - 8)
        rest = self.exactly(plen - hlen)
        if kind == PduType.H2C_TERM_REQ:
            raise EOFError
        if flags & PduFlag.HDGST:
            assert rest[:4] == digest_bytes(header)
        data = rest[pdo - hlen :] if pdo else b""
        if flags & PduFlag.DDGST:
            assert data[-4:] == digest_bytes(data[:-4])
            data = data[:-4]
        if kind == PduType.CAPSULE_CMD:
            self.capsules.append((CAPSULE_CMD.unpack_from(header) | {"raw": header[8:]}, data))
        return kind, header, data

    def transfer(self, cid: int, n_bytes: int) -> bytes:
        """Fetch the data of a command by R2Ts."""
        data = b""
        while len(data) < n_bytes:
            r2tl = min(self.target.r2t_bytes, n_bytes - len(data))
            self.sock.sendall(self.encoder.r2t(cid, 0x77, len(data), r2tl))
            end = len(data) + r2tl
            while len(data) < end:
                kind, header, piece = self.pdu()
                if kind == PduType.H2C_DATA:
                    fields = H2C_DATA.unpack_from(header)
                    assert (fields["cccid"], fields["ttag"], fields["datao"]) == (cid, 0x77, len(data))
                    assert len(piece) == fields["datal"] <= self.target.maxh2cdata
                    data += piece
                    assert bool(fields["flags"] & PduFlag.LAST) == (len(data) == end)
        return data

    def command(self, sqe: dict[str, Any], capsule: bytes) -> None:
        data = capsule
        is_fabrics = sqe["opc"] == Admin.FABRICS
        direction = (sqe["nsid"] if is_fabrics else sqe["opc"]) & 3
        length = sqe["sgl_length"]
        assert sqe["sqe_flags"] == 0x40
        if sqe["sgl_type"] == 0x01:
            assert length == len(capsule)
        elif direction & 1 and length:
            data = self.transfer(sqe["cid"], length)
        with self.target.lock:
            self.target.log.append((self.qid, sqe, data))
            answer = self.target.script(self.qid, sqe, data)
            if answer is None:
                answer = self.answer(sqe, data, capsule)
        if answer.never:
            return
        tried = sqe["opc"] == Io.VECTOR_RESET or answer.status & 0x7FF == Status.READ_HIGH_ECC
        if answer.data and (not answer.status or tried) and length and not direction & 1:
            self.send_data(sqe["cid"], answer.data[:length].ljust(length, b"\0"), answer)
            if self.success and not answer.status:
                return
        self.sock.sendall(self.encoder.capsule_resp(answer.dw0, answer.dw1, 0, 0, sqe["cid"], answer.status))

    def send_data(self, cid: int, data: bytes, answer: Answer) -> None:
        step = self.target.c2h_bytes
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            flags = PduFlag.LAST if at + len(piece) == len(data) else 0
            if flags and self.success and not answer.status:
                flags |= PduFlag.SUCCESS
            pdu = self.encoder.data_header(PduType.C2H_DATA, cid, 0, at, len(piece), flags) + piece
            if self.encoder.data_digest:
                pdu += (crc32c(piece) ^ self.target.corrupt).to_bytes(4, "little")
            self.sock.sendall(pdu)

    # --- what commands do ---------------------------------------------------------------------

    def answer(self, sqe: dict[str, Any], data: bytes, capsule: bytes) -> Answer:
        if sqe["opc"] == Admin.FABRICS:
            return self.fabrics(sqe, data)
        return self.admin(sqe) if self.qid == 0 else self.io(sqe, data, capsule)

    def fabrics(self, sqe: dict[str, Any], data: bytes) -> Answer:
        if sqe["nsid"] == Fctype.CONNECT:
            connect, names = CONNECT_SQE.unpack_from(sqe["raw"]), CONNECT_DATA.unpack_from(data)
            self.nqn = names["subnqn"].rstrip(b"\0").decode()
            if self.nqn not in (*self.target.subsystems, DISCOVERY_NQN):
                return Answer(Status.CONNECT_INVALID_PARAMETERS | DNR, 0x10100)
            self.qid = connect["qid"]
            self.success = self.target.success and bool(connect["cattr"] & 4)
            return Answer(dw0=7)
        if self.qid:
            return refused(Status.INVALID_OPCODE)
        fields = PROPERTY_SQE.unpack_from(sqe["raw"])
        if sqe["nsid"] == Fctype.PROPERTY_SET:
            self.properties[fields["ofst"]] = fields["value"]
            return Answer()
        cc = self.properties[Property.CC]
        csts = (cc & 1) | (8 if cc >> 14 & 3 else 0)
        value = csts if fields["ofst"] == Property.CSTS else self.properties.get(fields["ofst"], 0)
        return Answer(dw0=value & 0xFFFFFFFF, dw1=value >> 32)

    def admin(self, sqe: dict[str, Any]) -> Answer:
        target, opcode, nsid = self.target, sqe["opc"], sqe["nsid"]
        if opcode == Admin.IDENTIFY:
            return self.identify(sqe["cdw10"] & 0xFF, nsid)
        if opcode == Admin.GET_LOG_PAGE:
            page = self.log_page(sqe["cdw10"] & 0xFF)
            offset = sqe["cdw12"] | sqe["cdw13"] << 32
            return refused(Status.INVALID_FIELD) if offset >= len(page) else Answer(data=page[offset:])
        if opcode == Admin.GEOMETRY:
            return Answer(data=target.drive.page) if nsid in target.nsids else refused(Status.INVALID_NAMESPACE)
        if opcode == Admin.SET_FEATURES:
            if sqe["cdw10"] & 0xFF == Feature.NUMBER_OF_QUEUES:
                return Answer(dw0=(target.max_queues - 1) * 0x10001)
            target.features[sqe["cdw10"] & 0xFF] = sqe["cdw11"]
            return Answer()
        if opcode == Admin.GET_FEATURES:
            return Answer(dw0=target.features.get(sqe["cdw10"] & 0xFF, 0))
        if opcode == Admin.ASYNC_EVENT_REQUEST:
            return Answer(never=True)
        if opcode == Admin.ABORT:
            return Answer(dw0=1)
        return Answer() if opcode == Admin.KEEP_ALIVE else refused(Status.INVALID_OPCODE)

    def identify(self, cns: int, nsid: int) -> Answer:
        target, geometry = self.target, self.target.geometry
        if cns == Cns.CONTROLLER:
            return Answer(
                data=IDENTIFY_CONTROLLER.pack(
                    vid=0x1D1D, sn=b"FAKE1".ljust(20), mn=b"Fake Drive".ljust(40), fr=b"1.0".ljust(8),
                    mdts=target.mdts, cntlid=7, ver=0x10400, kas=10, maxcmd=128, nn=len(target.nsids),
                    ioccsz=(target.in_capsule + 64) // 16, iorcsz=1, sgls=1,
                    cntrltype=2 if self.nqn == DISCOVERY_NQN else 1, subnqn=self.nqn.encode(),
                )
            )  # fmt: skip
        if cns == Cns.ACTIVE_NSIDS:
            listed = b"".join(n.to_bytes(4, "little") for n in target.nsids if n > nsid)
            return Answer(data=listed[:4096].ljust(4096, b"\0"))
        if cns != Cns.NAMESPACE or nsid not in target.nsids:
            return refused(Status.INVALID_NAMESPACE)
        bits = geometry.grp_len + geometry.pu_len + geometry.chk_len + geometry.lbk_len
        return Answer(
            data=IDENTIFY_NAMESPACE.pack(
                nsze=1 << bits, ncap=target.drive.n_chunks * geometry.clba, nsfeat=4, vs0=1, dlfeat=1,
                lbaf0_lbads=geometry.block_bytes.bit_length() - 1, lbaf0_ms=geometry.metadata_bytes,
                flbas=0x10 if geometry.metadata_bytes else 0,
            )
        )  # fmt: skip

    def log_page(self, lid: int) -> bytes:
        target = self.target
        if lid == LogPage.CHUNK_INFORMATION:
            return b"".join(map(target.drive.descriptor, range(target.drive.n_chunks)))
        if lid != LogPage.DISCOVERY:
            return b""
        entries = [
            DISCOVERY_ENTRY.pack(
                trtype=3, adrfam=1, subtype=2, treq=4, portid=1, cntlid=0xFFFF, asqsz=32,
                trsvcid=str(target.port).encode().ljust(32), traddr=b"127.0.0.1".ljust(256), subnqn=nqn.encode(),
            )
            for nqn in target.subsystems
        ]  # fmt: skip
        return DISCOVERY_HEADER.pack(genctr=target.genctr, numrec=len(entries)) + b"".join(entries)

    def io(self, sqe: dict[str, Any], data: bytes, capsule: bytes) -> Answer:
        drive, opcode, n = self.target.drive, sqe["opc"], (sqe["cdw12"] & 0xFFFF) + 1
        slba = sqe["cdw10"] | sqe["cdw11"] << 32
        if opcode == Io.FLUSH:
            return Answer()
        if opcode == Io.READ:
            return drive.read(range(slba, slba + n))
        if opcode == Io.WRITE:
            return drive.write(range(slba, slba + n), data)
        if opcode == Io.DATASET_MANAGEMENT:
            ranges = [DSM_RANGE.unpack_from(data, at) for at in range(0, len(data), DSM_RANGE.size)]
            if any(entry["nlb"] != drive.geometry.clba for entry in ranges):
                return refused(Status.LBA_OUT_OF_RANGE)
            return drive.reset([entry["slba"] for entry in ranges])._replace(dw0=0, dw1=0, data=b"")
        if opcode == Io.STAGE_LBA_LIST:
            drive.slots[sqe["cdw10"]] = unpack_lbas(data, n)
            return Answer()
        names = ("cdw2", "cdw3", "cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15")
        head = data_list_bytes(opcode, sqe["cdw13"], n)
        lists = resolve(opcode, n, [sqe[name] for name in names], capsule, data[:head], drive.slots)
        if isinstance(lists, Status):
            return refused(lists)
        lbas, destinations = lists
        if opcode == Io.VECTOR_READ:
            return drive.read(lbas)
        if opcode == Io.VECTOR_WRITE:
            return drive.write(lbas, data[head:])
        if opcode == Io.VECTOR_RESET:
            return drive.reset(lbas)
        return (
            drive.write(destinations, drive.read(lbas).data)
            if opcode == Io.VECTOR_COPY
            else refused(Status.INVALID_OPCODE)
        )


def tiny(**changes: Any) -> Geometry:
    """The geometry of most tests, with changes."""
    return replace(TINY, **changes)

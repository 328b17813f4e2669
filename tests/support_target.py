"""A whole target in memory, and hosts that speak to it in bytes: a real store, connections without sockets, a clock.

A `Wire` is the socket and the event loop of one connection, as `transport.aio` would drive it. PDUs are built and taken
apart here with formats of their own, so that a wrong layout in the product does not hide itself.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from crc32c import crc32c

from ocssd_tcp.commands.context import SubsystemConfig
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.store import ChunkShape, open_store
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.transport.batch import BatchProcessor
from ocssd_tcp.transport.connection import Phase, TargetConnection
from ocssd_tcp.transport.rxbuf import RxBuffer
from ocssd_tcp.transport.transfer import MAXH2CDATA
from ocssd_tcp.wire.layouts import CONNECT_DATA, SQE

NQN = "nqn.2014-08.org.example:drive0"
HOSTNQN = "nqn.2014-08.org.example:host0"
LOCAL = ("127.0.0.1", 4420)
SMALL = Geometry(num_grp=1, num_pu=2, num_chk=4, clba=64, block_bytes=512, mw_cunits=0)

ICREQ, ICRESP, H2C_TERM, C2H_TERM, CAPSULE_CMD, CAPSULE_RESP, H2C_DATA, C2H_DATA, R2T = 0, 1, 2, 3, 4, 5, 6, 7, 9
HDGST, DDGST, LAST, SUCCESS = 1, 2, 4, 8
DNR = 0x4000
IN_CAPSULE, TRANSPORT = 0x01, 0x5A
FLUSH, WRITE, READ, DSM = 0x00, 0x01, 0x02, 0x09
VECTOR_RESET, VECTOR_WRITE, VECTOR_READ, VECTOR_COPY, STAGE = 0x90, 0x91, 0x92, 0x93, 0x95
NO_SQ_FLOW = 4

_DATA_FLAGS = frozenset({CAPSULE_CMD, H2C_DATA, C2H_DATA})
_DIGESTED = frozenset({CAPSULE_CMD, CAPSULE_RESP, H2C_DATA, C2H_DATA, R2T})


# --- PDUs -------------------------------------------------------------------------------------------------


def digest(data: bytes) -> bytes:
    """CRC32C as it stands on the wire."""
    return struct.pack("<I", crc32c(data))


def pdu(
    kind: int,
    rest: bytes,
    data: bytes = b"",
    *,
    dgst: int = 0,
    flags: int = 0,
    pdo: int | None = None,
    hlen: int | None = None,
    plen: int | None = None,
    flip_header: bool = False,
    flip_data: bool = False,
) -> bytes:
    """A PDU: common header, `rest` of the header, digests as `dgst` says, `data`. Every field can be made wrong.

    `flags`: XORed into those that are right. `pdo`: where the data begins, the gap filled with EEh. `flip_*`: a wrong
    digest.
    """
    n_header = 8 + len(rest)
    hdgst = dgst & HDGST if kind in _DIGESTED else 0
    ddgst = dgst & DDGST if kind in _DIGESTED and data else 0
    end = n_header + (4 if hdgst else 0)
    start = end if pdo is None else pdo
    total = (start + len(data) if data else end) + (4 if ddgst else 0)
    header = struct.pack(
        "<BBBBI",
        kind,
        (hdgst | ddgst) ^ flags,
        n_header if hlen is None else hlen,
        (start if data else 0) if pdo is None else pdo,
        total if plen is None else plen,
    )
    header += rest
    wire = header + (_flipped(digest(header), flip_header) if hdgst else b"")
    if data:
        wire += b"\xee" * (start - len(wire)) + data
        wire += _flipped(digest(data), flip_data) if ddgst else b""
    return wire


def _flipped(value: bytes, is_wrong: bool) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:] if is_wrong else value


def icreq(dgst: int = 0, hpda: int = 0, pfv: int = 0, maxr2t: int = 0) -> bytes:
    """An ICReq PDU."""
    return pdu(ICREQ, struct.pack("<HBBI", pfv, hpda, dgst, maxr2t) + bytes(112))


def sqe(opc: int, cid: int, **fields: int) -> bytes:
    """64 bytes of a submission queue entry, PSDT as hosts set it. `slba`: CDW10 and CDW11."""
    slba = fields.pop("slba", None)
    if slba is not None:
        fields["cdw10"], fields["cdw11"] = slba & 0xFFFFFFFF, slba >> 32
    return SQE.pack(opc=opc, cid=cid, **({"sqe_flags": 0x40, "sgl_type": TRANSPORT} | fields))


def capsule(opc: int, cid: int, data: bytes = b"", *, dgst: int = 0, changes: Any = None, **fields: int) -> bytes:
    """A CapsuleCmd PDU; with `data`, SGL1 describes it as in-capsule data. `changes`: arguments of `pdu`."""
    if data:
        fields = {"sgl_type": IN_CAPSULE, "sgl_length": len(data)} | fields
    return pdu(CAPSULE_CMD, sqe(opc, cid, **fields), data, dgst=dgst, **(changes or {}))


def h2c(
    cccid: int,
    ttag: int,
    datao: int,
    data: bytes,
    *,
    last: bool = True,
    dgst: int = 0,
    datal: int | None = None,
    **changes: Any,
) -> bytes:
    """An H2CData PDU. `changes`: arguments of `pdu`."""
    length = len(data) if datal is None else datal
    rest = struct.pack("<HHII4x", cccid, ttag, datao, length)
    flags = (LAST if last else 0) ^ changes.pop("flags", 0)
    return pdu(H2C_DATA, rest, data, dgst=dgst, flags=flags, **changes)


@dataclass(frozen=True)
class Pdu:
    """A PDU from the target, its digests verified. `header`: without digest. `data`: without digest."""

    kind: int
    flags: int
    pdo: int
    plen: int
    header: bytes
    data: bytes

    def _get(self, form: str, offset: int) -> int:
        return int(struct.unpack_from(form, self.header, offset)[0])

    @property
    def cid(self) -> int:
        """CID of a CapsuleResp, CCCID of C2HData and R2T."""
        return self._get("<H", 20 if self.kind == CAPSULE_RESP else 8)

    @property
    def dw0(self) -> int:
        return self._get("<I", 8)

    @property
    def dw1(self) -> int:
        return self._get("<I", 12)

    @property
    def sqhd(self) -> int:
        return self._get("<H", 16)

    @property
    def status(self) -> int:
        """SCT << 8 | SC, with DNR."""
        return self._get("<H", 22) >> 1

    @property
    def ttag(self) -> int:
        return self._get("<H", 10)

    @property
    def offset(self) -> int:
        """DATAO of C2HData, R2TO of R2T."""
        return self._get("<I", 12)

    @property
    def length(self) -> int:
        """DATAL of C2HData, R2TL of R2T."""
        return self._get("<I", 16)

    @property
    def fes(self) -> int:
        return self._get("<H", 8)

    @property
    def fei(self) -> int:
        return self._get("<I", 10)


_HLEN = {ICRESP: 128, C2H_TERM: 24, CAPSULE_RESP: 24, C2H_DATA: 24, R2T: 24}


def decode(stream: bytes, dgst: int = 0) -> list[Pdu]:
    """The PDUs of a stream from the target; AssertionError unless each of them is exactly as it must be."""
    found: list[Pdu] = []
    at = 0
    while at < len(stream):
        kind, flags, hlen, pdo, plen = struct.unpack_from("<BBBBI", stream, at)
        assert hlen == _HLEN[kind]
        whole = stream[at : at + plen]
        assert len(whole) == plen
        header = whole[:hlen]
        hdgst = dgst & HDGST if kind in _DIGESTED else 0
        ddgst = dgst & DDGST if kind in _DATA_FLAGS else 0
        assert flags & (HDGST | DDGST) == hdgst | ddgst
        if hdgst:
            assert whole[hlen : hlen + 4] == digest(header)
        header_end = hlen + (4 if hdgst else 0)
        data = b""
        if pdo:
            assert pdo >= header_end
            assert not any(whole[header_end:pdo])
            data = whole[pdo : plen - 4] if ddgst else whole[pdo:]
            assert data
        else:
            assert plen == header_end
        if ddgst:
            assert whole[plen - 4 :] == digest(data)
        found.append(Pdu(kind, flags, pdo, plen, header, data))
        at += plen
    return found


# --- the target -------------------------------------------------------------------------------------------


class Target:
    """A drive in a folder, its directory, and a clock that only tests advance."""

    def __init__(
        self,
        path: Path,
        geometries: Sequence[Geometry] = (SMALL,),
        *,
        shapes: dict[int, dict[int, ChunkShape]] | None = None,
        **config: Any,
    ) -> None:
        self.now = 1000.0
        self.path = path
        self.store = open_store(path, geometries, shapes=shapes)
        self.namespaces = [
            Namespace(nsid, engine.geometry, engine, engine, engine.uuid)
            for nsid, engine in enumerate(self.store.engines, 1)
        ]
        values: dict[str, Any] = {"nqn": NQN, "listeners": [LOCAL]}
        self.config = SubsystemConfig(**(values | config))
        self.directory = Directory(self.config, self.namespaces)
        self.rx = RxBuffer()
        self.wires: dict[TargetConnection, Wire] = {}

    def wire(self) -> Wire:
        """A new connection."""
        return Wire(self)

    def host(self, **options: Any) -> Host:
        """A host with an admin queue, enabled, and one I/O queue. `options`: fields of `Host`."""
        host = Host(self, **options)
        host.connect()
        host.connect_io()
        return host

    def pass_time(self, seconds: float) -> None:
        """Let time go by; timers run when they are due."""
        end = self.now + seconds
        while True:
            owners: list[Any] = [self.directory, *self.wires]
            due = [(at, owner) for owner in owners if (at := owner.next_deadline()) is not None and at <= end]
            if not due:
                break
            at, owner = min(due, key=lambda pair: pair[0])
            self.now = max(self.now, at)
            owner.on_timer(self.now)
            if isinstance(owner, TargetConnection) and owner.phase is Phase.CLOSED:
                self.wires[owner].finish()
        self.now = end

    def chunks(self, nsid: int = 1) -> list[tuple[int, int]]:
        """(CS, WP) of every chunk."""
        engine = self.store.engines[nsid - 1]
        page = b"".join(engine.log_pieces(0, engine.log_bytes))
        return [(page[at], struct.unpack_from("<Q", page, at + 24)[0]) for at in range(0, len(page), 32)]

    def close(self) -> None:
        """End all connections, then the drive."""
        for wire in list(self.wires.values()):
            wire.cut()
        self.store.close()


class Wire:
    """One connection and what a socket would hold of it. `output`: what the target has sent. `closed`: it is closed.

    `takes`: bytes that the next send accepts, called for each; None: all. While it says 0, nothing more is sent or
    received, as with a host that does not read; `writable()` is the host reading again.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.output = bytearray()
        self.closed = False
        self.half_closed = False
        self.takes: Callable[[], int] | None = None
        self.n_received = 0
        self.n_sent = 0
        self._inbox = bytearray()
        self._blocked = False
        self.connection = TargetConnection(
            target.directory, target.rx, target.config.in_capsule_bytes, LOCAL, target.now, self._has_output
        )
        target.wires[self.connection] = self

    @property
    def phase(self) -> Phase:
        return self.connection.phase

    @property
    def blocked(self) -> bool:
        """Whether the target waits for the host to read."""
        return self._blocked

    @property
    def waiting(self) -> int:
        """Bytes that the target has not read yet."""
        return len(self._inbox)

    def feed(self, data: bytes, sizes: Iterable[int] | None = None) -> None:
        """Send `data` to the target, whole or in segments of `sizes` (the rest whole)."""
        position = 0
        for size in sizes or ():
            if position >= len(data):
                break
            self._segment(data[position : position + size])
            position += size
        if position < len(data):
            self._segment(data[position:])

    def _segment(self, data: bytes) -> None:
        self._inbox += data
        self._receive()

    def _receive(self) -> None:
        connection = self.connection
        while self._inbox and not self._blocked and not self.closed:
            room = connection.buffer()
            n_bytes = min(len(room), len(self._inbox))
            room[:n_bytes] = self._inbox[:n_bytes]
            del self._inbox[:n_bytes]
            self.n_received += n_bytes
            connection.received(n_bytes, self.target.now)
            self._flush()

    def _has_output(self, _connection: TargetConnection) -> None:
        if not self._blocked:
            self._flush()

    def _writev(self, address: ctypes.c_void_p, count: int) -> int:
        room = self.takes() if self.takes is not None else None
        total = 0
        for base, length in struct.iter_unpack("<QQ", ctypes.string_at(address, count * 16)):
            if room is not None:
                length = min(length, room - total)
            self.output += ctypes.string_at(base, length)
            total += length
            self.n_sent += length
            if room is not None and total >= room:
                break
        return total

    def _flush(self) -> None:
        if not self.connection.tx.send(self._writev):
            self._blocked = True
            return
        self._blocked = False
        self.connection.sent()
        if self.phase is Phase.CLOSED:
            self.finish()
        self.half_closed = self.phase is Phase.TERMINATING

    def writable(self) -> None:
        """The socket takes bytes again."""
        self._flush()
        self._receive()

    def finish(self) -> None:
        """The target closes the socket."""
        self.closed = True
        self.target.wires.pop(self.connection, None)

    def cut(self) -> None:
        """The host, or the network, closes it."""
        if not self.closed:
            self.finish()
            self.connection.lost("cut", self.target.now)

    def take(self, dgst: int = 0) -> list[Pdu]:
        """The PDUs sent since the last call."""
        stream = bytes(self.output)
        self.output.clear()
        return decode(stream, dgst)

    def ask(self, data: bytes, dgst: int = 0) -> list[Pdu]:
        """Send bytes, and what comes back at once."""
        self.feed(data)
        return self.take(dgst)


@dataclass
class Host:
    """One host's association: an admin queue, and I/O queues. `wires`: QID -> connection. `data` in the methods is
    whole blocks."""

    target: Target
    dgst: int = 0
    hpda: int = 0
    cattr: int = 0
    kato: int = 0
    sqsize: int = 127
    hostnqn: str = HOSTNQN
    cntlid: int = 0xFFFF
    wires: dict[int, Wire] = field(default_factory=dict)
    _cid: int = 0x4000

    @property
    def admin(self) -> Wire:
        return self.wires[0]

    @property
    def io(self) -> Wire:
        return self.wires[1]

    def cid(self) -> int:
        """A CID that was not used before; tests choose theirs below 4000h."""
        self._cid = self._cid % 0xFFFE + 1
        return self._cid

    def connect_pdu(self, qid: int, *, sqsize: int | None = None, cid: int | None = None, **data: int | bytes) -> bytes:
        """A Connect PDU. `data`: fields of Connect's data to change."""
        values: dict[str, int | bytes] = {
            "hostid": bytes(range(16)),
            "cntlid": self.cntlid if qid else 0xFFFF,
            "subnqn": NQN.encode(),
            "hostnqn": self.hostnqn.encode(),
        }
        size = self.sqsize if sqsize is None else sqsize
        return capsule(
            0x7F,
            self.cid() if cid is None else cid,
            CONNECT_DATA.pack(**(values | data)),
            dgst=self.dgst,
            nsid=1,
            cdw10=qid << 16,
            cdw11=size | self.cattr << 16,
            cdw12=self.kato if qid == 0 else 0,
        )

    def fabrics_pdu(self, fctype: int, ofst: int, value: int = 0, attrib: int = 0, cid: int | None = None) -> bytes:
        """A Property Get (04h) or Property Set (00h) PDU."""
        return capsule(
            0x7F,
            self.cid() if cid is None else cid,
            dgst=self.dgst,
            nsid=fctype,
            cdw10=attrib,
            cdw11=ofst,
            cdw12=value & 0xFFFFFFFF,
            cdw13=value >> 32,
        )

    def open_queue(self, qid: int, sqsize: int | None = None) -> Pdu:
        """A new connection for a queue, to the answer of its Connect."""
        wire = self.wires[qid] = self.target.wire()
        (response,) = wire.ask(icreq(self.dgst, self.hpda))
        assert response.kind == ICRESP
        (answer,) = wire.ask(self.connect_pdu(qid, sqsize=sqsize), self.dgst)
        return answer

    def connect(self) -> None:
        """The admin queue, and CC.EN."""
        answer = self.open_queue(0, 31)
        assert answer.status == 0
        self.cntlid = answer.dw0
        (answer,) = self.admin.ask(self.fabrics_pdu(0x00, 0x14, 0x00460001), self.dgst)
        assert answer.status == 0

    def connect_io(self, qid: int = 1, sqsize: int | None = None) -> Wire:
        """An I/O queue."""
        assert self.open_queue(qid, sqsize).status == 0
        return self.wires[qid]

    # --- single commands, from the capsule to the response ---

    def command(self, opc: int, data: bytes = b"", *, qid: int = 1, payload: bytes = b"", **fields: int) -> list[Pdu]:
        """Execute a command; everything the target sent but R2Ts. `data` goes in the capsule, `payload` on R2T."""
        wire, cid = self.wires[qid], fields.pop("cid", self.cid())
        fields = {"nsid": 1} | fields
        if payload:
            fields.setdefault("sgl_length", len(payload))
        wire.feed(capsule(opc, cid, data, dgst=self.dgst, **fields))
        answers = wire.take(self.dgst)
        while answers and answers[-1].kind == R2T:
            r2t = answers.pop()
            end = r2t.offset + r2t.length
            for offset in range(r2t.offset, end, MAXH2CDATA):
                part = payload[offset : min(offset + MAXH2CDATA, end)]
                is_last = offset + len(part) == end
                wire.feed(h2c(cid, r2t.ttag, offset, part, dgst=self.dgst, last=is_last))
            answers += wire.take(self.dgst)
        return answers

    def status(self, opc: int, data: bytes = b"", **fields: Any) -> int:
        """The status of a command that has no data for the host."""
        (answer,) = self.command(opc, data, **fields)
        assert answer.kind == CAPSULE_RESP
        return answer.status

    def read(self, slba: int, n_blocks: int = 1, *, nsid: int = 1, qid: int = 1) -> bytes:
        """The data of blocks that can be read."""
        stride = self.target.namespaces[nsid - 1].geometry.block_stride
        fields = {"nsid": nsid, "slba": slba, "cdw12": n_blocks - 1, "sgl_length": n_blocks * stride}
        answers = self.command(READ, qid=qid, **fields)
        assert answers[0].kind == C2H_DATA
        assert answers[0].flags & LAST
        return answers[0].data

    def write(self, slba: int, data: bytes, *, nsid: int = 1, qid: int = 1, by_r2t: bool = False) -> int:
        """Write blocks; the status."""
        stride = self.target.namespaces[nsid - 1].geometry.block_stride
        fields = {"nsid": nsid, "slba": slba, "cdw12": len(data) // stride - 1, "qid": qid}
        return self.status(WRITE, payload=data, **fields) if by_r2t else self.status(WRITE, data, **fields)


def timed(namespace: Namespace) -> dict[tuple[int, str], int]:
    """How many commands a namespace has timed, by group and operation."""
    return {key: sum(row.buckets) for key, row in namespace.latencies.rows.items()}


def pattern(n_bytes: int, seed: int = 0) -> bytes:
    """Bytes that differ from place to place."""
    unit = bytes((i * 167 + (i >> 8) * 13 + seed * 59) & 0xFF for i in range(4096))
    return (unit * (n_bytes // 4096 + 1))[:n_bytes]


@contextmanager
def complete_engine_only() -> Iterator[None]:
    """Queues that connect meanwhile have no batch processor: every command goes through the complete engine."""
    with mock.patch.object(BatchProcessor, "pick", return_value=None):
        yield

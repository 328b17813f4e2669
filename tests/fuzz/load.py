"""Random hosts: commands of every kind, valid, odd and broken, on several queues, cut into segments anywhere.

A `Load` decides by its seed and by what the target answers. Two targets that answer alike are therefore asked the
same, byte for byte, so two engines can be compared by what `run` returns.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ocssd_tcp.commands.tally import PlainTimes
from ocssd_tcp.media.store import ChunkShape
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState, ChunkType
from tests.support_target import (
    C2H_TERM,
    CAPSULE_RESP,
    DSM,
    FLUSH,
    IN_CAPSULE,
    NO_SQ_FLOW,
    R2T,
    READ,
    SMALL,
    STAGE,
    TRANSPORT,
    VECTOR_COPY,
    VECTOR_READ,
    VECTOR_RESET,
    VECTOR_WRITE,
    WRITE,
    Host,
    Pdu,
    Target,
    Wire,
    capsule,
    decode,
    h2c,
    pdu,
    timed,
)

FUA = 1 << 30
SET_FEATURES, ERROR_RECOVERY, WRITE_CACHE, ABORT = 0x09, 0x05, 0x06, 0x08

GEOMETRIES = (
    SMALL,
    Geometry(num_grp=2, num_pu=3, num_chk=3, clba=24, block_bytes=512, metadata_bytes=8, ws_min=2, mw_cunits=5),
    Geometry(num_grp=1, num_pu=2, num_chk=3, clba=16, ws_min=1, ws_opt=2, mw_cunits=4, maxoc=3, multi_reset=True),
    replace(SMALL, num_pu=1, num_chk=5, clba=40, early_reset=False, dlfeat=2, vector_copy=False, maxocpu=2),
)
SHAPES = {0: {1: ChunkShape(ChunkType.RANDOM), 2: ChunkShape(cnlb=16)}}


@dataclass
class Pending:
    """A command under way: its data, for the R2Ts to come; `is_wide`: a write that may be one of several chunks."""

    payload: bytes
    is_wide: bool
    r2ts: list[Pdu] = field(default_factory=list)


class Queue:
    """One I/O queue of a load. It lives through its connections."""

    def __init__(self, host: Host, qid: int, stops: list[int]) -> None:
        self.host = host
        self.qid = qid
        self.pending: dict[int, Pending] = {}
        self.log = bytearray()
        self._stops = stops  # offsets of the output at which the host does not read for once
        self.connect()

    def connect(self) -> None:
        """A connection, the first or a new one."""
        self.pending.clear()
        self.wire: Wire = self.host.connect_io(self.qid)
        self.wire.takes = self._takes
        self._stopped = 0
        self._read = bytearray()

    def _takes(self) -> int:
        sent = self.wire.n_sent
        while self._stopped < len(self._stops):
            room = self._stops[self._stopped] - sent
            if room > 0:
                return room
            self._stopped += 1
            if room == 0:
                return 0
        return 1 << 30

    def answers(self) -> list[Pdu]:
        """Whole PDUs that the target has sent since the last call."""
        self.log += self.wire.output
        self._read += self.wire.output
        self.wire.output.clear()
        whole = 0
        while whole + 8 <= len(self._read):
            (plen,) = struct.unpack_from("<I", self._read, whole + 4)
            if whole + plen > len(self._read):
                break
            whole += plen
        stream = bytes(self._read[:whole])
        del self._read[:whole]
        return decode(stream, self.host.dgst)


class Load:
    """Random hosts on a target in the folder `path`. `faults`: how often a PDU is broken."""

    def __init__(self, seed: int, path: Path, *, faults: float = 0.01) -> None:
        chance = self.chance = random.Random(seed)
        self.faults = faults
        geometries = chance.sample(GEOMETRIES, 2)
        self.target = Target(
            path, geometries, shapes=SHAPES if chance.random() < 0.3 else None, mdts=chance.choice([0, 1, 2, 7])
        )
        self.target.directory.subsystem.times = PlainTimes()
        self.maps = [AddressMap(geometry) for geometry in geometries]
        self.pointers: list[dict[int, int]] = [{}, {}]
        dgst, cattr = chance.choice([0, 0, 1, 2, 3]), chance.choice([0, NO_SQ_FLOW])
        self.host = self.target.host(dgst=dgst, cattr=cattr, sqsize=chance.choice([5, 31, 127]))
        self.host.admin.take(dgst)
        self.queues = [self._queue(qid) for qid in (1, 2)]
        self._cid = 0

    def _queue(self, qid: int) -> Queue:
        chance = self.chance
        if qid in self.host.wires:
            self.host.wires[qid].cut()
        stops = sorted(chance.randrange(1, 60_000) for _ in range(chance.choice([0, 0, 3, 40])))
        return Queue(self.host, qid, stops)

    # --- the run ------------------------------------------------------------------------------------------

    def run(self, n_steps: int) -> dict[str, object]:
        """Go on for `n_steps`; everything about the target that must not depend on the engine."""
        for _ in range(n_steps):
            self._step()
        for queue in self.queues:
            self._drain(queue)
            self._answer_r2ts(queue)
            self._drain(queue)
        association = self.host.target.directory.associations[0]
        return {
            "output": [bytes(queue.log) for queue in self.queues],
            "chunks": [self.target.chunks(nsid) for nsid in (1, 2)],
            "blocks": [self._blocks(nsid) for nsid in (1, 2)],
            "counters": [namespace.counters for namespace in self.target.namespaces],
            "timed": [timed(namespace) for namespace in self.target.namespaces],
            "errors": list(association.errors),
            "outstanding": [self._n_outstanding(queue) for queue in self.queues],
        }

    @staticmethod
    def _n_outstanding(queue: Queue) -> int:
        connection = queue.wire.connection
        held = connection._batch.n_writes if connection._batch is not None else 0
        return held + (len(connection.executor.outstanding) if connection.executor is not None else 0)

    def _blocks(self, nsid: int) -> list[bytes]:
        """What lies below each chunk's wp, readable or not yet."""
        engine, addresses = self.target.store.engines[nsid - 1], self.maps[nsid - 1]
        found = []
        for chunk, (state, wp) in enumerate(self.target.chunks(nsid)):
            if state in (ChunkState.OPEN, ChunkState.CLOSED) and wp <= engine.geometry.clba:
                start = engine.address[addresses.address_chunk(chunk)] - engine.memory.base
                found.append(bytes(engine.memory.view[start : start + wp * engine.geometry.block_stride]))
        return found

    def _step(self) -> None:
        chance = self.chance
        if chance.random() < 0.05:
            self._admin_command()
        queue = chance.choice(self.queues)
        self._take_answers(queue)
        if queue.wire.closed or queue.wire.half_closed or chance.random() < 0.01:
            queue.wire.cut()
            queue.connect()
        elif chance.random() < 0.5 and any(pending.r2ts for pending in queue.pending.values()):
            self._answer_r2ts(queue)
        else:
            room = max(1, self.host.sqsize - len(queue.pending))
            n_commands = min(chance.choice([1, 2, 5, 20, 60]), room)
            self._send(queue, b"".join(self._command(queue) for _ in range(n_commands)))

    def _send(self, queue: Queue, stream: bytes) -> None:
        chance = self.chance
        if chance.random() < self.faults:
            stream = self._break(stream)
        if not stream:
            return
        style = chance.choice(["whole", "whole", "few", "bytes"])
        sizes: list[int] = []
        if style == "few":
            sizes = [chance.randrange(1, len(stream) + 1) for _ in range(4)]
        elif style == "bytes" and len(stream) < 3000:
            sizes = [1] * len(stream)
        queue.wire.feed(stream, sizes)
        if chance.random() < 0.8:
            self._drain(queue)

    def _drain(self, queue: Queue) -> None:
        while queue.wire.blocked and not queue.wire.closed:
            queue.wire.writable()
        self._take_answers(queue)

    def _take_answers(self, queue: Queue) -> None:
        for answer in queue.answers():
            if answer.kind == R2T and answer.cid in queue.pending:
                queue.pending[answer.cid].r2ts.append(answer)
            elif answer.kind == CAPSULE_RESP:
                queue.pending.pop(answer.cid, None)
            elif answer.kind == C2H_TERM:
                queue.pending.clear()

    def _break(self, stream: bytes) -> bytes:
        chance, broken = self.chance, bytearray(stream)
        how = chance.choice(["flip", "garbage", "cut", "insert"])
        if how == "flip":
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        elif how == "garbage":
            broken += chance.randbytes(chance.randrange(1, 200))
        elif how == "cut":
            del broken[chance.randrange(len(broken)) :]
        else:
            broken[:0] = pdu(chance.choice([0, 2, 4, 6, 11]), chance.randbytes(chance.choice([16, 64, 120])))
        return bytes(broken)

    def _admin_command(self) -> None:
        chance, wire = self.chance, self.host.admin
        outstanding = [cid for queue in self.queues for cid in queue.pending]
        fields = chance.choice(
            [
                {"opc": SET_FEATURES, "cdw10": ERROR_RECOVERY, "cdw11": chance.choice([0, 1 << 16]), "nsid": 1},
                {"opc": SET_FEATURES, "cdw10": WRITE_CACHE, "cdw11": chance.choice([0, 1])},
                {"opc": ABORT, "cdw10": chance.choice([1, 2]) | chance.choice([*outstanding, 0]) << 16},
            ]
        )
        wire.feed(capsule(fields.pop("opc"), self.host.cid(), dgst=self.host.dgst, **fields))
        wire.take(self.host.dgst)

    # --- data on R2T --------------------------------------------------------------------------------------

    def _answer_r2ts(self, queue: Queue) -> None:
        chance = self.chance
        waiting = [(cid, r2t) for cid, pending in queue.pending.items() for r2t in pending.r2ts]
        if chance.random() < 0.5:
            chance.shuffle(waiting)
        stream = b""
        for cid, r2t in waiting[: chance.choice([1, 3, 100])]:
            pending = queue.pending[cid]
            pending.r2ts.remove(r2t)
            stream += self._data(cid, r2t, pending.payload[r2t.offset : r2t.offset + r2t.length])
        if stream:
            self._send(queue, stream)

    def _data(self, cid: int, r2t: Pdu, data: bytes) -> bytes:
        chance, stream, offset = self.chance, b"", 0
        whole = chance.random() < 0.7
        while offset < len(data):
            size = min(len(data) - offset, 131072)
            size = size if whole else chance.randrange(1, size + 1)
            last = offset + size == len(data)
            changes: dict[str, int] = {}
            if chance.random() < 0.05:
                changes["pdo"] = chance.choice([28, 32, 64])
            if chance.random() < self.faults:
                changes[chance.choice(["ttag", "cccid", "datao"])] = chance.randrange(1 << 16)
            values = {"cccid": cid, "ttag": r2t.ttag, "datao": r2t.offset + offset} | changes
            stream += h2c(
                **values,  # type: ignore[arg-type]
                data=data[offset : offset + size],
                last=last and chance.random() < 0.95,
                dgst=self.host.dgst,
                flip_data=chance.random() < self.faults,
            )
            offset += size
        return stream

    # --- commands -----------------------------------------------------------------------------------------

    def _command(self, queue: Queue) -> bytes:
        chance = self.chance
        self._cid += 1
        cid = chance.randrange(64) if chance.random() < 0.02 else 64 + self._cid % 1000
        nsid = chance.choice([1, 2])
        kind = chance.choices(_KINDS, _WEIGHTS)[0]
        if kind in _RESETS and self._has_wide_write():
            # The one thing in which the engines differ: of a striped write under way, a reset of one chunk takes back
            # all reservations at once in the complete engine, but those of other chunks only later in the fast one.
            kind = Load.read
        built = kind(self, nsid)
        capsule_data = built.beside or (built.data if built.in_capsule and len(built.data) <= 8192 else b"")
        sgl_type = IN_CAPSULE if capsule_data and not built.beside else TRANSPORT
        fields = {"nsid": nsid, "sgl_length": len(built.data), "sgl_type": sgl_type} | built.fields
        if chance.random() < 0.03:
            name = chance.choice([name for name in fields if name != "opc"])
            value = chance.choice([0, fields[name] + 1, fields[name] ^ 1 << chance.randrange(8)])
            fields[name] = value & _MASKS.get(name, 0xFFFFFFFF)
        if cid not in queue.pending:
            queue.pending[cid] = Pending(built.data, built.fields["opc"] == VECTOR_WRITE)
        changes = {"flip_data": True} if chance.random() < self.faults else {}
        return capsule(fields.pop("opc"), cid, capsule_data, dgst=self.host.dgst, changes=changes, **fields)

    def _has_wide_write(self) -> bool:
        return any(pending.is_wide for queue in self.queues for pending in queue.pending.values())

    def _chunk(self, nsid: int) -> int:
        return self.chance.randrange(self.target.namespaces[nsid - 1].geometry.n_chunks)

    def _lba(self, nsid: int, chunk: int, lblk: int) -> int:
        return self.maps[nsid - 1].lba(chunk) + lblk

    def _any_lba(self, nsid: int) -> int:
        chance, geometry = self.chance, self.target.namespaces[nsid - 1].geometry
        if chance.random() < 0.05:
            return chance.choice([geometry.nsze, geometry.nsze - 1, _U64, chance.randrange(geometry.nsze)])
        chunk = self._chunk(nsid)
        wp = min(self.target.chunks(nsid)[chunk][1], geometry.clba)
        return self._lba(nsid, chunk, chance.randrange(max(wp, 1)))

    def _append_at(self, nsid: int, n_blocks: int) -> int:
        """Where the next write of a chunk belongs, mostly; and the pointer moved."""
        chance, pointers = self.chance, self.pointers[nsid - 1]
        chunk = self._chunk(nsid)
        state, wp = self.target.chunks(nsid)[chunk]
        pointer = pointers.get(chunk, wp) if state in (ChunkState.OPEN, ChunkState.FREE) else 0
        if chance.random() < 0.2:
            pointer = wp
        lblk = pointer if chance.random() < 0.95 else chance.randrange(self.target.namespaces[nsid - 1].geometry.clba)
        pointers[chunk] = lblk + n_blocks
        return self._lba(nsid, chunk, min(lblk, 0xFFFF))

    def _units(self, nsid: int) -> int:
        geometry, chance = self.target.namespaces[nsid - 1].geometry, self.chance
        n_blocks = geometry.ws_min * chance.choice([1, 1, 2, 3, 4])
        return n_blocks if chance.random() < 0.97 else n_blocks + 1

    def _bytes(self, nsid: int, n_blocks: int) -> bytes:
        return self.chance.randbytes(n_blocks * self.target.namespaces[nsid - 1].geometry.block_stride)

    def read(self, nsid: int) -> Built:
        n_blocks = self.chance.choice([1, 1, 1, 2, 4, 8, 30])
        stride = self.target.namespaces[nsid - 1].geometry.block_stride
        fua = FUA if self.chance.random() < 0.02 else 0
        fields = {"opc": READ, "slba": self._any_lba(nsid), "cdw12": n_blocks - 1 | fua}
        return Built(fields | {"sgl_length": n_blocks * stride})

    def write(self, nsid: int) -> Built:
        n_blocks = self._units(nsid)
        fua = FUA if self.chance.random() < 0.05 else 0
        fields = {"opc": WRITE, "slba": self._append_at(nsid, n_blocks), "cdw12": n_blocks - 1 | fua}
        return Built(fields, self._bytes(nsid, n_blocks), self.chance.random() < 0.5)

    def flush(self, nsid: int) -> Built:
        return Built({"opc": FLUSH, "nsid": self.chance.choice([1, 2, 0xFFFFFFFF, 7])})

    def discard(self, nsid: int) -> Built:
        geometry = self.target.namespaces[nsid - 1].geometry
        chunks = [self._chunk(nsid) for _ in range(self.chance.choice([1, 1, 2]))]
        length = geometry.clba if self.chance.random() < 0.9 else 3
        data = b"".join(struct.pack("<IIQ", 0, length, self._lba(nsid, chunk, 0)) for chunk in chunks)
        self._forget(nsid, chunks)
        return Built({"opc": DSM, "cdw10": len(chunks) - 1, "cdw11": 4}, data, self.chance.random() < 0.5)

    def _forget(self, nsid: int, chunks: list[int]) -> None:
        for chunk in chunks:
            self.pointers[nsid - 1].pop(chunk, None)

    def unknown(self, nsid: int) -> Built:
        opc = self.chance.choice([0x7E, 0x05, 0x08, 0x7F, 0x94])
        return Built({"opc": opc}, self._bytes(nsid, 1) if self.chance.random() < 0.5 else b"", True)

    def stage(self, nsid: int) -> Built:
        lbas = self._lbas(nsid)
        fields = {"opc": STAGE, "cdw10": self.chance.randrange(4), "cdw12": len(lbas) - 1}
        return Built(fields, _packed(lbas), self.chance.random() < 0.8)

    def _lbas(self, nsid: int) -> list[int]:
        lbas: list[int] = []
        for _ in range(self.chance.choice([1, 2, 8])):
            first = self._any_lba(nsid)
            lbas += [first + i & _U64 for i in range(self.chance.choice([1, 1, 4, 8]))]
        return lbas

    def _write_lbas(self, nsid: int) -> list[int]:
        lbas: list[int] = []
        for _ in range(self.chance.choice([1, 1, 2, 3])):
            n_blocks = self._units(nsid)
            first = self._append_at(nsid, n_blocks)
            lbas += range(first, first + n_blocks)
        return lbas[:64]

    def _listed(self, opc: int, lbas: list[int]) -> Built:
        """A vector command with its list in some form; `data` is the list, if that is the head of the data."""
        chance = self.chance
        fields = {"opc": opc, "cdw12": len(lbas) - 1}
        form = chance.choice([0, 1, 2, 3, 4, 4, 2])
        if form == 0 and len(lbas) == 1:
            return Built(fields | {"slba": lbas[0]})
        if form == 1 and opc == VECTOR_WRITE:
            return Built(fields | {"cdw13": 1}, _packed(lbas))
        if form == 2:
            run = next((i for i in range(1, len(lbas)) if lbas[i] != lbas[i - 1] + 1), len(lbas))
            stride = lbas[run] - lbas[0] & _U64 if run < len(lbas) else 0
            columns = min(-(-len(lbas) // run), 64)
            fields |= {"slba": lbas[0], "cdw13": 2 | run - 1 << 4 | columns - 1 << 10}
            return Built(fields | {"cdw14": stride & 0xFFFFFFFF, "cdw15": stride >> 32})
        if form == 3:
            return Built(fields | {"cdw13": 3, "slba": chance.randrange(5)})
        fields |= {"cdw13": 4, "slba": 8 if chance.random() < 0.2 else 0}
        return Built(fields, beside=_packed([*lbas, 0]))

    def vector_read(self, nsid: int) -> Built:
        lbas = self._lbas(nsid)
        built = self._listed(VECTOR_READ, lbas)
        stride = self.target.namespaces[nsid - 1].geometry.block_stride
        return built._replace(fields=built.fields | {"sgl_length": len(lbas) * stride})

    def vector_write(self, nsid: int) -> Built:
        lbas = self._write_lbas(nsid)
        built = self._listed(VECTOR_WRITE, lbas)
        data = built.data + self._bytes(nsid, len(lbas))
        return built._replace(data=data, in_capsule=not built.beside and self.chance.random() < 0.4)

    def vector_reset(self, nsid: int) -> Built:
        chunks = [self._chunk(nsid) for _ in range(self.chance.choice([1, 1, 3]))]
        self._forget(nsid, chunks)
        built = self._listed(VECTOR_RESET, [self._lba(nsid, chunk, 0) for chunk in chunks])
        return built._replace(fields=built.fields | {"sgl_length": self.chance.choice([0, 32 * len(chunks)])})

    def vector_copy(self, nsid: int) -> Built:
        destinations = self._write_lbas(nsid)
        first = self._any_lba(nsid)
        data = _packed(list(range(first, first + len(destinations)))) + _packed(destinations)
        fields = {"opc": VECTOR_COPY, "cdw12": len(destinations) - 1, "cdw13": 1}
        return Built(fields, data, self.chance.random() < 0.8)


class Built(NamedTuple):
    """A command: fields of the SQE and `opc`; its data, in the capsule or on R2T; a list beside the SGL."""

    fields: dict[str, int]
    data: bytes = b""
    in_capsule: bool = False
    beside: bytes = b""


_U64 = (1 << 64) - 1
_MASKS = {"sgl_type": 0xFF, "slba": _U64}


def _packed(lbas: list[int]) -> bytes:
    return struct.pack(f"<{len(lbas)}Q", *(lba & _U64 for lba in lbas))


_TABLE: dict[Callable[[Load, int], Built], int] = {
    Load.read: 30,
    Load.write: 30,
    Load.vector_read: 15,
    Load.vector_write: 12,
    Load.vector_reset: 3,
    Load.vector_copy: 2,
    Load.discard: 2,
    Load.stage: 3,
    Load.flush: 2,
    Load.unknown: 1,
}
_RESETS = (Load.discard, Load.vector_reset)
_KINDS, _WEIGHTS = list(_TABLE), list(_TABLE.values())

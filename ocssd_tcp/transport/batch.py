"""The batch processor: the plain shapes of I/O, a whole receive buffer at a time.

`process()` walks the PDUs of a buffer and handles those of a plain shape: reads, vector reads and writes in order, of a
healthy drive, on a connected queue. Anything else it leaves for the complete engine (`transport.execution`), and it
never gives an answer that the complete engine would not: what it cannot judge as plain success is not its business.
Answers are packed into the send queue, which goes out with one call after the whole buffer.

Why it looks like this (measured on CPython 3.11): a capsule is recognised by comparing three integers; its fields come
from one `unpack_from`; the chunk tables are arrays indexed by the address itself; a piece to send is two words packed
into an array of struct iovec, so that no object exists per block. All state lives in locals until the buffer is done.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ocssd_tcp import accel
from ocssd_tcp.controller.registers import Ready
from ocssd_tcp.media.runs import Run
from ocssd_tcp.media.trace import clock, pack_head, pack_record, pack_scalar, pack_tail
from ocssd_tcp.ocssd.trace_format import RECORD_BYTES, RECORD_SHIFT, SEQ_LIMIT
from ocssd_tcp.transport.kept import KeptHeaders, pack_c2h
from ocssd_tcp.transport.plain import PlainNamespace, append, crc_of_pieces, pack_runs, plain_list, runs_of
from ocssd_tcp.transport.tracing import PLAIN, pu_mask
from ocssd_tcp.transport.transfer import MAXH2CDATA, RunTransfer, Transfer
from ocssd_tcp.transport.txqueue import IOV_BYTES, pack_iov, pack_two_iovs
from ocssd_tcp.wire.digest import DIGEST_BYTES, crc32c
from ocssd_tcp.wire.opcodes import MAX_VECTOR_LBAS, Io, SglType
from ocssd_tcp.wire.pdu import PduFlag, PduType

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocssd_tcp.controller.queue import QueuePair
    from ocssd_tcp.transport.connection import TargetConnection

# Layouts of wire.layouts with fields joined, so that a shape is told by few comparisons (tests prove them equal).
#: common header, opcode and flags, cid, nsid, SGL length, SGL type, CDW10-11, CDW12
CAPSULE = struct.Struct("<QHHI24xI3xBQI")
#: of a vector command besides: CDW2-3, CDW13, CDW14-15
LISTED = struct.Struct("<16xQ36xIQ")
#: common header, cccid, ttag, datao, datal
DATA = struct.Struct("<QHHII4x")
#: common header, DW0 and DW1, sqhd, sqid, cid, status
RESPONSE = struct.Struct("<QQHHHH")

_PSDT_SGL = 0x4000
_READ = Io.READ | _PSDT_SGL
_WRITE = Io.WRITE | _PSDT_SGL
_VECTOR_READ = Io.VECTOR_READ | _PSDT_SGL
_READS = (_READ, _VECTOR_READ)
_WRITES = (_WRITE, Io.VECTOR_WRITE | _PSDT_SGL)
_VECTOR_RESET = Io.VECTOR_RESET | _PSDT_SGL
_VECTOR = 0x80  #: in the opcodes of vector commands
_FUA = 1 << 30
_TRACE_KIND = (PLAIN << 8) - _PSDT_SGL  #: with opcode and SQE flags, a trace record's opcode, flags and status 0
_IN_CAPSULE, _TRANSPORT = int(SglType.IN_CAPSULE), int(SglType.TRANSPORT)
_H2C_DATA = int(PduType.H2C_DATA)
MIN_RUN = 3  #: reads that are all alike, from which on they are taken in one go
_LIST_PIECES = MAX_VECTOR_LBAS + 4
_FITS = 250  #: PDUs whose answers an empty send queue always has room for

_READY = Ready.READY
_iter_capsules = struct.Struct(CAPSULE.format + "12x").iter_unpack
_unpack_capsule, _unpack_listed, _unpack_data = CAPSULE.unpack_from, LISTED.unpack_from, DATA.unpack_from
_pack_data, _pack_resp = DATA.pack_into, RESPONSE.pack_into
_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from
_pack_u32 = struct.Struct("<I").pack_into
_pack_u64 = struct.Struct("<Q").pack_into


def common_header(kind: int, flags: int, hlen: int, pdo: int) -> int:
    """The first four bytes of a PDU as the low half of its first 64 bits; PLEN is the high half."""
    return kind | flags << 8 | hlen << 16 | pdo << 24


class Shape(NamedTuple):
    """What a buffer's last command says of those in the next: hosts mostly send one size, and reads follow reads.

    `is_alike`: whether it was one of several reads that differ in CID and address only. `n_blocks`, `length` (bytes),
    and of the C2HData PDU `data_bytes` without data digest and `data_word`, its first word, follow from CDW12.
    """

    space: PlainNamespace | None
    is_alike: bool
    nsid: int
    cdw12: int
    n_blocks: int
    length: int
    data_bytes: int
    data_word: int


_UNKNOWN = Shape(None, False, 0, -1, 0, 0, 0, 0)


class Outcome(IntEnum):
    """What a compiled reader leaves to do."""

    QUEUED = 1  #: something may be in the send queue, or the connection has ended
    ELSEWHERE = 2  #: nothing was done
    FAILED = 3  #: an exception, which is being handled


class Processor(Protocol):
    """What a connection needs of the batch processor of its queue, in Python or compiled.

    A processor may hold plain writes that wait for data itself, until `hand_over` (or `close`, after which nothing is
    processed) puts them into the connection's and the executor's tables. `n_writes`: how many. `fills`: whether data of
    one of them is arriving. `reader`: as `TargetConnection.reader`.
    """

    def __init__(
        self,
        connection: TargetConnection,
        queue: QueuePair,
        in_capsule_bytes: int,
        outstanding: dict[int, Transfer | None],
        /,
    ) -> None: ...
    @property
    def n_writes(self) -> int: ...
    @property
    def fills(self) -> bool: ...
    def process(self, data: bytearray, view: memoryview, position: int, end: int, /) -> int: ...
    def holds(self, cid: int, /) -> bool: ...
    def holds_tag(self, ttag: int, /) -> bool: ...
    def hand_over(self) -> None: ...
    def close(self) -> None: ...
    def reader(
        self, fd: int, clock: Callable[[], float], otherwise: Callable[[int], None], /
    ) -> Callable[[], None] | None: ...


class BatchProcessor:
    """The processor of one I/O queue, in Python. It holds no writes itself."""

    n_writes = 0
    fills = False

    __slots__ = (
        "_association", "_before", "_connection", "_data_header", "_data_tail", "_h2c_header", "_in_capsule", "_kept",
        "_max_transfer", "_namespaces", "_outstanding", "_queue", "_r2t_header", "_registers", "_resp_header",
        "_responder", "_spaces", "_subsystem", "_tail", "_trace_tails", "_transfers", "_tx", "_with_data",
        "_without_data",
    )  # fmt: skip

    @classmethod
    def pick(cls, connection: TargetConnection, queue: QueuePair, in_capsule_bytes: int) -> Processor | None:
        """A processor for a queue that has just connected; None if the connection is not of a plain kind."""
        if connection.executor is None or connection.encoder.alignment != 4:
            return None
        twin = accel.twin()
        kind: type[Processor] = cls if twin is None else twin.Processor
        return kind(connection, queue, in_capsule_bytes, connection.executor.outstanding)

    def __init__(
        self,
        connection: TargetConnection,
        queue: QueuePair,
        in_capsule_bytes: int,
        outstanding: dict[int, Transfer | None],
    ) -> None:
        encoder = connection.encoder
        hdgst = PduFlag.HDGST.value if encoder.header_digest else 0
        ddgst = PduFlag.DDGST.value if encoder.data_digest else 0
        self._tail = tail = DIGEST_BYTES if hdgst else 0
        self._data_tail = DIGEST_BYTES if ddgst else 0
        self._connection = connection
        self._queue = queue
        self._association = queue.association
        self._registers, self._subsystem = queue.association.registers, queue.association.subsystem
        self._transfers = connection.transfers
        self._responder = connection.responder
        self._tx = connection.tx
        self._outstanding = outstanding
        self._in_capsule = in_capsule_bytes
        self._max_transfer = queue.association.subsystem.max_transfer or (1 << 32)
        self._without_data = common_header(PduType.CAPSULE_CMD, hdgst, 72, 0) | (72 + tail) << 32
        self._with_data = common_header(PduType.CAPSULE_CMD, hdgst | ddgst, 72, 72 + tail)
        success = 0 if queue.flow_control else PduFlag.SUCCESS.value
        self._data_header = common_header(PduType.C2H_DATA, hdgst | ddgst | PduFlag.LAST.value | success, 24, 24 + tail)
        self._resp_header = common_header(PduType.CAPSULE_RESP, hdgst, 24, 0) | (24 + tail) << 32
        self._h2c_header = common_header(PduType.H2C_DATA, hdgst | ddgst | PduFlag.LAST.value, 24, 24 + tail)
        self._r2t_header = common_header(PduType.R2T, hdgst, 24, 0) | (24 + tail) << 32
        self._namespaces = queue.association.namespaces
        self._spaces: dict[int, PlainNamespace] = {}
        self._before = _UNKNOWN
        self._kept = KeptHeaders(connection.tx)
        trace_queue = queue.qid | queue.association.cntlid << 16
        self._trace_tails = (
            pack_tail(_READ + _TRACE_KIND, trace_queue),
            pack_tail(_VECTOR_READ + _TRACE_KIND, trace_queue),
        )

    def holds(self, _cid: int) -> bool:
        """Whether a write with this CID is held here."""
        return False

    def holds_tag(self, _ttag: int) -> bool:
        """Whether a write with this transfer tag is held here."""
        return False

    def hand_over(self) -> None:
        """Put the writes that are held here into the connection's tables."""

    def close(self) -> None:
        """Take no more. Kept headers that are queued stay until they are sent."""
        self._tx.hold(self._kept)

    def reader(self, _fd: int, _clock: Callable[[], float], _otherwise: Callable[[int], None]) -> None:
        """Sockets are served by `transport.aio`."""

    def _space(self, nsid: int) -> PlainNamespace | None:
        """An active namespace without filters around its media; None if it is none, or not that any more."""
        namespace, space = self._namespaces.get(nsid), self._spaces.get(nsid)
        if namespace is None or namespace.media is not namespace.engine:
            return None
        if space is None or space.namespace is not namespace:
            space = self._spaces[nsid] = PlainNamespace(namespace)
        return space

    def process(self, data: bytearray, view: memoryview, position: int, end: int) -> int:
        """Handle plain PDUs of `data[position:end]`; the offset of the first that is not plain or not complete."""
        if self._registers.ready is not _READY:
            return position
        outstanding, tx, queue, responder = self._outstanding, self._tx, self._queue, self._responder
        flow_control, sqhd, entries = queue.flow_control, queue.sqhd, queue.entries
        without_data, with_data, data_header = self._without_data, self._with_data, self._data_header
        resp_header, tail, data_tail = self._resp_header, self._tail, self._data_tail
        header_bytes, pdu_bytes, max_transfer = 72 + tail, 24 + tail, self._max_transfer
        completed = 0
        write_cache: bool | None = None  # looked up once, if there is a write at all
        room = entries - responder.n_completed - len(outstanding)

        # The most that the buffer can ask for: four pieces a command, and headers with their digests.
        most = (end - position) // 24 + 1
        if most > _FITS or tx.n:
            most = min(most, room + len(outstanding) + 1)
            tx.reserve(most * 4, most * 64)
        words, arena, arena_base = tx.words, tx.arena, tx.arena_base
        at, used, n_bytes = tx.n * IOV_BYTES, tx.used, tx.n_bytes
        arena_view = memoryview(arena) if tail else view
        joined = -1  # where in the arena the last piece ends, if it is one of the arena
        n_reads = n_vector = n_blocks_read = 0
        may_be_alike = not (tail or data_tail or flow_control)
        before = self._before
        if before.space is None or self._space(before.nsid) is not before.space:
            before = _UNKNOWN
        space, is_alike, last_nsid, last_cdw12, n_blocks, length, data_bytes, data_word = before
        trace, times = self._subsystem.trace, self._subsystem.times
        arrival = seq = pus = n_done = 0  # n_done: blocks of a command that is done at once, but for reads
        head = b""
        timed: list[int] = []  # group << 2 | operation of each command that is done, while somebody watches
        if trace is not None:
            arrival, seq = clock(), trace.seq
            if seq >= SEQ_LIMIT:
                trace.renumber()
                seq = trace.seq
            trace_first, trace_view, trace_mask = seq, trace.view, trace.mask
            head = pack_head(last_nsid, arrival, arrival, 0)
            tail_of_reads, tail_of_lists = self._trace_tails

        while end - position >= 24:
            if is_alike and end - position >= MIN_RUN * header_bytes and room >= MIN_RUN and space is not None:
                # Reads that differ in CID and address only, as hosts often send them: as below, in fewer steps.
                readable, addresses, stride, nsze = space.readable, space.address, space.stride, space.nsze
                lbk_len, lbk_mask, begin = space.lbk_len, space.lbk_mask, at
                kept = self._kept
                is_new = kept.word != data_word
                if is_new:
                    kept.begin(data_word)
                place_of, missed = kept.places.get, []
                nlb, slot = n_blocks - 1, seq << RECORD_SHIFT
                run = view[position : position + min((end - position) // header_bytes, room) * header_bytes]
                for header, opcode, cid, nsid, sgl_length, sgl_type, lba, cdw12 in _iter_capsules(run):
                    if (
                        header != without_data
                        or opcode != _READ
                        or nsid != last_nsid
                        or cdw12 != last_cdw12
                        or sgl_length != length
                        or sgl_type != _TRANSPORT
                        or lba >= nsze
                        or cid in outstanding
                    ):
                        break
                    chunk, lblk = lba >> lbk_len, lba & lbk_mask
                    if lblk + n_blocks > readable[chunk]:
                        break
                    header_at = place_of(cid)
                    if header_at is None:
                        header_at = arena_base + used
                        pack_c2h(arena, used, data_word, cid, length)
                        used += pdu_bytes
                        missed.append(cid)
                    pack_two_iovs(words, at, header_at, pdu_bytes, addresses[chunk] + lblk * stride, length)
                    at += 2 * IOV_BYTES
                    if trace is not None:
                        pack_scalar(trace_view, slot & trace_mask, seq, head, lba, nlb, cid, tail_of_reads, seq)
                        slot += RECORD_BYTES
                        seq += 1
                    if times is not None:
                        timed.append(lba >> space.grp_shift << 2 | _READ & 3)
                if missed and not is_new:  # a size that is asked for once is not worth it
                    kept.keep(missed, length)
                n_alike = (at - begin) // (2 * IOV_BYTES)
                is_alike = n_alike >= MIN_RUN  # else looking for more of them costs more than it gains
                may_be_alike = may_be_alike and is_alike
                if n_alike:
                    position += n_alike * header_bytes
                    n_bytes += n_alike * data_bytes
                    n_reads += n_alike
                    n_blocks_read += n_alike * n_blocks
                    room -= n_alike
                    completed += n_alike
                    joined = -1
                    continue
            if data[position] == _H2C_DATA:
                after = self._h2c_data(data, view, position, end, arrival)
                if not after:
                    break
                if self._connection.fill is not None:  # its data is still arriving
                    position = after
                    break
                cid = data[position + 8] | data[position + 9] << 8
            else:
                if end - position < header_bytes or room <= 0:
                    break
                header, opcode, cid, nsid, sgl_length, sgl_type, lba, cdw12 = _unpack_capsule(data, position)
                if header == without_data:
                    capsule_at = n_capsule = 0
                    after = position + header_bytes
                elif header & 0xFFFFFFFF == with_data:
                    capsule_at = position + header_bytes
                    n_capsule = (header >> 32) - header_bytes - data_tail
                    after = position + (header >> 32)
                    if after > end or not 0 < n_capsule <= self._in_capsule:
                        break
                    if data_tail and crc32c(view[capsule_at : after - 4]) != _u32(data, after - 4)[0]:
                        break
                else:
                    break
                if tail and crc32c(view[position : position + 72]) != _u32(data, position + 72)[0]:
                    break
                if cid in outstanding:
                    break
                if nsid != last_nsid:
                    if n_reads and space is not None:
                        space.count_reads(n_reads, n_vector, n_blocks_read)
                        n_reads = n_vector = n_blocks_read = 0
                    if timed and times is not None and space is not None:
                        times.count_all(space.latencies, timed)
                        timed = []
                    space, last_nsid, last_cdw12 = self._space(nsid), nsid, -1
                    if trace is not None and space is not None:
                        head = pack_head(nsid, arrival, arrival, 0)
                if space is None:
                    break
                if cdw12 != last_cdw12:  # which is rare: commands of one buffer are mostly of one size
                    if cdw12 & _FUA:
                        break
                    n_blocks = (cdw12 & 0xFFFF) + 1
                    length = n_blocks * space.stride
                    if length > max_transfer:
                        break
                    last_cdw12, data_bytes = cdw12, pdu_bytes + length
                    data_word = data_header | data_bytes + data_tail << 32
                is_single = True
                if opcode & _VECTOR:
                    cdw2, cdw13, cdw14 = _unpack_listed(data, position)
                    is_single = not cdw13 and n_blocks == 1 and not cdw2 and not cdw14

                if opcode in _READS:
                    if sgl_type != _TRANSPORT or length != sgl_length:
                        break
                    if is_single:
                        if n_capsule or lba >= space.nsze:
                            break
                        chunk, lblk = lba >> space.lbk_len, lba & space.lbk_mask
                        if lblk + n_blocks > space.readable[chunk]:
                            break
                        address = space.address[chunk] + lblk * space.stride
                        pack_two_iovs(words, at, arena_base + used, pdu_bytes, address, length)
                        piece = at + 2 * IOV_BYTES
                    else:
                        if at + (_LIST_PIECES + most * 4) * IOV_BYTES > len(words):
                            tx.n = at // IOV_BYTES
                            tx.reserve(_LIST_PIECES + most * 4, 0)
                            words = tx.words
                        lbas = plain_list(data, capsule_at, n_capsule, n_blocks, lba, cdw2, cdw13, cdw14)
                        if lbas is None:
                            break
                        piece = pack_runs(space, lbas, words, at + IOV_BYTES)
                        if not piece:
                            break
                        pack_iov(words, at, arena_base + used, pdu_bytes)
                        lba = lbas[0]
                        if trace is not None:
                            pus = pu_mask(lbas, space.pu_shift)
                    pack_c2h(arena, used, data_word, cid, length)
                    if tail:
                        _pack_u32(arena, used + 24, crc32c(arena_view[used : used + 24]))
                    used += pdu_bytes
                    n_bytes += data_bytes
                    joined = -1
                    if data_tail:
                        _pack_u32(arena, used, crc_of_pieces(space, words, at + IOV_BYTES, piece))
                        pack_iov(words, piece, arena_base + used, 4)
                        piece += IOV_BYTES
                        used += 4
                        n_bytes += 4
                        joined = used
                    at = piece
                    n_reads += 1
                    n_blocks_read += n_blocks
                    if opcode != _READ:
                        n_vector += 1
                    if trace is not None:  # spelt out: a call would double what it costs
                        slot = seq << RECORD_SHIFT & trace_mask
                        if opcode == _READ:
                            pack_scalar(trace_view, slot, seq, head, lba, n_blocks - 1, cid, tail_of_reads, seq)
                        else:
                            pack_record(trace_view, slot, seq, head, lba, pus, n_blocks - 1, cid, tail_of_lists, seq)
                            pus = 0
                        seq += 1
                    if times is not None:
                        timed.append(lba >> space.grp_shift << 2 | opcode & 3)
                    room -= 1
                    position = after
                    if not flow_control:
                        completed += 1
                        is_alike = may_be_alike and opcode == _READ
                        continue
                elif opcode in _WRITES:
                    if write_cache is None:
                        write_cache = self._association.volatile_write_cache
                    if length != sgl_length or not write_cache:
                        break
                    if is_single:
                        if lba >= space.nsze or (n_capsule and sgl_type != _IN_CAPSULE):
                            break
                        runs = [(lba >> space.lbk_len, lba & space.lbk_mask, n_blocks)]
                    else:
                        lbas = plain_list(data, capsule_at, n_capsule, n_blocks, lba, cdw2, cdw13, cdw14)
                        runs = runs_of(space, lbas) if lbas is not None and sgl_type == _TRANSPORT else []
                        if not runs:
                            break
                    room -= 1
                    if sgl_type == _IN_CAPSULE:
                        if n_capsule != length or _u64(data, position + 32)[0]:
                            break
                        if not append(space, runs[0], view[capsule_at : capsule_at + length]):
                            break
                        space.counters.vector_writes += opcode != _WRITE
                        n_done = n_blocks
                    else:
                        if sgl_type != _TRANSPORT:
                            break
                        ttag = self._reserve(space, runs, length, cid, data[position + 8 : position + 72], arrival)
                        if not ttag:
                            break
                        _pack_data(arena, used, self._r2t_header, cid, ttag, 0, length)
                        if tail:
                            _pack_u32(arena, used + 24, crc32c(arena_view[used : used + 24]))
                        if joined == used:
                            _pack_u64(words, at - 8, _u64(words, at - 8)[0] + pdu_bytes)
                        else:
                            pack_iov(words, at, arena_base + used, pdu_bytes)
                            at += IOV_BYTES
                        used += pdu_bytes
                        joined = used
                        n_bytes += pdu_bytes
                        position = after
                        continue
                elif opcode == _VECTOR_RESET:
                    # Nothing but the chunk: no list, no buffer for descriptors.
                    if not is_single or n_capsule or sgl_length or sgl_type == _IN_CAPSULE or lba & space.lbk_mask:
                        break
                    if not space.engine.runs.reset(lba >> space.lbk_len):
                        break
                    space.namespace.tally.count(is_io=True, opcode=opcode - _PSDT_SGL)
                    n_done = 1
                    room -= 1
                else:
                    break

            if n_done and space is not None:
                if times is not None:
                    timed.append(lba >> space.grp_shift << 2 | opcode & 3)
                if trace is not None:
                    trace.seq = seq
                    trace.put(
                        nsid, arrival, arrival, 0, lba, 0, n_done - 1, cid, opcode - _PSDT_SGL, PLAIN, 0, queue.qid,
                        self._association.cntlid,
                    )  # fmt: skip
                    seq = trace.seq
                n_done = 0
            if flow_control:
                sqhd = sqhd + 1 if sqhd + 1 < entries else 0
            _pack_resp(arena, used, resp_header, 0, sqhd, 0, cid, 0)
            if tail:
                _pack_u32(arena, used + 24, crc32c(arena_view[used : used + 24]))
            if joined == used:  # headers that follow each other are one piece
                _pack_u64(words, at - 8, _u64(words, at - 8)[0] + pdu_bytes)
            else:
                pack_iov(words, at, arena_base + used, pdu_bytes)
                at += IOV_BYTES
            used += pdu_bytes
            joined = used
            n_bytes += pdu_bytes
            completed += 1
            position = after

        if n_reads and space is not None:
            space.count_reads(n_reads, n_vector, n_blocks_read)
        if timed and times is not None and space is not None:
            times.count_all(space.latencies, timed)
        if last_cdw12 != before.cdw12 or last_nsid != before.nsid or is_alike is not before.is_alike:
            self._before = Shape(space, is_alike, last_nsid, last_cdw12, n_blocks, length, data_bytes, data_word)
        tx.n, tx.used, tx.n_bytes = at // IOV_BYTES, used, n_bytes
        if flow_control:
            queue.sqhd = sqhd
        if trace is not None and seq != trace_first:
            trace.seq = seq
            trace.complete(trace_first)
        if completed:
            responder.n_completed += completed
        return position

    def _reserve(
        self, space: PlainNamespace, runs: list[Run], length: int, cid: int, sqe: bytearray, arrival: int
    ) -> int:
        """Set a write aside whose data comes by R2T; its transfer tag, 0 if it is not a plain append.

        `arrival`: for the trace, 0 if none is on.
        """
        places = [space.engine.runs.reserve(*runs[0])] if len(runs) == 1 else space.engine.runs.reserve_all(runs)
        if not places or not places[0]:
            return 0
        connection, transfers = self._connection, self._transfers
        ttag = connection.last_ttag % 0xFFFE + 1  # as new_ttag(): no tag is in use but those of `transfers`
        while ttag in transfers:
            ttag = ttag % 0xFFFE + 1
        connection.last_ttag = ttag
        transfers[ttag] = self._outstanding[cid] = RunTransfer(
            ttag, cid, bytes(sqe), length, space.namespace, runs, places, arrival
        )
        return ttag

    def _h2c_data(self, data: bytearray, view: memoryview, position: int, end: int, arrival: int) -> int:
        """Data of a plain write, all in one PDU: store and commit it, or begin to if it is still arriving.

        `arrival`: of the data, for the trace, 0 if none is on. The offset after what was taken; 0: not plain, nothing
        changed.
        """
        header, cccid, ttag, datao, datal = _unpack_data(data, position)
        transfer = self._transfers.get(ttag)
        if not isinstance(transfer, RunTransfer):
            return 0
        start = position + 24 + self._tail
        stop = start + datal
        after: int = stop + self._data_tail
        if header != self._h2c_header | after - position << 32 or datal != transfer.length or start > end:
            return 0
        if datao or transfer.received or cccid != transfer.cid or datal > MAXH2CDATA:
            return 0
        if self._outstanding.get(cccid) is not transfer or transfer.memory is None:
            return 0
        if self._tail and crc32c(view[position : position + 24]) != _u32(data, position + 24)[0]:
            return 0
        if after > end:
            self._connection.begin_fill(transfer, datal)
            return start
        if self._data_tail and crc32c(view[start:stop]) != _u32(data, stop)[0]:
            return 0
        memory = transfer.memory.view
        for offset, length in transfer.pieces:
            memory[offset : offset + length] = view[start : start + length]
            start += length
        if not transfer.commit():
            return 0  # others are ahead of it: the complete engine stores it again, and waits for them
        del self._transfers[ttag]
        del self._outstanding[cccid]
        if transfer.arrival:
            transfer.started = arrival
            self._responder.ended.append((transfer, 0))
        times = self._subsystem.times
        if times is not None:
            transfer.count(times)
        return after

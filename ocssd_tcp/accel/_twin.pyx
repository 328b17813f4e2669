# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled batch processor: `transport.batch` once more, for the same shapes and with the same answers.

It walks the PDUs of a receive buffer in C and touches Python objects once per buffer, not per command. What is not of
a plain shape it leaves where it is, having changed nothing for it, and the complete engine goes on from there.

Beyond its twin in Python it does two things. `serve` handles a whole event: receive, walk, send. And a write whose data
comes by R2T is a C structure here, a `Write`, not an object in the connection's tables. Whoever looks at those tables
asks `holds` and `n_writes` first, and `hand_over` makes objects of all of them.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from ocssd_tcp.controller.registers import Ready
from ocssd_tcp.transport.transfer import MAXH2CDATA, RunTransfer

include "layouts.pxi"

include "native.pxi"
include "output.pxi"
include "times.pxi"
include "space.pxi"
include "writes.pxi"
include "records.pxi"

cdef enum:
    FUA = 1 << 30
    PSDT_SGL = 0x40
    RECEIVE_BYTES = 128 * 1024  # of one event at most: a host that gets some answers sends on while we do the rest

cdef enum Stop:
    END  # everything was handled
    INCOMPLETE  # the rest of a plain PDU has not arrived
    FOREIGN  # not of a plain shape
    FULL  # no room for another answer

# What `serve` says, apart from minus an error number.
cdef enum:
    SENT = 0  # the event is over
    QUEUED = 1  # there may be something in the send queue, or the phase has changed
    ELSEWHERE = 2  # nothing was done
    FAILED = 3  # an exception, which is our bug

cdef object READY = Ready.READY


cdef class Processor(Records):
    """The processor of one I/O queue. The same contract as `transport.batch.BatchProcessor`."""

    cdef object connection, queue, association, subsystem, registers, responder, tx
    cdef bytearray buffer  # the receive buffer; never resized
    cdef dict outstanding, namespaces, spaces
    cdef Space space  # the one used last
    cdef bint is_fresh  # whether `space` was looked at since the buffer came
    cdef uint32_t nsid
    cdef bint flow_control, is_closed
    cdef uint16_t sqhd
    cdef int64_t entries
    cdef uint64_t max_transfer
    cdef int64_t in_capsule, max_h2c
    cdef uint8_t hdgst, ddgst, data_flags
    cdef uint32_t tail, data_tail  # bytes of the digests
    cdef uint64_t without_data
    cdef uint32_t with_data, h2c_header
    cdef int last_tag  # -1: not taken from the connection yet
    # While a buffer is walked.
    cdef int64_t room
    cdef int completed
    cdef int write_cache  # -1: not asked yet
    cdef Stop stop

    def __cinit__(self):
        self.last_tag = -1

    def __init__(self, connection, queue, int64_t in_capsule_bytes, outstanding):
        encoder = connection.encoder
        self.connection, self.queue, self.association = connection, queue, queue.association
        self.subsystem, self.cntlid, self.qid = self.association.subsystem, self.association.cntlid, queue.qid
        self.registers, self.responder, self.tx = queue.association.registers, connection.responder, connection.tx
        self.buffer = connection.rx.data
        self.outstanding, self.namespaces, self.spaces, self.kept = outstanding, self.association.namespaces, {}, []
        self.flow_control, self.entries, self.sqhd = queue.flow_control, queue.entries, queue.sqhd
        self.max_transfer = self.association.subsystem.max_transfer or 1 << 32
        self.in_capsule, self.max_h2c = in_capsule_bytes, MAXH2CDATA
        self.hdgst = FLAG_HDGST if encoder.header_digest else 0
        self.is_digested = encoder.data_digest
        self.ddgst = FLAG_DDGST if encoder.data_digest else 0
        self.tail = DIGEST_BYTES if self.hdgst else 0
        self.data_tail = DIGEST_BYTES if self.ddgst else 0
        self.data_flags = self.hdgst | self.ddgst | FLAG_LAST | (0 if self.flow_control else FLAG_SUCCESS)
        self.without_data = first_word(PDU_CAPSULE_CMD, self.hdgst, sizeof(capsule_cmd), 0) | (
            <uint64_t>(sizeof(capsule_cmd) + self.tail) << 32)
        self.with_data = first_word(
            PDU_CAPSULE_CMD, self.hdgst | self.ddgst, sizeof(capsule_cmd), sizeof(capsule_cmd) + self.tail)
        self.h2c_header = first_word(
            PDU_H2C_DATA, self.hdgst | self.ddgst, sizeof(h2c_data), sizeof(h2c_data) + self.tail)

    # --- what the connection may ask ---

    @property
    def fills(self):
        """Whether the data of an H2CData PDU is arriving for a write that is held here."""
        return self.fill != NULL

    def holds(self, int cid):
        """Whether a write with this CID is held here."""
        return self.index_of(self.cids, cid) >= 0

    def holds_tag(self, int ttag):
        """Whether a write with this transfer tag is held here."""
        return self.index_of(self.tags, ttag) >= 0

    def hand_over(self):
        """Make transfers of the writes that are held here, in the connection's own tables."""
        while self.n_writes:
            self.give(0)

    def close(self):
        """Take no more events, and hand over."""
        self.hand_over()
        self.is_closed = True

    cdef object give(self, int index):
        """Make a transfer of one write."""
        cdef Write *write = self.writes[index]
        cdef Space space = <Space>write.space
        cid, ttag = self.cids[index], self.tags[index]
        places = [<uint64_t>write.runs[i].place for i in range(write.n_runs)]
        command = PyBytes_FromStringAndSize(<char *>&write.command, sizeof(sqe))
        transfer = RunTransfer(
            ttag, cid, command, write.length, space.namespace, as_tuples(write.runs, write.n_runs), places,
            write.arrival)
        transfer.skip(write.received)
        self.connection.transfers[ttag] = self.outstanding[cid] = transfer
        if self.fill == write:
            self.fill = NULL
            self.connection.begin_fill(transfer, self.fill_left, self.fill_crc)
        self.forget(index)
        return transfer

    cdef int hold(self, Space space, const sqe *command, const Run *runs, int n_runs, uint32_t length) except -1:
        """Keep a write that has been set aside; its transfer tag."""
        cdef int tag
        cdef Write *write = self.add(runs, n_runs)
        if self.last_tag < 0:
            self.last_tag = self.connection.last_ttag
        tag = self.last_tag
        while True:
            tag = tag % 0xFFFE + 1
            if self.index_of(self.tags, tag) < 0 and tag not in self.connection.transfers:
                break
        self.last_tag = tag
        write.space, write.command, write.length = <void *>space, command[0], length
        write.arrival = self.moment if self.records else 0
        self.cids[self.n_writes], self.tags[self.n_writes] = command.cid, <uint16_t>tag
        self.n_writes += 1
        return tag

    # --- a buffer ---

    def process(self, bytearray data, view, Py_ssize_t position, Py_ssize_t end):
        """Handle plain PDUs of `data[position:end]`; the offset of the first that is not plain or not complete."""
        if self.registers.ready is not READY:
            return position
        self.begin(self.responder.n_completed)
        position = self.walk(<uint8_t *>PyByteArray_AS_STRING(data), position, end)
        while self.stop == FULL:
            self.queue_output()
            position = self.walk(<uint8_t *>PyByteArray_AS_STRING(data), position, end)
        self.queue_output()
        self.finish()
        self.give_times()
        return position

    def reader(self, int fd, clock, otherwise):
        """What is to be called when the socket `fd` is readable. It calls `otherwise(outcome)` unless all was done."""
        return Reader(self, fd, clock, otherwise)

    cdef int serve(self, int fd, clock) except? FAILED:
        """One receive, everything in it handled, one send: SENT, QUEUED, ELSEWHERE, or minus an error number."""
        cdef bytes rest = self.connection.tail
        cdef uint8_t *data = <uint8_t *>PyByteArray_AS_STRING(self.buffer)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(rest), position = 0, received
        cdef Py_ssize_t room = min(<Py_ssize_t>len(self.buffer), end + RECEIVE_BYTES)
        if self.is_closed or self.tx.n or self.connection.fill is not None or self.registers.ready is not READY:
            return ELSEWHERE
        if end:
            memcpy(data, PyBytes_AS_STRING(rest), end)
        received = self.receive(fd, data + end, room - end, end == 0)
        if received < 0:
            return SENT if errno == EAGAIN or errno == EINTR else -errno
        if received == 0:
            return ELSEWHERE  # the end of the stream, which is there to stay
        now = clock()
        self.connection.last_received = now
        self.association.traffic = True
        if end == 0:
            received = self.landed(received)
        end += received
        self.begin(0)
        cdef bint is_sent = True
        position = self.walk(data, 0, end)
        while self.stop == FULL:
            if is_sent:
                is_sent = self.send(fd)
            self.queue_output()
            position = self.walk(data, position, end)
        if self.stop == FOREIGN:
            self.queue_output()
            self.finish()
            self.give_times()
            self.connection.resume(position, end, now)
            return QUEUED
        if position < end:
            self.connection.tail = PyBytes_FromStringAndSize(<char *>data + position, end - position)
        elif PyBytes_GET_SIZE(rest):
            self.connection.tail = b""
        if self.is_noted:
            self.close_trace()  # before a host that has its answers can kill us
            self.add_times()
        if is_sent and not self.tx.n and self.send(fd):
            self.completed = 0
            self.finish()
            return SENT
        self.queue_output()
        self.finish()
        return QUEUED

    cdef int begin(self, int n_completed) except -1:
        """Take over what the complete engine may have changed. `n_completed`: since the send queue was empty."""
        clear_output()
        self.room = self.entries - n_completed - len(self.outstanding) - self.n_writes
        if self.flow_control:
            self.sqhd = self.queue.sqhd
        self.completed, self.write_cache, self.is_fresh = 0, -1, False
        ring = self.subsystem.trace
        if ring is not None:
            self.open_trace(ring)
        self.times = self.subsystem.times
        if self.times is not None and not self.begun:
            self.begun = now_ns()
        self.is_noted = ring is not None or self.begun
        return 0

    cdef int finish(self) except -1:
        """Give back what the complete engine will look at."""
        cdef Space space
        if self.completed:
            self.responder.n_completed += self.completed
        if self.flow_control:
            self.queue.sqhd = self.sqhd
        if self.last_tag >= 0:
            self.connection.last_ttag, self.last_tag = self.last_tag, -1
        for space in self.kept:
            space.count()
        self.close_trace()
        return 0

    cdef int queue_output(self) except -1:
        """Append what is to be sent to the send queue, which copies the headers."""
        cdef Py_ssize_t n, used
        cdef int i
        cdef uint8_t *arena
        cdef iovec *words
        cdef uint8_t *at
        if out.n:
            tx = self.tx
            tx.reserve(out.n, out.used)
            n, used = tx.n, tx.used
            arena = <uint8_t *>PyByteArray_AS_STRING(tx.arena) + used
            words = <iovec *>PyByteArray_AS_STRING(tx.words) + n
            memcpy(arena, out.arena, out.used)
            for i in range(out.n):
                at = <uint8_t *>out.pieces[i].iov_base
                if out.arena <= at < out.arena + ARENA_BYTES:
                    out.pieces[i].iov_base = arena + (at - out.arena)
            memcpy(words, out.pieces, out.n * sizeof(iovec))
            tx.n, tx.used, tx.n_bytes = n + out.n, used + out.used, tx.n_bytes + out.n_bytes
        clear_output()
        return 0

    cdef bint send(self, int fd) noexcept:
        """Send; False if something is left. An error shows again when the send queue meets it."""
        cdef ssize_t sent
        if not out.n:
            return True
        sent = writev(fd, out.pieces, out.n)
        if sent == <ssize_t>out.n_bytes:
            clear_output()
            return True
        if sent > 0:
            strike_off(sent)
        return False

    cdef Py_ssize_t receive(self, int fd, uint8_t *data, Py_ssize_t room, bint is_direct) noexcept:
        """Receive; what belongs to the PDU that is arriving goes where it belongs, if `is_direct`."""
        cdef iovec pieces[MAX_VECTOR_LBAS + 1]
        cdef int n = self.places(pieces, self.fill_left) if self.fill and is_direct else 0
        pieces[n].iov_base = data
        pieces[n].iov_len = room
        return readv(fd, pieces, n + 1)

    cdef Py_ssize_t walk(self, uint8_t *data, Py_ssize_t position, Py_ssize_t end) except -1:
        """Handle plain PDUs; the offset of the first byte that was not handled, and why in `stop`."""
        cdef Py_ssize_t after
        while True:
            if output_is_full():
                self.stop = FULL
                return position
            if self.fill:
                position = self.continue_fill(data, position, end)
                if self.stop != END:
                    return position
                continue
            if end - position < <Py_ssize_t>sizeof(common_header):
                self.stop = INCOMPLETE if position < end else END
                return position
            if (<const common_header *>(data + position)).type == PDU_H2C_DATA:
                after = self.h2c(<const h2c_data *>(data + position), end - position)
            else:
                after = self.capsule(<const capsule_cmd *>(data + position), end - position)
            if not after:
                return position
            position += after

    # --- data from the host ---

    cdef Py_ssize_t h2c(self, const h2c_data *pdu, Py_ssize_t available) noexcept:
        """Begin to take the data of a PDU; bytes of its header, 0 (and `stop`) if it is not plain."""
        cdef uint64_t word = load_u64(pdu)
        cdef int64_t n_header = sizeof(h2c_data) + self.tail
        cdef int index
        cdef Write *write
        self.stop = FOREIGN
        if <uint32_t>word & ~<uint32_t>(FLAG_LAST << 8) != self.h2c_header:
            return 0
        if available < n_header:
            self.stop = INCOMPLETE
            return 0
        index = self.index_of(self.tags, pdu.ttag)
        if index < 0 or pdu.cccid != self.cids[index]:
            return 0
        write = self.writes[index]
        if <int64_t>(word >> 32) != n_header + pdu.datal + self.data_tail or not 0 < pdu.datal <= self.max_h2c:
            return 0
        if pdu.datao != write.received or pdu.datal > write.length - write.received:
            return 0
        if pdu.flags & FLAG_LAST and pdu.datal != write.length - write.received:
            return 0
        if self.tail and crc32c(0, pdu, sizeof(h2c_data)) != load_u32(pdu + 1):
            return 0
        self.fill, self.fill_left, self.fill_crc = write, pdu.datal, 0
        return n_header

    cdef Py_ssize_t continue_fill(self, const uint8_t *data, Py_ssize_t position, Py_ssize_t end) except -1:
        """Take data of the PDU that is arriving; the offset after it. `stop` is END once the PDU is complete."""
        cdef Py_ssize_t n_bytes = min(<Py_ssize_t>self.fill_left, end - position)
        cdef Write *write = self.fill
        cdef int index = 0
        if n_bytes:
            self.take(data + position, n_bytes)
            position += n_bytes
        self.stop = INCOMPLETE
        if self.fill_left or end - position < <Py_ssize_t>self.data_tail:
            return position
        while self.writes[index] != write:
            index += 1
        if self.data_tail and load_u32(data + position) != self.fill_crc:
            self.give(index)  # with the PDU: the complete engine will find the same
            self.stop = FOREIGN
            return position
        position += self.data_tail
        self.fill = NULL
        self.stop = END
        if write.received == write.length:
            self.land(index)
        return position

    cdef int land(self, int index) except -1:
        """All data of a write is there: commit it, or leave it to the complete engine if others are ahead of it."""
        cdef Write *write = self.writes[index]
        cdef Space space = <Space>write.space
        if space.commit(write.runs, write.n_runs):
            space.writes += 1
            space.vector_writes += write.command.opc == IO_VECTOR_WRITE
            space.blocks_written += write.length // space.stride
            if self.is_noted:
                self.note(space, &write.command, write.runs, write.n_runs, write.arrival)
            self.respond(self.cids[index])
            self.forget(index)
            return 0
        transfer = self.give(index)
        self.queue_output()
        self.finish()
        self.connection.arrived(transfer)
        return self.begin(self.responder.n_completed)

    # --- commands ---

    cdef int turn_to(self, uint32_t nsid) except -1:
        """Make `space` an active namespace without filters, None if it is none, or not that any more."""
        cdef Space space = self.space
        self.is_fresh = True
        if space is None or self.nsid != nsid:
            self.nsid = nsid
            space = self.spaces.get(nsid)
        namespace = self.namespaces.get(space.nsid if space is not None else nsid)
        if namespace is None:
            space = None
        elif space is None or space.namespace is not namespace:
            self.spaces[nsid] = space = Space(nsid, namespace)
            self.kept.append(space)
        if space is not None and not space.is_plain():
            space = None
        self.space = space
        return 0

    cdef Py_ssize_t capsule(self, const capsule_cmd *pdu, Py_ssize_t available) except -1:
        """Handle a command; the bytes of its capsule, 0 (and `stop`) if it is not plain."""
        cdef uint64_t word = load_u64(pdu), length
        cdef int64_t n_header = sizeof(capsule_cmd) + self.tail, n_data = 0
        cdef const uint8_t *data = <const uint8_t *>pdu + n_header
        cdef bint is_done
        self.stop = FOREIGN
        if word != self.without_data:
            n_data = <int64_t>(word >> 32) - n_header - self.data_tail
            if <uint32_t>word != self.with_data or not 0 < n_data <= self.in_capsule:
                return 0
        if available < <int64_t>(word >> 32):
            self.stop = INCOMPLETE
            return 0
        if self.room <= 0:
            return 0
        if self.tail and crc32c(0, pdu, sizeof(capsule_cmd)) != load_u32(pdu + 1):
            return 0
        if n_data and self.data_tail and crc32c(0, data, n_data) != load_u32(data + n_data):
            return 0
        if self.index_of(self.cids, pdu.cid) >= 0 or (self.outstanding and pdu.cid in self.outstanding):
            return 0
        if not self.is_fresh or self.nsid != pdu.nsid:
            self.turn_to(pdu.nsid)
        if self.space is None or pdu.sqe_flags != PSDT_SGL or pdu.cdw12 & FUA:
            return 0
        length = <uint64_t>((pdu.cdw12 & 0xFFFF) + 1) * self.space.stride
        if pdu.opc == IO_VECTOR_RESET:
            length = 0  # and no buffer for descriptors
        if length > self.max_transfer or length != pdu.sgl_length:
            return 0
        if pdu.opc == IO_READ or pdu.opc == IO_VECTOR_READ:
            is_done = self.read(pdu, data, n_data)
        elif pdu.opc == IO_WRITE or pdu.opc == IO_VECTOR_WRITE:
            is_done = self.write(pdu, data, n_data)
        elif pdu.opc == IO_VECTOR_RESET:
            is_done = self.reset(pdu, data, n_data)
        else:
            return 0
        if not is_done:
            return 0
        self.room -= 1
        return <Py_ssize_t>(word >> 32)

    cdef bint read(self, const capsule_cmd *pdu, const uint8_t *data, int64_t n_data) except -1:
        """Answer a read; False if it is not plain."""
        cdef Space space = self.space
        cdef Run runs[MAX_VECTOR_LBAS]
        cdef uint32_t length = pdu.sgl_length, crc = 0
        cdef int i, n
        cdef c2h_data *header
        if pdu.sgl_type != SGL_TRANSPORT or (n_data and pdu.cdw13 & 15 != LIST_CAPSULE):
            return False
        if n_data and pdu.opc == IO_READ:
            return False
        n = space.runs_of(pdu, data, n_data, runs)
        if not n or not space.find(runs, n):
            return False
        header = <c2h_data *>add_header(sizeof(c2h_data) + self.tail)
        header[0] = c2h_data(
            type=PDU_C2H_DATA, flags=self.data_flags, hlen=sizeof(c2h_data), pdo=sizeof(c2h_data) + self.tail,
            plen=sizeof(c2h_data) + self.tail + length + self.data_tail, cccid=pdu.cid, ttag=0, datao=0, datal=length)
        if self.tail:
            store_u32(header + 1, crc32c(0, header, sizeof(c2h_data)))
        for i in range(n):
            add_piece(runs[i].place, <size_t>runs[i].n_blocks * space.stride)
            if self.ddgst:
                crc = crc32c(crc, runs[i].place, <size_t>runs[i].n_blocks * space.stride)
        if self.ddgst:
            store_u32(add_header(DIGEST_BYTES), crc)
        space.reads += 1
        space.vector_reads += pdu.opc == IO_VECTOR_READ
        space.blocks_read += length // space.stride
        if self.is_noted:
            self.note(space, <const sqe *>&pdu.opc, runs, n, self.moment)
        if self.flow_control:
            self.respond(pdu.cid)
        else:
            self.completed += 1
        return True

    cdef bint write(self, const capsule_cmd *pdu, const uint8_t *data, int64_t n_data) except -1:
        """Write, or set the write aside and ask for its data; False if it is not plain, and nothing has changed."""
        cdef Space space = self.space
        cdef Run runs[MAX_VECTOR_LBAS]
        cdef bint is_single = pdu.opc == IO_WRITE or pdu.cdw13 & 15 == LIST_INLINE
        cdef bint is_here = pdu.sgl_type == SGL_IN_CAPSULE
        cdef int n
        if self.write_cache < 0:
            self.write_cache = bool(self.association.volatile_write_cache)
        if not self.write_cache:
            return False
        if is_here:
            if not is_single or n_data != pdu.sgl_length or pdu.sgl_address:
                return False
        elif pdu.sgl_type != SGL_TRANSPORT or (is_single and n_data):
            return False
        n = space.runs_of(pdu, data, n_data, runs)
        if not n or not space.reserve(runs, n):
            return False
        if not is_here:
            self.ask(pdu, self.hold(space, <const sqe *>&pdu.opc, runs, n, pdu.sgl_length))
            return True
        memcpy(runs[0].place, data, pdu.sgl_length)
        if not space.commit(runs, 1):
            space.runs.abort(runs[0].chunk, runs[0].lblk, runs[0].n_blocks)
            return False
        space.writes += 1
        space.vector_writes += pdu.opc == IO_VECTOR_WRITE
        space.blocks_written += runs[0].n_blocks
        if self.is_noted:
            self.note(space, <const sqe *>&pdu.opc, runs, 1, self.moment)
        self.respond(pdu.cid)
        return True

    cdef bint reset(self, const capsule_cmd *pdu, const uint8_t *data, int64_t n_data) except -1:
        """Reset one chunk that the SQE names; False if it is not plain, and nothing has changed."""
        cdef Space space = self.space
        cdef Run run
        if pdu.cdw13 or pdu.cdw12 & 0xFFFF or pdu.sgl_type == SGL_IN_CAPSULE or n_data:
            return False
        if space.runs_of(pdu, data, 0, &run) != 1 or run.lblk or not space.runs.reset(run.chunk):
            return False
        space.namespace.tally.count(is_io=True, opcode=IO_VECTOR_RESET)
        if self.is_noted:
            self.note(space, <const sqe *>&pdu.opc, &run, 1, self.moment)
        self.respond(pdu.cid)
        return True

    # --- answers ---

    cdef void ask(self, const capsule_cmd *pdu, int tag) noexcept:
        """An R2T for all data of a write."""
        cdef r2t *header = <r2t *>add_header(sizeof(r2t) + self.tail)
        header[0] = r2t(
            type=PDU_R2T, flags=self.hdgst, hlen=sizeof(r2t), pdo=0, plen=sizeof(r2t) + self.tail,
            cccid=pdu.cid, ttag=<uint16_t>tag, r2to=0, r2tl=pdu.sgl_length)
        if self.tail:
            store_u32(header + 1, crc32c(0, header, sizeof(r2t)))

    cdef void respond(self, uint16_t cid) noexcept:
        """A CapsuleResp that says success."""
        cdef capsule_resp *header = <capsule_resp *>add_header(sizeof(capsule_resp) + self.tail)
        if self.flow_control:
            self.sqhd = self.sqhd + 1 if self.sqhd + 1 < self.entries else 0
        header[0] = capsule_resp(
            type=PDU_CAPSULE_RESP, flags=self.hdgst, hlen=sizeof(capsule_resp), pdo=0,
            plen=sizeof(capsule_resp) + self.tail, dw0=0, dw1=0, sqhd=self.sqhd, sqid=0, cid=cid, status=0)
        if self.tail:
            store_u32(header + 1, crc32c(0, header, sizeof(capsule_resp)))
        self.completed += 1


include "reader.pxi"

crc32c_prepare()

"""What the trace records of plain commands, as `transport.batch` does."""

cdef enum:
    AHEAD = 4  # records: the ring is far larger than the caches, and a miss costs more than a record


cdef class Records(Writes):
    """The trace that is on, while a buffer is walked."""

    cdef object ring  # the one that `slots` are of, whether it is still on or not
    cdef trace_record *slots
    cdef trace_record *records  # `slots`; NULL: no trace is on
    cdef uint32_t record_mask, first_record, next_record
    cdef uint64_t moment
    cdef uint16_t cntlid, qid

    cdef int open_trace(self, object ring) except -1:
        """A buffer has arrived while `ring` is on."""
        cdef uint32_t ahead
        if ring is not self.ring:
            self.slots, self.record_mask = <trace_record *>address_of(ring.view), <uint32_t>(ring.n_slots - 1)
            self.ring = ring
        self.next_record = ring.seq
        if self.next_record >= SEQ_LIMIT:
            ring.renumber()
            self.next_record = ring.seq
        self.records, self.first_record, self.moment = self.slots, self.next_record, now_ns()
        for ahead in range(AHEAD):
            prefetch(&self.slots[(self.next_record + ahead) & self.record_mask])
        return 0

    cdef void record(self, Space space, const sqe *command, const Run *runs, int n_runs, uint64_t arrival) noexcept:
        """Write a plain command into the trace."""
        cdef trace_record *at = &self.records[self.next_record & self.record_mask]
        prefetch(&self.records[(self.next_record + AHEAD) & self.record_mask])
        publish_u32(&at.check, 0)
        publish_u32(&at.seq, self.next_record)
        at.nsid, at.arrival, at.start, at.completion = command.nsid, arrival, self.moment, 0
        at.lba, at.pu_mask, at.nlb = lba_of(space, runs), pus_of(space, runs, n_runs), command.cdw12 & 0xFFFF
        at.cid, at.opcode, at.flags, at.status = command.cid, command.opc, TRACE_PLAIN | TRACE_HAS_EXTENT, 0
        at.qid, at.cntlid = self.qid, self.cntlid
        publish_u32(&at.check, self.next_record)
        self.next_record += 1

    cdef int close_trace(self) except -1:
        """The commands that were recorded complete now."""
        cdef uint64_t now
        if self.next_record != self.first_record:
            now = now_ns()
            while self.first_record != self.next_record:
                self.records[self.first_record & self.record_mask].completion = now
                self.first_record += 1
            self.ring.seq = self.next_record
        self.records = NULL
        return 0

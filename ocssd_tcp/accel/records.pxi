"""What is noted of plain commands, as `transport.batch` does: records of the trace, and how long they took."""

cdef enum:
    AHEAD = 4  # records: the ring is far larger than the caches, and a miss costs more than a record


cdef class Records(Writes):
    """The trace that is on, and what times commands, while a buffer is walked."""

    cdef list kept  # every Space that a Write may point to
    cdef bint is_noted  # whether there is anything to note
    cdef object times  # a `PlainTimes`, None: nobody watches
    cdef uint64_t begun  # when the buffer was received; 0: nobody watches
    cdef object ring  # the one that `slots` are of, whether it is still on or not
    cdef trace_record *slots
    cdef trace_record *records  # `slots`; NULL: no trace is on
    cdef uint32_t record_mask, first_record, next_record
    cdef bint has_records  # whether any command of the buffer was recorded: first_record to next_record
    cdef uint64_t moment
    cdef uint16_t cntlid, qid

    cdef int open_trace(self, object ring) except -1:
        """A buffer has arrived while `ring` is on. Most buffers of large writes record nothing: they cost little."""
        cdef uint32_t ahead
        if ring is not self.ring:
            self.slots, self.record_mask = <trace_record *>address_of(ring.view), <uint32_t>(ring.n_slots - 1)
            self.ring = ring
        self.records, self.has_records, self.moment = self.slots, False, now_ns()
        for ahead in range(AHEAD):  # right unless others have recorded since
            prefetch(&self.slots[(self.next_record + ahead) & self.record_mask])
        return 0

    cdef int begin_records(self) except -1:
        """The first of the buffer's commands is recorded."""
        self.next_record = self.ring.seq
        if self.next_record >= SEQ_LIMIT:
            self.ring.renumber()
            self.next_record = self.ring.seq
        self.first_record, self.has_records = self.next_record, True
        return 0

    cdef int note(self, Space space, const sqe *command, const Run *runs, int n_runs, uint64_t arrival) except -1:
        """A plain command is done. `arrival`: 0 if it came before the trace was on."""
        if self.records and arrival:
            self.record(space, command, runs, n_runs, arrival)
        if self.begun:
            space.count_time(command.opc, runs.chunk)
        return 0

    cdef int record(self, Space space, const sqe *command, const Run *runs, int n_runs, uint64_t arrival) except -1:
        """Write a plain command into the trace."""
        cdef trace_record *at
        if not self.has_records:
            self.begin_records()
        at = &self.records[self.next_record & self.record_mask]
        prefetch(&self.records[(self.next_record + AHEAD) & self.record_mask])
        publish_u32(&at.check, 0)
        publish_u32(&at.seq, self.next_record)
        at.nsid, at.arrival, at.start, at.completion = command.nsid, arrival, self.moment, 0
        at.lba, at.pu_mask, at.nlb = lba_of(space, runs), pus_of(space, runs, n_runs), command.cdw12 & 0xFFFF
        at.cid, at.opcode, at.flags, at.status = command.cid, command.opc, TRACE_PLAIN | TRACE_HAS_EXTENT, 0
        at.qid, at.cntlid = self.qid, self.cntlid
        publish_u32(&at.check, self.next_record)
        self.next_record += 1
        return 0

    cdef int close_trace(self) except -1:
        """The commands that were recorded complete now."""
        cdef uint64_t now
        if not self.records:
            return 0
        if self.has_records:
            now = now_ns()
            while self.first_record != self.next_record:
                self.records[self.first_record & self.record_mask].completion = now
                self.first_record += 1
            self.ring.seq = self.next_record
        self.records = NULL
        return 0

    cdef int add_times(self) except -1:
        """The buffer has been handled, all of it here."""
        cdef Space space
        cdef uint64_t elapsed
        if self.begun:
            elapsed, self.begun = now_ns() - self.begun, 0
            for space in self.kept:
                space.add_times(elapsed)
        return 0

    cdef int give_times(self) except -1:
        """The connection goes on with the buffer, and says when it has been handled."""
        cdef Space space
        if self.begun:
            self.times.begin(self.begun * 1e-9)
            self.begun = 0
            for space in self.kept:
                space.give_times(self.times)
        return 0

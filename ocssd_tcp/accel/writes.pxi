"""Plain writes that wait for their data by R2T, and where the data that is arriving belongs."""

cdef struct Write:
    void *space  # a Space that its processor keeps
    uint64_t arrival  # for the trace; 0: not recorded
    uint32_t length
    uint32_t received
    int n_runs
    sqe command
    Run runs[0]


cdef class Writes:
    """The writes of one queue. `n_writes`: how many. CIDs and tags stand apart, as they are searched."""

    cdef uint16_t *cids
    cdef uint16_t *tags
    cdef Write **writes
    cdef Write *spare  # writes of one run that are free, linked by `space`
    cdef readonly int n_writes
    cdef int n_slots
    # The write whose H2CData PDU is arriving.
    cdef Write *fill
    cdef uint32_t fill_left, fill_crc
    cdef bint is_digested  # whether a data digest follows the data

    def __dealloc__(self):
        cdef int i
        cdef Write *write
        for i in range(self.n_writes):
            free(self.writes[i])
        while self.spare:
            write, self.spare = self.spare, <Write *>self.spare.space
            free(write)
        free(self.cids)
        free(self.tags)
        free(self.writes)

    cdef int index_of(self, const uint16_t *numbers, int number) noexcept nogil:
        cdef int i
        for i in range(self.n_writes):
            if numbers[i] == number:
                return i
        return -1

    cdef Write *add(self, const Run *runs, int n_runs) except NULL:
        """A new write at the end of the table, where it counts once its CID and tag are there too."""
        cdef Write *write
        if self.n_writes == self.n_slots:
            self.grow()
        if n_runs == 1 and self.spare:
            write, self.spare = self.spare, <Write *>self.spare.space
        else:
            write = <Write *>malloc(sizeof(Write) + n_runs * sizeof(Run))
        if not write:
            raise MemoryError
        write.received, write.n_runs = 0, n_runs
        memcpy(write.runs, runs, n_runs * sizeof(Run))
        self.writes[self.n_writes] = write
        return write

    cdef void forget(self, int index) noexcept:
        cdef Write *write = self.writes[index]
        if write.n_runs == 1:
            write.space, self.spare = <void *>self.spare, write
        else:
            free(write)
        self.n_writes -= 1
        self.cids[index] = self.cids[self.n_writes]
        self.tags[index] = self.tags[self.n_writes]
        self.writes[index] = self.writes[self.n_writes]

    cdef int grow(self) except -1:
        cdef int n = 2 * self.n_slots or 32
        cdef void *cids = realloc(self.cids, n * sizeof(uint16_t))
        if cids:
            self.cids = <uint16_t *>cids
        cdef void *tags = realloc(self.tags, n * sizeof(uint16_t))
        if tags:
            self.tags = <uint16_t *>tags
        cdef void *writes = realloc(self.writes, n * sizeof(Write *))
        if writes:
            self.writes = <Write **>writes
        if not cids or not tags or not writes:
            raise MemoryError
        self.n_slots = n
        return 0

    cdef int places(self, iovec *pieces, size_t limit) noexcept:
        """Where the next `limit` bytes of the write that is arriving belong; the number of pieces."""
        cdef size_t skip = self.fill.received, length
        cdef int i, n = 0
        for i in range(self.fill.n_runs):
            if not limit:
                break
            length = <size_t>self.fill.runs[i].n_blocks * (<Space>self.fill.space).stride
            if skip >= length:
                skip -= length
                continue
            pieces[n].iov_base = self.fill.runs[i].place + skip
            pieces[n].iov_len = min(length - skip, limit)
            limit -= pieces[n].iov_len
            skip = 0
            n += 1
        return n

    cdef void take(self, const uint8_t *data, size_t n_bytes) noexcept:
        """Account for bytes of the PDU that is arriving. `data`: to be copied, NULL if they are in place."""
        cdef iovec pieces[MAX_VECTOR_LBAS + 1]
        cdef int i, n = self.places(pieces, n_bytes)
        for i in range(n):
            if data:
                memcpy(pieces[i].iov_base, data, pieces[i].iov_len)
                data += pieces[i].iov_len
            if self.is_digested:
                self.fill_crc = crc32c(self.fill_crc, pieces[i].iov_base, pieces[i].iov_len)
        self.fill.received += n_bytes
        self.fill_left -= n_bytes

    cdef Py_ssize_t landed(self, Py_ssize_t received) noexcept:
        """Account for bytes that were received in place; how many are in the buffer instead."""
        cdef Py_ssize_t n_bytes
        if not self.fill:
            return received
        n_bytes = min(received, <Py_ssize_t>self.fill_left)
        self.take(NULL, n_bytes)
        return received - n_bytes

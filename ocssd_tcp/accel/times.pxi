"""How long plain commands take, by group, as `commands.tally` keeps it."""

from ocssd_tcp.commands.tally import N_BUCKETS

cdef int N_TIME_BUCKETS = N_BUCKETS


cdef class Timed:
    """The plain commands of a namespace that are done in the buffer that is walked, by row of its `Latencies`."""

    cdef object latencies, memory
    cdef uint64_t *counts
    cdef double *totals
    cdef uint32_t *done  # how many, by row
    cdef uint32_t *touched  # the rows that have any, each once
    cdef int n_touched
    cdef uint32_t n_groups, group_shift  # of address chunks

    cdef int open_times(self, latencies, uint32_t group_shift) except -1:
        """Begin to count for `latencies`."""
        self.latencies, self.n_groups, self.group_shift = latencies, latencies.n_groups, group_shift
        self.counts = <uint64_t *>address_of(latencies.counts)
        self.totals = <double *>address_of(latencies.totals)
        n_rows = len(latencies.totals)
        self.memory = bytearray(2 * n_rows * sizeof(uint32_t))
        self.done = <uint32_t *>address_of(self.memory)
        self.touched = self.done + <size_t>n_rows
        return 0

    cdef void count_time(self, int opcode, uint32_t chunk) noexcept nogil:
        """A read, write or reset is done, the first of its chunks being `chunk`."""
        cdef uint32_t row = (opcode & 3) * (self.n_groups + 1) + min(chunk >> self.group_shift, self.n_groups)
        if not self.done[row]:
            self.touched[self.n_touched] = row
            self.n_touched += 1
        self.done[row] += 1

    cdef void add_times(self, uint64_t elapsed) noexcept nogil:
        """All that is done took `elapsed` ns."""
        cdef int bucket = min(bit_length(elapsed // 1000), N_TIME_BUCKETS - 1)
        cdef uint32_t row
        while self.n_touched:
            self.n_touched -= 1
            row = self.touched[self.n_touched]
            self.counts[row * N_TIME_BUCKETS + bucket] += self.done[row]
            self.totals[row] += self.done[row] * (elapsed * 1e-9)
            self.done[row] = 0

    cdef int give_times(self, times) except -1:
        """Have `times` count what is done, as what took how long is not known yet."""
        cdef uint32_t row
        while self.n_touched:
            self.n_touched -= 1
            row = self.touched[self.n_touched]
            times.count_row(self.latencies, row, self.done[row])
            self.done[row] = 0
        return 0

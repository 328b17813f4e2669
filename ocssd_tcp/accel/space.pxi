"""A namespace as the compiled processor sees it: reads find their blocks here, writes set blocks aside and commit."""

cdef struct Run:
    uint32_t chunk  # address chunk
    uint32_t lblk
    uint32_t n_blocks
    uint8_t *place


cdef class Space(Timed):
    """A namespace as the processor needs it: its tables by address, and what is to be counted."""

    cdef object namespace, engine, runs, tables, nsid
    cdef list shards
    cdef uint32_t *readable
    cdef const uint64_t *address
    cdef const uint64_t *table
    cdef uint32_t *reserved
    cdef uint8_t *dirty
    cdef uint64_t nsze, n_chunks
    cdef uint32_t lbk_len, lbk_mask, chk_len, chk_mask, stride, ws_min, mw_cunits
    cdef uint64_t reads, vector_reads, blocks_read, writes, vector_writes, blocks_written

    def __init__(self, nsid, namespace):
        geometry, engine = namespace.geometry, namespace.engine
        self.nsid, self.namespace, self.engine, self.shards = nsid, namespace, engine, engine.shard_at
        self.runs = engine.runs
        self.tables = tables = engine.tables
        self.readable = <uint32_t *>address_of(tables.readable)
        self.address = <const uint64_t *>address_of(tables.address)
        self.table = <const uint64_t *>address_of(tables.table)
        self.reserved = <uint32_t *>address_of(tables.reserved)
        self.dirty = <uint8_t *>address_of(tables.dirty)
        self.nsze, self.n_chunks = geometry.nsze, engine.n_address_chunks
        self.lbk_len, self.lbk_mask = geometry.lbk_len, (1 << geometry.lbk_len) - 1
        self.chk_len, self.chk_mask = geometry.chk_len, (1 << geometry.chk_len) - 1
        self.stride, self.ws_min, self.mw_cunits = geometry.block_stride, geometry.ws_min, geometry.mw_cunits
        self.open_times(namespace.latencies, geometry.grp_shift - geometry.lbk_len)

    cdef bint is_plain(self) except -1:
        """Whether no filter stands around the media."""
        return self.namespace.media is self.engine

    cdef int count(self) except -1:
        """Add to the namespace's counters."""
        counters = self.namespace.counters
        if self.reads:
            counters.reads += self.reads
            counters.blocks_read += self.blocks_read
            if self.vector_reads:
                counters.vector_reads += self.vector_reads
        if self.writes:
            counters.writes += self.writes
            counters.blocks_written += self.blocks_written
            if self.vector_writes:
                counters.vector_writes += self.vector_writes
        self.reads = self.vector_reads = self.blocks_read = 0
        self.writes = self.vector_writes = self.blocks_written = 0
        return 0

    cdef int cut(self, const uint64_t *lbas, int n, Run *runs) noexcept nogil:
        """Cut a list into runs of adjacent LBAs of one chunk each; their number, 0 if an LBA is no address."""
        cdef int i, count = 0
        cdef Run *run = runs
        for i in range(n):
            if lbas[i] >= self.nsze:
                return 0
            if i and lbas[i] == lbas[i - 1] + 1 and lbas[i] & self.lbk_mask:
                run.n_blocks += 1
                continue
            run = &runs[count]
            count += 1
            run.chunk = <uint32_t>(lbas[i] >> self.lbk_len)
            run.lblk = <uint32_t>(lbas[i] & self.lbk_mask)
            run.n_blocks = 1
        return count

    cdef int runs_of(self, const capsule_cmd *pdu, const uint8_t *data, uint64_t n_data, Run *runs) noexcept:
        """The runs that a command names; 0 if an LBA is no address, or the list is not of a plain form."""
        cdef uint64_t lbas[MAX_VECTOR_LBAS]
        cdef uint64_t first = load_u64(&pdu.cdw10), stride = load_u64(&pdu.cdw14), row_stride = load_u64(&pdu.cdw2)
        cdef uint32_t n = (pdu.cdw12 & 0xFFFF) + 1, form = pdu.cdw13 & 15, run, columns, i
        if pdu.opc == IO_READ or pdu.opc == IO_WRITE:
            if first >= self.nsze:
                return 0
            runs.chunk = <uint32_t>(first >> self.lbk_len)
            runs.lblk, runs.n_blocks = <uint32_t>first & self.lbk_mask, n
            return 1
        if n > MAX_VECTOR_LBAS:
            return 0
        if form == LIST_PROGRESSION:
            if pdu.cdw13 >> 16 or n_data:
                return 0
            run, columns = (pdu.cdw13 >> 4 & 63) + 1, (pdu.cdw13 >> 10 & 63) + 1
            for i in range(n):
                lbas[i] = first + i % run + i // run % columns * stride + i // (run * columns) * row_stride
        elif pdu.cdw13 >> 4 or stride or row_stride:
            return 0
        elif form == LIST_INLINE and n == 1:
            lbas[0] = first
        elif form == LIST_CAPSULE and first <= n_data and n * sizeof(uint64_t) <= n_data - first:
            memcpy(lbas, data + first, n * sizeof(uint64_t))
        else:
            return 0
        return self.cut(lbas, n, runs)

    cdef bint find(self, Run *runs, int n) noexcept nogil:
        """Where the blocks of runs are; False if some cannot be read plainly."""
        cdef int i
        for i in range(n):
            if <uint64_t>runs[i].lblk + runs[i].n_blocks > self.readable[runs[i].chunk]:
                return False
            runs[i].place = <uint8_t *>self.address[runs[i].chunk] + <uint64_t>runs[i].lblk * self.stride
        return True

    cdef chunk_descriptor *appendable(self, uint32_t chunk, uint32_t lblk) noexcept:
        """The entry of an Open sequential chunk of an open drive, if its wp is `lblk`."""
        cdef chunk_descriptor *entry
        if chunk >= self.n_chunks or not self.address[chunk] or self.shards[chunk >> self.chk_len] is None:
            return NULL
        entry = <chunk_descriptor *>self.table[chunk >> self.chk_len] + (chunk & self.chk_mask)
        if (entry.cs | entry.ct << 8) & KIND_MASK != OPEN_SEQUENTIAL or entry.wp != lblk:
            return NULL
        return entry

    cdef bint reserve(self, Run *runs, int n) except -1:
        """As `PlainRuns.reserve` and `reserve_all`, which are asked where a chunk is not Open and idle."""
        cdef int i, done = 0
        cdef Run *run
        cdef chunk_descriptor *entry
        for i in range(n):
            run = &runs[i]
            entry = self.appendable(run.chunk, run.lblk)
            if not entry or self.reserved[run.chunk] or run.n_blocks % self.ws_min:
                break
            if <uint64_t>run.lblk + run.n_blocks > entry.cnlb:
                break
            run.place = <uint8_t *>self.address[run.chunk] + <uint64_t>run.lblk * self.stride
            self.reserved[run.chunk] = run.lblk + run.n_blocks
            done += 1
        if done == n:
            return True
        for i in range(done):
            self.reserved[runs[i].chunk] = 0
        if n == 1:
            runs[0].place = <uint8_t *><uint64_t>self.runs.reserve(runs[0].chunk, runs[0].lblk, runs[0].n_blocks)
            return runs[0].place != NULL
        places = self.runs.reserve_all(as_tuples(runs, n))
        if not places:
            return False
        for i in range(n):
            runs[i].place = <uint8_t *><uint64_t>places[i]
        return True

    cdef bint commit(self, const Run *runs, int n) except -1:
        """As `PlainRuns.commit` and `commit_all`, which are asked where a chunk opens or fills."""
        cdef int i
        cdef uint64_t wp
        cdef chunk_descriptor *entry
        for i in range(n):
            wp = <uint64_t>runs[i].lblk + runs[i].n_blocks
            entry = self.appendable(runs[i].chunk, runs[i].lblk)
            if not entry or self.reserved[runs[i].chunk] != wp or wp >= entry.cnlb:
                if n == 1:
                    return self.runs.commit(runs[0].chunk, runs[0].lblk, runs[0].n_blocks)
                return self.runs.commit_all(as_tuples(runs, n))
        for i in range(n):
            wp = <uint64_t>runs[i].lblk + runs[i].n_blocks
            entry = self.appendable(runs[i].chunk, runs[i].lblk)
            publish_u64(&entry.wp, wp)
            self.readable[runs[i].chunk] = <uint32_t>(wp - self.mw_cunits) if wp > self.mw_cunits else 0
            self.reserved[runs[i].chunk] = 0
            self.dirty[runs[i].chunk >> self.chk_len] = 1
        return True


cdef inline uint64_t lba_of(Space space, const Run *run) noexcept:
    """The LBA of a run's first block."""
    return <uint64_t>run.chunk << space.lbk_len | run.lblk


cdef inline uint64_t pus_of(Space space, const Run *runs, int n) noexcept:
    """The parallel units of a trace record: those of several runs, bit i for the units with i in the low six bits."""
    cdef uint64_t mask = 0
    cdef int i
    if n > 1:
        for i in range(n):
            mask |= <uint64_t>1 << (runs[i].chunk >> space.chk_len & 63)
    return mask


cdef list as_tuples(const Run *runs, int n):
    return [(runs[i].chunk, runs[i].lblk, runs[i].n_blocks) for i in range(n)]

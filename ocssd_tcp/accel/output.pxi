"""Answers on their way: headers in an arena, and the pieces that a vectored write sends."""

cdef enum:
    PIECES = 1024  # of one writev (Linux)
    PIECES_PER_PDU = MAX_VECTOR_LBAS + 4
    ARENA_BYTES = 64 * 1024
    ARENA_BYTES_PER_PDU = 128

cdef struct Output:
    iovec pieces[PIECES]
    uint8_t arena[ARENA_BYTES]
    int n
    size_t used
    size_t n_bytes
    uint8_t *joined  # where the last piece ends, if it is one of the arena

#: Answers on their way into a send queue or a socket: one for all connections, as one is served at a time.
cdef Output out


cdef inline uint8_t *add_header(size_t n_bytes) noexcept nogil:
    """`n_bytes` of the arena, zeros, as the next piece or the end of the last."""
    cdef uint8_t *at = out.arena + out.used
    memset(at, 0, n_bytes)
    if out.joined == at:
        out.pieces[out.n - 1].iov_len += n_bytes
    else:
        out.pieces[out.n].iov_base = at
        out.pieces[out.n].iov_len = n_bytes
        out.n += 1
    out.used += n_bytes
    out.n_bytes += n_bytes
    out.joined = at + n_bytes
    return at


cdef inline void add_piece(void *at, size_t n_bytes) noexcept nogil:
    out.pieces[out.n].iov_base = at
    out.pieces[out.n].iov_len = n_bytes
    out.n += 1
    out.n_bytes += n_bytes
    out.joined = NULL


cdef inline void clear_output() noexcept nogil:
    out.n = 0
    out.used = out.n_bytes = 0
    out.joined = NULL


cdef inline bint output_is_full() noexcept nogil:
    return out.n > PIECES - PIECES_PER_PDU or out.used > ARENA_BYTES - ARENA_BYTES_PER_PDU


cdef void strike_off(size_t sent) noexcept:
    """Move what has not been sent to the front of the pieces."""
    cdef int first = 0, i
    out.n_bytes -= sent
    while sent and sent >= out.pieces[first].iov_len:
        sent -= out.pieces[first].iov_len
        first += 1
    for i in range(first, out.n):
        out.pieces[i - first] = out.pieces[i]
    out.n -= first
    out.pieces[0].iov_base = <uint8_t *>out.pieces[0].iov_base + sent
    out.pieces[0].iov_len -= sent
    out.joined = NULL

"""What is C: system calls, unaligned words, the checksum."""

cdef extern from "crc32c.h" nogil:
    void crc32c_prepare()
    uint32_t crc32c(uint32_t before, const void *data, size_t length)

cdef extern from *:
    """
    #include <sys/uio.h>
    #include <time.h>
    static inline uint64_t load_u64(const void *at) { uint64_t word; memcpy(&word, at, sizeof word); return word; }
    static inline uint32_t load_u32(const void *at) { uint32_t word; memcpy(&word, at, sizeof word); return word; }
    static inline void store_u32(void *at, uint32_t word) { memcpy(at, &word, sizeof word); }
    static inline uint64_t now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec;
    }
    static inline void prefetch(const void *at) { __builtin_prefetch(at, 1); }
    static inline int bit_length(uint64_t number) { return number ? 64 - __builtin_clzll(number) : 0; }
    static inline void publish_u32(void *at, uint32_t word) { __atomic_store_n((uint32_t *)at, word, __ATOMIC_RELEASE); }
    /* Data first, then wp, whatever the compiler would like better: a killed process leaves no hole below wp. */
    static inline void publish_u64(void *at, uint64_t word) { __atomic_store_n((uint64_t *)at, word, __ATOMIC_RELEASE); }
    """
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *pieces, int count)
    ssize_t writev(int fd, const iovec *pieces, int count)
    uint64_t load_u64(const void *at) nogil
    uint32_t load_u32(const void *at) nogil
    void store_u32(void *at, uint32_t word) nogil
    void publish_u64(void *at, uint64_t word) nogil
    void publish_u32(void *at, uint32_t word) nogil
    void prefetch(const void *at) nogil
    uint64_t now_ns() nogil
    int bit_length(uint64_t number) nogil


cdef inline uint64_t first_word(int kind, int flags, int hlen, int pdo) noexcept nogil:
    """A PDU's first four bytes; PLEN belongs into the upper half."""
    return <uint64_t>kind | flags << 8 | hlen << 16 | <uint64_t>pdo << 24


cdef uint64_t address_of(object view) except? 0:
    """Where a buffer that its owner keeps is."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
    cdef uint64_t address = <uint64_t>buffer.buf
    PyBuffer_Release(&buffer)
    return address

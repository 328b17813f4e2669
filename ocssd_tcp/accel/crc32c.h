/* CRC-32C (polynomial 1EDC6F41h, reflected), as NVMe/TCP digests headers and data.
 *
 * The crc32 instruction of SSE4.2 can start once a cycle but takes three to answer. So long runs are cut into triples
 * of strips whose CRCs are computed side by side, and joined: the CRC of A followed by B is the CRC of A, multiplied by
 * x^(8 * length of B) modulo the polynomial, plus the CRC of B begun from zero. The product is four table look-ups.
 * Blocks are mostly cold, so the next three strips are fetched meanwhile: 40 % less time per 128 KiB (measured).
 * Other processors take eight bytes a step by tables.
 */
#ifndef OCSSD_TCP_CRC32C_H
#define OCSSD_TCP_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CRC32C_POLYNOMIAL 0x82f63b78u /* bit 31 is x^0 */
#define CRC32C_STRIP 1360             /* bytes; three strips are a block of 4 KiB but for two steps */
#define CRC32C_LINE 64

static uint32_t crc32c_steps[8][256];  /* [k][b]: the byte b, followed by k bytes of zero */
static uint32_t crc32c_shift[4][256];  /* [k][b]: b at byte k of a CRC, followed by a strip of zeros */
static int crc32c_has_instruction;

/* The product of two polynomials modulo CRC32C_POLYNOMIAL. */
static uint32_t crc32c_product(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = b & 1 ? b >> 1 ^ CRC32C_POLYNOMIAL : b >> 1;
    }
    return product;
}

static void crc32c_prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ CRC32C_POLYNOMIAL : crc >> 1;
        crc32c_steps[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = crc32c_steps[k - 1][byte];
            crc32c_steps[k][byte] = before >> 8 ^ crc32c_steps[0][before & 0xff];
        }
    uint32_t strip = 1u << 31;              /* x^0 */
    for (int i = 0; i < CRC32C_STRIP; i++)
        strip = crc32c_product(strip, 1u << 23); /* x^8 */
    for (int k = 0; k < 4; k++)
        for (uint32_t byte = 0; byte < 256; byte++)
            crc32c_shift[k][byte] = crc32c_product(byte << 8 * k, strip);
#ifdef __x86_64__
    __builtin_cpu_init();
    crc32c_has_instruction = __builtin_cpu_supports("sse4.2") != 0;
#endif
}

static inline uint64_t crc32c_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static uint32_t crc32c_by_tables(uint32_t crc, const uint8_t *bytes, size_t length)
{
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word = crc32c_word(bytes) ^ crc;
        crc = 0;
        for (int k = 0; k < 8; k++)
            crc ^= crc32c_steps[7 - k][word >> 8 * k & 0xff];
    }
    while (length--)
        crc = crc >> 8 ^ crc32c_steps[0][(crc ^ *bytes++) & 0xff];
    return crc;
}

#ifdef __x86_64__
static inline uint32_t crc32c_after_strip(uint32_t crc)
{
    return crc32c_shift[0][crc & 0xff] ^ crc32c_shift[1][crc >> 8 & 0xff] ^ crc32c_shift[2][crc >> 16 & 0xff] ^
           crc32c_shift[3][crc >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *bytes,
                                                                        size_t length)
{
    size_t fetched = length < 3 * CRC32C_STRIP ? length : 3 * CRC32C_STRIP;
    for (size_t at = 0; at < fetched; at += CRC32C_LINE)
        __builtin_prefetch(bytes + at);
    for (; length >= 3 * CRC32C_STRIP; bytes += 3 * CRC32C_STRIP, length -= 3 * CRC32C_STRIP) {
        uint64_t first = crc, second = 0, third = 0;
        const uint8_t *next = length >= 6 * CRC32C_STRIP ? bytes + 3 * CRC32C_STRIP : bytes;
        for (size_t at = 0; at < CRC32C_STRIP; at += 8) {
            if (at % CRC32C_LINE == 0)
                for (int strip = 0; strip < 3; strip++)
                    __builtin_prefetch(next + at + strip * CRC32C_STRIP);
            first = __builtin_ia32_crc32di(first, crc32c_word(bytes + at));
            second = __builtin_ia32_crc32di(second, crc32c_word(bytes + at + CRC32C_STRIP));
            third = __builtin_ia32_crc32di(third, crc32c_word(bytes + at + 2 * CRC32C_STRIP));
        }
        crc = crc32c_after_strip((uint32_t)first) ^ (uint32_t)second;
        crc = crc32c_after_strip(crc) ^ (uint32_t)third;
    }
    uint64_t wide = crc;
    for (; length >= 8; bytes += 8, length -= 8)
        wide = __builtin_ia32_crc32di(wide, crc32c_word(bytes));
    crc = (uint32_t)wide;
    while (length--)
        crc = __builtin_ia32_crc32qi(crc, *bytes++);
    return crc;
}
#endif

/* The CRC of `length` bytes that follow those whose CRC is `before` (0: none). */
static uint32_t crc32c(uint32_t before, const void *bytes, size_t length)
{
#ifdef __x86_64__
    if (crc32c_has_instruction)
        return ~crc32c_by_instruction(~before, (const uint8_t *)bytes, length);
#endif
    return ~crc32c_by_tables(~before, (const uint8_t *)bytes, length);
}

#endif

/* States as they are stored. The twins of these functions are in mimn.state.codec. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef int64_t i64;

/* mimn.state.codec */
enum { VERSION_AT = 4, DTYPE_AT = 6, FLAGS_AT = 7, FINGERPRINT_AT = 8, OWNER_AT = 24, CHECKSUM_AT = 44, PAST_AT = 48, HEADER = 80 };
enum { WHOLE = 1, SPARSE = 2 };
/* mimn.state.HEADERS */
enum { OWNER = 20, PAST = 32, STAGED_PARTIAL = OWNER + PAST, STAGED_HEADER = OWNER + PAST + 1 };

/* CRC-32 (zlib's) of 16 bytes, without the inversions at both ends. Four bits at a time. */
static u32 crc_of_16(const u8 *data) {
    static const u32 OF[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                               0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    u32 crc = 0;
    for (int i = 0; i < 16; i++) {
        crc ^= data[i];
        crc = crc >> 4 ^ OF[crc & 15];
        crc = crc >> 4 ^ OF[crc & 15];
    }
    return crc;
}

/* `x` multiplied by the power of two that `by` stands for, as a remainder of the same 128 bits; and `next` added. */
static inline __m128i folded(__m128i x, __m128i by, __m128i next) {
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x00), _mm_clmulepi64_si128(x, by, 0x11)), next);
}

/* CRC-32 of `head`, which has fewer than 48 bytes, and then `data`, together at least 64 bytes, without the inversion at the end. What
 * lies 512 or 128 bits ahead is multiplied by the remainder of that power of two (V. Gopal et al., "Fast CRC Computation for Generic
 * Polynomials Using PCLMULQDQ", Intel 2009), until 128 bits are left. Zeros before the first byte change nothing, and leave 16 at a
 * time behind the first 64. */
static u32 crc32_of(const u8 *head, i64 before, const u8 *data, i64 size) {
    const __m128i by512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4), by128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const i64 zeros = -(before + size) & 15, first = 64 - zeros - before;
    u8 block[64] = {0}, left[16];
    memcpy(block + zeros, head, (size_t)before);
    memcpy(block + zeros + before, data, (size_t)first);
    for (int i = 0; i < 4; i++) block[zeros + i] ^= 0xff;
    __m128i x[4];
    for (int i = 0; i < 4; i++) x[i] = _mm_loadu_si128((const __m128i *)block + i);
    for (data += first, size -= first; size >= 64; data += 64, size -= 64)
        for (int i = 0; i < 4; i++) x[i] = folded(x[i], by512, _mm_loadu_si128((const __m128i *)data + i));
    for (int i = 1; i < 4; i++) x[i] = folded(x[i - 1], by128, x[i]);
    for (; size; data += 16, size -= 16) x[3] = folded(x[3], by128, _mm_loadu_si128((const __m128i *)data));
    _mm_storeu_si128((__m128i *)left, x[3]);
    return crc_of_16(left);
}

/* Of a stored value. */
static u32 checksum(const u8 *value, i64 size) { return ~crc32_of(value, CHECKSUM_AT, value + PAST_AT, size - PAST_AT); }

/* Up to 32 words: those that are not 0 go to `at`, which has room for 16 more. Returns marks of them. */
static inline u32 kept(const u8 *from, i64 words, u8 *at) {
    u32 marks = 0;
#ifdef __AVX512F__
    if (words == 32) {
        const __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + 64);
        const __mmask16 in_low = _mm512_test_epi32_mask(low, low), in_high = _mm512_test_epi32_mask(high, high);
        _mm512_storeu_si512(at, _mm512_maskz_compress_epi32(in_low, low));
        _mm512_storeu_si512(at + 4 * __builtin_popcount(in_low), _mm512_maskz_compress_epi32(in_high, high));
        return in_low | (u32)in_high << 16;
    }
#else
    if (words == 32) {
        for (int j = 0; j < 32; j += 8) {
            __m256i is_zero = _mm256_cmpeq_epi32(_mm256_loadu_si256((const __m256i *)(from + 4 * j)), _mm256_setzero_si256());
            marks |= (~(u32)_mm256_movemask_ps(_mm256_castsi256_ps(is_zero)) & 0xff) << j;
        }
        if (marks == ~0u) memcpy(at, from, 128);
        else for (u32 left = marks; left; left &= left - 1, at += 4) memcpy(at, from + 4 * __builtin_ctz(left), 4);
        return marks;
    }
#endif
    for (i64 j = 0; j < words; j++) {
        u32 word;
        memcpy(&word, from + 4 * j, 4);
        if (word) memcpy(at, &word, 4), at += 4, marks |= 1u << j;
    }
    return marks;
}

/* The reverse: up to 32 words from those at `at` that the marks ask for. */
static inline void spread(u8 *to, i64 words, u32 marks, const u8 *at) {
#ifdef __AVX512F__
    if (words == 32) {
        _mm512_storeu_si512(to, _mm512_maskz_expandloadu_epi32((__mmask16)marks, at));
        at += 4 * __builtin_popcount(marks & 0xffff);
        _mm512_storeu_si512(to + 64, _mm512_maskz_expandloadu_epi32((__mmask16)(marks >> 16), at));
        return;
    }
#endif
    if (marks == ~0u) {
        memcpy(to, at, 128);
        return;
    }
    memset(to, 0, 4 * (size_t)words);
    for (; marks; marks &= marks - 1, at += 4) memcpy(to + 4 * __builtin_ctz(marks), at, 4);
}

/* mimn.state.sparse.compact for one state: the number of its words, marks of those that are not 0, and those. Returns how many
 * words `to` has then, which has room for all n behind the marks, and for 16 more. */
static i64 compacted(u8 *to, const u8 *words, u32 n) {
    u8 *begin = to, *at = to + 4 * (1 + (n + 31) / 32);
    memcpy(to, &n, 4);
    for (u32 i = 0; i < n; i += 32) {
        const u32 marks = kept(words + 4 * i, n - i < 32 ? n - i : 32, at);
        memcpy(to += 4, &marks, 4);
        at += 4 * __builtin_popcount(marks);
    }
    return (at - begin) / 4;
}

/* mimn.state.sparse.restore: n words from `size` bytes. Returns whether those are a sparse form of n words. */
static int restored(const u8 *from, i64 size, u8 *to, i64 n) {
    const i64 over = 1 + (n + 31) / 32;
    const u8 *at = from + 4 * over, *end = from + size;
    u32 words, marks;
    if (size < 4 * over || size % 4) return 0;
    memcpy(&words, from, 4);
    if (words != n) return 0;
    for (i64 i = 0; i < n; i += 32, to += 128) {
        const i64 some = n - i < 32 ? n - i : 32;
        memcpy(&marks, from += 4, 4);
        if (some < 32 && marks >> some) return 0;
        if (4 * __builtin_popcount(marks) > end - at) return 0;
        spread(to, some, marks, at);
        at += 4 * __builtin_popcount(marks);
    }
    return at == end;
}

/* The value of a stored state of `size` bytes that has no checksum yet; sparse, if it may be and that is shorter. `to` has room
 * for the marks of a sparse one, too. Returns how many bytes the value has. */
static i64 sealed(u8 *to, const u8 *state, i64 size, i64 sparse) {
    const i64 words = (size - HEADER) / 4, kept = sparse ? compacted(to + HEADER, state + HEADER, (u32)words) : words;
    memcpy(to, state, (size_t)(kept < words ? HEADER : size));
    if (kept < words) to[VERSION_AT] = SPARSE, size = HEADER + 4 * kept;
    const u32 crc = checksum(to, size);
    memcpy(to + CHECKSUM_AT, &crc, sizeof crc);
    return size;
}

/* The states of a round: their headers, and by row where the tensors are. A whole stored state has `size` bytes and begins as
 * `head` does; `half` of its tensors become float16, and `wide` follow as they are. `sparse`: zeros may be left out. `whole` has
 * room for one state. */
typedef struct {
    const u8 *headers;
    const float *tensors;
    const i64 *place;
    const u8 *head;
    u8 *whole;
    i64 half, wide, size, sparse;
} staged;

/* The stored value of a state; returns its size. */
static i64 encoded(const staged *s, i64 row, u8 *value) {
    const u8 *header = s->headers + row * STAGED_HEADER;
    const float *from = s->tensors + s->place[row] * (s->half + s->wide);
    u8 *to = s->whole;
    memcpy(to, s->head, HEADER);
    to[FLAGS_AT] = header[STAGED_PARTIAL] != 0;
    memcpy(to + OWNER_AT, header, OWNER);
    memcpy(to + PAST_AT, header + OWNER, PAST);
    u8 *at = to + HEADER;
    i64 j = 0;
    for (; j + 8 <= s->half; j += 8)
        _mm_storeu_si128((__m128i *)(at + 2 * j), _mm256_cvtps_ph(_mm256_loadu_ps(from + j), _MM_FROUND_TO_NEAREST_INT));
    for (; j < s->half; j++) {
        u16 value = _cvtss_sh(from[j], _MM_FROUND_TO_NEAREST_INT);
        memcpy(at + 2 * j, &value, sizeof value);
    }
    at += 2 * s->half;
    memcpy(at, from + s->half, (size_t)s->wide * 4);
    at += 4 * s->wide;
    memset(at, 0, (size_t)(to + s->size - at)); /* padding */
    return sealed(value, to, s->size, s->sparse);
}

/* All n states, one behind another; end[i]: where the i-th ends. */
void states_encode(const staged *s, u8 *to, i64 *end, i64 n) {
    for (i64 row = 0, filled = 0; row < n; row++) end[row] = filled += encoded(s, row, to + filled);
}

/* mimn.state.read_headers: the header of the i-th of n stored values, of which `front` has the first bytes one behind another, becomes
 * headers[row[i]]. */
void states_read_headers(const u8 *front, u8 *headers, const i64 *row, i64 n) {
    for (i64 i = 0; i < n; i++, front += HEADER) {
        u8 *to = headers + row[i] * STAGED_HEADER;
        memcpy(to, front + OWNER_AT, OWNER);
        memcpy(to + OWNER, front + PAST_AT, PAST);
        to[STAGED_PARTIAL] = front[FLAGS_AT] & 1;
    }
}

/* What the values of a bundle have in common: they begin as `head` does, and a whole one has `words` words of tensors, of which `half`
 * values are float16 and `wide` follow as they are. `whole` has room for those words. */
typedef struct {
    const u8 *head;
    u8 *whole;
    i64 words, half, wide;
} form;

/* The tensors of a value. Returns whether it has as many as the form says. */
static int read_tensors(const form *f, const u8 *value, i64 size, float *to) {
    const u8 *from = value + HEADER;
    if (size < HEADER) return 0;
    if (value[VERSION_AT] == SPARSE) {
        if (!restored(from, size - HEADER, f->whole, f->words)) return 0;
        from = f->whole;
    } else if (size != HEADER + 4 * f->words)
        return 0;
    i64 j = 0;
    for (; j + 8 <= f->half; j += 8) _mm256_storeu_ps(to + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 2 * j))));
    for (; j < f->half; j++) {
        u16 one;
        memcpy(&one, from + 2 * j, sizeof one);
        to[j] = _cvtsh_ss(one);
    }
    memcpy(to + f->half, from + 2 * f->half, (size_t)f->wide * 4);
    return 1;
}

/* mimn.state.read_tensors: those of the i-th of n stored values, which lie one behind another, become tensors[row[i]]. Returns how many
 * values were read: fewer than n if the next is no state of this size. */
i64 states_read_tensors(const form *f, const u8 *value, const i64 *size, float *tensors, const i64 *row, i64 n) {
    for (i64 i = 0; i < n; value += size[i++])
        if (!read_tensors(f, value, size[i], tensors + row[i] * (f->half + f->wide))) return i;
    return n;
}

/* The tensors of a value if mimn.state.decode_state finds nothing wrong with it; returns whether that is so. */
i64 states_decode(const form *f, const u8 *value, i64 size, i64 owner, i64 of_any, float *tensors) {
    u16 version;
    u32 crc;
    if (size < HEADER) return 0;
    memcpy(&version, value + VERSION_AT, sizeof version);
    memcpy(&crc, value + CHECKSUM_AT, sizeof crc);
    return (version == WHOLE || version == SPARSE) && !memcmp(value, f->head, VERSION_AT) && value[DTYPE_AT] == f->head[DTYPE_AT]
           && !memcmp(value + FINGERPRINT_AT, f->head + FINGERPRINT_AT, OWNER_AT - FINGERPRINT_AT)
           && (of_any || !memcmp(value + OWNER_AT, &owner, sizeof owner)) && crc == checksum(value, size)
           && read_tensors(f, value, size, tensors);
}

/* What an event changes in a state besides the step: its header's digest, and the counters of a sketch.
 * The rules, and the twins of these functions, are mimn.state.digest and mimn.state.sketch. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

/* BLAKE2b (RFC 7693) with 8 bytes, without a key. */
static const u64 IV[8] = {0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
                          0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u};
static const u8 SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

static inline u64 turned(u64 x, int n) { return x >> n | x << (64 - n); }

#define MIX(a, b, c, d, x, y)                                  \
    v[a] += v[b] + (x), v[d] = turned(v[d] ^ v[a], 32);        \
    v[c] += v[d], v[b] = turned(v[b] ^ v[c], 24);              \
    v[a] += v[b] + (y), v[d] = turned(v[d] ^ v[a], 16);        \
    v[c] += v[d], v[b] = turned(v[b] ^ v[c], 63);

static void compress(u64 h[8], const u8 *block, u64 hashed, int last) {
    u64 v[16], m[16];
    memcpy(m, block, 128);
    for (int i = 0; i < 8; i++) v[i] = h[i], v[i + 8] = IV[i];
    v[12] ^= hashed;
    if (last) v[14] = ~v[14];
#pragma GCC unroll 12
    for (int r = 0; r < 12; r++) {
        const u8 *s = SIGMA[r % 10];
        MIX(0, 4, 8, 12, m[s[0]], m[s[1]])
        MIX(1, 5, 9, 13, m[s[2]], m[s[3]])
        MIX(2, 6, 10, 14, m[s[4]], m[s[5]])
        MIX(3, 7, 11, 15, m[s[6]], m[s[7]])
        MIX(0, 5, 10, 15, m[s[8]], m[s[9]])
        MIX(1, 6, 11, 12, m[s[10]], m[s[11]])
        MIX(2, 7, 8, 13, m[s[12]], m[s[13]])
        MIX(3, 4, 9, 14, m[s[14]], m[s[15]])
    }
    for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
}

/* Of `head` (at most 128 bytes) and then `tail`. */
static u64 blake2b8(const u8 *head, i64 head_size, const u8 *tail, i64 tail_size) {
    u64 h[8];
    u8 block[128];
    memcpy(h, IV, sizeof h);
    h[0] ^= 0x01010000 ^ 8;
    i64 used = head_size, taken = 0, hashed = 0;
    if (head_size) memcpy(block, head, (size_t)head_size);
    for (;;) {
        i64 room = 128 - used, some = tail_size - taken < room ? tail_size - taken : room;
        if (some) memcpy(block + used, tail + taken, (size_t)some);
        used += some, taken += some;
        hashed += used;
        if (taken == tail_size) break;
        compress(h, block, (u64)hashed, 0);
        used = 0;
    }
    memset(block + used, 0, (size_t)(128 - used));
    compress(h, block, (u64)hashed, 1);
    return h[0];
}

static inline u64 extended(u64 digest, i64 offset, const u8 *value, i64 size) {
    u64 head[2] = {digest, (u64)offset};
    return blake2b8((const u8 *)head, 16, value, size);
}

/* out[i] = the hash of size[i] bytes at data[i] */
void states_hash(const u8 *const *data, const i64 *size, u64 *out, i64 n) {
    for (i64 i = 0; i < n; i++) out[i] = blake2b8(NULL, 0, data[i], size[i]);
}

typedef struct { i64 last_offset; u64 count; i64 last_time; u64 digest; } past;

/* Headers in memory (mimn.state.HEADERS), `stride` bytes apart, each with a `past` at `at`: event i goes into header row[i],
 * unless that has an event at its offset or a later one already. is_new[i]: whether it went in. */
void states_absorb(char *headers, i64 stride, i64 at, const i64 *row, const i64 *offset, const i64 *time, const u8 *const *value,
                   const i64 *size, u8 *is_new, i64 n) {
    past h;
    for (i64 i = 0; i < n; i++) {
        char *p = headers + row[i] * stride + at;
        memcpy(&h, p, sizeof h);
        is_new[i] = offset[i] > h.last_offset;
        if (!is_new[i]) continue;
        h.count++, h.last_offset = offset[i], h.last_time = time[i];
        h.digest = extended(h.digest, offset[i], value[i], size[i]);
        memcpy(p, &h, sizeof h);
    }
}

static inline float as_half(float x) { return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }

static inline float power(i32 k) { /* 2^-k */
    u32 bits = (u32)(127 - k) << 23;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

enum { MOST_PERIODS_LATE = 64 };

static inline i32 periods(float later, float earlier) {
    float k = later - earlier;
    return k < MOST_PERIODS_LATE ? (i32)k : MOST_PERIODS_LATE;
}

/* One event. S half-lives, N cells of each, A of them addressed. Counters hold float16's numbers. */
static inline void add(float *counters, float *period, const i64 *address, const float *moment, i64 S, i64 N, i64 A) {
    for (i64 s = 0; s < S; s++) {
        float *cells = counters + s * N, now = moment[s], before = period[s];
        if (now > before) {
            float by = power(periods(now, before));
            for (i64 j = 0; j < N; j++) cells[j] = as_half(cells[j] * by);
            period[s] = before = now;
        }
        float added = moment[S + s] * power(periods(before, now));
        for (i64 a = 0; a < A; a++) cells[address[a]] = as_half(cells[address[a]] + added);
    }
}

/* mimn.state.sketch.Sketch.add for several events of each of n states, `stride` bytes apart: the next depth[i] events go into
 * state i, without those where `sound` (or NULL: all are) is 0. address [E, A], moment [E, 2, S]. */
void states_count(char *counters, char *period, i64 stride, const i64 *depth, const i64 *address, const float *moment,
                  const u8 *sound, i64 S, i64 N, i64 A, i64 n) {
    i64 e = 0;
    for (i64 i = 0; i < n; i++)
        for (i64 end = e + depth[i]; e < end; e++)
            if (!sound || sound[e])
                add((float *)(counters + i * stride), (float *)(period + i * stride), address + e * A, moment + e * 2 * S, S, N, A);
}

/* mimn.state.ledger. */
enum { MINUTE, BASKETS, FIRST_DAY, DAY_BASE, BASKET_BASE, LINES, REPEATS, EVICTED, SCALARS };
enum { PAUSE_MINUTES = 30, MINUTES_OF_DAY = 1440, DAYS_BEHIND = 64, DAYS_AHEAD = 64, BASKETS_AHEAD = 32, GAP_WEIGHT = 4 };
enum { LAST_DAY = 511, LAST_BASKET = 127, MOST_BASKETS = 63, LAST_LEVEL = 63 };
static const i64 LAST_MINUTE = 0xffffffff;

static inline i64 larger(i64 a, i64 b) { return a > b ? a : b; }
static inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

/* Sizes of a ledger; gaps and what an entry is worth, by level and by baskets; and where a gap's next level begins. */
typedef struct {
    i64 buckets, ways;
    const i64 *sixteenths, *between, *worth;
} ledger;

static void move_bases(u32 *times, i64 n, i64 *s, i64 by_day, i64 by_basket) {
    s[DAY_BASE] += by_day, s[BASKET_BASE] += by_basket;
    for (i64 i = 0; i < n; i++) {
        u32 moved = 0;
        for (int shift = 0; shift <= 16; shift += 16) {
            i64 time = times[i] >> shift & 0xffff;
            moved |= (u32)(larger((time >> 7) - by_day, 0) << 7 | larger((time & LAST_BASKET) - by_basket, 0)) << shift;
        }
        times[i] = moved;
    }
}

static void enter(const ledger *l, u32 *words, i64 bucket, i64 tag, i64 time_ms) {
    i64 B = l->buckets, W = l->ways, half = W / 2, s[SCALARS];
    u32 *scalars = words + B * W + B * half, *items = words + bucket * W, *times = words + B * W + bucket * half;
    for (int i = 0; i < SCALARS; i++) s[i] = scalars[i];
    i64 minutes = smaller(time_ms < 0 ? 0 : time_ms / 60000, LAST_MINUTE), days = minutes / MINUTES_OF_DAY;
    int begins = s[BASKETS] == 0, late = !begins && minutes <= s[MINUTE] - PAUSE_MINUTES;
    if (begins) s[DAY_BASE] = larger(days - DAYS_BEHIND, 0), s[FIRST_DAY] = days;
    s[FIRST_DAY] = smaller(s[FIRST_DAY], larger(days, s[DAY_BASE]));
    s[BASKETS] += begins || minutes >= s[MINUTE] + PAUSE_MINUTES;
    s[MINUTE] = larger(s[MINUTE], minutes);
    i64 beyond_day = days - s[DAY_BASE] - LAST_DAY, beyond_basket = s[BASKETS] - s[BASKET_BASE] - LAST_BASKET;
    if (beyond_day > 0 || beyond_basket > 0)
        move_bases(words + B * W, B * half, s, beyond_day > 0 ? larger(beyond_day, DAYS_AHEAD) : 0,
                   beyond_basket > 0 ? larger(beyond_basket, BASKETS_AHEAD) : 0);
    i64 day = larger(days - s[DAY_BASE], 0), basket = s[BASKETS] - s[BASKET_BASE];

    i64 way = 0, least = INT64_MAX;
    for (i64 w = 0; w < W; w++) {
        i64 n = items[w] >> 6 & MOST_BASKETS, last = (times[w % half] >> 16 * (w / half) & 0xffff) >> 7;
        i64 value = n == 0 ? -1 : items[w] >> 12 == tag ? -2 : last + l->worth[n];
        if (value < least) least = value, way = w;
    }
    int known = least == -2, shift = (int)(16 * (way / half)), taken = (items[way] >> 6 & MOST_BASKETS) > 0;
    u32 time = times[way % half] >> shift & 0xffff;
    i64 count = known ? items[way] >> 6 & MOST_BASKETS : 0, last = known ? time >> 7 : 0, level = known ? items[way] & LAST_LEVEL : 0;
    i64 number = known ? time & LAST_BASKET : larger(basket - 1, 0);
    int adds = !known || (late ? last < day : number != basket);
    if (known && adds && day >= last) {
        i64 off = 16 * (day - last) - l->sixteenths[level], by = smaller(larger(count, 1), GAP_WEIGHT);
        i64 gap = l->sixteenths[level] + (off < 0 ? -((by - 1 - off) / by) : off / by);
        for (level = 0; level < LAST_LEVEL && l->between[level] <= gap; level++) {}
    }
    count = smaller(count + adds, MOST_BASKETS);
    if (!late) number = basket;
    last = larger(last, day);
    s[LINES] += adds, s[REPEATS] += adds && known, s[EVICTED] += !known && taken;
    for (int i = 0; i < SCALARS; i++) scalars[i] = (u32)smaller(s[i], LAST_MINUTE);
    items[way] = (u32)(tag << 12 | count << 6 | level);
    times[way % half] = (times[way % half] & ~(0xffffu << shift)) | (u32)(last << 7 | number) << shift;
}

/* mimn.state.ledger.Ledger.add for several events of each of n states, as states_count. */
void states_enter(const ledger *l, char *words, i64 stride, const i64 *depth, const i64 *bucket, const i64 *tag, const i64 *time,
                  const u8 *sound, i64 n) {
    i64 e = 0;
    for (i64 i = 0; i < n; i++)
        for (i64 end = e + depth[i]; e < end; e++)
            if (!sound || sound[e]) enter(l, (u32 *)(words + i * stride), bucket[e], tag[e], time[e]);
}

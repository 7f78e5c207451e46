/* What a head is given of candidates (mimn.rows.candidates): the vectors of their ids, their cells of a sketch, and what is
 * read of the user's ledger. The rules are those of mimn.bundle.vocabulary, mimn.state.sketch and mimn.bundle.reads.
 *
 * Sums and logarithms are of doubles, added in the order of a user's entries.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int32_t i32;
typedef int64_t i64;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* MurmurHash3's finalizer (mimn.state.sketch.mix). */
static inline u64 mix(u64 x) {
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDull;
    x ^= x >> 33;
    x *= 0xC4CEB9FE1A85EC53ull;
    return x ^ (x >> 33);
}

enum { TOGETHER = 64 }; /* candidates */

/* By id wanted, 1 + its place among n that rise, 0 if it is not there. All are looked for at once: none waits for another's
 * memory. `count` is at most TOGETHER. */
static void rows_of(const u64 *restrict ids, i64 n, const u64 *restrict wanted, i64 count, i64 *restrict rows) {
    memset(rows, 0, (size_t)count * sizeof(*rows));
    if (!n) return;
    for (i64 half; n > 1; n -= half) {
        half = n / 2;
        for (i64 i = 0; i < count; i++) rows[i] += half & -(i64)(ids[rows[i] + half - 1] < wanted[i]);
    }
    for (i64 i = 0; i < count; i++) rows[i] = (rows[i] + 1) & -(i64)(ids[rows[i]] == wanted[i]);
}

static inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
static inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

typedef struct {
    const u64 *item_ids, *category_ids;
    const float *item_vectors, *category_vectors;
    i64 items, categories, item_width, category_width;
    i64 sketched, category_cells, item_cells;
} tables;

/* Vectors [n, item_width + category_width] of candidates, and, with a sketch, their cells [n, A]. Returns how many items
 * are not in the table. */
i64 candidates_look_up(const tables *t, const u64 *items, const u64 *categories, i64 n, float *vectors, i64 *cells) {
    i64 unknown = 0;
    for (i64 first = 0; first < n; first += TOGETHER, items += TOGETHER, categories += TOGETHER) {
        i64 rows[TOGETHER], rows_of_categories[TOGETHER], count = least(n - first, TOGETHER);
        rows_of(t->item_ids, t->items, items, count, rows);
        rows_of(t->category_ids, t->categories, categories, count, rows_of_categories);
        for (i64 i = 0; i < count; i++) __builtin_prefetch(t->item_vectors + rows[i] * t->item_width);
        for (i64 i = 0; i < count; i++) unknown += !rows[i];
        for (i64 i = 0; i < count; i++) {
            i64 category = rows_of_categories[i];
            memcpy(vectors, t->item_vectors + rows[i] * t->item_width, (size_t)t->item_width * 4);
            vectors += t->item_width;
            memcpy(vectors, t->category_vectors + category * t->category_width, (size_t)t->category_width * 4);
            vectors += t->category_width;
            if (!t->sketched) continue;
            if (t->category_cells) *cells++ = category % t->category_cells;
            if (t->item_cells) {
                u64 hash = mix(items[i]);
                *cells++ = t->category_cells + (i64)((hash & 0xFFFFFFFF) % (u64)t->item_cells);
                *cells++ = t->category_cells + t->item_cells + (i64)((hash >> 32) % (u64)t->item_cells);
            }
        }
    }
    return unknown;
}

/* -- logarithms of doubles, several at a time and without branches, so that the compiler makes vectors of them -- */

static inline double number(u64 bits) {
    double x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static inline u64 bits_of(double x) {
    u64 bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/* log(x + c), where x is normal, positive and finite, and c is below its last bit: to one bit or two. x is 2^k (1 + f) with
 * 1 + f from sqrt(1/2) to sqrt(2); the series is fdlibm's. */
static inline double log_of(double x, double c) {
    const u64 root = 0x3FE6A09E667F3BCDull, one = 0x3FF0000000000000ull;
    u64 above = bits_of(x) - root + one; /* its exponent is k, with the bias of doubles */
    double k = number(above >> 52 | 0x4330000000000000ull) - (0x1p52 + 1023);
    double f = number((above & 0xFFFFFFFFFFFFFull) + root) - 1;
    double s = f / (2 + f), z = s * s, half = 0.5 * f * f, p = 1.479819860511658591e-01;
    p = fma(p, z, 1.531383769920937332e-01);
    p = fma(p, z, 1.818357216161805012e-01);
    p = fma(p, z, 2.222219843214978396e-01);
    p = fma(p, z, 2.857142874366239149e-01);
    p = fma(p, z, 3.999999999940941908e-01);
    p = fma(p, z, 6.666666666666735130e-01);
    double low = fma(k, 1.90821492927058770002e-10, c / x + (x - x)); /* not a number where x is not finite */
    return fma(k, 6.93147180369123816490e-01, f - (half - (s * fma(p, z, half) + low)));
}

static inline double log1p_of(double x) { /* from 0 on */
    double u = 1 + x;
    return log_of(u, x - (u - 1));
}

static void logs(double *x, i64 n) {
    for (i64 i = 0; i < n; i++) x[i] = log_of(x[i], 0);
}

static void log1ps(double *x, i64 n) {
    for (i64 i = 0; i < n; i++) x[i] = log1p_of(x[i]);
}

static void asinhs(double *x, i64 n) {
    for (i64 i = 0; i < n; i++) {
        double a = fabs(x[i]);
        x[i] = copysign(log1p_of(a + a * a / (1 + sqrt(fma(a, a, 1)))), x[i]);
    }
}

typedef double four __attribute__((vector_size(32)));
typedef double two __attribute__((vector_size(16)));

/* Eight doubles, in one register or in two. GCC keeps a vector that is wider than a register in memory. */
#ifdef __AVX512F__
typedef __m512d eight;

static inline eight eight_zeros(void) { return _mm512_setzero_pd(); }
static inline eight eight_at(const double *x) { return _mm512_loadu_pd(x); }
static inline void eight_to(double *to, eight x) { _mm512_storeu_pd(to, x); }
static inline eight widened(const float *x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }
static inline eight plus(eight x, eight y) { return _mm512_add_pd(x, y); }
static inline eight times(eight x, eight y) { return _mm512_mul_pd(x, y); }
/* a * x + y, rounded once. */
static inline eight fused(double a, eight x, eight y) { return _mm512_fmadd_pd(_mm512_set1_pd(a), x, y); }
static inline double sum_of(eight x) {
    four sum = (four)_mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
#else
typedef struct { __m256d low, high; } eight;

static inline eight eight_zeros(void) { return (eight){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline eight eight_at(const double *x) { return (eight){_mm256_loadu_pd(x), _mm256_loadu_pd(x + 4)}; }
static inline void eight_to(double *to, eight x) { _mm256_storeu_pd(to, x.low), _mm256_storeu_pd(to + 4, x.high); }
static inline eight widened(const float *x) {
    return (eight){_mm256_cvtps_pd(_mm_loadu_ps(x)), _mm256_cvtps_pd(_mm_loadu_ps(x + 4))};
}
static inline eight plus(eight x, eight y) { return (eight){_mm256_add_pd(x.low, y.low), _mm256_add_pd(x.high, y.high)}; }
static inline eight times(eight x, eight y) { return (eight){_mm256_mul_pd(x.low, y.low), _mm256_mul_pd(x.high, y.high)}; }
/* a * x + y, rounded once. */
static inline eight fused(double a, eight x, eight y) {
    const __m256d all = _mm256_set1_pd(a);
    return (eight){_mm256_fmadd_pd(all, x.low, y.low), _mm256_fmadd_pd(all, x.high, y.high)};
}
static inline double sum_of(eight x) {
    four sum = (four)_mm256_add_pd(x.low, x.high);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
#endif

/* A ledger's layout and scalars (mimn.state.ledger). */
enum { TAG_BITS = 20, TAG_SHIFT = 12, LEVEL_BITS = 6, MOST_BASKETS = 63, LAST_LEVEL = 63, BASKET_BITS = 7, LAST_BASKET = 127 };
enum { MINUTE, BASKETS, FIRST_DAY, DAY_BASE, BASKET_BASE, LINES, REPEATS, EVICTED, SCALARS };
enum { OLDEST = 2048, STEEPNESS = 64 };
enum { STATIC = 1, OWN = 2, USER = 4, TYPES = 8, VECTORS = 16, NEIGHBORS = 32 };
enum { STATIC_WIDTH = 5, OWN_WIDTH = 9, USER_WIDTH = 5, TYPES_WIDTH = 3, VECTORS_WIDTH = 4, NEIGHBORS_WIDTH = 2 };
#ifdef __AVX512F__
enum { MOST_EIGHTS = 4 }; /* two sums of each fit into the registers */
#else
enum { MOST_EIGHTS = 2 };
#endif
enum { SUMS = 4 }; /* of a type: TYPES_WIDTH, and one for alignment */
enum { LOGS = 6 }; /* of an own entry: of n + 1, age, baskets ago + 1, gap, usual gap, and when it is due */

/* What is known of an item, by row of the table. */
typedef struct {
    float fixed[STATIC_WIDTH], usual, length; /* of its vector */
    i32 unused;
} item;

enum { AT_ONCE = 16 }; /* keys */

/* An entry of the user: log(1 + n), the same halving every 60 and every 30 days, and the number of its key, 0 for none of the
 * table's. */
typedef struct {
    double every, late, later;
    i32 number;
    u16 n, age; /* baskets, and days since the last */
} entry;

/* A ledger's buckets follow one another like the keys of the table. What is looked up by entry lies in the order of keys, so
 * that a reading goes through it once, from its beginning to its end. */
typedef struct {
    const i32 *sixteenths;
    const double *log1p_n;
    const double *fading;   /* [OLDEST + 1, 2]: by days, halving every 60 and every 30 */
    const u64 *ids;
    const item *facts;
    const float *vectors;
    const i32 *codes;       /* [items + 1, kinds]; 0 for no type */
    const u32 *keys;        /* [known + AT_ONCE]: the low halves of the keys, which rise */
    const u32 *starts;      /* by key >> shift, how many keys are below; one more at the end */
    const float *weighted;  /* [known + 1, width], by number of the key, from 1 on */
    const i32 *kinds_of;    /* [known + 1, kinds]: codes, the same */
    const i32 *neighbors;   /* [items + 1, paired]: numbers */
    const float *weights;
    entry *entries;         /* [buckets * ways + 1], from 1 on; the first is zero */
    i32 *entry_of;          /* [known + 1]: the entry of a key; zero before and after each call */
    double *sums;           /* [coded, SUMS], zero before and after each call */
    double *p;              /* [2, width] */
    i64 groups, buckets, ways, kinds, width /* V */, items, paired, known, coded, shift;
} reads;

/* The number of a key, 0 if the table has no such item. Few keys have the same high bits, and all of these are compared. */
static inline i32 number_of(const reads *t, u64 key) {
    const u32 *start = t->starts + (key >> t->shift), low = (u32)key;
    for (u32 at = start[0]; at < start[1]; at += AT_ONCE) {
#ifdef __AVX512F__
        u32 same = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(t->keys + at), _mm512_set1_epi32((i32)low));
#else
        const __m256i all = _mm256_set1_epi32((i32)low), *keys = (const __m256i *)(t->keys + at);
        u32 same = 0;
        for (int i = 0; i < 2; i++) {
            const __m256i equal = _mm256_cmpeq_epi32(_mm256_loadu_si256(keys + i), all);
            same |= (u32)_mm256_movemask_ps(_mm256_castsi256_ps(equal)) << 8 * i;
        }
#endif
        if (same) {
            at += (u32)__builtin_ctz(same);
            return at < start[1] ? (i32)at + 1 : 0;
        }
    }
    return 0;
}

static inline const u32 *scalars_of(const reads *t, const u32 *words) { return words + t->buckets * t->ways * 3 / 2; }

static inline u32 time_of(const reads *t, const u32 *words, i64 bucket, i64 way) {
    i64 half = t->ways / 2;
    const u32 *pairs = words + t->buckets * t->ways + bucket * half;
    return way < half ? pairs[way] & 0xFFFF : pairs[way - half] >> 16;
}

/* The user's entries; how many there are. */
static i64 entries_of(const reads *t, const u32 *words, i64 today) {
    const i64 half = t->ways / 2, first_day = scalars_of(t, words)[DAY_BASE];
    const u32 *pairs = words + t->buckets * t->ways;
    i64 count = 0, place = 0;
    for (i64 bucket = 0; bucket < t->buckets; bucket++, pairs += half)
        for (int shift = 0; shift <= 16; shift += 16)
            for (i64 pair = 0; pair < half; pair++, place++) {
                const u32 word = words[place], n = word >> LEVEL_BITS & MOST_BASKETS;
                if (!n) continue;
                const i64 days = today - (i64)((pairs[pair] >> shift & 0xFFFF) >> BASKET_BITS) - first_day;
                const i64 age = least(most(days, 0), OLDEST);
                const double every = t->log1p_n[n], *fading = t->fading + 2 * age;
                const i32 number = number_of(t, (u64)bucket << TAG_BITS | word >> TAG_SHIFT);
                t->entries[++count] = (entry){every, every * fading[0], every * fading[1], number, (u16)n, (u16)age};
            }
    return count;
}

/* What entries add to types, and where the entries of keys are. What has no number or type is written to the first places,
 * which are zero again afterwards. */
static void gather(const reads *t, i64 count) {
    four *sums = (four *)t->sums;
    if (t->groups & TYPES)
        for (i64 k = 0; k < t->kinds; k++) {
            for (i64 i = 1; i <= count; i++) {
                const entry e = t->entries[i];
                sums[t->kinds_of[e.number * t->kinds + k]] += (four){e.n, e.n * t->fading[2 * e.age], 1, 0};
            }
            sums[0] = (four){0};
        }
    if (t->groups & NEIGHBORS) {
        for (i64 i = 1; i <= count; i++) t->entry_of[t->entries[i].number] = (i32)i;
        t->entry_of[0] = 0;
    }
}

/* Makes what entries wrote zero again: one by one, or all if that is less. */
static void release(const reads *t, i64 count) {
    const i64 kinds = t->kinds;
    four *sums = (four *)t->sums;
    if (t->known < 8 * count)
        memset(t->entry_of, 0, (size_t)(t->known + 1) * sizeof *t->entry_of);
    else
        for (i64 i = 1; i <= count; i++) t->entry_of[t->entries[i].number] = 0;
    if (t->coded < 2 * count)
        memset(sums, 0, (size_t)t->coded * sizeof *sums);
    else
        for (i64 i = 1; i <= count; i++)
            for (i64 k = 0; k < kinds; k++) sums[t->kinds_of[t->entries[i].number * kinds + k]] = (four){0};
}

/* p from v on, 8 * `many` numbers of it, in the order of entries. The sums stay in registers: each entry waits for the one before. */
static inline __attribute__((always_inline)) void add_some(const reads *t, i64 count, i64 v, const int many) {
    eight sum[MOST_EIGHTS], late[MOST_EIGHTS];
    for (int k = 0; k < many; k++) sum[k] = late[k] = eight_zeros();
    for (i64 i = 1; i <= count; i++) {
        const entry e = t->entries[i];
        const float *x = t->weighted + e.number * t->width + v;
        for (int k = 0; k < many; k++) {
            const eight some = widened(x + 8 * k);
            sum[k] = fused(e.every, some, sum[k]), late[k] = fused(e.later, some, late[k]);
        }
    }
    for (int k = 0; k < many; k++) eight_to(t->p + v + 8 * k, sum[k]), eight_to(t->p + t->width + v + 8 * k, late[k]);
}

/* p, whole. */
static void add_vectors(const reads *t, i64 count) {
    double *p = t->p, *q = p + t->width;
    i64 v = 0;
    for (; v + 8 * MOST_EIGHTS <= t->width; v += 8 * MOST_EIGHTS) add_some(t, count, v, MOST_EIGHTS);
    for (; v + 16 <= t->width; v += 16) add_some(t, count, v, 2);
    const i64 done = v;
    for (v = done; v < t->width; v++) p[v] = q[v] = 0;
    for (i64 i = 1; i <= count && done < t->width; i++) {
        const entry e = t->entries[i];
        const float *x = t->weighted + e.number * t->width;
        for (v = done; v < t->width; v++) p[v] = fma(e.every, x[v], p[v]), q[v] = fma(e.later, x[v], q[v]);
    }
}

/* The place of the user's entry of an item, -1 if there is none. */
static inline i64 place_of(const reads *t, const u32 *words, u64 id) {
    const u64 hash = mix(id);
    const u32 tag = hash & ((1u << TAG_BITS) - 1);
    const i64 first = (i64)((u32)(hash >> 32) % (u32)t->buckets) * t->ways;
    i64 place = -1;
    for (i64 w = first; w < first + t->ways; w++)
        if (words[w] >> TAG_SHIFT == tag && (words[w] >> LEVEL_BITS & MOST_BASKETS)) place = w;
    return place;
}

/* What the logarithms of an own entry are of; returns n. */
static double own_numbers(const reads *t, const u32 *words, i64 place, double usual, i64 today, double *of) {
    const u32 *scalars = scalars_of(t, words);
    u32 word = words[place], time = time_of(t, words, place / t->ways, place % t->ways);
    double n = word >> LEVEL_BITS & MOST_BASKETS, gap = t->sixteenths[word & LAST_LEVEL] / 16.0 + 0.5;
    of[0] = n + 1;
    of[1] = (double)most(today - (i64)(time >> BASKET_BITS) - scalars[DAY_BASE], 0) + 0.5;
    of[2] = (double)most((i64)scalars[BASKETS] - scalars[BASKET_BASE] - (time & LAST_BASKET), 0) + 1;
    of[3] = gap;
    of[4] = usual;
    of[5] = (gap * (n - 1) + 2 * usual) / (n + 1);
    return n;
}

static void own_values(const double *log_of, double n, double log_baskets, float *out) {
    out[0] = 1;
    for (int i = 0; i < 4; i++) out[1 + i] = (float)log_of[i];
    out[5] = n > 1 ? (float)(log_of[1] - log_of[3]) : 0;
    out[6] = (float)(log_of[1] - log_of[4]);
    out[7] = (float)(log_of[1] - log_of[5]);
    out[8] = (float)(log_of[0] - log_baskets);
}

static void user(const u32 *scalars, i64 minute, i64 entries, float *out) {
    i64 baskets = scalars[BASKETS];
    memset(out, 0, USER_WIDTH * sizeof(float));
    if (!baskets) return;
    double days = scalars[MINUTE] / 1440.0 - scalars[FIRST_DAY];
    double of[4] = {(double)baskets, (days > 0 ? days : 0) / (double)most(baskets - 1, 1),
                    (double)most(minute - scalars[MINUTE], 0) / 1440.0, (double)entries};
    log1ps(of, 4);
    for (int i = 0; i < 4; i++) out[i] = (float)of[i];
    out[4] = (float)((double)scalars[REPEATS] / (double)most(scalars[LINES], 1));
}

static double length_of(const double *p, i64 n) {
    double sum = 0;
    for (i64 i = 0; i < n; i++) sum += p[i] * p[i];
    double length = sqrt(sum);
    return length > 1e-12 ? length : 1e-12;
}

/* Of x with p, and with q behind it. */
static inline void dots(const float *x, const double *p, i64 n, double *out) {
    const double *q = p + n;
    eight sum = eight_zeros(), late = eight_zeros();
    double rest = 0, late_rest = 0;
    i64 i = 0;
    for (; i + 8 <= n; i += 8) {
        const eight some = widened(x + i);
        sum = plus(sum, times(some, eight_at(p + i))), late = plus(late, times(some, eight_at(q + i)));
    }
    for (; i < n; i++) rest += x[i] * p[i], late_rest += x[i] * q[i];
    out[0] = sum_of(sum) + rest, out[1] = sum_of(late) + late_rest;
}

static inline two held(const reads *t, i32 number) {
    two both;
    memcpy(&both, t->entries + t->entry_of[number], sizeof both);
    return both;
}

static inline void neighbors(const reads *t, i64 row, double *out) {
    const i32 *others = t->neighbors + row * t->paired;
    const float *weights = t->weights + row * t->paired;
    two sum = {0}, more = {0};
    i64 k = 0;
    for (; k + 2 <= t->paired; k += 2) {
        sum += held(t, others[k]) * (double)weights[k];
        more += held(t, others[k + 1]) * (double)weights[k + 1];
    }
    if (k < t->paired) sum += held(t, others[k]) * (double)weights[k];
    sum += more;
    out[0] = STEEPNESS * sum[0], out[1] = STEEPNESS * sum[1];
}

/* Groups of up to TOGETHER candidates: what their logarithms are of first, then these all at once. */
static void read_some(const reads *t, const u32 *words, const u64 *ids, i64 count, i64 today, const float *of_user,
                      const double *lengths, float *out, i64 stride) {
    double numbers[TOGETHER * LOGS], of_own[TOGETHER];
    i64 rows[TOGETHER], which[TOGETHER], V = t->width, have = 0;
    rows_of(t->ids, t->items, ids, count, rows);
    for (i64 i = 0; i < count; i++) __builtin_prefetch(t->facts + rows[i]);
    if (t->groups & VECTORS)
        for (i64 i = 0; i < count; i++)
            for (i64 v = 0; v < V; v += 16) __builtin_prefetch(t->vectors + rows[i] * V + v);
    if (t->groups & STATIC) {
        for (i64 i = 0; i < count; i++) memcpy(out + i * stride, t->facts[rows[i]].fixed, STATIC_WIDTH * sizeof(float));
        out += STATIC_WIDTH;
    }
    if (t->groups & OWN) {
        double log_baskets = log((double)scalars_of(t, words)[BASKETS] + 1);
        for (i64 i = 0; i < count; i++) {
            const i64 place = place_of(t, words, ids[i]);
            memset(out + i * stride, 0, OWN_WIDTH * sizeof(float));
            if (place < 0) continue;
            of_own[have] = own_numbers(t, words, place, t->facts[rows[i]].usual, today, numbers + have * LOGS);
            which[have++] = i;
        }
        logs(numbers, have * LOGS);
        for (i64 k = 0; k < have; k++) own_values(numbers + k * LOGS, of_own[k], log_baskets, out + which[k] * stride);
        out += OWN_WIDTH;
    }
    if (t->groups & USER) {
        for (i64 i = 0; i < count; i++) memcpy(out + i * stride, of_user, USER_WIDTH * sizeof(float));
        out += USER_WIDTH;
    }
    if (t->groups & TYPES)
        for (i64 kind = 0; kind < t->kinds; kind++, out += TYPES_WIDTH) {
            for (i64 i = 0; i < count; i++) {
                const double *sum = t->sums + SUMS * (i64)t->codes[rows[i] * t->kinds + kind];
                for (int j = 0; j < TYPES_WIDTH; j++) numbers[i * TYPES_WIDTH + j] = sum[j];
            }
            log1ps(numbers, count * TYPES_WIDTH);
            for (i64 i = 0; i < count; i++)
                for (int j = 0; j < TYPES_WIDTH; j++) out[i * stride + j] = (float)numbers[i * TYPES_WIDTH + j];
        }
    if (t->groups & VECTORS) {
        for (i64 i = 0; i < count; i++) {
            double *product = numbers + 2 * i, length = t->facts[rows[i]].length;
            dots(t->vectors + rows[i] * V, t->p, V, product);
            for (int late = 0; late < 2; late++) out[i * stride + 2 + late] = (float)(product[late] / (lengths[late] * length));
        }
        asinhs(numbers, count * 2);
        for (i64 i = 0; i < count; i++)
            for (int late = 0; late < 2; late++) out[i * stride + late] = (float)numbers[2 * i + late];
        out += VECTORS_WIDTH;
    }
    if (t->groups & NEIGHBORS) {
        for (i64 i = 0; i < count; i++) neighbors(t, rows[i], numbers + 2 * i);
        asinhs(numbers, count * 2);
        for (i64 i = 0; i < count; i++)
            for (int late = 0; late < 2; late++) out[i * stride + late] = (float)numbers[2 * i + late];
    }
}

/* What is read of one user's words for n candidates: n rows of `out`, `stride` numbers from one to the next. */
void candidates_read(const reads *t, const u32 *words, const u64 *ids, i64 n, i64 minute, float *out, i64 stride) {
    i64 today = minute / 1440, V = t->width, entries = entries_of(t, words, today);
    float of_user[USER_WIDTH];
    double lengths[2] = {1, 1};
    gather(t, entries);
    if (t->groups & USER) user(scalars_of(t, words), minute, entries, of_user);
    if (t->groups & VECTORS) {
        add_vectors(t, entries);
        lengths[0] = length_of(t->p, V), lengths[1] = length_of(t->p + V, V);
    }
    for (i64 i = 0; i < n; i += TOGETHER)
        read_some(t, words, ids + i, least(n - i, TOGETHER), today, of_user, lengths, out + i * stride, stride);
    release(t, entries);
}

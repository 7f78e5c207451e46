/* What a head is given of candidates (mimn.rows.candidates): the vectors of their ids, their cells of a sketch, and what is
 * read of the user's ledger. The rules are those of mimn.bundle.vocabulary, mimn.state.sketch and mimn.bundle.reads.
 *
 * Sums and logarithms are of doubles, added in the order of a user's entries.
 */
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

/* 1 + the place of an id among n that rise, 0 if it is not there. */
static inline i64 row_of(const u64 *ids, i64 n, u64 id) {
    if (!n) return 0;
    const u64 *at = ids;
    while (n > 1) {
        i64 half = n / 2;
        at += at[half - 1] < id ? half : 0;
        n -= half;
    }
    return *at == id ? at - ids + 1 : 0;
}

typedef struct {
    const u64 *item_ids, *category_ids;
    const float *item_vectors, *category_vectors;
    i64 items, categories, item_width, category_width;
    i64 sketched, category_cells, item_cells;
} tables;

/* Vectors [n, item_width + category_width] of candidates, and, with a sketch, their cells [n, A]. */
void candidates_look_up(const tables *t, const u64 *items, const u64 *categories, i64 n, float *vectors, i64 *cells) {
    for (i64 i = 0; i < n; i++) {
        i64 item = row_of(t->item_ids, t->items, items[i]), category = row_of(t->category_ids, t->categories, categories[i]);
        memcpy(vectors, t->item_vectors + item * t->item_width, (size_t)t->item_width * 4);
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

/* A ledger's layout and scalars (mimn.state.ledger). */
enum { TAG_BITS = 20, TAG_SHIFT = 12, LEVEL_BITS = 6, MOST_BASKETS = 63, LAST_LEVEL = 63, BASKET_BITS = 7, LAST_BASKET = 127 };
enum { MINUTE, BASKETS, FIRST_DAY, DAY_BASE, BASKET_BASE, LINES, REPEATS, EVICTED, SCALARS };
enum { OLDEST = 2048, STEEPNESS = 64 };
enum { STATIC = 1, OWN = 2, USER = 4, TYPES = 8, VECTORS = 16, NEIGHBORS = 32 };
enum { STATIC_WIDTH = 5, OWN_WIDTH = 9, USER_WIDTH = 5, TYPES_WIDTH = 3, VECTORS_WIDTH = 4 };

typedef struct {
    const i32 *sixteenths;
    const double *log1p_n, *decay, *faster;
    const u64 *ids;
    const float *fixed, *usual, *weighted, *vectors, *lengths; /* by row of the table */
    const i32 *types;
    const i64 *codes;
    const i64 *keys, *rows; /* the table's keys; by number of a key, from 1 on, the row */
    const i32 *neighbors; /* [items + 1, paired]: rows of the table */
    const float *weights;
    i32 *slots;             /* numbers by hash of the key, 0: none */
    double *sums;           /* [codes, 3], zero before and after each call */
    double *p;              /* [2, V] */
    double *held;           /* [items + 1, 2], zero before and after each call */
    i64 groups, buckets, ways, kinds, width /* V */, items, paired, known, mask;
} reads;

static inline u64 slot_of(i64 key, i64 mask) { return ((u64)key * 0x9E3779B97F4A7C15ull >> 32) & (u64)mask; }

/* Put the keys into the slots, which are zero. */
void candidates_index(const reads *t) {
    for (i64 number = 1; number <= t->known; number++) {
        u64 slot = slot_of(t->keys[number - 1], t->mask);
        while (t->slots[slot]) slot = (slot + 1) & (u64)t->mask;
        t->slots[slot] = (i32)number;
    }
}

static inline i64 row_of_key(const reads *t, i64 key) {
    u64 slot = slot_of(key, t->mask);
    for (i32 number; (number = t->slots[slot]); slot = (slot + 1) & (u64)t->mask)
        if (t->keys[number - 1] == key) return t->rows[number];
    return 0;
}

static inline u32 time_of(const reads *t, const u32 *words, i64 bucket, i64 way) {
    i64 half = t->ways / 2;
    u32 pair = words[t->buckets * t->ways + bucket * half + way % half];
    return way < half ? pair & 0xFFFF : pair >> 16;
}

static inline i64 most(i64 a, i64 b) { return a > b ? a : b; }

/* What the user's entries add to types, to p and to what is held, or take from types and held again; how many entries
 * there are. */
static i64 gather(const reads *t, const u32 *words, i64 today, int add) {
    const u32 *scalars = words + t->buckets * t->ways * 3 / 2;
    i64 entries = 0;
    if (add) memset(t->p, 0, (size_t)t->width * 2 * sizeof(double));
    for (i64 bucket = 0, place = 0; bucket < t->buckets; bucket++)
        for (i64 way = 0; way < t->ways; way++, place++) {
            u32 item = words[place];
            i64 n = item >> LEVEL_BITS & MOST_BASKETS;
            if (!n) continue;
            entries++;
            if (!(t->groups & (TYPES | VECTORS | NEIGHBORS))) continue;
            i64 row = row_of_key(t, bucket << TAG_BITS | item >> TAG_SHIFT);
            i64 age = most(today - (i64)(time_of(t, words, bucket, way) >> BASKET_BITS) - scalars[DAY_BASE], 0);
            if (age > OLDEST) age = OLDEST;
            if (t->groups & TYPES)
                for (i64 kind = 0; kind < t->kinds; kind++) {
                    double *sum = t->sums + 3 * t->codes[row * t->kinds + kind];
                    if (add) sum[0] += (double)n, sum[1] += (double)n * t->decay[age], sum[2] += 1;
                    else sum[0] = sum[1] = sum[2] = 0;
                }
            if (t->groups & NEIGHBORS && row) {
                t->held[2 * row] = add ? t->log1p_n[n] : 0;
                t->held[2 * row + 1] = add ? t->log1p_n[n] * t->decay[age] : 0;
            }
            if (add && t->groups & VECTORS) {
                const float *x = t->weighted + row * t->width;
                double every = t->log1p_n[n], late = every * t->faster[age], *p = t->p, *q = p + t->width;
                for (i64 v = 0; v < t->width; v++) p[v] += every * x[v], q[v] += late * x[v];
            }
        }
    return entries;
}

static void own(const reads *t, const u32 *words, u64 id, i64 row, i64 today, float *out) {
    const u32 *scalars = words + t->buckets * t->ways * 3 / 2;
    u64 hash = mix(id);
    i64 bucket = (i64)((hash >> 32) % (u64)t->buckets), way = -1;
    for (i64 w = 0; w < t->ways; w++) {
        u32 item = words[bucket * t->ways + w];
        if (item >> TAG_SHIFT == (hash & ((1u << TAG_BITS) - 1)) && (item >> LEVEL_BITS & MOST_BASKETS)) way = w;
    }
    memset(out, 0, OWN_WIDTH * sizeof(float));
    if (way < 0) return;
    u32 item = words[bucket * t->ways + way], time = time_of(t, words, bucket, way);
    double n = item >> LEVEL_BITS & MOST_BASKETS;
    double age = (double)most(today - (i64)(time >> BASKET_BITS) - scalars[DAY_BASE], 0) + 0.5;
    double ago = (double)most((i64)scalars[BASKETS] - scalars[BASKET_BASE] - (time & LAST_BASKET), 0);
    double gap = t->sixteenths[item & LAST_LEVEL] / 16.0 + 0.5, usual = t->usual[row];
    double due = (gap * (n - 1) + 2 * usual) / (n + 1);
    double log_n = log(n + 1), log_age = log(age), log_gap = log(gap);
    out[0] = 1;
    out[1] = (float)log_n;
    out[2] = (float)log_age;
    out[3] = (float)log(ago + 1);
    out[4] = (float)log_gap;
    out[5] = n > 1 ? (float)(log_age - log_gap) : 0;
    out[6] = (float)(log_age - log(usual));
    out[7] = (float)(log_age - log(due));
    out[8] = (float)(log_n - log((double)scalars[BASKETS] + 1));
}

static void user(const u32 *scalars, i64 minute, i64 entries, float *out) {
    i64 baskets = scalars[BASKETS];
    memset(out, 0, USER_WIDTH * sizeof(float));
    if (!baskets) return;
    double days = scalars[MINUTE] / 1440.0 - scalars[FIRST_DAY];
    out[0] = (float)log1p((double)baskets);
    out[1] = (float)log1p((days > 0 ? days : 0) / (double)most(baskets - 1, 1));
    out[2] = (float)log1p((double)most(minute - scalars[MINUTE], 0) / 1440.0);
    out[3] = (float)log1p((double)entries);
    out[4] = (float)((double)scalars[REPEATS] / (double)most(scalars[LINES], 1));
}

static inline double dot(const float *x, const double *y, i64 n) {
    double sum[4] = {0};
    i64 i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++) sum[j] += x[i + j] * y[i + j];
    for (; i < n; i++) sum[0] += x[i] * y[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static double length_of(const double *p, i64 n) {
    double sum = 0;
    for (i64 i = 0; i < n; i++) sum += p[i] * p[i];
    double length = sqrt(sum);
    return length > 1e-12 ? length : 1e-12;
}

static void neighbors(const reads *t, i64 row, float *out) {
    const i32 *others = t->neighbors + row * t->paired;
    const float *weights = t->weights + row * t->paired;
    double sum = 0, late = 0;
    for (i64 k = 0; k < t->paired; k++) {
        const double *held = t->held + 2 * (i64)others[k];
        sum += held[0] * weights[k], late += held[1] * weights[k];
    }
    out[0] = (float)asinh(STEEPNESS * sum), out[1] = (float)asinh(STEEPNESS * late);
}

/* What is read of one user's words for n candidates: n rows of `out`, `stride` numbers from one to the next. */
void candidates_read(const reads *t, const u32 *words, const u64 *items, i64 n, i64 minute, float *out, i64 stride) {
    const u32 *scalars = words + t->buckets * t->ways * 3 / 2;
    i64 today = minute / 1440, entries = 0, V = t->width;
    float of_user[USER_WIDTH];
    double lengths[2] = {1, 1};
    if (t->groups & (USER | TYPES | VECTORS | NEIGHBORS)) entries = gather(t, words, today, 1);
    if (t->groups & USER) user(scalars, minute, entries, of_user);
    if (t->groups & VECTORS) lengths[0] = length_of(t->p, V), lengths[1] = length_of(t->p + V, V);
    for (i64 i = 0; i < n; i++, out += stride) {
        i64 row = row_of(t->ids, t->items, items[i]);
        float *to = out;
        if (t->groups & STATIC) {
            memcpy(to, t->fixed + row * STATIC_WIDTH, STATIC_WIDTH * sizeof(float));
            to += STATIC_WIDTH;
        }
        if (t->groups & OWN) {
            own(t, words, items[i], row, today, to);
            to += OWN_WIDTH;
        }
        if (t->groups & USER) {
            memcpy(to, of_user, sizeof(of_user));
            to += USER_WIDTH;
        }
        if (t->groups & TYPES)
            for (i64 kind = 0; kind < t->kinds; kind++, to += TYPES_WIDTH) {
                i64 at = row * t->kinds + kind;
                const double *sum = t->sums + 3 * t->codes[at];
                for (int j = 0; j < TYPES_WIDTH; j++) to[j] = t->types[at] > 0 ? (float)log1p(sum[j]) : 0;
            }
        if (t->groups & VECTORS) {
            for (int late = 0; late < 2; late++) {
                double product = dot(t->vectors + row * V, t->p + late * V, V);
                to[late] = (float)asinh(product);
                to[2 + late] = (float)(product / (lengths[late] * t->lengths[row]));
            }
            to += VECTORS_WIDTH;
        }
        if (t->groups & NEIGHBORS) neighbors(t, row, to);
    }
    if (t->groups & (TYPES | NEIGHBORS)) gather(t, words, today, 0);
}

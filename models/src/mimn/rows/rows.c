/* Runs a row program (mimn.rows.program): the operations of a step graph on one user's row at a time.
 *
 * Each result has the bits that onnxruntime's CPU provider gives: products are sums of fused multiply-adds in the order of
 * the inner axis, Tanh, Sigmoid and Exp are the same rational functions and polynomials, and nothing else is fused (compile
 * with -ffp-contract=off). Where a number is not finite the row is left to the graph, because then clamps and
 * skipped zeros could differ. x86-64 with AVX2 and FMA.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef int32_t i32;
typedef int64_t i64;

enum { DENSE, SPARSE, TANH, SIGMOID, EXP, ABS, NEG, RELU, ADD, SUB, MUL, DIV, SOFTMAX, LPNORM, HARDMAX, BATCHED, TURN, COPY };
enum { NOTHING, PLUS, MINUS };
enum { FIELDS = 9, TOGETHER = 4 };
/* op, out, a, b, n, k, weights, how, unit */
/* A place is an offset into the row's values; from CONSTANT on, into the constants. */
enum { CONSTANT = 1 << 24 };

typedef struct {
    const i32 *code;
    const float *constants;
    i32 instructions, values, event, event_size, state, state_size, result;
} program;

static inline __attribute__((always_inline)) const float *at(const program *p, const float *row, i32 place) {
    return place >= CONSTANT ? p->constants + (place - CONSTANT) : row + place;
}

static inline __attribute__((always_inline)) __m256 madd(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
#define V(x) _mm256_set1_ps(x)

/* Vectors of products: as wide as the processor has them. */
#ifdef __AVX512F__
typedef __m512 wide;
enum { LANES = 16, BLOCK = 4 };
#define wide_zero _mm512_setzero_ps
#define wide_load _mm512_loadu_ps
#define wide_store _mm512_storeu_ps
#define wide_spread(p) _mm512_set1_ps(*(p))
#define wide_madd _mm512_fmadd_ps
#define wide_add _mm512_add_ps
#define wide_sub _mm512_sub_ps
#else
typedef __m256 wide;
enum { LANES = 8, BLOCK = 2 };
#define wide_zero _mm256_setzero_ps
#define wide_load _mm256_loadu_ps
#define wide_store _mm256_storeu_ps
#define wide_spread(p) _mm256_broadcast_ss(p)
#define wide_madd _mm256_fmadd_ps
#define wide_add _mm256_add_ps
#define wide_sub _mm256_sub_ps
#endif

/* `bad` stays 0 while all numbers are finite, and is not a number ever after: what a product with zero tells. */
static inline __attribute__((always_inline)) __m256 spoiled(const float *x, i32 n, __m256 bad) {
    i32 i = 0;
    for (; i + 8 <= n; i += 8) bad = madd(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), bad);
    for (; i < n; i++) bad = madd(V(x[i]), _mm256_setzero_ps(), bad);
    return bad;
}

static int is_bad(__m256 bad) { return _mm256_movemask_ps(_mm256_cmp_ps(bad, _mm256_setzero_ps(), _CMP_NEQ_UQ)) != 0; }

static inline __attribute__((always_inline)) __m256 tanh8(__m256 x) {
    x = _mm256_min_ps(_mm256_max_ps(x, V(-9.0f)), V(9.0f));
    __m256 s = _mm256_mul_ps(x, x), p, q;
    p = madd(s, V(-2.76076847742355e-16f), V(2.00018790482477e-13f));
    p = madd(p, s, V(-8.60467152213735e-11f));
    p = madd(p, s, V(5.12229709037114e-08f));
    p = madd(p, s, V(1.48572235717979e-05f));
    p = madd(p, s, V(6.37261928875436e-04f));
    p = madd(p, s, V(4.89352455891786e-03f));
    q = madd(s, V(1.19825839466702e-06f), V(1.18534705686654e-04f));
    q = madd(q, s, V(2.26843463243900e-03f));
    q = madd(q, s, V(4.89352518554385e-03f));
    return _mm256_div_ps(_mm256_mul_ps(p, x), q);
}

static inline __attribute__((always_inline)) __m256 sigmoid8(__m256 x) {
    x = _mm256_min_ps(_mm256_max_ps(x, V(-18.0f)), V(18.0f));
    __m256 s = _mm256_mul_ps(x, x), p, q;
    p = madd(s, V(4.37031012579801e-11f), V(1.15627324459942e-07f));
    p = madd(p, s, V(6.08574864600143e-05f));
    p = madd(p, s, V(8.51377133304701e-03f));
    p = madd(p, s, V(2.48287947061529e-01f));
    q = madd(s, V(6.10247389755681e-13f), V(5.76102136993427e-09f));
    q = madd(q, s, V(6.29106785017040e-06f));
    q = madd(q, s, V(1.70198817374094e-03f));
    q = madd(q, s, V(1.16817656904453e-01f));
    q = madd(q, s, V(9.93151921023180e-01f));
    __m256 r = _mm256_add_ps(_mm256_div_ps(_mm256_mul_ps(p, x), q), V(0.5f));
    return _mm256_min_ps(_mm256_max_ps(r, V(0.0f)), V(1.0f));
}

/* For x from SMALLEST on: below it, results would be denormal. */
#define SMALLEST -87.0f
static inline __attribute__((always_inline)) __m256 exp8(__m256 x) {
    const __m256 rounding = V(12582912.0f); /* 1.5 * 2^23 */
    __m256 m = _mm256_sub_ps(madd(x, V(1.44269504088896341f), rounding), rounding), p = V(0x1.694000p-10f);
    x = madd(m, V(-6.93145752e-1f), x);
    x = madd(m, V(-1.42860677e-6f), x);
    p = madd(p, x, V(0x1.125edcp-7f));
    p = madd(p, x, V(0x1.555b5ap-5f));
    p = madd(p, x, V(0x1.555450p-3f));
    p = madd(p, x, V(0x1.fffff6p-2f));
    p = madd(p, x, V(1.0f));
    p = madd(p, x, V(1.0f));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(m), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

#define EACH(NAME, F8)                                                      \
    static void NAME(const float *x, float *y, i32 n) {                     \
        i32 i = 0;                                                          \
        for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, F8(_mm256_loadu_ps(x + i))); \
        if (i < n) {                                                        \
            float some[8] = {0};                                            \
            memcpy(some, x + i, (size_t)(n - i) * 4);                       \
            _mm256_storeu_ps(some, F8(_mm256_loadu_ps(some)));              \
            memcpy(y + i, some, (size_t)(n - i) * 4);                       \
        }                                                                   \
    }
EACH(tanh_all, tanh8)
EACH(sigmoid_all, sigmoid8)
EACH(exp_all, exp8)

/* C vectors of columns from column n on, for R rows. */
#define COLUMNS(R, C)                                                                                       \
    for (; n + LANES * C <= N; n += LANES * C) {                                                            \
        wide sum[R][C];                                                                                     \
        for (i32 r = 0; r < R; r++)                                                                         \
            for (i32 c = 0; c < C; c++) sum[r][c] = wide_zero();                                            \
        const float *w = weights + n;                                                                       \
        for (i32 k = 0; k < K; k++, w += N) {                                                               \
            wide column[C];                                                                                 \
            for (i32 c = 0; c < C; c++) column[c] = wide_load(w + LANES * c);                               \
            for (i32 r = 0; r < R; r++) {                                                                   \
                wide x = wide_spread(a[r] + k);                                                             \
                for (i32 c = 0; c < C; c++) sum[r][c] = wide_madd(x, column[c], sum[r][c]);                 \
            }                                                                                               \
        }                                                                                                   \
        for (i32 r = 0; r < R; r++)                                                                         \
            for (i32 c = 0; c < C; c++) {                                                                   \
                wide y = sum[r][c];                                                                         \
                if (how == PLUS) y = wide_add(y, wide_load(b[r] + n + LANES * c));                          \
                if (how == MINUS) y = wide_sub(y, wide_load(b[r] + n + LANES * c));                         \
                wide_store(out[r] + n + LANES * c, y);                                                      \
            }                                                                                               \
    }

/* N is a multiple of sixteen: weights are padded with zeros, and values have room behind them. */
static void dense_one(const float **a, const float **b, float **out, const float *weights, i32 K, i32 N, i32 how) {
    i32 n = 0;
    COLUMNS(1, 12)
    COLUMNS(1, 6)
    COLUMNS(1, 4)
    COLUMNS(1, 2)
    COLUMNS(1, 1)
}

static void dense_many(const float **a, const float **b, float **out, const float *weights, i32 K, i32 N, i32 how) {
    i32 n = 0;
    COLUMNS(TOGETHER, BLOCK)
    COLUMNS(TOGETHER, 2)
    COLUMNS(TOGETHER, 1)
}

/* Of the matrix only the numbers that are not zero, in runs: first row, first column, numbers, and where they are. A run
 * lies in one row, or, if its count is negative, on a diagonal. */
static void sparse(const float *a, const float *b, float *out, const i32 *runs, i32 count, const float *w, i32 N, i32 how) {
    memset(out, 0, (size_t)N * 4);
    for (i32 i = 0; i < count; i++, runs += 4) {
        const float *x = a + runs[0], *v = w + runs[3];
        float *y = out + runs[1];
        i32 n = runs[2], j = 0;
        if (n > 0) {
            for (; j + LANES <= n; j += LANES) wide_store(y + j, wide_madd(wide_spread(x), wide_load(v + j), wide_load(y + j)));
            for (; j < n; j++) y[j] = __builtin_fmaf(x[0], v[j], y[j]);
        } else {
            for (; j + LANES <= -n; j += LANES) wide_store(y + j, wide_madd(wide_load(x + j), wide_load(v + j), wide_load(y + j)));
            for (; j < -n; j++) y[j] = __builtin_fmaf(x[j], v[j], y[j]);
        }
    }
    if (how == PLUS) for (i32 j = 0; j < N; j += LANES) wide_store(out + j, wide_add(wide_load(out + j), wide_load(b + j)));
    if (how == MINUS) for (i32 j = 0; j < N; j += LANES) wide_store(out + j, wide_sub(wide_load(out + j), wide_load(b + j)));
}

static int too_small(const float *x, i32 n) {
    for (i32 i = 0; i < n; i++) if (x[i] < SMALLEST) return 1;
    return 0;
}

/* Groups of `unit`, at most 16; n at most 256. A sum halves a vector of sixteen three times and then adds neighbors. Returns
 * whether the graph must decide. */
static int softmax(const float *x, float *y, i32 n, i32 unit) {
    float moved[256] = {0}, each[256];
    for (i32 g = 0; g < n; g += unit) {
        float most = x[g];
        for (i32 i = 1; i < unit; i++) most = x[g + i] > most ? x[g + i] : most;
        for (i32 i = 0; i < unit; i++) moved[g + i] = x[g + i] - most;
    }
    exp_all(moved, each, n);
    int left = too_small(moved, n);
    for (i32 g = 0; g < n; g += unit) {
        float sum[16] = {0};
        for (i32 i = 0; i < unit; i++) sum[i] = each[g + i];
        for (i32 half = 8; half >= 4; half /= 2)
            if (unit > half) for (i32 i = 0; i < half; i++) sum[i] = sum[i] + sum[i + half];
        float scale = 1.0f / ((sum[0] + sum[1]) + (sum[2] + sum[3]));
        for (i32 i = 0; i < unit; i++) y[g + i] = each[g + i] * scale;
    }
    return left;
}

/* Groups of `unit`; each sums its squares from first to last, four groups at a time. */
static void lpnorm(const float *x, float *y, i32 n, i32 unit) {
    for (i32 g = 0; g < n; g += 4 * unit) {
        i32 groups = n - g >= 4 * unit ? 4 : (n - g) / unit;
        float sum[4] = {0};
        for (i32 i = 0; i < unit; i++)
            for (i32 j = 0; j < groups; j++) {
                float square = x[g + j * unit + i] * x[g + j * unit + i];
                sum[j] = sum[j] + square;
            }
        for (i32 j = 0; j < groups; j++) {
            float length = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(sum[j])));
            const float *from = x + g + j * unit;
            float *to = y + g + j * unit;
            if (length == 0.0f) memset(to, 0, (size_t)unit * 4);
            else for (i32 i = 0; i < unit; i++) to[i] = from[i] / length;
        }
    }
}

static void hardmax(const float *x, float *y, i32 n, i32 unit) {
    for (i32 g = 0; g < n; g += unit) {
        i32 first = 0;
        for (i32 i = 1; i < unit; i++) first = x[g + i] > x[g + first] ? i : first;
        for (i32 i = 0; i < unit; i++) y[g + i] = i == first ? 1.0f : 0.0f;
    }
}

/* [n / unit, k] times [k, unit] */
static void batched(const float *a, const float *b, float *y, i32 n, i32 k, i32 unit) {
    for (i32 row = 0; row * unit < n; row++) {
        i32 j = 0;
        for (; j + 4 <= unit; j += 4) {
            __m128 sum = _mm_setzero_ps();
            for (i32 i = 0; i < k; i++) sum = _mm_fmadd_ps(_mm_set1_ps(a[row * k + i]), _mm_loadu_ps(b + i * unit + j), sum);
            _mm_storeu_ps(y + row * unit + j, sum);
        }
        for (; j < unit; j++) {
            float sum = 0;
            for (i32 i = 0; i < k; i++) sum = __builtin_fmaf(a[row * k + i], b[i * unit + j], sum);
            y[row * unit + j] = sum;
        }
    }
}

#define BINARY(OP)                                            \
    if (unit == 1) for (i32 j = 0; j < n; j++) y[j] = x[j] OP z[0]; \
    else for (i32 j = 0; j < n; j++) y[j] = x[j] OP z[j];     \
    break;

static void simple(i32 op, const float *restrict x, const float *restrict z, float *restrict y, i32 n, i32 k, i32 unit, __m256 *bad) {
    if (op <= EXP || op == SOFTMAX || op == HARDMAX) *bad = spoiled(x, n, *bad);
    switch (op) {
    case TANH: tanh_all(x, y, n); break;
    case SIGMOID: sigmoid_all(x, y, n); break;
    case EXP:
        exp_all(x, y, n);
        if (too_small(x, n)) *bad = V(__builtin_nanf(""));
        break;
    case ABS: for (i32 j = 0; j < n; j++) y[j] = __builtin_fabsf(x[j]); break;
    case NEG: for (i32 j = 0; j < n; j++) y[j] = -x[j]; break;
    case RELU: for (i32 j = 0; j < n; j++) y[j] = x[j] > 0.0f ? x[j] : 0.0f; break;
    case ADD: BINARY(+)
    case SUB: BINARY(-)
    case MUL: BINARY(*)
    case DIV: BINARY(/)
    case SOFTMAX:
        if (softmax(x, y, n, unit)) *bad = V(__builtin_nanf(""));
        break;
    case LPNORM: lpnorm(x, y, n, unit); break;
    case HARDMAX: hardmax(x, y, n, unit); break;
    case BATCHED: batched(x, z, y, n, k, unit); break;
    case TURN: /* [n / unit, unit] to its transpose */
        for (i32 i = 0; i < n / unit; i++) for (i32 j = 0; j < unit; j++) y[j * (n / unit) + i] = x[i * unit + j];
        break;
    case COPY: memcpy(y, x, (size_t)n * 4); break;
    }
}

/* One step of up to TOGETHER rows, whose values lie one row behind another; not a number in `bad`: a row for the graph. */
static inline __attribute__((always_inline)) void step(const program *p, float *rows, i32 R, __m256 *bad) {
    const i32 *c = p->code;
    for (i32 i = 0; i < p->instructions; i++, c += FIELDS) {
        const float *a[TOGETHER], *b[TOGETHER];
        float *out[TOGETHER];
        for (i32 r = 0; r < R; r++) {
            float *row = rows + (i64)r * p->values;
            a[r] = at(p, row, c[2]), b[r] = at(p, row, c[3]), out[r] = row + c[1];
        }
        if (c[0] == DENSE) {
            for (i32 r = 0; r < R; r++) bad[r] = spoiled(a[r], c[5], bad[r]);
            if (R == 1) dense_one(a, b, out, p->constants + c[6], c[5], c[4], c[7]);
            else dense_many(a, b, out, p->constants + c[6], c[5], c[4], c[7]);
        } else
            for (i32 r = 0; r < R; r++) {
                if (c[0] == SPARSE) {
                    bad[r] = spoiled(a[r], c[5], bad[r]);
                    sparse(a[r], b[r], out[r], p->code + c[8] + 1, p->code[c[8]], p->constants + c[6], c[4], c[7]);
                } else
                    simple(c[0], a[r], b[r], out[r], c[4], c[5], c[8], bad + r);
            }
    }
    for (i32 r = 0; r < R; r++) bad[r] = spoiled(rows + (i64)r * p->values + p->result, p->state_size, bad[r]);
}

static void load(const program *p, float *row, const float *event, const float *state) {
    memcpy(row + p->event, event, (size_t)p->event_size * 4);
    memcpy(row + p->state, state, (size_t)p->state_size * 4);
}

static int one(const program *p, float *scratch, const float *event, float *state) {
    __m256 bad = _mm256_setzero_ps();
    load(p, scratch, event, state);
    step(p, scratch, 1, &bad);
    if (is_bad(bad)) return 0;
    memcpy(state, scratch + p->result, (size_t)p->state_size * 4);
    return 1;
}

/* Several events into each of n states, in place: into the state at byte `row[i] * stride` those from events[first[i]] on,
 * `depth[i]` many. Sets done[i] to how many were folded: fewer where the graph must decide about the next one. Neighbors are
 * folded together as long as all have events, so similar depths should be neighbors. */
void rows_fold(const program *p, float *scratch, const float *events, const i64 *first, const i64 *depth, const i64 *row,
               char *states, i64 stride, i64 *done, i64 n) {
    for (i64 i = 0; i < n; i += TOGETHER) {
        i32 R = n - i >= TOGETHER ? TOGETHER : (i32)(n - i), stopped[TOGETHER] = {0}, any = R < TOGETHER;
        float *state[TOGETHER];
        for (i32 r = 0; r < R; r++) done[i + r] = 0, state[r] = (float *)(states + row[i + r] * stride);
        for (i64 t = 0; !any; t++) {
            for (i32 r = 0; r < R; r++) any |= t >= depth[i + r];
            if (any) break;
            __m256 bad[TOGETHER];
            for (i32 r = 0; r < TOGETHER; r++) {
                bad[r] = _mm256_setzero_ps();
                load(p, scratch + (i64)r * p->values, events + (first[i + r] + t) * p->event_size, state[r]);
            }
            step(p, scratch, TOGETHER, bad);
            for (i32 r = 0; r < TOGETHER; r++) {
                any |= stopped[r] = is_bad(bad[r]);
                if (stopped[r]) continue;
                memcpy(state[r], scratch + (i64)r * p->values + p->result, (size_t)p->state_size * 4);
                done[i + r]++;
            }
        }
        for (i32 r = 0; r < R; r++)
            while (!stopped[r] && done[i + r] < depth[i + r]) {
                if (!one(p, scratch, events + (first[i + r] + done[i + r]) * p->event_size, state[r])) break;
                done[i + r]++;
            }
    }
}

/* One event into one user's row, and many into many: see rows.h. */
#include "rows.h"

INLINE const float *at(const program *p, const float *row, i32 place) {
    return place >= CONSTANT ? p->constants + (place - CONSTANT) : row + place;
}

/* `bad` stays 0 while all numbers are finite, and is not a number ever after: what a product with zero tells. */
INLINE wide spoiled(const float *x, i32 n, wide bad) {
    i32 i = 0;
    for (; i + LANES <= n; i += LANES) bad = wide_madd(wide_load(x + i), wide_zero(), bad);
    for (; i < n; i++) bad = wide_madd(wide_of(x[i]), wide_zero(), bad);
    return bad;
}

#define EACH(NAME, OF)                                                                       \
    static void NAME(const float *x, float *y, i32 n) {                                      \
        i32 i = 0;                                                                           \
        for (; i + LANES <= n; i += LANES) wide_store(y + i, OF(wide_load(x + i)));          \
        if (i < n) {                                                                         \
            float some[LANES] = {0};                                                         \
            memcpy(some, x + i, (size_t)(n - i) * 4);                                        \
            wide_store(some, OF(wide_load(some)));                                           \
            memcpy(y + i, some, (size_t)(n - i) * 4);                                        \
        }                                                                                    \
    }
EACH(tanh_all, tanh_of)
EACH(sigmoid_all, sigmoid_of)
EACH(exp_all, exp_of)

/* C vectors of columns from column n on. */
#define COLUMNS(C)                                                                        \
    for (; n + LANES * C <= N; n += LANES * C) {                                          \
        wide sum[C];                                                                      \
        for (i32 c = 0; c < C; c++) sum[c] = wide_zero();                                 \
        const float *w = weights + n;                                                     \
        for (i32 k = 0; k < K; k++, w += N) {                                             \
            const wide x = wide_of(a[k]);                                                 \
            for (i32 c = 0; c < C; c++) sum[c] = wide_madd(x, wide_load(w + LANES * c), sum[c]); \
        }                                                                                 \
        for (i32 c = 0; c < C; c++) {                                                     \
            wide y = sum[c];                                                              \
            if (how == PLUS) y = wide_add(y, wide_load(b + n + LANES * c));               \
            if (how == MINUS) y = wide_sub(y, wide_load(b + n + LANES * c));              \
            wide_store(out + n + LANES * c, y);                                           \
        }                                                                                 \
    }

/* N is a multiple of sixteen: weights are padded with zeros, and values have room behind them. */
static void dense(const float *a, const float *b, float *out, const float *weights, i32 K, i32 N, i32 how) {
    i32 n = 0;
    COLUMNS(12)
    COLUMNS(6)
    COLUMNS(4)
    COLUMNS(2)
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
            for (; j + LANES <= n; j += LANES) wide_store(y + j, wide_madd(wide_of(*x), wide_load(v + j), wide_load(y + j)));
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

static void simple(i32 op, const float *restrict x, const float *restrict z, float *restrict y, i32 n, i32 k, i32 unit, wide *bad) {
    if (op <= RELU || op == SOFTMAX || op == HARDMAX) *bad = spoiled(x, n, *bad);
    switch (op) {
    case TANH: tanh_all(x, y, n); break;
    case SIGMOID: sigmoid_all(x, y, n); break;
    case EXP:
        exp_all(x, y, n);
        if (too_small(x, n)) *bad = wide_of(__builtin_nanf(""));
        break;
    case ABS: for (i32 j = 0; j < n; j++) y[j] = __builtin_fabsf(x[j]); break;
    case NEG: for (i32 j = 0; j < n; j++) y[j] = -x[j]; break;
    case RELU: for (i32 j = 0; j < n; j++) y[j] = x[j] > 0.0f ? x[j] : 0.0f; break;
    case ADD: BINARY(+)
    case SUB: BINARY(-)
    case MUL: BINARY(*)
    case DIV: BINARY(/)
    case SOFTMAX:
        if (softmax(x, y, n, unit)) *bad = wide_of(__builtin_nanf(""));
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

/* One step of one row; not a number in what it returns: a row for the graph. */
static wide row_step(const program *p, float *row) {
    const i32 *c = p->code;
    wide bad = wide_zero();
    for (i32 i = 0; i < p->instructions; i++, c += FIELDS) {
        const float *a = at(p, row, c[2]), *b = at(p, row, c[3]);
        float *out = row + c[1];
        if (c[0] == DENSE || c[0] == SPARSE) bad = spoiled(a, c[5], bad);
        if (c[0] == DENSE) dense(a, b, out, p->constants + c[6], c[5], c[4], c[7]);
        else if (c[0] == SPARSE) sparse(a, b, out, p->code + c[8] + 1, p->code[c[8]], p->constants + c[6], c[4], c[7]);
        else simple(c[0], a, b, out, c[4], c[5], c[8], &bad);
    }
    return spoiled(row + p->result, p->state_size, bad);
}

static int fold_one(const program *p, float *scratch, const float *event, float *state) {
    memcpy(scratch + p->event, event, (size_t)p->event_size * 4);
    memcpy(scratch + p->state, state, (size_t)p->state_size * 4);
    if (wide_not_zero(row_step(p, scratch))) return 0;
    memcpy(state, scratch + p->result, (size_t)p->state_size * 4);
    return 1;
}

/* Where four numbers of a row lie, and where those of four lanes. */
#define ROW(i) (rows[l + (i)] + j)
#define LANE(i) (lanes + (i64)LANES * (j + (i)) + l)
#define TURNED(FROM, TO)                                                                              \
    __m128 w = _mm_loadu_ps(FROM(0)), x = _mm_loadu_ps(FROM(1)), y = _mm_loadu_ps(FROM(2)), z = _mm_loadu_ps(FROM(3)); \
    _MM_TRANSPOSE4_PS(w, x, y, z);                                                                    \
    _mm_storeu_ps(TO(0), w), _mm_storeu_ps(TO(1), x), _mm_storeu_ps(TO(2), y), _mm_storeu_ps(TO(3), z);

/* n numbers of each of LANES rows into their lanes, and back. */
static void to_lanes(const float *const *rows, i32 n, float *lanes) {
    i32 j = 0;
    for (; j + 4 <= n; j += 4)
        for (i32 l = 0; l < LANES; l += 4) {
            TURNED(ROW, LANE)
        }
    for (; j < n; j++)
        for (i32 l = 0; l < LANES; l++) lanes[(i64)LANES * j + l] = rows[l][j];
}

static void from_lanes(const float *lanes, i32 n, float *const *rows) {
    i32 j = 0;
    for (; j + 4 <= n; j += 4)
        for (i32 l = 0; l < LANES; l += 4) {
            TURNED(LANE, ROW)
        }
    for (; j < n; j++)
        for (i32 l = 0; l < LANES; l++) rows[l][j] = lanes[(i64)LANES * j + l];
}

/* So many rows take as long one by one as in lanes. */
enum { WORTH_IT = 4 };

/* What is folded into n states. */
typedef struct {
    const program *p;
    float *scratch;
    const float *events;
    const i64 *first, *depth, *row;
    char *states;
    i64 stride, *done;
} fold;

static float *state_of(const fold *f, i64 i) { return (float *)(f->states + f->row[i] * f->stride); }
static const float *event_of(const fold *f, i64 i) { return f->events + (f->first[i] + f->done[i]) * f->p->event_size; }

/* The next event of each of the states in `lane`, of which `count` are there; returns for which of them the graph must decide. */
static i32 fold_lanes(const fold *f, const i64 *lane, i32 count) {
    const program *p = f->p;
    float *scratch = f->scratch, *nowhere = scratch + (i64)LANES * p->values, *state[LANES];
    const float *event[LANES];
    for (i32 l = 0; l < LANES; l++) {
        const i64 i = lane[l < count ? l : 0];
        event[l] = event_of(f, i), state[l] = state_of(f, i);
    }
    to_lanes(event, p->event_size, scratch + (i64)LANES * p->event);
    to_lanes((const float **)state, p->state_size, scratch + (i64)LANES * p->state);
    const i32 bad = lanes_step(p, scratch);
    for (i32 l = 0; l < LANES; l++)
        if (l >= count || bad >> l & 1) state[l] = nowhere;
    from_lanes(scratch + (i64)LANES * p->result, p->state_size, state);
    return bad;
}

/* Several events into each of n states, in place: into the state at byte `row[i] * stride` those from events[first[i]] on,
 * `depth[i]` many. Sets done[i] to how many were folded: fewer where the graph must decide about the next one. States with most
 * events should come first, because whatever is left at the end is folded one by one. `scratch` has room for LANES rows and one
 * more state. */
void rows_fold(const program *p, float *scratch, const float *events, const i64 *first, const i64 *depth, const i64 *row,
               char *states, i64 stride, i64 *done, i64 n) {
    const fold f = {p, scratch, events, first, depth, row, states, stride, done};
    i64 lane[LANES], next = 0;
    i32 count = 0;
    for (;;) {
        for (; count < LANES && next < n; next++) {
            done[next] = 0;
            if (depth[next]) lane[count++] = next;
        }
        if (count < WORTH_IT) break;
        const i32 bad = fold_lanes(&f, lane, count);
        i32 left = 0;
        for (i32 l = 0; l < count; l++) {
            const i64 i = lane[l];
            if (!(bad >> l & 1) && ++done[i] < depth[i]) lane[left++] = i;
        }
        count = left;
    }
    for (i32 l = 0; l < count; l++)
        for (const i64 i = lane[l]; done[i] < depth[i] && fold_one(p, scratch, event_of(&f, i), state_of(&f, i));) done[i]++;
}

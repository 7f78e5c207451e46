/* Runs a head program (mimn.rows.head_code): a head graph on one user and many candidates.
 *
 * What depends on the user alone is computed once, with numbers; then candidates are scored a tile at a time, with one
 * candidate in each lane of a vector. A value of n numbers a candidate is n times a tile's vectors, so that splitting,
 * joining and reshaping are places, and no operation has a remainder. x86-64 with AVX2 and FMA.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int32_t i32;
typedef int64_t i64;
typedef uint64_t u64;

#define INLINE static inline __attribute__((always_inline))

/* As in mimn.rows.head_code. */
enum { PRODUCT, ADD, SUB, MUL, DIV, MAX, MIN, POW, CHOOSE, NEG, ABS, SQRT, RECIPROCAL, LOG, EXP, TANH, SIGMOID, SOFTPLUS,
       COPY, SUM, LENGTH, SOFTMAX, GATHER };
enum { OF_USER, OF_CANDIDATES, CELLS };

typedef struct {
    const i32 *once, *each, *inputs; /* instructions; for each input its kind, its place and its width */
    float *user, *tile;              /* values */
    i64 once_size, each_size, input_count, result;
} program;

#ifdef __AVX512F__
typedef __m512 wide;
enum { LANES = 16 };
#define OP(name) _mm512_##name##_ps
#define spread(x) _mm512_set1_ps(x)
#define low_to_exponent(x) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23))
#define about_reciprocal(x) _mm512_rcp14_ps(x)
#define nan_or(x, y) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), y, x) /* x where it is not a number */
#define choose(x, y) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), y, x)
#else
typedef __m256 wide;
enum { LANES = 8 };
#define OP(name) _mm256_##name##_ps
#define spread(x) _mm256_set1_ps(x)
#define low_to_exponent(x) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23))
#define about_reciprocal(x) _mm256_rcp_ps(x)
#define nan_or(x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q))
#define choose(x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ))
#endif
enum { MOST = 3 }; /* vectors of a tile */

INLINE wide load(const float *p) { return OP(loadu)(p); }
INLINE void store(float *p, wide x) { OP(storeu)(p, x); }
INLINE wide madd(wide a, wide b, wide c) { return OP(fmadd)(a, b, c); }

/* For a number that is neither 0 nor denormal: to the last bit or two. */
INLINE wide reciprocal(wide x) {
    wide y = about_reciprocal(x);
    return madd(y, OP(fnmadd)(x, y, spread(1.0f)), y);
}

/* To 2e-6 of the result: 2^f by a polynomial, with f from -1/2 to 1/2, times the whole power. Rounding leaves its exponent, with
 * the bias of floats, in the lowest bits. Clamped where results would overflow or be denormal. What is not a number stays so,
 * because it is multiplied: bits that are added to its exponent could make it a number. */
INLINE wide exponential(wide x) {
    const wide rounding = spread(12582912.0f + 127.0f), base = spread(1.44269504088896341f); /* 1.5 * 2^23, log2(e) */
    x = OP(min)(spread(88.0f), OP(max)(spread(-86.0f), x));
    wide whole = madd(x, base, rounding), p = spread(0x1.5c08e2p-10f);
    wide f = OP(fmsub)(x, base, OP(sub)(whole, rounding));
    p = madd(p, f, spread(0x1.3d0c52p-7f));
    p = madd(p, f, spread(0x1.c6b6e6p-5f));
    p = madd(p, f, spread(0x1.ebf918p-3f));
    p = madd(p, f, spread(0x1.62e428p-1f));
    p = madd(p, f, spread(1.0f));
    return OP(mul)(p, low_to_exponent(whole));
}

INLINE wide sigmoid(wide x) { return reciprocal(OP(add)(spread(1.0f), exponential(OP(sub)(spread(0.0f), x)))); }

INLINE wide hyperbolic_tangent(wide x) {
    x = OP(min)(spread(9.0f), OP(max)(spread(-9.0f), x));
    wide s = OP(mul)(x, x), p, q;
    p = madd(s, spread(-2.76076847742355e-16f), spread(2.00018790482477e-13f));
    p = madd(p, s, spread(-8.60467152213735e-11f));
    p = madd(p, s, spread(5.12229709037114e-08f));
    p = madd(p, s, spread(1.48572235717979e-05f));
    p = madd(p, s, spread(6.37261928875436e-04f));
    p = madd(p, s, spread(4.89352455891786e-03f));
    q = madd(s, spread(1.19825839466702e-06f), spread(1.18534705686654e-04f));
    q = madd(q, s, spread(2.26843463243900e-03f));
    q = madd(q, s, spread(4.89352518554385e-03f));
    return OP(mul)(OP(mul)(p, x), reciprocal(q));
}

static float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* One lane after another, for what is rare. */
#define LANE_BY_LANE(NAME, F)                               \
    static wide NAME(wide x) {                              \
        float each[LANES];                                  \
        store(each, x);                                     \
        for (i32 l = 0; l < LANES; l++) each[l] = F(each[l]); \
        return load(each);                                  \
    }
LANE_BY_LANE(logarithm, logf)
LANE_BY_LANE(soft, softplus)

/* Fields of an instruction other than PRODUCT; its first field is its length. Strides count numbers of a user, or rows of a
 * tile. */
enum { KIND = 1, OUT, A, B, A_IS_WIDE, B_IS_WIDE, SIZES, OUT_STRIDES = SIZES + 3, A_STRIDES = OUT_STRIDES + 3, B_STRIDES = A_STRIDES + 3 };
/* Of PRODUCT, and of each of its pieces: their sum is the result, which has SUMMANDS' numbers added. */
enum { ROWS = 3, COLUMNS, SUMMAND, SUMMAND_IS, SUMMAND_ROW, SUMMAND_COLUMN, PIECES, FIRST_PIECE };
enum { LEFT, LEFT_ROW, LEFT_STEP, RIGHT, RIGHT_STEP, RIGHT_GROUP, INNER, PIECE_SIZE };
enum { GROUP = 8 }; /* columns of a matrix on the right, as in mimn.rows.head_values */
enum { NO_SUMMAND, USERS_SUMMAND, WIDE_SUMMAND };

/* -- once, for the user -- */

/* N columns from n on of one row of a product, while the sums stay in registers. */
#define USER_COLUMNS(N, WIDE, LOAD, STORE, ZERO, MADD)                                                      \
    for (; n + N * (i32)(sizeof(WIDE) / 4) <= c[COLUMNS]; n += N * (i32)(sizeof(WIDE) / 4)) {               \
        WIDE sum[N];                                                                                        \
        for (i32 j = 0; j < N; j++) sum[j] = ZERO;                                                          \
        const i32 *piece = c + FIRST_PIECE;                                                                 \
        for (i32 i = 0; i < c[PIECES]; i++, piece += PIECE_SIZE) {                                          \
            const float *x = user + piece[LEFT] + row * piece[LEFT_ROW], *w = user + piece[RIGHT] + n;      \
            for (i32 k = 0; k < piece[INNER]; k++, x += piece[LEFT_STEP], w += piece[RIGHT_STEP])           \
                for (i32 j = 0; j < N; j++) sum[j] = MADD(*x, LOAD(w + j * (i32)(sizeof(WIDE) / 4)), sum[j]); \
        }                                                                                                   \
        for (i32 j = 0; j < N; j++) STORE(out + n + j * (i32)(sizeof(WIDE) / 4), sum[j]);                   \
    }
#define NUMBER(p) (*(p))
#define PUT(p, x) (*(p) = (x))
#define WIDE_MADD(x, w, sum) madd(spread(x), w, sum)

static void user_product(const i32 *c, float *user) {
    for (i32 row = 0; row < c[ROWS]; row++) {
        float *out = user + c[OUT] + row * c[COLUMNS];
        i32 n = 0;
        USER_COLUMNS(6, wide, load, store, spread(0.0f), WIDE_MADD)
        USER_COLUMNS(2, wide, load, store, spread(0.0f), WIDE_MADD)
        USER_COLUMNS(1, wide, load, store, spread(0.0f), WIDE_MADD)
        USER_COLUMNS(1, float, NUMBER, PUT, 0.0f, fmaf)
        if (c[SUMMAND_IS])
            for (n = 0; n < c[COLUMNS]; n++) out[n] += user[c[SUMMAND] + row * c[SUMMAND_ROW] + n * c[SUMMAND_COLUMN]];
    }
}

INLINE float user_number(i32 kind, float a, float b) {
    switch (kind) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    case MAX: return b > a || isnan(b) ? b : a;
    case MIN: return b < a || isnan(b) ? b : a;
    case POW: return powf(a, b);
    case CHOOSE: return a > 0.0f ? a : b;
    case NEG: return -a;
    case ABS: return fabsf(a);
    case SQRT: return sqrtf(a);
    case RECIPROCAL: return 1.0f / a;
    case LOG: return logf(a);
    case EXP: return expf(a);
    case TANH: return tanhf(a);
    case SIGMOID: return 1.0f / (1.0f + expf(-a));
    case SOFTPLUS: return softplus(a);
    default: return a; /* COPY */
    }
}

/* Innermost axes that lie one number behind another, or are one number, are the common case. */
INLINE void user_each(i32 kind, const i32 *c, float *user) {
    for (i32 i = 0; i < c[SIZES]; i++)
        for (i32 j = 0; j < c[SIZES + 1]; j++) {
            float *restrict out = user + c[OUT] + i * c[OUT_STRIDES] + j * c[OUT_STRIDES + 1];
            const float *a = user + c[A] + i * c[A_STRIDES] + j * c[A_STRIDES + 1];
            const float *b = user + c[B] + i * c[B_STRIDES] + j * c[B_STRIDES + 1];
            i32 n = c[SIZES + 2], so = c[OUT_STRIDES + 2], sa = c[A_STRIDES + 2], sb = c[B_STRIDES + 2];
            if (so == 1 && sa == 1 && sb == 1) for (i32 k = 0; k < n; k++) out[k] = user_number(kind, a[k], b[k]);
            else if (so == 1 && sa == 0 && sb == 1) for (i32 k = 0; k < n; k++) out[k] = user_number(kind, a[0], b[k]);
            else if (so == 1 && sa == 1 && sb == 0) for (i32 k = 0; k < n; k++) out[k] = user_number(kind, a[k], b[0]);
            else for (i32 k = 0; k < n; k++) out[k * so] = user_number(kind, a[k * sa], b[k * sb]);
        }
}

static void user_sums(const i32 *c, float *user) {
    for (i32 i = 0; i < c[SIZES]; i++)
        for (i32 j = 0; j < c[SIZES + 1]; j++) {
            const float *a = user + c[A] + i * c[A_STRIDES] + j * c[A_STRIDES + 1];
            float sum = 0;
            for (i32 k = 0; k < c[SIZES + 2]; k++) {
                float x = a[k * c[A_STRIDES + 2]];
                sum = c[KIND] == SUM ? sum + x : fmaf(x, x, sum);
            }
            user[c[OUT] + i * c[OUT_STRIDES] + j * c[OUT_STRIDES + 1]] = c[KIND] == SUM ? sum : sqrtf(sum);
        }
}

#define USER_EACH(NAME) case NAME: user_each(NAME, c, user); break;

static void once(const program *p) {
    float *user = p->user;
    for (const i32 *c = p->once; c < p->once + p->once_size; c += c[0])
        switch (c[KIND]) {
        case PRODUCT: user_product(c, user); break;
        case SUM: case LENGTH: user_sums(c, user); break;
        USER_EACH(ADD) USER_EACH(SUB) USER_EACH(MUL) USER_EACH(DIV) USER_EACH(MAX) USER_EACH(MIN)
        default: user_each(c[KIND], c, user);
        }
}

/* -- for each tile of candidates: R vectors -- */

/* N columns from w on for one row of a product, while the sums stay in registers. */
INLINE void columns(const i32 *c, const float *user, float *tile, i32 row, i32 n, const i32 N, const i32 R) {
    const i32 T = R * LANES;
    wide sum[8][MOST];
    i32 at = c[SUMMAND] + row * c[SUMMAND_ROW] + n * c[SUMMAND_COLUMN];
#pragma GCC unroll 8
    for (i32 j = 0; j < N; j++, at += c[SUMMAND_COLUMN])
#pragma GCC unroll 3
        for (i32 r = 0; r < R; r++)
            sum[j][r] = c[SUMMAND_IS] == USERS_SUMMAND  ? spread(user[at])
                        : c[SUMMAND_IS] == WIDE_SUMMAND ? load(tile + at * T + r * LANES)
                                                        : spread(0.0f);
    const i32 *piece = c + FIRST_PIECE;
    for (i32 i = 0; i < c[PIECES]; i++, piece += PIECE_SIZE) {
        const float *x = tile + (piece[LEFT] + row * piece[LEFT_ROW]) * T;
        const float *w = user + piece[RIGHT] + (i64)(n / GROUP) * piece[RIGHT_GROUP] + n % GROUP;
        const i64 x_step = piece[LEFT_STEP] * T, w_step = piece[RIGHT_STEP];
        for (i32 k = 0; k < piece[INNER]; k++, x += x_step, w += w_step) {
            wide some[MOST];
#pragma GCC unroll 3
            for (i32 r = 0; r < R; r++) some[r] = load(x + r * LANES);
#pragma GCC unroll 8
            for (i32 j = 0; j < N; j++) {
                wide weight = spread(w[j]);
#pragma GCC unroll 3
                for (i32 r = 0; r < R; r++) sum[j][r] = madd(weight, some[r], sum[j][r]);
            }
        }
    }
    float *out = tile + (c[OUT] + row * c[COLUMNS] + n) * T;
#pragma GCC unroll 8
    for (i32 j = 0; j < N; j++)
#pragma GCC unroll 3
        for (i32 r = 0; r < R; r++) store(out + j * T + r * LANES, sum[j][r]);
}

INLINE void product(const i32 *c, const float *user, float *tile, const i32 R) {
    for (i32 row = 0; row < c[ROWS]; row++) {
        i32 n = 0;
        if (LANES == 16) for (; n + 8 <= c[COLUMNS]; n += 8) columns(c, user, tile, row, n, 8, R);
        for (; n + 4 <= c[COLUMNS]; n += 4) columns(c, user, tile, row, n, 4, R);
        for (; n < c[COLUMNS]; n++) columns(c, user, tile, row, n, 1, R);
    }
}

INLINE wide of(i32 kind, wide a, wide b) {
    switch (kind) {
    case ADD: return OP(add)(a, b);
    case SUB: return OP(sub)(a, b);
    case MUL: return OP(mul)(a, b);
    case DIV: return OP(div)(a, b);
    case MAX: return nan_or(b, OP(max)(b, a)); /* max and min give a where one of the two is not a number */
    case MIN: return nan_or(b, OP(min)(b, a));
    case CHOOSE: return choose(a, b);
    case NEG: return OP(sub)(spread(-0.0f), a);
    case ABS: return OP(max)(OP(sub)(spread(-0.0f), a), a);
    case SQRT: return OP(sqrt)(a);
    case RECIPROCAL: return OP(div)(spread(1.0f), a);
    case LOG: return logarithm(a);
    case EXP: return exponential(a);
    case TANH: return hyperbolic_tangent(a);
    case SIGMOID: return sigmoid(a);
    case SOFTPLUS: return soft(a);
    default: return a; /* COPY */
    }
}

INLINE void each_of(i32 kind, const i32 *c, const float *user, float *tile, i32 T, const i32 a_is_wide, const i32 b_is_wide) {
    for (i32 i = 0; i < c[SIZES]; i++)
        for (i32 j = 0; j < c[SIZES + 1]; j++) {
            i32 out = c[OUT] + i * c[OUT_STRIDES] + j * c[OUT_STRIDES + 1];
            i32 a = c[A] + i * c[A_STRIDES] + j * c[A_STRIDES + 1], b = c[B] + i * c[B_STRIDES] + j * c[B_STRIDES + 1];
            for (i32 k = 0; k < c[SIZES + 2]; k++, out += c[OUT_STRIDES + 2], a += c[A_STRIDES + 2], b += c[B_STRIDES + 2])
                for (i32 l = 0; l < T; l += LANES)
                    store(tile + out * T + l, of(kind, a_is_wide ? load(tile + a * T + l) : spread(user[a]),
                                                 b_is_wide ? load(tile + b * T + l) : spread(user[b])));
        }
}

#define EACH(NAME)                                                        \
    case NAME:                                                            \
        if (c[A_IS_WIDE] && c[B_IS_WIDE]) each_of(NAME, c, user, tile, T, 1, 1); \
        else if (c[A_IS_WIDE]) each_of(NAME, c, user, tile, T, 1, 0);     \
        else each_of(NAME, c, user, tile, T, 0, 1);                       \
        break;
#define EACH_OF_ONE(NAME) \
    case NAME: each_of(NAME, c, user, tile, T, 1, 1); break;

static void each(const i32 *c, const float *user, float *tile, i32 T) {
    switch (c[KIND]) {
    EACH(ADD) EACH(SUB) EACH(MUL) EACH(DIV) EACH(MAX) EACH(MIN) EACH(CHOOSE) EACH(COPY)
    EACH_OF_ONE(NEG) EACH_OF_ONE(ABS) EACH_OF_ONE(SQRT) EACH_OF_ONE(RECIPROCAL) EACH_OF_ONE(LOG) EACH_OF_ONE(EXP)
    EACH_OF_ONE(TANH) EACH_OF_ONE(SIGMOID) EACH_OF_ONE(SOFTPLUS)
    }
}

/* Over the innermost axis: sums, lengths and softmaxes. */
static void over(const i32 *c, float *tile, i32 T) {
    const i32 n = c[SIZES + 2], step = c[A_STRIDES + 2] * T, out_step = c[OUT_STRIDES + 2] * T;
    for (i32 i = 0; i < c[SIZES]; i++)
        for (i32 j = 0; j < c[SIZES + 1]; j++)
            for (i32 l = 0; l < T; l += LANES) {
                const float *a = tile + (c[A] + i * c[A_STRIDES] + j * c[A_STRIDES + 1]) * T + l;
                float *out = tile + (c[OUT] + i * c[OUT_STRIDES] + j * c[OUT_STRIDES + 1]) * T + l;
                wide sum = spread(0.0f);
                if (c[KIND] == SUM) {
                    for (i32 k = 0; k < n; k++) sum = OP(add)(sum, load(a + k * step));
                    store(out, sum);
                } else if (c[KIND] == LENGTH) {
                    for (i32 k = 0; k < n; k++) sum = madd(load(a + k * step), load(a + k * step), sum);
                    store(out, OP(sqrt)(sum));
                } else {
                    wide most = load(a);
                    for (i32 k = 1; k < n; k++) most = OP(max)(most, load(a + k * step));
                    for (i32 k = 0; k < n; k++) {
                        wide share = exponential(OP(sub)(load(a + k * step), most));
                        sum = OP(add)(sum, share);
                        store(out + k * out_step, share);
                    }
                    wide scale = OP(div)(spread(1.0f), sum);
                    for (i32 k = 0; k < n; k++) store(out + k * out_step, OP(mul)(load(out + k * out_step), scale));
                }
            }
}

/* Numbers of the user at the candidates' cells. Returns whether all of them exist. */
static int gather(const i32 *c, const float *user, float *tile, const i64 *cells, i32 width, i64 first, i64 count, i32 T) {
    for (i32 a = 0; a < c[SIZES + 1]; a++)
        for (i32 s = 0; s < c[SIZES + 2]; s++) {
            float *out = tile + (c[OUT] + a * c[OUT_STRIDES + 1] + s * c[OUT_STRIDES + 2]) * T;
            for (i32 l = 0; l < T; l++) {
                i64 cell = cells[(first + l < count ? first + l : count - 1) * width + a];
                if ((u64)cell >= (u64)c[SIZES]) return 0;
                out[l] = user[c[A] + cell * c[A_STRIDES] + s * c[A_STRIDES + 2]];
            }
        }
    return 1;
}

/* Numbers of the candidates from `first` on, one behind another, into the lanes of their rows. Lanes without a candidate get
 * the last one's. */
static void spread_out(const float *from, i32 width, i64 first, i64 count, float *tile, i32 T) {
    for (i32 l = 0; l < T; l++) {
        const float *row = from + (first + l < count ? first + l : count - 1) * width;
        for (i32 w = 0; w < width; w++) tile[w * T + l] = row[w];
    }
}

INLINE int tile_of(const program *p, const void *const *given, i64 first, i64 count, float *scores, const i32 R) {
    const i32 T = R * LANES;
    float *tile = p->tile;
    for (i64 i = 0; i < p->input_count; i++) {
        const i32 *input = p->inputs + 3 * i;
        if (input[0] == OF_CANDIDATES) spread_out(given[i], input[2], first, count, tile + input[1] * T, T);
    }
    for (const i32 *c = p->each; c < p->each + p->each_size; c += c[0])
        switch (c[KIND]) {
        case PRODUCT: product(c, p->user, tile, R); break;
        case SUM: case LENGTH: case SOFTMAX: over(c, tile, T); break;
        case GATHER:
            if (!gather(c, p->user, tile, given[c[B]], p->inputs[3 * c[B] + 2], first, count, T)) return 0;
            break;
        default: each(c, p->user, tile, T);
        }
    i64 n = count - first < T ? count - first : T;
    float sum = 0; /* of what a product with zero tells: not a number, if a score is not finite */
    for (i64 l = 0; l < n; l++) sum += 0.0f * (scores[first + l] = tile[p->result * T + l]);
    return sum == 0.0f;
}

/* Scores of `count` candidates, from the inputs of the graph in its order. Returns 0 if a candidate has a cell that no user
 * has, or a score is not finite. */
int head_score(const program *p, const void *const *given, i64 count, float *scores) {
    for (i64 i = 0; i < p->input_count; i++) {
        const i32 *input = p->inputs + 3 * i;
        if (input[0] == OF_USER) memcpy(p->user + input[1], given[i], (size_t)input[2] * sizeof(float));
    }
    once(p);
    for (i64 first = 0; first < count;) {
        i64 vectors = (count - first + LANES - 1) / LANES, tiles = (vectors + MOST - 1) / MOST;
        i64 R = (vectors + tiles - 1) / tiles; /* of tiles of about one size */
        int fine = R == 1   ? tile_of(p, given, first, count, scores, 1)
                   : R == 2 ? tile_of(p, given, first, count, scores, 2)
                            : tile_of(p, given, first, count, scores, 3);
        if (!fine) return 0;
        first += R * LANES;
    }
    return 1;
}

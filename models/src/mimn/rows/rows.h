/* A row program (mimn.rows.program): the operations of a step graph on one user's row of numbers. rows.c runs it for one user,
 * lanes.c for LANES users at once.
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

enum { DENSE, SPARSE, TANH, SIGMOID, EXP, RELU, ABS, NEG, ADD, SUB, MUL, DIV, SOFTMAX, LPNORM, HARDMAX, BATCHED, TURN, COPY };
enum { NOTHING, PLUS, MINUS };
enum { FIELDS = 9 };
/* op, out, a, b, n, k, weights, how, unit */
/* A place is an offset into the row's values; from CONSTANT on, into the constants. */
enum { CONSTANT = 1 << 24 };

typedef struct {
    const i32 *code;
    const float *constants;
    i32 instructions, values, event, event_size, state, state_size, result;
} program;

/* Vectors, of which a user has one lane in lanes.c. (Of sixteen numbers, where the processor has them, full lanes are 6 % faster, and
 * lanes are full less often.) */
typedef __m256 wide;
enum { LANES = 8 };
#define wide_zero _mm256_setzero_ps
#define wide_of _mm256_set1_ps
#define wide_load _mm256_loadu_ps
#define wide_store _mm256_storeu_ps
#define wide_madd _mm256_fmadd_ps
#define wide_add _mm256_add_ps
#define wide_sub _mm256_sub_ps
#define wide_mul _mm256_mul_ps
#define wide_div _mm256_div_ps
#define wide_min _mm256_min_ps
#define wide_max _mm256_max_ps
#define wide_root _mm256_sqrt_ps
#define wide_abs(x) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x)
/* 2 to the power of whole numbers */
#define wide_power(m) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(m), _mm256_set1_epi32(127)), 23))
/* `then` where x is below y, or is not 0; elsewhere `or` */
#define wide_below(x, y, then, or) _mm256_blendv_ps(or, then, _mm256_cmp_ps(x, y, _CMP_LT_OQ))
#define wide_unless_zero(x, then, or) _mm256_blendv_ps(or, then, _mm256_cmp_ps(x, wide_zero(), _CMP_NEQ_UQ))
/* As bits, the lanes that are not 0. */
#define wide_not_zero(x) _mm256_movemask_ps(_mm256_cmp_ps(x, wide_zero(), _CMP_NEQ_UQ))

#define INLINE static inline __attribute__((always_inline))

INLINE wide tanh_of(wide x) {
    x = wide_min(wide_max(x, wide_of(-9.0f)), wide_of(9.0f));
    wide s = wide_mul(x, x), p, q;
    p = wide_madd(s, wide_of(-2.76076847742355e-16f), wide_of(2.00018790482477e-13f));
    p = wide_madd(p, s, wide_of(-8.60467152213735e-11f));
    p = wide_madd(p, s, wide_of(5.12229709037114e-08f));
    p = wide_madd(p, s, wide_of(1.48572235717979e-05f));
    p = wide_madd(p, s, wide_of(6.37261928875436e-04f));
    p = wide_madd(p, s, wide_of(4.89352455891786e-03f));
    q = wide_madd(s, wide_of(1.19825839466702e-06f), wide_of(1.18534705686654e-04f));
    q = wide_madd(q, s, wide_of(2.26843463243900e-03f));
    q = wide_madd(q, s, wide_of(4.89352518554385e-03f));
    return wide_div(wide_mul(p, x), q);
}

INLINE wide sigmoid_of(wide x) {
    x = wide_min(wide_max(x, wide_of(-18.0f)), wide_of(18.0f));
    wide s = wide_mul(x, x), p, q;
    p = wide_madd(s, wide_of(4.37031012579801e-11f), wide_of(1.15627324459942e-07f));
    p = wide_madd(p, s, wide_of(6.08574864600143e-05f));
    p = wide_madd(p, s, wide_of(8.51377133304701e-03f));
    p = wide_madd(p, s, wide_of(2.48287947061529e-01f));
    q = wide_madd(s, wide_of(6.10247389755681e-13f), wide_of(5.76102136993427e-09f));
    q = wide_madd(q, s, wide_of(6.29106785017040e-06f));
    q = wide_madd(q, s, wide_of(1.70198817374094e-03f));
    q = wide_madd(q, s, wide_of(1.16817656904453e-01f));
    q = wide_madd(q, s, wide_of(9.93151921023180e-01f));
    wide r = wide_add(wide_div(wide_mul(p, x), q), wide_of(0.5f));
    return wide_min(wide_max(r, wide_of(0.0f)), wide_of(1.0f));
}

/* For x from SMALLEST on: below it, results would be denormal. */
#define SMALLEST -87.0f
INLINE wide exp_of(wide x) {
    const wide rounding = wide_of(12582912.0f); /* 1.5 * 2^23 */
    wide m = wide_sub(wide_madd(x, wide_of(1.44269504088896341f), rounding), rounding), p = wide_of(0x1.694000p-10f);
    x = wide_madd(m, wide_of(-6.93145752e-1f), x);
    x = wide_madd(m, wide_of(-1.42860677e-6f), x);
    p = wide_madd(p, x, wide_of(0x1.125edcp-7f));
    p = wide_madd(p, x, wide_of(0x1.555b5ap-5f));
    p = wide_madd(p, x, wide_of(0x1.555450p-3f));
    p = wide_madd(p, x, wide_of(0x1.fffff6p-2f));
    p = wide_madd(p, x, wide_of(1.0f));
    p = wide_madd(p, x, wide_of(1.0f));
    return wide_mul(p, wide_power(m));
}

/* One step of LANES rows: number j of row l is values[LANES * j + l]. Returns, as bits, for which of them the graph must decide. */
i32 lanes_step(const program *p, float *values);

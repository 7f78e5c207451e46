/* One step of LANES users at once. Every number of a row is a vector, with a lane for each user, so all operations are alike:
 * what a row has one behind another, and must add in this order, is added in this order in all lanes.
 */
#include "rows.h"

typedef struct {
    const float *at;
    i32 fixed; /* a constant, which is the same in all lanes */
} operand;

INLINE operand operand_of(const program *p, const float *values, i32 place) {
    if (place >= CONSTANT) return (operand){p->constants + (place - CONSTANT), 1};
    return (operand){values + (i64)LANES * place, 0};
}

INLINE wide number(operand x, i32 j) { return x.fixed ? wide_of(x.at[j]) : wide_load(x.at + (i64)LANES * j); }
INLINE void set(float *y, i32 j, wide x) { wide_store(y + (i64)LANES * j, x); }

/* `bad` stays 0 in a lane while all numbers are finite, and is not a number ever after. Four sums, because each waits for itself. */
INLINE wide spoiled(operand x, i32 n, wide bad) {
    wide sum[4] = {bad, wide_zero(), wide_zero(), wide_zero()};
    i32 j = 0;
    for (; j + 4 <= n; j += 4)
        for (i32 i = 0; i < 4; i++) sum[i] = wide_madd(number(x, j + i), wide_zero(), sum[i]);
    for (; j < n; j++) sum[0] = wide_madd(number(x, j), wide_zero(), sum[0]);
    return wide_add(wide_add(sum[0], sum[1]), wide_add(sum[2], sum[3]));
}

INLINE wide spoiled_if_below(wide x, float least, wide bad) {
    return wide_below(x, wide_of(least), wide_of(__builtin_nanf("")), bad);
}

INLINE wide with(wide y, operand b, i32 j, i32 how) {
    return how == PLUS ? wide_add(y, number(b, j)) : how == MINUS ? wide_sub(y, number(b, j)) : y;
}

enum { COLUMNS = 8 }; /* of a product that are summed at once, as many as the registers hold; N is a multiple of sixteen */

static void dense(operand a, operand b, float *out, const float *weights, i32 K, i32 N, i32 how) {
    for (i32 n = 0; n < N; n += COLUMNS) {
        wide sum[COLUMNS];
        for (i32 c = 0; c < COLUMNS; c++) sum[c] = wide_zero();
        const float *w = weights + n;
        for (i32 k = 0; k < K; k++, w += N) {
            const wide x = number(a, k);
            for (i32 c = 0; c < COLUMNS; c++) sum[c] = wide_madd(x, wide_of(w[c]), sum[c]);
        }
        for (i32 c = 0; c < COLUMNS; c++) set(out, n + c, with(sum[c], b, n + c, how));
    }
}

/* As in rows.c. */
static void sparse(operand a, operand b, float *out, const i32 *runs, i32 count, const float *weights, i32 N, i32 how) {
    memset(out, 0, (size_t)N * LANES * 4);
    for (i32 i = 0; i < count; i++, runs += 4) {
        const float *w = weights + runs[3];
        float *y = out + (i64)LANES * runs[1];
        const i32 first = runs[0], n = runs[2];
        if (n > 0) {
            const wide x = number(a, first);
            for (i32 j = 0; j < n; j++) set(y, j, wide_madd(x, wide_of(w[j]), wide_load(y + LANES * j)));
        } else
            for (i32 j = 0; j < -n; j++) set(y, j, wide_madd(number(a, first + j), wide_of(w[j]), wide_load(y + LANES * j)));
    }
    if (how != NOTHING) for (i32 j = 0; j < N; j++) set(out, j, with(wide_load(out + LANES * j), b, j, how));
}

static wide softmax(operand x, float *y, i32 n, i32 unit, wide bad) {
    for (i32 g = 0; g < n; g += unit) {
        wide most = number(x, g), each[16], sum[16];
        for (i32 i = 1; i < unit; i++) most = wide_max(number(x, g + i), most);
        for (i32 i = 0; i < unit; i++) {
            const wide moved = wide_sub(number(x, g + i), most);
            bad = spoiled_if_below(moved, SMALLEST, bad);
            sum[i] = each[i] = exp_of(moved);
        }
        for (i32 i = unit; i < 16; i++) sum[i] = wide_zero();
        for (i32 half = 8; half >= 4; half /= 2)
            if (unit > half) for (i32 i = 0; i < half; i++) sum[i] = wide_add(sum[i], sum[i + half]);
        const wide scale = wide_div(wide_of(1.0f), wide_add(wide_add(sum[0], sum[1]), wide_add(sum[2], sum[3])));
        for (i32 i = 0; i < unit; i++) set(y, g + i, wide_mul(each[i], scale));
    }
    return bad;
}

static void lpnorm(operand x, float *y, i32 n, i32 unit) {
    for (i32 g = 0; g < n; g += unit) {
        wide sum = wide_zero();
        for (i32 i = g; i < g + unit; i++) sum = wide_add(sum, wide_mul(number(x, i), number(x, i)));
        const wide length = wide_root(sum);
        for (i32 i = g; i < g + unit; i++) set(y, i, wide_unless_zero(length, wide_div(number(x, i), length), wide_zero()));
    }
}

static void hardmax(operand x, float *y, i32 n, i32 unit) {
    for (i32 g = 0; g < n; g += unit) {
        wide most = number(x, g), left = wide_of(1.0f); /* 0 after the first number that is `most` */
        for (i32 i = 1; i < unit; i++) most = wide_max(number(x, g + i), most);
        for (i32 i = 0; i < unit; i++) {
            const wide one = wide_unless_zero(wide_sub(most, number(x, g + i)), wide_zero(), left);
            set(y, g + i, one);
            left = wide_sub(left, one);
        }
    }
}

/* [n / unit, k] times [k, unit] */
static void batched(operand a, operand b, float *y, i32 n, i32 k, i32 unit) {
    for (i32 row = 0; row * unit < n; row++)
        for (i32 j = 0; j < unit; j++) {
            wide sum = wide_zero();
            for (i32 i = 0; i < k; i++) sum = wide_madd(number(a, row * k + i), number(b, i * unit + j), sum);
            set(y, row * unit + j, sum);
        }
}

#define EACH(VALUE)                         \
    for (i32 j = 0; j < n; j++) {           \
        const wide x = number(a, j);        \
        set(y, j, VALUE);                   \
    }                                       \
    break;
#define BINARY(OP) EACH(OP(x, number(b, unit == 1 ? 0 : j)))

static wide simple(i32 op, operand a, operand b, float *y, i32 n, i32 k, i32 unit, wide bad) {
    if (op <= RELU || op == SOFTMAX || op == HARDMAX) bad = spoiled(a, n, bad);
    switch (op) {
    case TANH: EACH(tanh_of(x))
    case SIGMOID: EACH(sigmoid_of(x))
    case EXP:
        for (i32 j = 0; j < n; j++) bad = spoiled_if_below(number(a, j), SMALLEST, bad);
        EACH(exp_of(x))
    case ABS: EACH(wide_abs(x))
    case NEG: EACH(wide_sub(wide_of(-0.0f), x))
    case RELU: EACH(wide_max(x, wide_zero()))
    case ADD: BINARY(wide_add)
    case SUB: BINARY(wide_sub)
    case MUL: BINARY(wide_mul)
    case DIV: BINARY(wide_div)
    case SOFTMAX: bad = softmax(a, y, n, unit, bad); break;
    case LPNORM: lpnorm(a, y, n, unit); break;
    case HARDMAX: hardmax(a, y, n, unit); break;
    case BATCHED: batched(a, b, y, n, k, unit); break;
    case TURN: /* [n / unit, unit] to its transpose */
        for (i32 i = 0; i < n / unit; i++) for (i32 j = 0; j < unit; j++) set(y, j * (n / unit) + i, number(a, i * unit + j));
        break;
    case COPY: EACH(x)
    }
    return bad;
}

i32 lanes_step(const program *p, float *values) {
    const i32 *c = p->code;
    wide bad = wide_zero();
    for (i32 i = 0; i < p->instructions; i++, c += FIELDS) {
        const operand a = operand_of(p, values, c[2]), b = operand_of(p, values, c[3]);
        float *out = values + (i64)LANES * c[1];
        if (c[0] == DENSE || c[0] == SPARSE) bad = spoiled(a, c[5], bad);
        if (c[0] == DENSE) dense(a, b, out, p->constants + c[6], c[5], c[4], c[7]);
        else if (c[0] == SPARSE) sparse(a, b, out, p->code + c[8] + 1, p->code[c[8]], p->constants + c[6], c[4], c[7]);
        else bad = simple(c[0], a, b, out, c[4], c[5], c[8], bad);
    }
    return wide_not_zero(spoiled((operand){values + (i64)LANES * p->result, 0}, p->state_size, bad));
}

// MIMN's recurrence over whole histories, forward and backward: most of the training time. `mimn.nn.cell` defines and
// explains a step; this file repeats it and adds hand-written derivatives, and tests compare both in float64.
// `mimn.nn.native` builds and calls it, and defines REAL as float or double.
//
// A number here is a `V`: one number for each of LANES users, who go through the same steps in parallel. So the code reads
// as if for one user, and every operation is a vector operation. Users are processed LANES at a time ("a tile"), and all
// numbers of a tile stay in the cache. The forward pass keeps a state every SEGMENT steps; the backward pass recomputes a
// segment with everything that its derivatives need, so only those states grow with the history.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int SEGMENT = 16;
#ifdef __AVX512F__
constexpr int ROWS = 12;  // rows of a product that are summed at a time, in registers
constexpr int BLOCK = 4;  // the same for a weight's gradient, squared
#else
constexpr int ROWS = 6;
constexpr int BLOCK = 2;
#endif

// The order of the arguments `sizes` and `tensors`; `mimn.nn.native` builds them in the same order.
enum Size { USERS, STEPS, POSITIONS, SLOTS, WIDTH, UNITS, CHANNELS, SHARES, TRANSFERS, BOUNDED, SIZES };
enum Tensor { EVENTS, STATE, SORTED, ORDER, OUT, KEPT, GRADIENT, EVENTS_GRADIENT, STATE_GRADIENT, WEIGHTS };
enum Weight {
  C_EVENT, C_SIDE, C_GATES, C_CANDIDATE, C_BIAS,            // controller: [D, 3H] [D, 3H] [H, 2H] [H, H] [3H]
  CONTROLS, CONTROLS_BIAS,                                  // [H, 2 + 4D] [2 + 4D]
  KEYS,                                                     // directions of the slots' static keys: [m, D]
  TRANSFER, TRANSFER_BIAS,                                  // [m m, m] [m m]
  I_EVENT, I_SIDE, I_GATES, I_CANDIDATE, I_BIAS,            // channel: [D, 3D] [D, 3D] [D, 2D] [D, D] [3D]
  WEIGHT_COUNT
};

template <class Real> struct Lane;
template <> struct Lane<float> {
  typedef float V __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  static constexpr int BITS = 23, TERMS = 7;
  static constexpr float MAGIC = 12582912.0f, LN2_HIGH = 0.693145751953125f, LN2_LOW = 1.42860677e-6f, FAR = 87.0f;
};
template <> struct Lane<double> {
  typedef double V __attribute__((vector_size(64)));
  typedef int64_t I __attribute__((vector_size(64)));
  static constexpr int BITS = 52, TERMS = 14;
  static constexpr double MAGIC = 6755399441055744.0, LN2_HIGH = 0.693147180369123816490, LN2_LOW = 1.90821492927058770002e-10,
                          FAR = 700.0;
};

template <class Real> struct Recurrence {
  using V = typename Lane<Real>::V;
  using I = typename Lane<Real>::I;
  static constexpr int LANES = sizeof(V) / sizeof(Real);
  static constexpr Real TINY = Real(1e-12);  // as mimn.nn.addressing
  static constexpr Real INVERSE_OF_TINY = Real(1e6);  // 1 / sqrt(TINY): the inverse length used for a short vector

  // --- functions of a V

  static V all(Real x) { return x - V{}; }

  // exp by 2^n e^r, |r| <= ln 2 / 2: n is rounded by adding and subtracting a large number; its low bits then hold n.
  static V exponential(V x) {
    using L = Lane<Real>;
    x = x < -L::FAR ? all(-L::FAR) : x;
    x = x > L::FAR ? all(L::FAR) : x;
    V shifted = x * Real(1.44269504088896340736) + L::MAGIC;
    V n = shifted - L::MAGIC;
    V r = (x - n * L::LN2_HIGH) - n * L::LN2_LOW;
    V sum = all(1);
    for (int k = L::TERMS; k > 0; --k) sum = 1 + sum * r * (Real(1) / k);
    return (V)((I)sum + ((I)shifted << L::BITS));
  }
  static V sigmoid(V x) { return 1 / (1 + exponential(-x)); }
  static V tanh(V x) { return 1 - 2 / (exponential(2 * x) + 1); }
  static V softplus(V x) {
    V y = x;
    for (int l = 0; l < LANES; ++l) y[l] = std::max(x[l], Real(0)) + std::log1p(std::exp(-std::abs(x[l])));
    return y;
  }
  // 1 / sqrt(max(x, TINY))
  static V inverse_length(V x) {
    V y = x;
    for (int l = 0; l < LANES; ++l) y[l] = 1 / std::sqrt(std::max(x[l], TINY));
    return y;
  }

  // --- products

  // out[o] += sum_i W[o * to_next_out + i * to_next_in] x[i]
  template <int R>
  [[gnu::noinline]] static void rows(V* out, const Real* W, long to_next_out, long to_next_in, const V* x, int inner) {
    V sum[R];
    for (int o = 0; o < R; ++o) sum[o] = out[o];
    for (int i = 0; i < inner; ++i, W += to_next_in)
      for (int o = 0; o < R; ++o) sum[o] += W[o * to_next_out] * x[i];
    for (int o = 0; o < R; ++o) out[o] = sum[o];
  }
  static void product(V* out, int outer, const Real* W, long to_next_out, long to_next_in, const V* x, int inner) {
    int o = 0;
    for (; o + ROWS <= outer; o += ROWS) rows<ROWS>(out + o, W + o * to_next_out, to_next_out, to_next_in, x, inner);
    for (; o + 4 <= outer; o += 4) rows<4>(out + o, W + o * to_next_out, to_next_out, to_next_in, x, inner);
    for (; o < outer; ++o) rows<1>(out + o, W + o * to_next_out, to_next_out, to_next_in, x, inner);
  }
  // out[n] += sum_i x[i] W[i, n], for W with `columns` columns, of which N from `first` count
  static void times(V* out, int N, const V* x, int inner, const Real* W, long columns, int first = 0) {
    product(out, N, W + first, 1, columns, x, inner);
  }
  // dx[i] += sum_n g[n] W[i, n], the same backwards
  static void times_transposed(V* dx, int inner, const V* g, int N, const Real* W, long columns, int first = 0) {
    product(dx, inner, W + first, columns, 1, g, N);
  }
  static Real sum(V x) {
    Real total = 0;
    for (int l = 0; l < LANES; ++l) total += x[l];
    return total;
  }
  // W[i * columns + first + j] += the sum over steps and users of x[i] g[j]
  template <int R>
  [[gnu::noinline]] static void outer_block(Real* W, long columns, const V* x, const V* g, long step, int steps) {
    V total[R][R] = {};
    for (int k = 0; k < steps; ++k, x += step, g += step)
      for (int i = 0; i < R; ++i)
        for (int j = 0; j < R; ++j) total[i][j] += x[i] * g[j];
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < R; ++j) W[i * columns + j] += sum(total[i][j]);
  }
  static void outer(Real* W, long columns, int first, const V* x, int X, const V* g, int G, long step, int steps) {
    W += first;
    int i = 0;
    for (; i + BLOCK <= X; i += BLOCK) {
      int j = 0;
      for (; j + BLOCK <= G; j += BLOCK) outer_block<BLOCK>(W + i * columns + j, columns, x + i, g + j, step, steps);
      for (; j < G; ++j)
        for (int b = 0; b < BLOCK; ++b) outer_block<1>(W + (i + b) * columns + j, columns, x + i + b, g + j, step, steps);
    }
    for (; i < X; ++i)
      for (int j = 0; j < G; ++j) outer_block<1>(W + i * columns + j, columns, x + i, g + j, step, steps);
  }
  static void add_sums(Real* bias, const V* g, int G, long step, int steps) {
    for (int j = 0; j < G; ++j) {
      V total = {};
      for (int k = 0; k < steps; ++k) total += g[k * step + j];
      bias[j] += sum(total);
    }
  }

  // --- the values of one step

  int B, T, P, m, D, H;
  bool channels, shares, transfers, bounded;
  int F;
  // places in a state, in the order of its layout
  int s_controller, s_read, s_memory, s_channels, s_shares, s_add, s_history, s_count;
  // places in a step's trace: what goes in, what is computed, and last the gradients before each product
  int x, r, h, M, gates, reset_h, proposed, h1, strengths, keys, add, erase, beta, similarity, weights, matrix, written,
      inverse_M, along_M, inverse_k, old_shares, n1, slot, channel, i_gates, i_reset_h, i_proposed, selected, g_controller,
      g_channel, g_controls, g_matrix, g_static, trace;
  const Real* w[WEIGHT_COUNT];
  Real* dw[WEIGHT_COUNT];

  Recurrence(const int64_t* sizes, void* const* tensors) {
    B = sizes[USERS], T = sizes[STEPS], P = sizes[POSITIONS], m = sizes[SLOTS], D = sizes[WIDTH], H = sizes[UNITS];
    channels = sizes[CHANNELS], shares = sizes[SHARES], transfers = sizes[TRANSFERS], bounded = sizes[BOUNDED];
    int end = 0;
    auto place = [&end](int rows) { return (end += rows) - rows; };
    s_controller = place(H), s_read = place(D), s_memory = place(m * D), s_channels = place(channels ? m * D : 0);
    s_shares = place(shares ? m : 0), s_add = place(D), s_history = place(D), s_count = place(1);
    F = end, end = 0;
    x = place(D), r = place(D), h = place(H), M = place(m * D), gates = place(2 * H), reset_h = place(H);
    proposed = place(H), h1 = place(H), strengths = place(2), keys = place(2 * D), add = place(D), erase = place(D);
    beta = place(2), similarity = place(2 * m), weights = place(2 * m), matrix = place(m * m), written = place(m);
    inverse_M = place(m), along_M = place(2 * m), inverse_k = place(2), old_shares = place(m), n1 = place(1);
    slot = place(D), channel = place(D), i_gates = place(2 * D), i_reset_h = place(D), i_proposed = place(D);
    selected = place(m), g_controller = place(3 * H), g_channel = place(3 * D), g_controls = place(2 + 4 * D);
    g_matrix = place(m * m), g_static = place(2 * m);
    trace = end + 1 - end % 2;  // an odd number of cache lines: the same number of two steps never shares a cache set
    for (int i = 0; i < WEIGHT_COUNT; ++i) {
      w[i] = static_cast<const Real*>(tensors[WEIGHTS + i]);
      dw[i] = static_cast<Real*>(tensors[WEIGHTS + WEIGHT_COUNT + i]);
    }
  }

  // --- a GRU's step (mimn.nn.gru) of `units` units, its gates [reset; keep]

  void gru(const V* event, const V* side, const V* state, int units, const Real* const* weight, V* gate, V* reset_state,
           V* candidate, V* next, V* pre) const {
    const int U = units;
    for (int i = 0; i < 3 * U; ++i) pre[i] = all(weight[C_BIAS][i]);
    times(pre, 3 * U, event, D, weight[C_EVENT], 3 * U);
    times(pre, 3 * U, side, D, weight[C_SIDE], 3 * U);
    times(pre, 2 * U, state, U, weight[C_GATES], 2 * U);
    for (int i = 0; i < 2 * U; ++i) gate[i] = sigmoid(pre[i]);
    for (int i = 0; i < U; ++i) reset_state[i] = gate[i] * state[i];
    times(pre + 2 * U, U, reset_state, U, weight[C_CANDIDATE], U);
    for (int i = 0; i < U; ++i) {
      candidate[i] = tanh(pre[2 * U + i]);
      next[i] = candidate[i] + gate[U + i] * (state[i] - candidate[i]);
    }
  }

  // From the gradient of `next` to those of the products (`g`) and of the old state (`d`, which may be `d_next`).
  void gru_back(const V* d_next, const V* state, int units, const Real* const* weight, const V* gate, const V* candidate,
                V* g, V* d, V* scratch) const {
    const int U = units;
    const V *reset = gate, *keep = gate + U;
    for (int i = 0; i < U; ++i) {
      g[2 * U + i] = d_next[i] * (1 - keep[i]) * (1 - candidate[i] * candidate[i]);
      g[U + i] = d_next[i] * (state[i] - candidate[i]) * keep[i] * (1 - keep[i]);
      scratch[i] = V{};
    }
    times_transposed(scratch, U, g + 2 * U, U, weight[C_CANDIDATE], U);
    for (int i = 0; i < U; ++i) {
      g[i] = scratch[i] * state[i] * reset[i] * (1 - reset[i]);
      d[i] = d_next[i] * keep[i] + scratch[i] * reset[i];
    }
    times_transposed(d, U, g, 2 * U, weight[C_GATES], 2 * U);
  }

  // --- one step forward: `s`, the state, becomes the next one; `t` is its trace, whose `x` is filled in

  void forward(V* s, V* t, V* scratch) const {
    std::copy_n(s + s_read, D, t + r);
    std::copy_n(s + s_controller, H, t + h);
    std::copy_n(s + s_memory, m * D, t + M);
    gru(t + x, t + r, t + h, H, w, t + gates, t + reset_h, t + proposed, t + h1, scratch);

    for (int i = 0; i < 2 + 4 * D; ++i) t[strengths + i] = all(w[CONTROLS_BIAS][i]);
    times(t + strengths, 2 + 4 * D, t + h1, H, w[CONTROLS], 2 + 4 * D);
    for (int i = 0; i < 3 * D; ++i) t[keys + i] = tanh(t[keys + i]);
    for (int i = 0; i < D; ++i) t[erase + i] = sigmoid(t[erase + i]);

    for (int i = 0; i < m; ++i) {
      V squares = {};
      for (int d = 0; d < D; ++d) squares += t[M + i * D + d] * t[M + i * D + d];
      t[inverse_M + i] = inverse_length(squares);
    }
    for (int head = 0; head < 2; ++head) {
      const V* k = t + keys + head * D;
      V squares = {};
      for (int d = 0; d < D; ++d) squares += k[d] * k[d];
      const V inverse = t[inverse_k + head] = inverse_length(squares);
      const V b = t[beta + head] = softplus(t[strengths + head]) + 1;
      V* weight = t + weights + head * m;
      V most = all(-INFINITY), total = {};
      for (int i = 0; i < m; ++i) {
        V content = {}, fixed = {};
        for (int d = 0; d < D; ++d) {
          content += k[d] * t[M + i * D + d];
          fixed += k[d] * w[KEYS][i * D + d];
        }
        content *= t[inverse_M + i];
        t[along_M + head * m + i] = content;
        const V alike = t[similarity + head * m + i] = inverse * (content + fixed);
        weight[i] = b * alike;
        most = weight[i] > most ? weight[i] : most;
      }
      for (int i = 0; i < m; ++i) total += weight[i] = exponential(weight[i] - most);
      for (int i = 0; i < m; ++i) weight[i] /= total;
    }
    const V *reads = t + weights, *content_writes = t + weights + m;
    if (transfers) {
      for (int i = 0; i < m; ++i) t[old_shares + i] = s[s_shares + i];
      for (int i = 0; i < m * m; ++i) t[matrix + i] = all(w[TRANSFER_BIAS][i]);
      product(t + matrix, m * m, w[TRANSFER], m, 1, t + old_shares, m);
      for (int j = 0; j < m; ++j) t[written + j] = V{};
      for (int i = 0; i < m; ++i) {
        V *row = t + matrix + i * m, most = row[0], total = {};
        for (int j = 1; j < m; ++j) most = row[j] > most ? row[j] : most;
        for (int j = 0; j < m; ++j) total += row[j] = exponential(row[j] - most);
        for (int j = 0; j < m; ++j) {
          row[j] /= total;
          t[written + j] += content_writes[i] * row[j];
        }
      }
    } else {
      std::copy_n(content_writes, m, t + written);
    }

    for (int d = 0; d < D; ++d) {
      V value = {};
      for (int i = 0; i < m; ++i) value += reads[i] * t[M + i * D + d];
      s[s_read + d] = value;
    }
    if (channels) {
      V most = reads[0];
      for (int i = 1; i < m; ++i) most = reads[i] > most ? reads[i] : most;
      V free = all(1);
      for (int i = 0; i < m; ++i) {  // the first of equals
        t[selected + i] = reads[i] == most ? free : V{};
        free -= t[selected + i];
      }
      for (int d = 0; d < D; ++d) {
        t[slot + d] = t[channel + d] = V{};
        for (int i = 0; i < m; ++i) {
          t[slot + d] += t[selected + i] * t[M + i * D + d];
          t[channel + d] += t[selected + i] * s[s_channels + i * D + d];
        }
      }
      V* next = scratch + 3 * D;
      gru(t + x, t + slot, t + channel, D, w + I_EVENT, t + i_gates, t + i_reset_h, t + i_proposed, next, scratch);
      for (int i = 0; i < m; ++i)
        for (int d = 0; d < D; ++d) {
          V& value = s[s_channels + i * D + d];
          value = t[selected + i] > 0 ? next[d] : value;
        }
    }

    const V count = t[n1] = s[s_count] + 1;
    for (int d = 0; d < D; ++d) {
      const V a = bounded ? t[add + d] * t[erase + d] : t[add + d];
      for (int i = 0; i < m; ++i) {
        V& value = s[s_memory + i * D + d];
        value += t[written + i] * (a - t[erase + d] * value);
      }
      s[s_add + d] += (a - s[s_add + d]) / count;
      s[s_history + d] += (t[x + d] - s[s_history + d]) / count;
    }
    if (shares)
      for (int i = 0; i < m; ++i) s[s_shares + i] += (t[written + i] - s[s_shares + i]) / count;
    s[s_count] = count;
    std::copy_n(t + h1, H, s + s_controller);
  }

  // --- one step back: `a`, the gradients of the state after it, become those of the state before it; `dx` the event's

  void backward(V* a, V* t, V* dx, V* scratch) const {
    const V part = 1 / t[n1];
    const V *reads = t + weights, *content_writes = t + weights + m;
    V *d_written = scratch, *d_reads = d_written + m, *d_keys = d_reads + 2 * m, *d_h1 = d_keys + 2 * D;
    V* spare = d_h1 + H;  // the gradients of `weights` are d_reads: those of the read head, then of the write head

    for (int i = 0; i < m; ++i) {
      d_written[i] = V{};
      if (shares) {
        d_written[i] = part * a[s_shares + i];
        a[s_shares + i] *= 1 - part;
      }
    }
    for (int d = 0; d < D; ++d) {  // the means and the write
      const V e = t[erase + d], value = t[add + d], written_value = bounded ? value * e : value;
      V d_add = part * a[s_add + d], d_erase = {};
      a[s_add + d] *= 1 - part;
      dx[d] = part * a[s_history + d];
      a[s_history + d] *= 1 - part;
      for (int i = 0; i < m; ++i) {
        V& g = a[s_memory + i * D + d];
        const V old = t[M + i * D + d], by = t[written + i];
        d_written[i] += g * (written_value - e * old);
        d_add += by * g;
        d_erase -= by * old * g;
        g *= 1 - by * e;
      }
      if (bounded) {
        d_erase += d_add * value;
        d_add *= e;
      }
      t[g_controls + 2 + 2 * D + d] = d_add * (1 - value * value);
      t[g_controls + 2 + 3 * D + d] = d_erase * e * (1 - e);
    }

    if (channels) {
      V *d_next = spare, *d_old = spare + D;
      for (int d = 0; d < D; ++d) {
        d_next[d] = V{};
        for (int i = 0; i < m; ++i) d_next[d] += t[selected + i] * a[s_channels + i * D + d];
      }
      gru_back(d_next, t + channel, D, w + I_EVENT, t + i_gates, t + i_proposed, t + g_channel, d_old, spare + 2 * D);
      times_transposed(dx, D, t + g_channel, 3 * D, w[I_EVENT], 3 * D);
      for (int i = 0; i < m; ++i)
        for (int d = 0; d < D; ++d) {
          V& g = a[s_channels + i * D + d];
          g = t[selected + i] > 0 ? d_old[d] : g;
        }
    }

    for (int i = 0; i < m; ++i) {  // the read
      V total = {};
      for (int d = 0; d < D; ++d) {
        total += a[s_read + d] * t[M + i * D + d];
        a[s_memory + i * D + d] += reads[i] * a[s_read + d];
      }
      d_reads[i] = total;
    }
    for (int i = 0; i < m; ++i) {
      d_reads[m + i] = d_written[i];
      if (!transfers) continue;
      const V* row = t + matrix + i * m;
      V along = {};
      for (int j = 0; j < m; ++j) along += d_written[j] * row[j];
      for (int j = 0; j < m; ++j) t[g_matrix + i * m + j] = content_writes[i] * row[j] * (d_written[j] - along);
      d_reads[m + i] = along;
    }

    for (int head = 0; head < 2; ++head) {  // addressing
      const V *k = t + keys + head * D, *weight = t + weights + head * m, *alike = t + similarity + head * m;
      const V *d_weight = d_reads + head * m, inverse = t[inverse_k + head];
      V along = {}, d_beta = {}, d_inverse = {};
      for (int i = 0; i < m; ++i) along += d_weight[i] * weight[i];
      V* d_key = d_keys + head * D;
      std::fill_n(d_key, D, V{});
      for (int i = 0; i < m; ++i) {
        const V d_score = weight[i] * (d_weight[i] - along), d_alike = t[beta + head] * d_score;
        d_beta += d_score * alike[i];
        d_inverse += d_alike * alike[i];
        const V g = t[g_static + head * m + i] = d_alike * inverse, inverse_slot = t[inverse_M + i];
        const V to_key = g * inverse_slot;
        const V to_slot = inverse_slot < INVERSE_OF_TINY ? g * t[along_M + head * m + i] * inverse_slot * inverse_slot : V{};
        for (int d = 0; d < D; ++d) {
          const V old = t[M + i * D + d];
          d_key[d] += to_key * old + g * w[KEYS][i * D + d];
          a[s_memory + i * D + d] += to_key * k[d] - to_slot * old;
        }
      }
      d_inverse = inverse < INVERSE_OF_TINY ? d_inverse * inverse * inverse : V{};
      t[g_controls + head] = d_beta * sigmoid(t[strengths + head]);
      for (int d = 0; d < D; ++d)
        t[g_controls + 2 + head * D + d] = (d_key[d] - d_inverse * k[d]) * (1 - k[d] * k[d]);
    }

    for (int i = 0; i < H; ++i) d_h1[i] = a[s_controller + i];
    times_transposed(d_h1, H, t + g_controls, 2 + 4 * D, w[CONTROLS], 2 + 4 * D);
    gru_back(d_h1, t + h, H, w, t + gates, t + proposed, t + g_controller, a + s_controller, spare);
    std::fill_n(a + s_read, D, V{});
    times_transposed(a + s_read, D, t + g_controller, 3 * H, w[C_SIDE], 3 * H);
    times_transposed(dx, D, t + g_controller, 3 * H, w[C_EVENT], 3 * H);
  }

  // --- the weights' gradients, from the traces of a segment

  void gru_weights(Real* const* weight, const V* t, int side, int state, int reset_state, int g, int U, int steps) const {
    outer(weight[C_EVENT], 3 * U, 0, t + x, D, t + g, 3 * U, trace, steps);
    outer(weight[C_SIDE], 3 * U, 0, t + side, D, t + g, 3 * U, trace, steps);
    outer(weight[C_GATES], 2 * U, 0, t + state, U, t + g, 2 * U, trace, steps);
    outer(weight[C_CANDIDATE], U, 0, t + reset_state, U, t + g + 2 * U, U, trace, steps);
    add_sums(weight[C_BIAS], t + g, 3 * U, trace, steps);
  }
  void weights_back(const V* t, int steps) const {
    gru_weights(dw, t, r, h, reset_h, g_controller, H, steps);
    if (channels) gru_weights(dw + I_EVENT, t, slot, channel, i_reset_h, g_channel, D, steps);
    outer(dw[CONTROLS], 2 + 4 * D, 0, t + h1, H, t + g_controls, 2 + 4 * D, trace, steps);
    add_sums(dw[CONTROLS_BIAS], t + g_controls, 2 + 4 * D, trace, steps);
    for (int head = 0; head < 2; ++head)
      outer(dw[KEYS], D, 0, t + g_static + head * m, m, t + keys + head * D, D, trace, steps);
    if (transfers) {
      outer(dw[TRANSFER], m, 0, t + g_matrix, m * m, t + old_shares, m, trace, steps);
      add_sums(dw[TRANSFER_BIAS], t + g_matrix, m * m, trace, steps);
    }
  }

  // --- whole histories

  int scratch_rows() const { return 8 * (H + D) + 8 * m; }
  int segments() const { return (T + SEGMENT - 1) / SEGMENT; }

  // Lane l of the tile from user `first` on; lanes after the last user repeat it, and their results are ignored.
  int user(int first, int l) const { return std::min(first + l, B - 1); }
  void load(V* to, const Real* rows, long to_next_user, int values, int first) const {
    for (int l = 0; l < LANES; ++l) {
      const Real* row = rows + user(first, l) * to_next_user;
      for (int i = 0; i < values; ++i) to[i][l] = row[i];
    }
  }
  void store(const V* from, Real* rows, long to_next_user, int values, int first) const {
    for (int l = 0; l < LANES && first + l < B; ++l) {
      Real* row = rows + (first + l) * to_next_user;
      for (int i = 0; i < values; ++i) row[i] = from[i][l];
    }
  }
  // How many steps the tile's users take: up to the last requested position.
  int length(const int64_t* sorted, int first) const {
    int64_t last = 0;
    for (int b = first; P && b < std::min(first + LANES, B); ++b) last = std::max(last, sorted[b * P + P - 1]);
    return last;
  }

  void run(void* const* tensors) const {
    const Real *events = (const Real*)tensors[EVENTS], *state = (const Real*)tensors[STATE];
    const int64_t *sorted = (const int64_t*)tensors[SORTED], *order = (const int64_t*)tensors[ORDER];
    Real *out = (Real*)tensors[OUT], *kept = (Real*)tensors[KEPT];
    std::vector<V> s(F), t(trace), scratch(scratch_rows());
    for (int first = 0; first < B; first += LANES) {
      int next[LANES] = {};
      load(s.data(), state, F, F, first);
      const int steps = length(sorted, first);
      for (int n = 0;; ++n) {
        for (int l = 0; l < LANES && first + l < B; ++l)
          for (const long b = first + l; next[l] < P && sorted[b * P + next[l]] == n; ++next[l])
            for (int i = 0; i < F; ++i) out[(b * P + order[b * P + next[l]]) * F + i] = s[i][l];
        if (n == steps) break;
        if (kept && n % SEGMENT == 0)
          std::memcpy(kept + (first / LANES * long(segments()) + n / SEGMENT) * F * LANES, s.data(), F * sizeof(V));
        load(t.data() + x, events + long(n) * D, long(T) * D, D, first);
        forward(s.data(), t.data(), scratch.data());
      }
    }
  }

  void run_back(void* const* tensors) const {
    const Real *events = (const Real*)tensors[EVENTS], *kept = (const Real*)tensors[KEPT];
    const Real* gradient = (const Real*)tensors[GRADIENT];
    const int64_t *sorted = (const int64_t*)tensors[SORTED], *order = (const int64_t*)tensors[ORDER];
    Real *d_events = (Real*)tensors[EVENTS_GRADIENT], *d_state = (Real*)tensors[STATE_GRADIENT];
    std::vector<V> s(F), a(F), t(long(trace) * SEGMENT), dx(D), scratch(scratch_rows());
    for (int first = 0; first < B; first += LANES) {
      int left[LANES];
      std::fill_n(left, LANES, P);
      std::fill(a.begin(), a.end(), V{});
      auto take = [&](int n) {
        for (int l = 0; l < LANES && first + l < B; ++l)
          for (const long b = first + l; left[l] > 0 && sorted[b * P + left[l] - 1] == n; --left[l])
            for (int i = 0; i < F; ++i) a[i][l] += gradient[(b * P + order[b * P + left[l] - 1]) * F + i];
      };
      const int steps = length(sorted, first);
      for (int begin = (steps - 1) / SEGMENT * SEGMENT; steps && begin >= 0; begin -= SEGMENT) {
        const int end = std::min(begin + SEGMENT, steps);
        std::memcpy(s.data(), kept + (first / LANES * long(segments()) + begin / SEGMENT) * F * LANES, F * sizeof(V));
        for (int n = begin; n < end; ++n) {
          V* step = t.data() + long(n - begin) * trace;
          load(step + x, events + long(n) * D, long(T) * D, D, first);
          forward(s.data(), step, scratch.data());
        }
        for (int n = end - 1; n >= begin; --n) {
          take(n + 1);
          backward(a.data(), t.data() + long(n - begin) * trace, dx.data(), scratch.data());
          store(dx.data(), d_events + long(n) * D, long(T) * D, D, first);
        }
        weights_back(t.data(), end - begin);
      }
      take(0);
      a[s_count] = V{};  // a count is a number of events, so it has no gradient
      store(a.data(), d_state, F, F, first);
    }
  }
};

}  // namespace

extern "C" {
// Size of the tensor KEPT, which the forward pass fills for the backward pass: a tile's state every SEGMENT steps.
int64_t kept_values(int64_t users, int64_t steps, int64_t state_values) {
  const int64_t lanes = Recurrence<REAL>::LANES;
  return (users + lanes - 1) / lanes * lanes * ((steps + SEGMENT - 1) / SEGMENT) * state_values;
}
void forward(const int64_t* sizes, void* const* tensors) { Recurrence<REAL>(sizes, tensors).run(tensors); }
void backward(const int64_t* sizes, void* const* tensors) { Recurrence<REAL>(sizes, tensors).run_back(tensors); }
}

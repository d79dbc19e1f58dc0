// The passes of adafactor_core over a table of tensors, each as one launch. No optimizer: what a
// kernel computes is held to ArrayPasses by tests. `_table.py` fills the tables and says what an
// item is. A block takes one item. Sums go through buffers of partials, never through atomics, so a
// step has the same bits each time.

// Columns of the tables; a row per tensor, or per item.
enum { N_R, N_C, N_D, N_BD, N_LENGTH, N_SIZE, N_FACTORED, N_OUTER, N_ROWS, N_INNER, N_COLS, N_TILES,
       N_LANES, N_P, N_Q, N_MEANS, N_CHUNKS, N_LAST, N_NAME, N_X2, N_X2_COUNT, N_U2, N_U2_COUNT, N_INTS };
enum { AT_X, AT_OUTER, AT_INNER, AT_FULL, AT_MOMENTUM, AT_REST, N_ADDRESSES };
enum { PRESCALE, PER_OUTER, PER_INNER, PER_R, EPS_IN, EPS_AFTER, PER_ENTRY, UNIT, TO_WHOLE, N_NUMBERS };
enum { TENSOR, SLICE, R0, R1, J0, J1, LANE, COLUMN_TILE, SLOT, N_ITEM };
enum { BEFORE, AFTER, LESS, N_FACTORS };
enum { BY_ALPHA, BY_LR, BY_NOTHING };

#define TABLE const Int* ints, const Int* addresses, const float* numbers, const Int* items
#define ITEM                                                                     \
  const Int* item = items + Int(blockIdx.x) * N_ITEM;                            \
  const Int t = item[TENSOR], a = item[SLICE];                                   \
  const Int* n = ints + t * N_INTS;                                              \
  const Int* at = addresses + t * N_ADDRESSES;                                   \
  (void)a
// A rate of the step: a number of the host, or where it lies on the device.
#define RATE(name) float name##_number, const float* name##_address
#define READ(name) const float name = name##_address ? *name##_address : name##_number;

typedef X_TYPE X;
typedef G_TYPE G;
typedef M_TYPE M;
enum { NEAREST, STOCHASTIC, KAHAN };
// Fixed as it is compiled: with all of them in one kernel, registers spill.
constexpr bool AVERAGED = AVERAGES, DRAWN = ROUNDING == STOCHASTIC, KEPT = ROUNDING == KAHAN;
constexpr float TINY = 1.1754943508222875e-38f;
constexpr int VECTOR = sizeof(X) + sizeof(G) + (AVERAGED ? sizeof(M) : 4) == 12 ? 4 : 8;

// Runs `body(V)` with the widest accesses that the addresses and the length of a row allow.
#define WIDEST(length, other, allowed, body)                                                 \
  if ((allowed) && (length) % VECTOR == 0 && aligned(at[AT_X], grads[t], other)) {           \
    body(VECTOR)                                                                             \
  } else {                                                                                   \
    body(1)                                                                                  \
  }

// Observe: a tile of a factored tensor with contiguous rows. A warp takes a row at a time.
template <int V>
__device__ void observe_rows(const Int* item, const Int* n, const G* g, const X* x, float s,
                             bool scaled, float* outer, float* inner, float* x2, float* shared) {
  const Int a = item[SLICE], r0 = item[R0], r1 = item[R1], j0 = item[J0];
  const int width = int(item[J1] - j0);
  OWN(float, columns, WIDE);
  OWN(float, squares, 1);
  EACH_THREAD(i) {
    for (int k = 0; k < WIDE; ++k) columns[ME(i)][k] = 0.0f;
    squares[ME(i)][0] = 0.0f;
  }
  for (Int base = r0; base < r1; base += SPAN) {
    EACH_THREAD(i) {
      const int warp = i / 32, lane = i % 32;
      for (int k = 0; k < 32; ++k) {
        const Int r = base + k * WARPS + warp, row = (a * n[N_R] + r) * n[N_LENGTH] + j0;
        if (r >= r1) break;
        float sum = 0.0f, x_sum = 0.0f;
#pragma unroll
        for (int c = 0; c < WIDE / V; ++c) {
          const int j = (c * 32 + lane) * V;
          if (j < width) {
            float values[V], held[V];
            load<V>(g + row + j, values);
            if (scaled) load<V>(x + row + j, held);
#pragma unroll
            for (int v = 0; v < V; ++v) {
              const float value = values[v] * s, square = value * value;
              sum += square;
              columns[ME(i)][c * V + v] += square;
              if (scaled) x_sum += held[v] * held[v];
            }
          }
        }
        squares[ME(i)][0] += x_sum;
        shared[(warp * 32 + k) * 33 + lane] = sum;
      }
    }
    BARRIER
    EACH_THREAD(i) {  // now a lane takes a row
      const int warp = i / 32, lane = i % 32;
      const Int r = base + lane * WARPS + warp;
      if (r < r1) {
        float sum = 0.0f;
        for (int k = 0; k < 32; ++k) sum += shared[(warp * 32 + lane) * 33 + k];
        outer[n[N_OUTER] + item[COLUMN_TILE] * n[N_ROWS] + a * n[N_R] + r] = sum;
      }
    }
    BARRIER
  }
  EACH_THREAD(i) {
    const int warp = i / 32, lane = i % 32;
    for (int k = 0; k < WIDE; ++k)
      shared[warp * TILE + ((k / V) * 32 + lane) * V + k % V] = columns[ME(i)][k];
  }
  BARRIER
  EACH_THREAD(i) {
    for (int j = i; j < width; j += THREADS) {
      float sum = 0.0f;
      for (int warp = 0; warp < WARPS; ++warp) sum += shared[warp * TILE + j];
      inner[n[N_INNER] + item[LANE] * n[N_COLS] + a * n[N_LENGTH] + j0 + j] = sum;
    }
  }
  BARRIER
  const float total = sum_of_block(squares, shared);
  EACH_THREAD(i) { if (i == 0) x2[item[SLOT]] = total; }
}

// The same where axes lie between or behind the factored two: whole rows, read again from cache.
__device__ void observe_boxes(const Int* item, const Int* n, const G* g, const X* x, float s,
                              bool scaled, float* outer, float* inner, float* x2, float* shared) {
  const Int a = item[SLICE], r0 = item[R0], r1 = item[R1], length = n[N_LENGTH], bd = n[N_BD];
  OWN(float, squares, 1);
  EACH_THREAD(i) {
    float x_sum = 0.0f;
    for (Int j = i; j < length; j += THREADS) {
      float sum = 0.0f;
      for (Int r = r0; r < r1; ++r) {
        const Int e = (a * n[N_R] + r) * length + j;
        const float value = widened(g[e]) * s, held = scaled ? widened(x[e]) : 0.0f;
        sum += value * value;
        x_sum += held * held;
      }
      inner[n[N_INNER] + item[LANE] * n[N_COLS] + a * length + j] = sum;
    }
    for (Int k = i; k < (r1 - r0) * bd; k += THREADS) {
      const Int row = a * n[N_R] + r0 + k / bd, b = k % bd / n[N_D], d = k % n[N_D];
      const Int start = row * length + b * n[N_C] * n[N_D] + d;
      float sum = 0.0f;
      for (Int c = 0; c < n[N_C]; ++c) {
        const float value = widened(g[start + c * n[N_D]]) * s;
        sum += value * value;
      }
      outer[n[N_OUTER] + row * bd + k % bd] = sum;
    }
    squares[ME(i)][0] = x_sum;
  }
  const float total = sum_of_block(squares, shared);
  EACH_THREAD(i) { if (i == 0) x2[item[SLOT]] = total; }
}

// An unfactored tensor: V moves and U is measured at once, if `moves`; (unit*G)**2 if `normed`.
struct Sums { float *x2, *u2, *g2; };  // where they go
template <int V>
__device__ __forceinline__ void observe_full(const Int* item, const float* num, const G* g,
                                             const X* x, float* full, float b, float gain,
                                             bool scaled, bool moves, bool normed, Sums to,
                                             float* shared) {
  OWN(float, squares, 1);
  OWN(float, measured, 1);
  OWN(float, seen, 1);
  EACH_THREAD(i) {
    float x_sum = 0.0f, u_sum = 0.0f, g_sum = 0.0f;
    for (Int j = item[J0] + i * V; j < item[J1]; j += THREADS * V) {
      float values[V], held[V], old[V];
      F32 now[V];
      if (scaled) load<V>(x + j, held);
      if (moves || normed) load<V>(g + j, values);
      if (moves) load<V>((const F32*)full + j, old);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (scaled) x_sum += held[v] * held[v];
        if (normed) {
          const float value = values[v] * num[UNIT];
          g_sum += value * value;
        }
        if (moves) {
          const float value = values[v] * gain;
          now[v].bits = moved(old[v], value * value + num[EPS_IN], b);
          const float u = value / root(now[v].bits + num[EPS_AFTER], TINY);
          u_sum += u * u;
        }
      }
      if (moves) store<V>((F32*)full + j, now);
    }
    squares[ME(i)][0] = x_sum;
    measured[ME(i)][0] = u_sum;
    seen[ME(i)][0] = g_sum;
  }
  const float x_sum = sum_of_block(squares, shared), u_sum = sum_of_block(measured, shared);
  const float g_sum = sum_of_block(seen, shared);
  EACH_THREAD(i) {
    if (i == 0) {
      if (scaled) *to.x2 = x_sum;
      if (moves) *to.u2 = u_sum;
      if (normed) *to.g2 = g_sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
observe(TABLE, const Int* grads, float* outer, float* inner, float* x2, float* u2, float* g2,
        RATE(b), RATE(gain), Int scaled, Int moves, Int normed) {
  __shared__ float shared[SHARED];
  ITEM;
  const float* num = numbers + t * N_NUMBERS;
  const G* g = (const G*)grads[t];
  const X* x = (const X*)at[AT_X];
  const float s = num[PRESCALE];
  READ(b) READ(gain)
  if (!n[N_FACTORED]) {
    float* full = (float*)at[AT_FULL];
    const Int slot = item[SLOT];
    const Sums to = {x2 + slot, u2 + n[N_U2] + slot - n[N_X2], g2 + slot};
#define BODY(V) \
  observe_full<V>(item, num, g, x, full, b, gain, scaled, moves, normed, to, shared);
    WIDEST(n[N_SIZE], at[AT_FULL], true, BODY)
#undef BODY
  } else if (n[N_BD] > 1) {
    observe_boxes(item, n, g, x, s, scaled, outer, inner, x2, shared);
  } else {
#define BODY(V) observe_rows<V>(item, n, g, x, s, scaled, outer, inner, x2, shared);
    WIDEST(n[N_LENGTH], 0, true, BODY)
#undef BODY
  }
}

// The gradient's squares summed over each tensor, in the unit of the whole; a block takes a tensor.
extern "C" __global__ void __launch_bounds__(256)
squares(TABLE, const float* outer, const float* g2, float* norms) {
  __shared__ float shared[THREADS];
  const Int t = blockIdx.x;
  const Int* n = ints + t * N_INTS;
  const float* num = numbers + t * N_NUMBERS;
  const float by = n[N_FACTORED] ? num[UNIT] / num[PRESCALE] : 1.0f;
  const float* from = n[N_FACTORED] ? outer + n[N_OUTER] : g2 + n[N_X2];
  const Int count = n[N_FACTORED] ? n[N_TILES] * n[N_ROWS] : n[N_X2_COUNT];
  OWN(float, own, 1);
  EACH_THREAD(i) {
    float sum = 0.0f;
    for (Int k = i; k < count; k += THREADS) sum += from[k] * (by * by);
    own[ME(i)][0] = sum;
  }
  const float sum = sum_of_block(own, shared);
  EACH_THREAD(i) { if (i == 0) norms[t] = sum * (num[TO_WHOLE] * num[TO_WHOLE]); }
}

// One block: the sum of `count` numbers.
extern "C" __global__ void __launch_bounds__(256)
total(TABLE, const float* values, Int count, float* into) {
  __shared__ float shared[THREADS];
  const float sum = sum_of_run(values, count, shared);
  EACH_THREAD(i) { if (i == 0) into[0] = sum; }
}

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

// An unfactored tensor: sums of X*X, of (UNIT*G)**2, of U*U and of what V becomes, of each what is
// asked for; V moves if it `stores`.
struct Wanted { bool x2, u2, g2, peaks, stores; };
struct Sums { float *x2, *u2, *g2, *peaks; };  // where they go
template <int V>
__device__ __forceinline__ void observe_full(const Int* item, const float* num, const G* g,
                                             const X* x, float* full, float b, float gain,
                                             Wanted wants, Sums to, float* shared) {
  const bool moves = wants.u2 || wants.peaks;
  OWN(float, squares, 1);
  OWN(float, measured, 1);
  OWN(float, seen, 1);
  OWN(float, peak, 1);
  EACH_THREAD(i) {
    float x_sum = 0.0f, u_sum = 0.0f, g_sum = 0.0f, v_sum = 0.0f;
    for (Int j = item[J0] + i * V; j < item[J1]; j += THREADS * V) {
      float values[V], held[V], old[V];
      F32 now[V];
      if (wants.x2) load<V>(x + j, held);
      if (moves || wants.g2) load<V>(g + j, values);
      if (moves) load<V>((const F32*)full + j, old);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (wants.x2) x_sum += held[v] * held[v];
        if (wants.g2) {
          const float value = values[v] * num[UNIT];
          g_sum += value * value;
        }
        if (moves) {
          const float value = values[v] * gain;
          now[v].bits = moved(old[v], value * value + num[EPS_IN], b);
          if (wants.peaks) v_sum += now[v].bits * num[SHARE];
          if (wants.u2) {
            const float u = value / root(now[v].bits + num[EPS_AFTER], TINY);
            u_sum += u * u;
          }
        }
      }
      if (wants.stores) store<V>((F32*)full + j, now);
    }
    squares[ME(i)][0] = x_sum;
    measured[ME(i)][0] = u_sum;
    seen[ME(i)][0] = g_sum;
    peak[ME(i)][0] = v_sum;
  }
  const float x_sum = wants.x2 ? sum_of_block(squares, shared) : 0.0f;
  const float u_sum = wants.u2 ? sum_of_block(measured, shared) : 0.0f;
  const float g_sum = wants.g2 ? sum_of_block(seen, shared) : 0.0f;
  const float v_sum = wants.peaks ? sum_of_block(peak, shared) : 0.0f;
  EACH_THREAD(i) {
    if (i == 0) {
      if (wants.x2) *to.x2 = x_sum;
      if (wants.u2) *to.u2 = u_sum;
      if (wants.g2) *to.g2 = g_sum;
      if (wants.peaks) *to.peaks = v_sum;
    }
  }
}

// `bad`: where judge will count; `guarded`: whether it will.
extern "C" __global__ void __launch_bounds__(256, 2)
observe(TABLE, const Int* grads, float* outer, float* inner, float* x2, float* u2, float* g2,
        float* peaks, int* bad, DECAY, RATE(gain), Int scaled, Int measures, Int squared,
        Int guarded) {
  __shared__ float shared[SHARED];
  ITEM;
  const float* num = numbers + t * N_NUMBERS;
  const G* g = (const G*)grads[t];
  const X* x = (const X*)at[AT_X];
  const float s = num[PRESCALE];
  READ_DECAY READ(gain)
  if (guarded && blockIdx.x == 0) EACH_THREAD(i) { if (i == 0) *bad = 0; }
  if (!n[N_FACTORED]) {
    float* full = (float*)at[AT_FULL];
    const Int slot = item[SLOT];
    const Sums to = {x2 + slot, u2 + n[N_U2] + slot - n[N_X2], g2 + slot, peaks + slot};
    const Wanted wants = {scaled != 0, measures != 0, squared != 0, guarded != 0,
                          measures && !guarded};
#define BODY(V) observe_full<V>(item, num, g, x, full, b, gain, wants, to, shared);
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

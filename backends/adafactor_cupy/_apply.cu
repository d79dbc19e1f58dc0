// Apply: X <- round(X + D), with the momentum of updates if AVERAGED; V moves here if `moves`.
struct Applied {
  const Int* n;
  X* x;
  M* m;
  X* rest;  // what roundings have left over
  float beta1, then, less;
  Word key;
  bool by_rows;

  // The key of row `r` of the last axis, where the rows that a warp takes are those.
  __device__ __forceinline__ Word row(Int r) const {
    return DRAWN && by_rows ? folded(key, Word(r)) : 0u;
  }

  // V entries from `e` on, which start at `place`; `d` is U times its factor.
  template <int V>
  __device__ __forceinline__ void put(Int e, float* d, Place place) const {
    if (V == 1 && DRAWN && !by_rows) place = placed(key, e, n[N_LAST]);
    float held[V], old[V], left[V];
    M kept[V];
    X now[V], over[V];
    load<V>(x + e, held);
    if (AVERAGED) load<V>(m + e, old);
    if (KEPT) load<V>(rest + e, left);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (AVERAGED) {
        const float average = old[v] * beta1 + d[v] * (1.0f - beta1);
        narrow(kept[v], average);
        d[v] = average * then;
      }
      if (KEPT) {
        const float sum = held[v] + ((d[v] - (held[v] + left[v]) * less) + left[v]);
        narrow(now[v], sum);
        narrow(over[v], sum - widened(now[v]));
        continue;
      }
      const float total = held[v] + (d[v] - held[v] * less);
      if (DRAWN) drawn_to(now[v], total, drawn(place.row, place.first + v));
      else narrow(now[v], total);
    }
    if (AVERAGED) store<V>(m + e, kept);
    if (KEPT) store<V>(rest + e, over);
    store<V>(x + e, now);
  }
};

template <int V>
__device__ void apply_rows(const Int* item, const Int* n, const G* g, const float* p,
                           const float* q, float times, Applied to) {
  const Int a = item[SLICE], j0 = item[J0], length = n[N_LENGTH];
  const int width = int(item[J1] - j0);
  EACH_THREAD(i) {
    const int warp = i / 32, lane = i % 32;
    float above[WIDE];
    const float* from = q + n[N_Q] + a * length + j0;
#pragma unroll
    for (int k = 0; k < WIDE; ++k) {
      const int j = ((k / V) * 32 + lane) * V + k % V;
      above[k] = j < width ? from[j] : 0.0f;
    }
    for (Int r = item[R0] + warp; r < item[R1]; r += WARPS) {
      const Int row = (a * n[N_R] + r) * length + j0;
      const float thin = p[n[N_P] + a * n[N_R] + r] * times;
      const Word drawn_row = to.row(a * n[N_R] + r);
#pragma unroll
      for (int c = 0; c < WIDE / V; ++c) {
        const int j = (c * 32 + lane) * V;
        if (j < width) {
          float d[V];
          load<V>(g + row + j, d);
#pragma unroll
          for (int v = 0; v < V; ++v) d[v] = (d[v] * above[c * V + v]) * thin;
          to.put<V>(row + j, d, {drawn_row, Word(j0 + j)});
        }
      }
    }
  }
}

template <int V>
__device__ void apply_full(const Int* item, const float* num, const G* g, float* full, float b,
                           float gain, float times, bool moves, Applied to) {
  EACH_THREAD(i) {
    for (Int j = item[J0] + i * V; j < item[J1]; j += THREADS * V) {
      float d[V], old[V];
      F32 now[V];
      load<V>(g + j, d);
      load<V>((const F32*)full + j, old);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float value = d[v] * gain;
        now[v].bits = moves ? moved(old[v], value * value + num[EPS_IN], b) : old[v];
        d[v] = value / root(now[v].bits + num[EPS_AFTER], TINY) * times;
      }
      if (moves) store<V>((F32*)full + j, now);
      to.put<V>(j, d, {to.row(0), Word(j)});
    }
  }
}

// R and C of a factored tensor move to their place, where they waited for the verdict beside it.
__device__ __forceinline__ void settle(const Int* item, const Int* n, const Int* at) {
  const Int a = item[SLICE], r0 = item[R0], j0 = item[J0], bd = n[N_BD];
  const float* outer = (const float*)at[AT_NEW_OUTER] + (a * n[N_R] + r0) * bd;
  const float* inner = (const float*)at[AT_NEW_INNER] + a * n[N_LENGTH] + j0;
  float* to_outer = (float*)at[AT_OUTER] + (a * n[N_R] + r0) * bd;
  float* to_inner = (float*)at[AT_INNER] + a * n[N_LENGTH] + j0;
  const Int rows = j0 == 0 ? (item[R1] - r0) * bd : 0, columns = r0 == 0 ? item[J1] - j0 : 0;
  EACH_THREAD(i) {
    for (Int k = i; k < rows; k += THREADS) to_outer[k] = outer[k];
    for (Int k = i; k < columns; k += THREADS) to_inner[k] = inner[k];
  }
}

// `verdicts`: an entry for all tensors, or (`each`) one per tensor, if `guarded`; `late`: V moves.
extern "C" __global__ void __launch_bounds__(256, 2)
apply(TABLE, const Int* grads, const float* p, const float* q, const float* means,
      const float* factors, DECAY, RATE(gain), RATE(beta1), Int key_number, const int* key_address,
      const unsigned char* verdicts, Int each, Int late, Int guarded) {
  __shared__ float shared[THREADS];
  ITEM;
  if (guarded && !verdicts[each ? t : 0]) return;
  const float* num = numbers + t * N_NUMBERS;
  READ_DECAY READ(gain) READ(beta1)
  const float* f = factors + (n[N_SCOPE] + (n[N_SCOPES] > 1 ? a : 0)) * N_FACTORS;
  const G* g = (const G*)grads[t];
  const Int length = n[N_LENGTH], bd = n[N_BD];
  const Word key = key_address ? Word(*key_address) : Word(key_number);
  const Word own = folded(folded(key, Word(n[N_NAME])), 0u);
  const bool by_rows = n[N_LAST] == (n[N_FACTORED] ? length : n[N_SIZE]) && bd == 1;
  const Applied to = {n, (X*)at[AT_X], (M*)at[AT_MOMENTUM], (X*)at[AT_REST], beta1, f[AFTER],
                      f[LESS], own, by_rows};
  const Int others = at[AT_MOMENTUM] | at[AT_REST];
  if (!n[N_FACTORED]) {
    float* full = (float*)at[AT_FULL];
#define BODY(V) apply_full<V>(item, num, g, full, b, gain, f[BEFORE], late, to);
    WIDEST(n[N_SIZE], at[AT_FULL] | others, by_rows || !DRAWN, BODY)
#undef BODY
    return;
  }
  if (guarded) settle(item, n, at);
  if (bd == 1) {
    const float times = root_mean(means, n, a, shared) * f[BEFORE];
#define BODY(V) apply_rows<V>(item, n, g, p, q, times, to);
    WIDEST(length, others, by_rows || !DRAWN, BODY)
#undef BODY
  } else {
    EACH_THREAD(i) {
      for (Int k = i; k < (item[R1] - item[R0]) * length; k += THREADS) {
        const Int r = a * n[N_R] + item[R0] + k / length, j = k % length;
        const Int bd_at = j / (n[N_C] * n[N_D]) * n[N_D] + j % n[N_D];
        const float mean = sqrtf(means[n[N_MEANS] + a * bd + bd_at]);
        const float thin = p[n[N_P] + r * bd + bd_at] * mean * f[BEFORE];
        float d[1] = {(widened(g[r * length + j]) * q[n[N_Q] + a * length + j]) * thin};
        to.put<1>(r * length + j, d, {0u, 0u});
      }
    }
  }
}

// Scale: what U, its average and X are multiplied by (`factors` of adafactor_core._formulas), from
// the sums of squares of a tensor. A block takes a tensor.
extern "C" __global__ void __launch_bounds__(256)
scale(TABLE, const float* x2, const float* u2, float* factors, RATE(step_size), RATE(lr),
      RATE(weight_decay), Int scaled, Int first, Int decay_by, Int clips, Int averages, float sign,
      float eps2, float most, float per_threshold) {
  __shared__ float shared[THREADS];
  const Int t = blockIdx.x;
  const Int* n = ints + t * N_INTS;
  const float per = numbers[t * N_NUMBERS + PER_ENTRY];
  READ(step_size) READ(lr) READ(weight_decay)
  float alpha = step_size, clip = 1.0f;
  if (scaled) {
    float mean = sum_of_run(x2 + n[N_X2], n[N_X2_COUNT], shared) * per;
    const float least = 0.25f * eps2 * eps2;
    if (!first && 4.0f * least > 1e-30f && mean < least) mean = least;
    float size = sqrtf(mean);
    if (first) size *= fabsf(1.0f - weight_decay * (decay_by == BY_LR ? lr : 1.0f));
    size = size < eps2 ? eps2 : size;
    size = size > most ? most : size;
    alpha = step_size * size;
  }
  if (clips) {
    const float mean = sum_of_run(u2 + n[N_U2], n[N_U2_COUNT], shared) * per;
    // The root of infinity as NaN: a clip to 0 would hide it.
    const float ratio = root(mean, 0.0f) * per_threshold;
    clip = 1.0f / (ratio < 1.0f ? 1.0f : ratio);
  }
  const float by = decay_by == BY_ALPHA ? alpha : decay_by == BY_LR ? lr : 1.0f;
  EACH_THREAD(i) {
    if (i == 0) {
      float* f = factors + t * N_FACTORS;
      f[BEFORE] = averages == 0 ? -sign * alpha * clip : averages == 1 ? sign * alpha * clip : sign * clip;
      f[AFTER] = averages == 2 ? -alpha : averages == 1 ? -1.0f : 1.0f;
      f[LESS] = weight_decay * by;
    }
  }
}

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

extern "C" __global__ void __launch_bounds__(256, 2)
apply(TABLE, const Int* grads, const float* p, const float* q, const float* means,
      const float* factors, RATE(b), RATE(gain), RATE(beta1), Int key, Int moves) {
  __shared__ float shared[THREADS];
  ITEM;
  const float* num = numbers + t * N_NUMBERS;
  READ(b) READ(gain) READ(beta1)
  const float* f = factors + t * N_FACTORS;
  const G* g = (const G*)grads[t];
  const Int length = n[N_LENGTH], bd = n[N_BD];
  const Word own = folded(folded(Word(key), Word(n[N_NAME])), 0u);
  const bool by_rows = n[N_LAST] == (n[N_FACTORED] ? length : n[N_SIZE]) && bd == 1;
  const Applied to = {n, (X*)at[AT_X], (M*)at[AT_MOMENTUM], (X*)at[AT_REST], beta1, f[AFTER],
                      f[LESS], own, by_rows};
  const Int others = at[AT_MOMENTUM] | at[AT_REST];
  if (!n[N_FACTORED]) {
    float* full = (float*)at[AT_FULL];
#define BODY(V) apply_full<V>(item, num, g, full, b, gain, f[BEFORE], moves, to);
    WIDEST(n[N_SIZE], at[AT_FULL] | others, by_rows || !DRAWN, BODY)
#undef BODY
  } else if (bd == 1) {
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

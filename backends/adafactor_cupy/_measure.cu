// Advance: the averages, 1/sqrt(R) and 1/sqrt(C), and the means of R by chunks of rows. An item is
// a chunk of rows of a slice, or (LANE 1) a run of the inner statistic. `odd`: if `guarded`, how
// many averages no step can be made of, by item.
extern "C" __global__ void __launch_bounds__(256)
advance(TABLE, const float* outer, const float* inner, float* p, float* q, float* means, float* odd,
        DECAY, RATE(gain), Int guarded) {
  __shared__ float shared[THREADS];
  ITEM;
  const float* num = numbers + t * N_NUMBERS;
  READ_DECAY READ(gain)
  const Int r0 = item[R0], r1 = item[R1], j1 = item[J1], bd = n[N_BD];
  const bool inside = item[LANE];
  OWN(float, own, 1);
  OWN(float, strange, 1);
  EACH_THREAD(i) { own[ME(i)][0] = strange[ME(i)][0] = 0.0f; }
  if (inside) {
    const float* state = (const float*)at[AT_INNER];
    float* into = (float*)at[AT_NEW_INNER];
    EACH_THREAD(i) {
      for (Int j = item[J0] + i; j < j1; j += THREADS) {
        float sum = 0.0f;
        for (Int k = 0; k < n[N_LANES]; ++k) sum += inner[n[N_INNER] + k * n[N_COLS] + j];
        // Not gain*gain, which may underflow where the mean makes up for it.
        const float mean = sum * num[PER_INNER] * gain * gain + num[EPS_IN];
        const float now = moved(state[j], mean, b);
        into[j] = now;
        q[n[N_Q] + j] = gain / root(now + num[EPS_AFTER], TINY);
        strange[ME(i)][0] += below(now, LARGEST) ? 0.0f : 1.0f;
      }
    }
  } else {
    const float* state = (const float*)at[AT_OUTER];
    float* into = (float*)at[AT_NEW_OUTER];
    EACH_THREAD(i) {
      float total = 0.0f;
      for (Int k = bd == 1 ? 0 : i; k < bd; k += bd == 1 ? 1 : THREADS) {
        if (bd > 1) total = 0.0f;
        for (Int r = r0 + (bd == 1 ? i : 0); r < r1; r += bd == 1 ? THREADS : 1) {
          const Int e = (a * n[N_R] + r) * bd + k;
          float sum = 0.0f;
          for (Int m = 0; m < n[N_TILES]; ++m) sum += outer[n[N_OUTER] + m * n[N_ROWS] + e];
          const float mean = sum * num[PER_OUTER] * gain * gain + num[EPS_IN];
          const float now = moved(state[e], mean, b);
          into[e] = now;
          p[n[N_P] + e] = 1.0f / root(now + num[EPS_AFTER], TINY);
          total += now * num[PER_R];
          strange[ME(i)][0] += below(now, LARGEST) ? 0.0f : 1.0f;
        }
        if (bd > 1) means[n[N_MEANS] + a * bd + k] = total;
      }
      own[ME(i)][0] = total;
    }
  }
  if (!inside && bd == 1) {
    const float total = sum_of_block(own, shared);
    EACH_THREAD(i) { if (i == 0) means[n[N_MEANS] + a * n[N_CHUNKS] + item[COLUMN_TILE]] = total; }
  }
  if (guarded) {
    const float count = sum_of_block(strange, shared);
    EACH_THREAD(i) { if (i == 0) odd[blockIdx.x] = count; }
  }
}

// sqrt(mean(R)) of a slice.
__device__ __forceinline__ float root_mean(const float* means, const Int* n, Int a, float* shared) {
  return sqrtf(sum_of_run(means + n[N_MEANS] + a * n[N_CHUNKS], n[N_CHUNKS], shared));
}

// Measure: partial sums of U*U. Unfactored tensors have been measured as they were observed, unless
// the gain of gradients was still to come: `late`. V moves then, unless the step may be refused.
template <int V>
__device__ __forceinline__ void measure_rows(const Int* item, const Int* n, const G* g, const float* p,
                             const float* q, float mean, float (*own)[1]) {
  const Int a = item[SLICE], j0 = item[J0], length = n[N_LENGTH];
  const int width = int(item[J1] - j0);
  EACH_THREAD(i) {
    const int warp = i / 32, lane = i % 32;
    float above[WIDE], total = 0.0f;
    const float* from = q + n[N_Q] + a * length + j0;
#pragma unroll
    for (int k = 0; k < WIDE; ++k) {
      const int j = ((k / V) * 32 + lane) * V + k % V;
      above[k] = j < width ? from[j] : 0.0f;
    }
    for (Int r = item[R0] + warp; r < item[R1]; r += WARPS) {
      const Int row = (a * n[N_R] + r) * length + j0;
      const float thin = p[n[N_P] + a * n[N_R] + r] * mean;
#pragma unroll
      for (int c = 0; c < WIDE / V; ++c) {
        const int j = (c * 32 + lane) * V;
        if (j < width) {
          float values[V];
          load<V>(g + row + j, values);
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const float u = (values[v] * above[c * V + v]) * thin;
            total += u * u;
          }
        }
      }
    }
    own[ME(i)][0] = total;
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
measure(TABLE, const Int* grads, const float* p, const float* q, const float* means, float* u2,
        DECAY, RATE(gain), Int late, Int guarded) {
  __shared__ float shared[THREADS];
  ITEM;
  const G* g = (const G*)grads[t];
  if (!n[N_FACTORED]) {
    if (!late) return;
    READ_DECAY READ(gain)
    const float* num = numbers + t * N_NUMBERS;
    float* full = (float*)at[AT_FULL];
    const Sums to = {nullptr, u2 + item[SLOT], nullptr, nullptr};
    const Wanted wants = {false, true, false, false, !guarded};
#define BODY(V) observe_full<V>(item, num, g, nullptr, full, b, gain, wants, to, shared);
    WIDEST(n[N_SIZE], at[AT_FULL], true, BODY)
#undef BODY
    return;
  }
  const Int length = n[N_LENGTH], bd = n[N_BD];
  OWN(float, own, 1);
  if (bd == 1) {
    const float mean = root_mean(means, n, a, shared);
#define BODY(V) measure_rows<V>(item, n, g, p, q, mean, own);
    WIDEST(length, 0, true, BODY)
#undef BODY
  } else {
    EACH_THREAD(i) {
      float total = 0.0f;
      for (Int k = i; k < (item[R1] - item[R0]) * length; k += THREADS) {
        const Int r = a * n[N_R] + item[R0] + k / length, j = k % length;
        const Int bd_at = j / (n[N_C] * n[N_D]) * n[N_D] + j % n[N_D];
        const float mean = sqrtf(means[n[N_MEANS] + a * bd + bd_at]);
        const float thin = p[n[N_P] + r * bd + bd_at] * mean;
        const float u = (widened(g[r * length + j]) * q[n[N_Q] + a * length + j]) * thin;
        total += u * u;
      }
      own[ME(i)][0] = total;
    }
  }
  const float total = sum_of_block(own, shared);
  EACH_THREAD(i) { if (i == 0) u2[item[SLOT]] = total; }
}

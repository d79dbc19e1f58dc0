// What is small: sums over the items of a tensor, and what is decided from them.
constexpr float MARGIN = 1.52587890625e-05f;  // 2**-16, as in adafactor_core._decisions

// The gradient's squares summed over each tensor: `marks` in the tensor's own unit, infinite where
// something else keeps it from moving; `norms` in the unit of the whole, of a tensor that is left
// out nothing. A block takes a tensor.
extern "C" __global__ void __launch_bounds__(256)
squares(TABLE, const float* outer, const float* g2, const float* x2, const float* peaks, float* marks,
        float* norms, Int guarded) {
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
  float sum = sum_of_block(own, shared);
  if (guarded) {
    bool fine = below(sum_of_run(x2 + n[N_X2], n[N_X2_COUNT], shared), LARGEST * MARGIN);
    if (!n[N_FACTORED]) {
      fine = below(sum_of_run(peaks + n[N_X2], n[N_X2_COUNT], shared), LARGEST) && fine;
    }
    if (!fine) sum = INFINITE;
  }
  EACH_THREAD(i) {
    if (i == 0) {
      marks[t] = sum;
      norms[t] = (guarded && !below(sum, LARGEST) ? 0.0f : sum) * (num[TO_WHOLE] * num[TO_WHOLE]);
    }
  }
}

// One block: the sum of `count` numbers.
extern "C" __global__ void __launch_bounds__(256)
total(TABLE, const float* values, Int count, float* into) {
  __shared__ float shared[THREADS];
  const float sum = sum_of_run(values, count, shared);
  EACH_THREAD(i) { if (i == 0) into[0] = sum; }
}

// Whether the sums of all RMS scopes are far enough from overflow. A single scope goes over all
// threads, many go over one thread each.
__device__ __forceinline__ bool scopes_fine(const float* values, const Int* scopes, Int count, int first,
                                            float* shared) {
  if (count == 1) {
    return below(sum_of_run(values + scopes[first], scopes[first + 1], shared), LARGEST * MARGIN);
  }
  OWN(float, own, 1);
  EACH_THREAD(i) {
    float odd = 0.0f;
    for (Int s = i; s < count; s += THREADS) {
      const Int* scope = scopes + s * N_SCOPE_ITEM + first;
      float sum = 0.0f;
      for (Int k = 0; k < scope[1]; ++k) sum += values[scope[0] + k];
      odd += below(sum, LARGEST * MARGIN) ? 0.0f : 1.0f;
    }
    own[ME(i)][0] = odd;
  }
  return sum_of_block(own, shared) == 0.0f;
}

// Which tensors are finite: find_odd of adafactor_core._decisions. A block takes a tensor, counts
// it into `bad` if it is not, and moves its own counter of that. Whole numbers: the order in which
// they are added does not matter.
extern "C" __global__ void __launch_bounds__(256)
judge(TABLE, const Int* scopes, const float* x2, const float* u2, const float* peaks, const float* odd,
      const float* marks, unsigned char* verdicts, int* bad, Int measured, Int normed) {
  __shared__ float shared[THREADS];
  const Int t = blockIdx.x;
  const Int* n = ints + t * N_INTS;
  const Int* own = scopes + n[N_SCOPE] * N_SCOPE_ITEM;
  bool fine = scopes_fine(x2, own, n[N_SCOPES], X2, shared);
  if (measured) fine = scopes_fine(u2, own, n[N_SCOPES], U2, shared) && fine;
  if (n[N_FACTORED]) {
    fine = sum_of_run(odd + n[N_ODD], n[N_ODD_COUNT], shared) == 0.0f && fine;
  } else {
    fine = below(sum_of_run(peaks + n[N_X2], n[N_X2_COUNT], shared), LARGEST) && fine;
  }
  if (normed) fine = below(marks[t], LARGEST) && fine;
  int* skipped = (int*)addresses[t * N_ADDRESSES + AT_SKIPPED];
  EACH_THREAD(i) {
    if (i == 0) {
      verdicts[t] = fine;
      if (!fine) atomicAdd(bad, 1);
      if (!fine && skipped) ++*skipped;
    }
  }
}

// Scale: what U, its average and X are multiplied by (`factors` of adafactor_core._formulas), from
// the sums of squares of an RMS scope. A block takes a scope.
extern "C" __global__ void __launch_bounds__(256)
scale(TABLE, const float* x2, const float* u2, float* factors, RATE(step_size), RATE(lr),
      RATE(weight_decay), Int scaled, Int first, Int decay_by, Int clips, Int averages, Int tells,
      float sign, float eps2, float most, float per_threshold) {
  __shared__ float shared[THREADS];
  const Int* scope = items + Int(blockIdx.x) * N_SCOPE_ITEM;
  const float* num = numbers + scope[OF] * N_NUMBERS;
  READ(step_size) READ(lr) READ(weight_decay)
  float alpha = step_size, clip = 1.0f, mean_x = 0.0f, mean_u = 0.0f;
  if (scaled || tells) mean_x = sum_of_run(x2 + scope[X2], scope[X2_COUNT], shared) * num[PER_X];
  if (scaled) {
    float mean = mean_x;
    const float least = 0.25f * eps2 * eps2;
    if (!first && 4.0f * least > 1e-30f && mean < least) mean = least;
    float size = sqrtf(mean);
    if (first) size *= fabsf(1.0f - weight_decay * (decay_by == BY_LR ? lr : 1.0f));
    size = size < eps2 ? eps2 : size;
    size = size > most ? most : size;
    alpha = step_size * size;
  }
  if (clips) {
    mean_u = sum_of_run(u2 + scope[U2], scope[U2_COUNT], shared) * num[PER_U];
    // The root of infinity as NaN: a clip to 0 would hide it.
    const float ratio = root(mean_u, 0.0f) * per_threshold;
    clip = 1.0f / (ratio < 1.0f ? 1.0f : ratio);
  }
  const float by = decay_by == BY_ALPHA ? alpha : decay_by == BY_LR ? lr : 1.0f;
  EACH_THREAD(i) {
    if (i == 0) {
      float* f = factors + Int(blockIdx.x) * N_FACTORS;
      f[BEFORE] = averages == 0 ? -sign * alpha * clip : averages == 1 ? sign * alpha * clip : sign * clip;
      f[AFTER] = averages == 2 ? -alpha : averages == 1 ? -1.0f : 1.0f;
      f[LESS] = weight_decay * by;
      f[MEAN_X] = mean_x;
      f[MEAN_U] = mean_u;
      f[ALPHA] = alpha;
      f[CLIP] = clip;
    }
  }
}

// The numbers of adafactor_core._metrics, from what `scale` and `squares` left. A block takes a
// tensor.
extern "C" __global__ void __launch_bounds__(256)
metrics(TABLE, const float* factors, const float* marks, float* into, RATE(unscale)) {
  __shared__ float shared[THREADS];
  const Int t = blockIdx.x, scopes = ints[t * N_INTS + N_SCOPES];
  const float* own = factors + ints[t * N_INTS + N_SCOPE] * N_FACTORS;
  READ(unscale)
  OWN(float, u, 1);
  OWN(float, x, 1);
  OWN(float, alpha, 1);
  EACH_THREAD(i) {
    float u_sum = 0.0f, x_sum = 0.0f, alphas = 0.0f;
    for (Int s = i; s < scopes; s += THREADS) {
      u_sum += own[s * N_FACTORS + MEAN_U];
      x_sum += own[s * N_FACTORS + MEAN_X];
      alphas += own[s * N_FACTORS + ALPHA];
    }
    u[ME(i)][0] = u_sum;
    x[ME(i)][0] = x_sum;
    alpha[ME(i)][0] = alphas;
  }
  const float count = float(scopes);
  const float u_sum = sum_of_block(u, shared), x_sum = sum_of_block(x, shared);
  const float alphas = sum_of_block(alpha, shared);
  EACH_THREAD(i) {
    float clip = INFINITE;
    for (Int s = i; s < scopes; s += THREADS) clip = lower(clip, own[s * N_FACTORS + CLIP]);
    shared[i] = clip;
  }
  BARRIER
  EACH_THREAD(i) {
    if (i == 0) {
      float clip = shared[0];
      for (int k = 1; k < THREADS; ++k) clip = lower(clip, shared[k]);
      float* m = into + t * N_METRICS;
      m[UPDATE_RMS] = sqrtf(u_sum / count);
      m[PARAM_RMS] = sqrtf(x_sum / count);
      m[LEARNING_RATE] = alphas / count;
      m[CLIP_FACTOR] = clip;
      m[GRAD_NORM] = sqrtf(marks[t]) / numbers[t * N_NUMBERS + UNIT] * unscale;
    }
  }
}

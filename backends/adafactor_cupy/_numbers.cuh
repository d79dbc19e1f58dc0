// Numbers, random bits and sums. _table.cuh and the kernels follow in one text.
//
// No CUDA header is included: 16-bit floats go through their bits, so the same source compiles with
// NVRTC alone and, for tests, with a C++ compiler. X_TYPE, G_TYPE and M_TYPE (of
// the momentum) are F32, BF16 or F16; AVERAGES tells whether there is momentum, ROUNDING is NEAREST,
// STOCHASTIC or KAHAN.

typedef long long Int;
typedef unsigned int Word;

#ifndef EACH_THREAD
// A kernel is a row of phases with a barrier between two of them. Tests run each phase as a loop
// over threads, so what a thread keeps from one phase to the next is an OWN array.
#define EACH_THREAD(i) if (const int i = threadIdx.x; i >= 0)
#define OWN(type, name, size) type name[1][size]
#define ME(i) 0
#define BARRIER __syncthreads();
#endif

#define INFINITE __uint_as_float(0x7F800000u)
constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int WIDE = 32;           // columns of a tile that each lane of a warp holds
constexpr int TILE = 32 * WIDE;    // columns of a tile at most
constexpr int SPAN = WARPS * 32;   // rows between two barriers
constexpr int SHARED = SPAN * 33;  // 33: lanes that read a column of it meet no bank twice

struct F32 { float bits; };
struct BF16 { unsigned short bits; };
struct F16 { unsigned short bits; };

__device__ __forceinline__ float widened(F32 x) { return x.bits; }
__device__ __forceinline__ float widened(BF16 x) { return __uint_as_float(Word(x.bits) << 16); }
__device__ __forceinline__ float widened(F16 x) {
  const Word bits = x.bits, sign = (bits & 0x8000u) << 16, rest = (bits & 0x7FFFu) << 13;
  // Exact for subnormals too: scaling by 2**112 moves the exponent's bias.
  const Word finite = __float_as_uint(__uint_as_float(rest) * 5.192296858534828e33f);
  const Word wide = (bits & 0x7C00u) == 0x7C00u ? rest | 0x7F800000u : finite;
  return __uint_as_float(wide | sign);
}

// Rounded to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ void narrow(F32& to, float x) { to.bits = x; }
__device__ __forceinline__ void narrow(BF16& to, float x) {
  const Word bits = __float_as_uint(x), odd = (bits >> 16) & 1u;
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  to.bits = is_nan ? (bits >> 16) | 0x40u : (bits + 0x7FFFu + odd) >> 16;
}
__device__ __forceinline__ void narrow(F16& to, float x) {
  const Word bits = __float_as_uint(x), sign = (bits >> 16) & 0x8000u, size = bits & 0x7FFFFFFFu;
  // Adding 0.5 lines a subnormal result up with the last bit: the adder rounds it.
  const Word low = __float_as_uint(__uint_as_float(size) + 0.5f) - 0x3F000000u;
  const Word high = (size - 0x38000000u + 0xFFFu + ((size >> 13) & 1u)) >> 13;
  Word half = size < 0x38800000u ? low : high;
  half = size >= 0x47800000u ? 0x7C00u : half;
  half = size > 0x7F800000u ? 0x7E00u : half;
  to.bits = half | sign;
}

// Rounded by the random bits `e`: to_grid of adafactor_core._rounding.
__device__ __forceinline__ void drawn_to(F32& to, float x, Word) { to.bits = x; }
__device__ __forceinline__ void drawn_to(BF16& to, float x, Word e) {
  const Word bits = __float_as_uint(x), size = bits & 0x7FFFFFFFu;
  if (size <= 0x7F7F0000u) to.bits = (bits + (e >> 16)) >> 16;
  else narrow(to, x);
}
__device__ __forceinline__ void drawn_to(F16& to, float x, Word e) {
  const Word bits = __float_as_uint(x), size = bits & 0x7FFFFFFFu, r = e >> 19;
  if (size > 0x477FE000u) {
    narrow(to, x);
    return;
  }
  // 2**-14 and more: drop the 13 bits that float16 does not have, and move the exponent.
  const Word normal = ((size + r) >> 13) - 0x1C000u;
  const float steps = __uint_as_float(size) * 16777216.0f + float(r) * 1.220703125e-4f;
  const Word fixed = Word(steps < 1024.0f ? steps : 1024.0f);
  to.bits = (size < 0x38800000u ? fixed : normal) | ((bits >> 16) & 0x8000u);
}

// `fold` and the last step of `Draws.bits` of adafactor_core._rounding.
__device__ __forceinline__ Word folded(Word h, Word word) {
  Word x = (h ^ word) + 0x9E3779B9u;
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}
__device__ __forceinline__ Word drawn(Word row, Word j) {
  Word e = row + j * 0x9E3779B9u;
  e ^= e >> 15;
  return e * 0x2C1B3C6Du;
}

// The key of the row of the last axis that entry `at` of a tensor lies in, and its place there.
// A function of its own: divisions of 64 bits, inlined wherever an entry is stored, are most of the
// code.
struct Place { Word row, first; };
__device__ __noinline__ Place placed(Word key, Int at, Int last) {
  return {folded(key, Word(at / last)), Word(at % last)};
}

// V entries in one or two accesses of 16 bytes; the caller vouches for the alignment.
struct alignas(16) Pack { Word words[4]; };
template <int V, class T>
__device__ __forceinline__ void load(const T* from, float* into) {
  if constexpr (V == 1) {
    into[0] = widened(from[0]);
  } else {
    constexpr int each = 16 / sizeof(T);
#pragma unroll
    for (int k = 0; k < V / each; ++k) {
      const Pack pack = reinterpret_cast<const Pack*>(from)[k];
#pragma unroll
      for (int v = 0; v < each; ++v) {
        if constexpr (sizeof(T) == 4) {
          into[k * each + v] = __uint_as_float(pack.words[v]);
        } else {
          T entry;
          entry.bits = (unsigned short)(pack.words[v / 2] >> (16 * (v % 2)));
          into[k * each + v] = widened(entry);
        }
      }
    }
  }
}
template <int V, class T>
__device__ __forceinline__ void store(T* to, const T* from) {
  if constexpr (V == 1) {
    to[0] = from[0];
  } else {
    constexpr int each = 16 / sizeof(T);
#pragma unroll
    for (int k = 0; k < V / each; ++k) {
      Pack pack;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if constexpr (sizeof(T) == 4) pack.words[w] = __float_as_uint(from[k * 4 + w].bits);
        else pack.words[w] = Word(from[k * 8 + 2 * w].bits) | Word(from[k * 8 + 2 * w + 1].bits) << 16;
      }
      reinterpret_cast<Pack*>(to)[k] = pack;
    }
  }
}

__device__ __forceinline__ bool aligned(Int a, Int b, Int c) { return ((a | b | c) & 15) == 0; }

__device__ __forceinline__ float moved(float old, float now, float b) {
  // Not old + b*(now - old), which loses a small `now` at b = 1.
  return (old - old * b) + now * b;
}
__device__ __forceinline__ float root(float x, float tiny) {
  const float found = sqrtf(x < tiny ? tiny : x);  // not fmaxf, which drops a NaN
  // Dividing by an overflowed statistic would hide it in a 0.
  return found < INFINITE ? found : found - found;
}
// The smaller one; NaN if one of them is.
__device__ __forceinline__ float lower(float x, float y) { return y < x || y != y ? y : x; }

// A comparison and not isfinite: sums that are finite one by one may overflow when added up.
__device__ __forceinline__ bool below(float x, float limit) { return x <= limit; }  // false for NaN

// The sum over all threads of what each has in `own`, in an order that never changes.
__device__ __forceinline__ float sum_of_block(const float (*own)[1], float* shared) {
  EACH_THREAD(i) { shared[i] = own[ME(i)][0]; }
  BARRIER
  for (int n = THREADS / 2; n; n /= 2) {
    EACH_THREAD(i) { if (i < n) shared[i] += shared[i + n]; }
    BARRIER
  }
  const float total = shared[0];
  BARRIER
  return total;
}
__device__ __forceinline__ float sum_of_run(const float* values, Int count, float* shared) {
  OWN(float, own, 1);
  EACH_THREAD(i) {
    float sum = 0.0f;
    for (Int k = i; k < count; k += THREADS) sum += values[k];
    own[ME(i)][0] = sum;
  }
  return sum_of_block(own, shared);
}

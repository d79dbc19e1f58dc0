// The passes of adafactor_core over a table of tensors, each as one launch. No optimizer: what a
// kernel computes is held to ArrayPasses by tests. `_table.py` fills the tables and says what an
// item is. A block takes one item. Sums go through buffers of partials, never through atomics, so a
// step has the same bits each time.

// Columns of the tables; a row per tensor, per item or per RMS scope.
enum { N_R, N_C, N_D, N_BD, N_LENGTH, N_SIZE, N_FACTORED, N_OUTER, N_ROWS, N_INNER, N_COLS, N_TILES,
       N_LANES, N_P, N_Q, N_MEANS, N_CHUNKS, N_LAST, N_NAME, N_X2, N_X2_COUNT, N_U2, N_U2_COUNT,
       N_SCOPE, N_SCOPES, N_ODD, N_ODD_COUNT, N_INTS };
// R and C are read at AT_OUTER and AT_INNER and written at AT_NEW_...: to the same place, or beside
// it where the step may still be refused.
enum { AT_X, AT_OUTER, AT_INNER, AT_FULL, AT_MOMENTUM, AT_REST, AT_NEW_OUTER, AT_NEW_INNER,
       AT_SKIPPED, N_ADDRESSES };
enum { PRESCALE, PER_OUTER, PER_INNER, PER_R, EPS_IN, EPS_AFTER, PER_X, PER_U, SHARE, UNIT, TO_WHOLE,
       N_NUMBERS };
enum { TENSOR, SLICE, R0, R1, J0, J1, LANE, COLUMN_TILE, SLOT, N_ITEM };
enum { OF, X2, X2_COUNT, U2, U2_COUNT, N_SCOPE_ITEM };
enum { BEFORE, AFTER, LESS, MEAN_X, MEAN_U, ALPHA, CLIP, N_FACTORS };
enum { UPDATE_RMS, PARAM_RMS, LEARNING_RATE, CLIP_FACTOR, GRAD_NORM, N_METRICS };
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
// The share that averages of squares move by, which may be each tensor's own: `b_at` entries on.
#define DECAY RATE(b), const Int* b_at
#define READ_DECAY const float b = b_address ? b_address[b_at ? b_at[t] : 0] : b_number;

typedef X_TYPE X;
typedef G_TYPE G;
typedef M_TYPE M;
enum { NEAREST, STOCHASTIC, KAHAN };
// Fixed as it is compiled: with all of them in one kernel, registers spill.
constexpr bool AVERAGED = AVERAGES, DRAWN = ROUNDING == STOCHASTIC, KEPT = ROUNDING == KAHAN;
constexpr float TINY = 1.1754943508222875e-38f, LARGEST = 3.4028234663852886e38f;
constexpr int VECTOR = sizeof(X) + sizeof(G) + (AVERAGED ? sizeof(M) : 4) == 12 ? 4 : 8;

// Runs `body(V)` with the widest accesses that the addresses and the length of a row allow.
#define WIDEST(length, other, allowed, body)                                                 \
  if ((allowed) && (length) % VECTOR == 0 && aligned(at[AT_X], grads[t], other)) {           \
    body(VECTOR)                                                                             \
  } else {                                                                                   \
    body(1)                                                                                  \
  }

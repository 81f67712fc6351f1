// The integer softmax, with and without the biases of a calibration, and how these are learned; included by
// isa_kernels.hpp. Plain loops, which the compiler turns into the instruction set's vectors.

// Many rows at a time, and each with a place of its own in the vectors, so that nothing is ever summed across
// one. The steps are functions of their own, not inlined, because the compiler then makes vectors of their
// loops over the rows, and not of the loops around these.

#define ANYPCC_STEP __attribute__((noinline))

template <int Rows>
ANYPCC_STEP void largest_step(const int32_t* __restrict logit, int32_t* __restrict largest) {
  for (int r = 0; r < Rows; ++r) largest[r] = logit[r] > largest[r] ? logit[r] : largest[r];
}

// exp2[d] stands for 2^(-d / 32), d = 0 .. 511, as an integer below 2^23, exp2[0] > 0.
template <int Rows>
ANYPCC_STEP void weight_step(const int32_t* __restrict logit, const int32_t* __restrict largest,
                             const uint32_t* __restrict exp2, int32_t* __restrict weight,
                             int32_t* __restrict all) {
  for (int r = 0; r < Rows; ++r) {
    // Unsigned, because two logits may be further apart than an int32 can say.
    const uint32_t below = static_cast<uint32_t>(largest[r]) - static_cast<uint32_t>(logit[r]);
    weight[r] = static_cast<int32_t>(exp2[below < 511 ? below : 511]);
    all[r] += weight[r];
  }
}

// weight becomes 1 + floor(weight * spread / all), exactly: the half keeps the quotient 0.5 / all > 2^-33
// away from every integer, and rounding the reciprocal and the product moves it by less than 2^-35.
template <int Rows>
ANYPCC_STEP void share_step(int32_t* __restrict weight, const double* __restrict reciprocal, int32_t spread,
                            int32_t* __restrict rest) {
  for (int r = 0; r < Rows; ++r) {
    const double share = (static_cast<double>(weight[r]) * spread + 0.5) * reciprocal[r];
    weight[r] = 1 + static_cast<int32_t>(share);
    rest[r] -= weight[r];
  }
}

// What is left over goes to the first of the largest logits.
template <int Rows>
ANYPCC_STEP void rest_step(const int32_t* __restrict logit, const int32_t* __restrict largest,
                           int32_t* __restrict weight, int32_t* __restrict rest) {
  for (int r = 0; r < Rows; ++r) {
    const int32_t given = logit[r] == largest[r] ? rest[r] : 0;
    rest[r] -= given;
    weight[r] += given;
  }
}

// Where a symbol's part of 2^24 ends, from the frequencies of those up to it.
template <int Rows>
ANYPCC_STEP void bound_step(const int32_t* __restrict weight, float scale, int32_t next,
                            int32_t* __restrict sum, int32_t* __restrict bound) {
  for (int r = 0; r < Rows; ++r) {
    sum[r] += weight[r];
    bound[r] = next + static_cast<int32_t>(static_cast<float>(sum[r]) * scale);
  }
}

typedef int32_t Four __attribute__((vector_size(16)));

#if defined(__clang__)
#define ANYPCC_MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define ANYPCC_MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, Four{i, j, k, l})
#endif

// to[c][r] = from[r][c] for rows and columns that are multiples of 4, with the given distances between rows.
template <class To, class From>
inline void transpose(const From* from, int64_t from_row, To* to, int64_t to_row, int rows, int columns) {
  typedef To Result __attribute__((vector_size(16)));
  for (int r = 0; r < rows; r += 4) {
    for (int c = 0; c < columns; c += 4) {
      Four in[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) __builtin_memcpy(&in[i], from + (r + i) * from_row + c, sizeof(Four));
      const Four low01 = ANYPCC_MIX(in[0], in[1], 0, 4, 1, 5), high01 = ANYPCC_MIX(in[0], in[1], 2, 6, 3, 7);
      const Four low23 = ANYPCC_MIX(in[2], in[3], 0, 4, 1, 5), high23 = ANYPCC_MIX(in[2], in[3], 2, 6, 3, 7);
      const Four out[4] = {ANYPCC_MIX(low01, low23, 0, 1, 4, 5), ANYPCC_MIX(low01, low23, 2, 3, 6, 7),
                           ANYPCC_MIX(high01, high23, 0, 1, 4, 5), ANYPCC_MIX(high01, high23, 2, 3, 6, 7)};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Result converted = __builtin_convertvector(out[i], Result);
        __builtin_memcpy(to + (c + i) * to_row + r, &converted, sizeof(Result));
      }
    }
  }
}

template <int Symbols, int Rows>
struct Softmax {
  static constexpr int kRows = Rows;

  alignas(64) int32_t rows[kRows][Symbols];  // logits, where they are not in memory or fewer
  alignas(64) int32_t logit[Symbols][kRows];
  alignas(64) int32_t weight[Symbols][kRows];  // then frequencies
  alignas(64) float frequencies[kRows][Symbols];
  alignas(64) int32_t largest[kRows], all[kRows], rest[kRows];
  alignas(64) double reciprocal[kRows];

  // Frequencies of `count` rows of logits, in weight.
  void run_rows(const int32_t* logits, const uint32_t* exp2, int64_t count) {
    __builtin_memcpy(rows, logits, count * sizeof(rows[0]));
    run_rows(exp2, count);
  }

  // The same of those in `rows`.
  void run_rows(const uint32_t* exp2, int64_t count) {
    for (int64_t r = count; r < kRows; ++r) __builtin_memset(rows[r], 0, sizeof(rows[r]));
    run(&rows[0][0], exp2);
  }

  // The same of kRows rows.
  void run(const int32_t* logits, const uint32_t* exp2) {
    transpose(logits, Symbols, &logit[0][0], kRows, kRows, Symbols);
    for (int r = 0; r < kRows; ++r) {
      largest[r] = INT32_MIN;
      all[r] = 0;
      rest[r] = 1 << 16;
    }
    for (int j = 0; j < Symbols; ++j) largest_step<Rows>(logit[j], largest);
    for (int j = 0; j < Symbols; ++j) weight_step<Rows>(logit[j], largest, exp2, weight[j], all);
    for (int r = 0; r < kRows; ++r) reciprocal[r] = 1.0 / all[r];
    for (int j = 0; j < Symbols; ++j) share_step<Rows>(weight[j], reciprocal, (1 << 16) - Symbols, rest);
    for (int j = 0; j < Symbols; ++j) rest_step<Rows>(logit[j], largest, weight[j], rest);
  }

  // They themselves, as rows.
  void write(float* frequency, int64_t count) {
    if (count == kRows) {
      transpose(&weight[0][0], kRows, frequency, Symbols, Symbols, kRows);
    } else {
      transpose(&weight[0][0], kRows, &frequencies[0][0], Symbols, Symbols, kRows);
      __builtin_memcpy(frequency, frequencies, count * sizeof(frequencies[0]));
    }
  }

  // The ends of the symbols' parts in the range coder instead, as rows (kRows, Symbols).
  void write_bounds(int32_t* bounds) {
    constexpr float kScale = ((1 << kCoderPrecision) - Symbols) / 65536.0f;
    for (int r = 0; r < kRows; ++r) all[r] = 0;
    for (int j = 0; j < Symbols; ++j) bound_step<Rows>(weight[j], kScale, j + 1, all, logit[j]);
    for (int r = 0; r < kRows; ++r) logit[Symbols - 1][r] = 1 << kCoderPrecision;
    transpose(&logit[0][0], kRows, bounds, Symbols, Symbols, kRows);
  }
};

template <int Symbols>
inline void softmax_rows(const int32_t* logits, const uint32_t* exp2, float* frequency, int32_t* bounds,
                         int64_t rows) {
  Softmax<Symbols, kSoftmaxRows> block;
  for (int64_t i = 0; i < rows; i += block.kRows) {
    const int64_t count = rows - i < block.kRows ? rows - i : block.kRows;
    if (count == block.kRows) {
      block.run(logits + i * Symbols, exp2);
    } else {
      block.run_rows(logits + i * Symbols, exp2, count);
    }
    if (frequency != nullptr) block.write(frequency + i * Symbols, count);
    if (bounds != nullptr) block.write_bounds(bounds + i * Symbols);
  }
}

void softmax(const int32_t* logits, const uint32_t* exp2, float* frequency, int32_t* bounds, int64_t rows,
             int symbols) {
  if (symbols == kCalibrated) {
    softmax_rows<kCalibrated>(logits, exp2, frequency, bounds, rows);
  } else {
    softmax_rows<256>(logits, exp2, frequency, bounds, rows);
  }
}

// ---- calibration (codec/calibration.py) ----

// The 16 numbers of a row, in the compiler's own vectors: it does not see by itself that rows never overlap.
typedef int32_t Row __attribute__((vector_size(64)));
typedef uint32_t UnsignedRow __attribute__((vector_size(64)));
typedef int32_t RowInMemory __attribute__((vector_size(64), aligned(4), may_alias));
typedef float FloatRow __attribute__((vector_size(64)));
typedef float FloatRowInMemory __attribute__((vector_size(64), aligned(4), may_alias));

inline RowInMemory& row_at(int32_t* numbers) { return *reinterpret_cast<RowInMemory*>(numbers); }
inline const RowInMemory& row_at(const int32_t* numbers) {
  return *reinterpret_cast<const RowInMemory*>(numbers);
}

inline Row least(Row a, Row b) { return a < b ? a : b; }
inline Row most(Row a, Row b) { return a > b ? a : b; }

void calibrate(const CalibrationState& state, const int32_t* logits, const int32_t* contexts,
               const uint32_t* exp2, float* frequency, int32_t* bounds, int64_t rows) {
  constexpr int32_t kLogitLimit = 1 << 20;
  Softmax<kCalibrated, kCalibrationChunk> block;
  int32_t weights[kMostTables + 1];
  for (int t = 0; t <= state.tables; ++t) weights[t] = state.weights[t] >> 8;
  const int32_t own = weights[state.tables];
  for (int64_t i = 0; i < rows; i += block.kRows) {
    const int64_t count = rows - i < block.kRows ? rows - i : block.kRows;
    for (int64_t r = 0; r < count; ++r) {
      const int32_t* const context = contexts + (i + r) * state.tables;
      Row sum = Row{};
      for (int t = 0; t < state.tables; ++t) sum += row_at(state.rows[context[t]].bias) * weights[t];
      const Row logit = row_at(logits + (i + r) * kCalibrated);
      const Row limited = most(least(logit, Row{} + kLogitLimit), Row{} - kLogitLimit);
      row_at(block.rows[r]) = (limited * own + (sum >> 8) + 128) >> 8;
    }
    block.run_rows(exp2, count);
    block.write(frequency + i * kCalibrated, count);
    if (bounds != nullptr) block.write_bounds(bounds + i * kCalibrated);
  }
}

inline int32_t clamped(int64_t value, int32_t least, int32_t most) {
  return static_cast<int32_t>(value < least ? least : (value > most ? most : value));
}

// An integer of less than 2^22, rounded half to even.
inline Row nearest(FloatRow value) {
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23
  return (Row)(value + kToInteger) - 0x4B400000;
}

void learn(const CalibrationState& state, const int32_t* logits, const float* frequency,
           const int32_t* contexts, const uint8_t* symbols, int64_t rows) {
  constexpr int32_t kTotal = 1 << 16, kCurvatureShift = 20, kCurvatureLimit = 1 << 20, kPrior = 8 << 12;
  constexpr int32_t kBiasLimit = 1 << 17, kNear = 1 << 11, kLeastWeight = -(1 << 16), kMostWeight = 1 << 18;
  constexpr int32_t kMostMoved = 1 << 12;
  constexpr float kRate = 1035;
  constexpr Row kPlaces = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Row gradient[kCalibrationChunk], slopes[kMostTables + 1] = {};
  const int tables = state.tables;
  for (int64_t i = 0; i < rows; ++i) {
    const Row expected = __builtin_convertvector(
        *reinterpret_cast<const FloatRowInMemory*>(frequency + i * kCalibrated), Row);
    const Row error = ((kPlaces == static_cast<int32_t>(symbols[i])) & kTotal) - expected;
    // Both factors are below 2^16, as every symbol has a frequency: the product fits 32 bits unsigned.
    const auto curvature = (Row)((UnsignedRow)expected * (UnsignedRow)(kTotal - expected) >> kCurvatureShift);
    const Row coarse = (error + 32) >> 6;
    for (int t = 0; t < tables; ++t) {
      CalibrationRow& row = state.rows[contexts[i * tables + t]];
      const Row bias = most(least(row_at(row.bias), Row{} + kBiasLimit), Row{} - kBiasLimit);
      row_at(row.bias) = bias;
      slopes[t] += coarse * (bias >> 4);
      row_at(row.curvature) = least(row_at(row.curvature) + curvature, Row{} + kCurvatureLimit);
    }
    const Row logit = row_at(logits + i * kCalibrated);
    slopes[tables] += ((error + 4) >> 3) * most(least(logit, Row{} + kNear), Row{} - kNear);
    gradient[i] = error;
  }
  for (int64_t i = 0; i < rows; ++i) {
    const FloatRow step = __builtin_convertvector(gradient[i], FloatRow) * kRate;
    for (int t = 0; t < tables; ++t) {
      CalibrationRow& row = state.rows[contexts[i * tables + t]];
      row_at(row.bias) += nearest(step / __builtin_convertvector(row_at(row.curvature) + kPrior, FloatRow));
    }
  }
  for (int t = 0; t <= tables; ++t) {
    int64_t slope = 0;
    for (int j = 0; j < kCalibrated; ++j) slope += slopes[t][j];
    const int32_t moved = clamped(slope >> (t < tables ? 11 : 12), -kMostMoved, kMostMoved);
    state.weights[t] = clamped(state.weights[t] + moved, kLeastWeight, kMostWeight);
  }
}

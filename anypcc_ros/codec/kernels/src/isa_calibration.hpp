// The integer softmax, with and without the biases of a calibration, and how these are learned; included by
// isa_kernels.hpp. Plain loops, which the compiler turns into the instruction set's vectors.

// exp2[d] stands for 2^(-d / 32), d = 0 .. 511, as an integer below 2^23, exp2[0] > 0. Each step is done for
// several rows before the next: their long chains of dependent instructions then overlap.
template <int Symbols>
struct Softmax {
  static constexpr int kRows = 256 / Symbols;
  static constexpr int32_t kLast = 511, kTotal = 1 << 16, kSpread = kTotal - Symbols;

  int32_t logit[kRows][Symbols], weight[kRows][Symbols], largest[kRows], all[kRows];
  double reciprocal[kRows];

  // Frequencies of the first `rows` rows of `logit`.
  void run(const uint32_t* exp2, float* frequency, int rows) {
    for (int r = 0; r < rows; ++r) {
      int32_t most = logit[r][0];
      for (int j = 1; j < Symbols; ++j) most = logit[r][j] > most ? logit[r][j] : most;
      largest[r] = most;
    }
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < Symbols; ++j) {
        // Unsigned, because two logits may be further apart than an int32 can say.
        const uint32_t below = static_cast<uint32_t>(largest[r]) - static_cast<uint32_t>(logit[r][j]);
        weight[r][j] = static_cast<int32_t>(exp2[below < kLast ? below : kLast]);
      }
    }
    for (int r = 0; r < rows; ++r) {
      int32_t total = 0;
      for (int j = 0; j < Symbols; ++j) total += weight[r][j];
      all[r] = total;
    }
    for (int r = 0; r < rows; ++r) reciprocal[r] = 1.0 / all[r];
    for (int r = 0; r < rows; ++r) {
      // floor(weight * kSpread / all), exactly: the half keeps the quotient 0.5 / all > 2^-33 away from every
      // integer, and rounding the reciprocal and the product moves it by less than 2^-35.
      int32_t rest = kTotal;
      for (int j = 0; j < Symbols; ++j) {
        weight[r][j] =
            1 + static_cast<int32_t>((static_cast<double>(weight[r][j]) * kSpread + 0.5) * reciprocal[r]);
        rest -= weight[r][j];
      }
      int first = Symbols;
      for (int j = Symbols - 1; j >= 0; --j) first = logit[r][j] == largest[r] ? j : first;
      weight[r][first] += rest;
    }
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < Symbols; ++j) frequency[r * Symbols + j] = static_cast<float>(weight[r][j]);
    }
  }
};

template <int Symbols>
inline void softmax_rows(const int32_t* logits, const uint32_t* exp2, float* frequency, int64_t rows) {
  Softmax<Symbols> block;
  for (int64_t i = 0; i < rows; i += block.kRows) {
    const int count = rows - i < block.kRows ? static_cast<int>(rows - i) : block.kRows;
    __builtin_memcpy(block.logit, logits + i * Symbols, count * sizeof(block.logit[0]));
    block.run(exp2, frequency + i * Symbols, count);
  }
}

void softmax(const int32_t* logits, const uint32_t* exp2, float* frequency, int64_t rows, int symbols) {
  if (symbols == kCalibrated) {
    softmax_rows<kCalibrated>(logits, exp2, frequency, rows);
  } else {
    softmax_rows<256>(logits, exp2, frequency, rows);
  }
}

// ---- calibration (codec/calibration.py) ----

void calibrate(const int32_t* logits, const int32_t* contexts, int tables, const int32_t* bias,
               const uint32_t* exp2, float* frequency, int64_t rows) {
  constexpr int32_t kShift = 8, kHalf = 1 << (kShift - 1), kLogitLimit = 1 << 20;
  Softmax<kCalibrated> block;
  for (int64_t i = 0; i < rows; i += block.kRows) {
    const int count = rows - i < block.kRows ? static_cast<int>(rows - i) : block.kRows;
    for (int r = 0; r < count; ++r) {
      const int32_t* context = contexts + (i + r) * tables;
      const int32_t* logit = logits + (i + r) * kCalibrated;
      int32_t sum[kCalibrated] = {};
      for (int t = 0; t < tables; ++t) {
        const int32_t* row = bias + static_cast<int64_t>(context[t]) * kCalibrated;
        for (int j = 0; j < kCalibrated; ++j) sum[j] += row[j];
      }
      for (int j = 0; j < kCalibrated; ++j) {
        const int32_t high = logit[j] < kLogitLimit ? logit[j] : kLogitLimit;
        const int32_t limited = high > -kLogitLimit ? high : -kLogitLimit;
        block.logit[r][j] = limited + ((sum[j] + kHalf) >> kShift);
      }
    }
    block.run(exp2, frequency + i * kCalibrated, count);
  }
}

void learn(const CalibrationTables& t, const float* frequency, const int32_t* contexts, int tables,
           const uint8_t* symbols, int64_t rows) {
  constexpr int32_t kTotal = 1 << 16, kCurvatureShift = 20, kCurvatureLimit = 1 << 30, kPrior = 32 << 12;
  constexpr int32_t kBiasLimit = 1 << 18;
  constexpr double kRate = 739, kToInteger = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds half to even
  int64_t touched = 0;
  for (int64_t i = 0; i < rows; ++i) {
    int32_t gradient[kCalibrated], curvature[kCalibrated];
    for (int j = 0; j < kCalibrated; ++j) {
      const uint32_t expected = static_cast<uint32_t>(static_cast<int32_t>(frequency[i * kCalibrated + j]));
      gradient[j] = -static_cast<int32_t>(expected);
      // Both factors are below 2^16, as every symbol has a frequency: the product fits 32 bits unsigned.
      curvature[j] = static_cast<int32_t>(expected * (kTotal - expected) >> kCurvatureShift);
    }
    gradient[symbols[i] & (kCalibrated - 1)] += kTotal;
    for (int k = 0; k < tables; ++k) {
      const int32_t row = contexts[i * tables + k];
      t.touched[touched] = row;
      touched += t.seen[row] == 0;
      t.seen[row] = 1;
      int32_t* const g = t.gradient + static_cast<int64_t>(row) * kCalibrated;
      int32_t* const c = t.new_curvature + static_cast<int64_t>(row) * kCalibrated;
      for (int j = 0; j < kCalibrated; ++j) g[j] += gradient[j];
      for (int j = 0; j < kCalibrated; ++j) c[j] += curvature[j];
    }
  }
  for (int64_t i = 0; i < touched; ++i) {
    const int64_t first = static_cast<int64_t>(t.touched[i]) * kCalibrated;
    t.seen[t.touched[i]] = 0;
    for (int j = 0; j < kCalibrated; ++j) {
      const int32_t sum = t.curvature[first + j] + t.new_curvature[first + j];
      const int32_t known = sum < kCurvatureLimit ? sum : kCurvatureLimit;
      const double step = t.gradient[first + j] * kRate / (known + static_cast<double>(kPrior));
      const int32_t whole = static_cast<int32_t>((step + kToInteger) - kToInteger);
      const int32_t moved = t.bias[first + j] + whole;
      const int32_t high = moved < kBiasLimit ? moved : kBiasLimit;
      t.bias[first + j] = high > -kBiasLimit ? high : -kBiasLimit;
      t.curvature[first + j] = known;
      t.gradient[first + j] = t.new_curvature[first + j] = 0;
    }
  }
}

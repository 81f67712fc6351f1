// Mixing of contexts (codec/mixing.py), all symbols of a distribution at a time; included by isa_kernels.hpp.

typedef float FloatRow __attribute__((vector_size(4 * kSymbols)));
typedef float FloatRowInMemory __attribute__((vector_size(4 * kSymbols), aligned(4 * kSymbols), may_alias));

constexpr Row kSymbolPlaces = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Of token i in its context of kind k.
inline FloatRowInMemory& counts_at(const MixBlock& b, int64_t i, int k) {
  return *reinterpret_cast<FloatRowInMemory*>(b.counts + static_cast<int64_t>(b.rows[i * kMixed + k]) * kSymbols);
}

// Logarithms in units of 2^-8, with f for log2(1 + f) within an octave: those of float32 bits, which begin with kBias.
constexpr int kBias = 127 << 8;
inline Row biased_logarithms(FloatRow counts) { return (Row)counts >> 15; }

// In all places.
inline Row largest_of(Row v) {
  Four part[4];
  __builtin_memcpy(part, &v, sizeof(v));
  const Four a = part[0] > part[1] ? part[0] : part[1], b = part[2] > part[3] ? part[2] : part[3];
  Four four = a > b ? a : b;
  const Four crossed = ANYPCC_MIX(four, four, 2, 3, 0, 1);
  four = four > crossed ? four : crossed;
  const Four beside = ANYPCC_MIX(four, four, 1, 0, 3, 2);
  four = four > beside ? four : beside;
  return Row{} + four[0];
}

// 1 + 2^(16 + e / 2^8), rounded down: the inverse.
inline Row powers(Row exponents) {
  return __builtin_convertvector((FloatRow)((exponents << 15) + ((127 + 16) << 23)), Row) + 1;
}

void mix(const MixBlock& b, const int32_t* weights, const int32_t* beginnings) {
  constexpr int kShift = 12, kLowest = -(16 << 8);
  constexpr Four kZero = {}, kPlaces = {1, 2, 3, 4};
  typedef float FourFloats __attribute__((vector_size(16)));
  const MixBlock at = b;  // the compiler cannot know that what is written is not this
  const Row symbols = kSymbolPlaces < at.symbols;
  const float room = static_cast<float>((1 << kCoderPrecision) - at.symbols);
  // In two loops: of shorter chains of instructions more run at a time.
  for (int64_t i = 0; i < at.size; ++i) {
    const int32_t* const weight = weights + at.selector[i] * kMixed;
    UnsignedRow sum = UnsignedRow{} + static_cast<uint32_t>(beginnings[at.selector[i]]);  // which takes the bias off again
#pragma GCC unroll 4
    for (int k = 0; k < kMixed; ++k) {
      sum += (UnsignedRow)biased_logarithms(counts_at(at, i, k)) * static_cast<uint32_t>(weight[k]);
    }
    const Row mixed = symbols ? (Row)sum >> kShift : Row{} + INT32_MIN / 2;
    row_at(at.shares + i * kSymbols) = powers(most(mixed - largest_of(mixed), Row{} + kLowest)) & symbols;
  }
  for (int64_t i = 0; i < at.size; ++i) {
    const Row frequency = row_at(at.shares + i * kSymbols);
    Four until[4], before = kZero;  // the sums of the first 1, 2, ... frequencies
    __builtin_memcpy(until, &frequency, sizeof(frequency));
#pragma GCC unroll 4
    for (Four& four : until) {
      four += ANYPCC_MIX(kZero, four, 0, 4, 5, 6);
      four += ANYPCC_MIX(kZero, four, 0, 1, 4, 5);
      four += before;
      before = ANYPCC_MIX(four, four, 3, 3, 3, 3);
    }
    const FourFloats total = __builtin_convertvector(before, FourFloats), scale = room / total, share = 65536.0f / total;
    int32_t* const bounds = at.bounds + i * kSymbols;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {  // one by one: to put them together takes longer
      const Four ends = kPlaces + 4 * j + __builtin_convertvector(__builtin_convertvector(until[j], FourFloats) * scale, Four);
      __builtin_memcpy(bounds + 4 * j, &ends, sizeof(ends));
    }
    bounds[at.symbols - 1] = 1 << kCoderPrecision;
    row_at(at.shares + i * kSymbols) =
        __builtin_convertvector(__builtin_convertvector(frequency, FloatRow) * share[0], Row);
  }
}

void weigh_mix(const MixBlock& b, const uint8_t* values, int32_t* gradient) {
  constexpr int kFiner = 10;
  const MixBlock at = b;
  for (int64_t j = 0; j < at.taught; ++j) {
    const int64_t i = at.teachers[j];
    const Row error = ((kSymbolPlaces == static_cast<int32_t>(values[i])) & (1 << 16)) - row_at(at.shares + i * kSymbols);
    int32_t* const sums = gradient + static_cast<int64_t>(at.selector[i]) * kMixed * kSymbols;
#pragma GCC unroll 4
    for (int k = 0; k < kMixed; ++k) {
      row_at(sums + k * kSymbols) += error * (biased_logarithms(counts_at(at, i, k)) - kBias) >> kFiner;
    }
  }
}

void count_mix(const MixBlock& b, const uint8_t* values) {
  constexpr int kSeen = 32, kBeside = 1;
  const MixBlock at = b;
  Row large = {};
  for (int64_t j = 0; j < at.taught; ++j) {
    const int64_t i = at.teachers[j];
    const int32_t value = values[i];
    const Row beside = ((kSymbolPlaces == value - 1) | (kSymbolPlaces == value + 1)) & (kSymbolPlaces < at.symbols);
    const FloatRow seen = __builtin_convertvector(((kSymbolPlaces == value) & kSeen) | (beside & kBeside), FloatRow);
#pragma GCC unroll 4
    for (int k = 0; k < kMixed; ++k) {
      FloatRowInMemory& row = counts_at(at, i, k);
      const FloatRow counts = row + seen;
      row = counts;
      large |= counts > kCountLimit;
    }
  }
  uint64_t any = 0;
  for (int j = 0; j < kSymbols; ++j) any |= large[j];
  if (any == 0) return;
  for (int64_t j = 0; j < at.taught; ++j) {
    const int64_t i = at.teachers[j];
#pragma GCC unroll 4
    for (int k = 0; k < kMixed; ++k) {
      FloatRowInMemory& counts = counts_at(at, i, k);
      while (__builtin_expect(counts[values[i]] > kCountLimit, 0)) counts = counts * 0.5f + 1.0f;
    }
  }
}

// Mixing of contexts (codec/mixing.py), a vector of contexts at a time; included by isa_kernels.hpp.

typedef int32_t Mixed __attribute__((vector_size(4 * kMixed)));
typedef int32_t MixedInMemory __attribute__((vector_size(4 * kMixed), aligned(4), may_alias));
typedef float MixedFloat __attribute__((vector_size(4 * kMixed)));
typedef double MixedDouble __attribute__((vector_size(8 * kMixed)));
typedef double MixedDoubleInMemory __attribute__((vector_size(8 * kMixed), aligned(8), may_alias));

inline Mixed mixed_at(const int32_t* numbers) { return *reinterpret_cast<const MixedInMemory*>(numbers); }

inline int32_t sum_of(Mixed v) {
  Four half[2];
  __builtin_memcpy(half, &v, sizeof(v));
  const Four four = half[0] + half[1];
  return four[0] + four[1] + four[2] + four[3];
}

inline bool any_of(Mixed mask) {
  typedef int64_t Wide __attribute__((vector_size(4 * kMixed)));
  const Wide wide = (Wide)mask;
  return (wide[0] | wide[1] | wide[2] | wide[3]) != 0;
}

// Logarithms of 2 c + 1, with f for log2(1 + f) within an octave, in units of 2^-8: those of float32 bits.
inline Mixed logarithms(Mixed counts) {
  return (Mixed) __builtin_convertvector(2 * counts + 1, MixedFloat) >> 15;
}

void mix(const MixBlock& b, const int32_t* weights, int32_t* mixed) {
  constexpr int kShift = 12;
  for (int64_t i = 0; i < b.size; ++i) {
    const uint32_t* const node = b.nodes + i * kMixed;
    uint32_t* const count = b.counts + b.prefix[i];
    Mixed counts;
    for (int k = 0; k < kMixed; ++k) counts[k] = static_cast<int32_t>(count[node[k]]);
    Mixed zeros = counts & 0xFFFF, ones = counts >> 16;
    if (__builtin_expect(any_of(zeros + ones > kCountLimit), 0)) {
      for (int k = 0; k < b.kinds; ++k) {
        uint32_t c = count[node[k]];
        while ((c >> 16) + (c & 0xFFFF) > kCountLimit) c = c >> 1 & 0x7FFF7FFF;
        count[node[k]] = c;
        zeros[k] = static_cast<int32_t>(c & 0xFFFF);
        ones[k] = static_cast<int32_t>(c >> 16);
      }
    }
    const Mixed ratio = logarithms(ones) - logarithms(zeros);
    *reinterpret_cast<MixedInMemory*>(b.ratios + i * kMixed) = ratio;
    const Mixed product = ratio * mixed_at(weights + b.selector[i] * kMixed);
    mixed[i] = (sum_of(product) + (1 << (kShift - 1))) >> kShift;
  }
}

void learn_mix(const MixBlock& b, const uint8_t* bits, const int32_t* ones, double* gradient) {
  for (int64_t i = 0; i < b.size; ++i) {
    const int bit = bits[i];
    const double error = (bit << 16) - ones[i];
    double* const sums = gradient + b.selector[i] * kMixed;
    // Whole numbers that stay below 2^53.
    *reinterpret_cast<MixedDoubleInMemory*>(sums) +=
        error * __builtin_convertvector(mixed_at(b.ratios + i * kMixed), MixedDouble);
    const uint32_t* const node = b.nodes + i * kMixed;
    uint32_t* const count = b.counts + b.prefix[i];
    const uint32_t one = bit ? 1 << 16 : 1;
    for (int k = 0; k < b.kinds; ++k) count[node[k]] += one;
  }
}

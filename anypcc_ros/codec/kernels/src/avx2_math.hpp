// Arithmetic in 256-bit registers for the two code paths that have them; ANYPCC_AVX_VNNI tells which.
// Included once per instruction set inside that set's namespace (no include guard, on purpose).

#include "float_math.hpp"

using FloatMath = FloatVectors<8, 2, 12>;

struct Int8Math {
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;
  using Vector = __m256i;
  static constexpr int kLanes = 8, kDepth = 4, kVectors = 2, kRegisters = 8;

  static Vector load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Vector load_weights(const int8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store(int32_t* p, Vector v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static Vector splat(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  static Vector multiply_add(Vector sum, Vector value, Vector weights) {
#ifdef ANYPCC_AVX_VNNI
    return _mm256_dpbusd_avx_epi32(sum, value, weights);
#else
    // The sum of two products is at most 2 * 127 * 127 and fits 16 bits: this instruction's saturation never
    // acts.
    const __m256i pairs = _mm256_maddubs_epi16(value, weights);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
  }
};

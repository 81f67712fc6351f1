// Arithmetic in NEON registers for the two aarch64 code paths; __ARM_FEATURE_DOTPROD tells which. Included
// once per instruction set inside that set's namespace (no include guard, on purpose).

#include "float_math.hpp"

using FloatMath = FloatVectors<4, 4, 24>;

struct Int8Math {
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;
  using Vector = int32x4_t;
  static constexpr int kLanes = 4, kDepth = 4, kVectors = 4, kRegisters = 16;

  static Vector load(const int32_t* p) { return vld1q_s32(p); }
  static int8x16_t load_weights(const int8_t* p) { return vld1q_s8(p); }
  static void store(int32_t* p, Vector v) { vst1q_s32(p, v); }
  // Activations are at most 127, so signed instructions serve.
  static int8x16_t splat(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static Vector multiply_add(Vector sum, int8x16_t value, int8x16_t weights) {
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, value, weights);
#else
    // The sum of two products is at most 2 * 127 * 127 and fits 16 bits.
    const int16x8_t low = vmull_s8(vget_low_s8(value), vget_low_s8(weights));
    const int16x8_t high = vmull_high_s8(value, weights);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
  }
};

// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
#include <immintrin.h>

#include "isa.hpp"

namespace anypcc {
namespace {

#include "float_math.hpp"

using FloatMath = FloatVectors<16, 4, 24>;

struct Int8Math {
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;
  using Vector = __m512i;
  static constexpr int kLanes = 16, kDepth = 4, kVectors = 4, kRegisters = 24;

  static Vector load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Vector load_weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Vector v) { _mm512_storeu_si512(p, v); }
  static Vector splat(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  static Vector multiply_add(Vector sum, Vector value, Vector weights) {
    return _mm512_dpbusd_epi32(sum, value, weights);
  }
};

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaAvx512 = isa_table("avx512vnni");

}  // namespace anypcc

// Plain C++ for whatever the compiler targets by default: the portable fallback.
#include "isa.hpp"

namespace anypcc {
namespace {

#include "float_math.hpp"

using FloatMath = FloatVectors<4, 4, 8>;

struct Int8Math {
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;
  typedef int32_t Vector __attribute__((vector_size(16)));
  typedef int32_t Memory __attribute__((vector_size(16), aligned(4), may_alias));
  static constexpr int kLanes = 4, kDepth = 4, kVectors = 4, kRegisters = 8;

  static Vector load(const int32_t* p) { return *reinterpret_cast<const Memory*>(p); }
  static void store(int32_t* p, Vector v) { *reinterpret_cast<Memory*>(p) = v; }
  static const int8_t* load_weights(const int8_t* p) { return p; }
  static const uint8_t* splat(const uint8_t* p) { return p; }
  static Vector multiply_add(Vector sum, const uint8_t* value, const int8_t* weights) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int c = 0; c < kDepth; ++c) sum[lane] += value[c] * weights[lane * kDepth + c];
    }
    return sum;
  }
};

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaGeneric = isa_table("generic");

}  // namespace anypcc

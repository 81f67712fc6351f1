// Plain C++ in the compiler's own vectors, for whatever it targets by default: the portable fallback.
#include "isa.hpp"

namespace anypcc {
namespace {

#include "float_math.hpp"

using FloatMath = FloatVectors<4, 4, 8>;

// Bytes are multiplied as 16-bit numbers: those at even and those at odd places of each lane's four apart.
// The sum of two products is at most 2 * 127 * 127 and fits.
struct Int8Math {
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;
  typedef int32_t Vector __attribute__((vector_size(16)));
  typedef int32_t Memory __attribute__((vector_size(16), aligned(1), may_alias));
  typedef int16_t Shorts __attribute__((vector_size(16)));
  typedef uint16_t UnsignedShorts __attribute__((vector_size(16)));
  typedef uint32_t Unsigned __attribute__((vector_size(16)));
  static constexpr int kLanes = 4, kDepth = 4, kVectors = 4, kRegisters = 8;

  struct Bytes {
    Shorts even, odd;
  };

  static Bytes split(Vector v) { return {(Shorts)((UnsignedShorts)v << 8) >> 8, (Shorts)v >> 8}; }
  static Vector load(const int32_t* p) { return *reinterpret_cast<const Memory*>(p); }
  static void store(int32_t* p, Vector v) { *reinterpret_cast<Memory*>(p) = v; }
  static Bytes load_weights(const int8_t* p) { return split(*reinterpret_cast<const Memory*>(p)); }
  static Bytes splat(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return split(four - Vector{});
  }
  static Vector multiply_add(Vector sum, const Bytes& value, const Bytes& weights) {
    const Vector pairs = (Vector)(value.even * weights.even + value.odd * weights.odd);
    return sum + ((Vector)((Unsigned)pairs << 16) >> 16) + (pairs >> 16);
  }
};

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaGeneric = isa_table("generic");

}  // namespace anypcc

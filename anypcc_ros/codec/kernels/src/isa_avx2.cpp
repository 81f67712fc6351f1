// x86-64 with AVX2 and FMA.
#include <immintrin.h>

#include "isa.hpp"

namespace anypcc {
namespace {

#include "avx2_math.hpp"

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaAvx2 = isa_table("avx2");

}  // namespace anypcc

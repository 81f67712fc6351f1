// x86-64 with AVX-512 F, BW, DQ, VL and VNNI, BMI and BMI2.
#include <immintrin.h>

#include "isa.hpp"

#define ANYPCC_AVX512

namespace anypcc {
namespace {

#include "avx512_math.hpp"

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaAvx512 = isa_table("avx512vnni");

}  // namespace anypcc

// x86-64 with AVX2, FMA and AVX-VNNI: processors with byte dot products but without AVX-512.
#include <immintrin.h>

#include "isa.hpp"

#define ANYPCC_AVX_VNNI

namespace anypcc {
namespace {

#include "avx2_math.hpp"

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaAvxVnni = isa_table("avxvnni");

}  // namespace anypcc

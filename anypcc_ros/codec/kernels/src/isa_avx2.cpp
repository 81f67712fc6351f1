// x86-64 with AVX2 and FMA.
#include "isa.hpp"

#define ANYPCC_FLOAT_LANES 8
#define ANYPCC_FLOAT_VECTORS 2
#define ANYPCC_FLOAT_ROWS 12

namespace anypcc {
namespace avx2 {
namespace {
#include "conv_float_kernels.hpp"
}  // namespace
}  // namespace avx2

extern const Isa kIsaAvx2;
const Isa kIsaAvx2 = {"avx2", avx2::conv_f32, avx2::conv_f32_dw};

}  // namespace anypcc

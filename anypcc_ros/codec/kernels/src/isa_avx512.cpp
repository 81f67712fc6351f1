// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
#include "isa.hpp"

#define ANYPCC_FLOAT_LANES 16
#define ANYPCC_FLOAT_VECTORS 4
#define ANYPCC_FLOAT_ROWS 24

namespace anypcc {
namespace avx512 {
namespace {
#include "conv_float_kernels.hpp"
}  // namespace
}  // namespace avx512

extern const Isa kIsaAvx512;
const Isa kIsaAvx512 = {"avx512vnni", avx512::conv_f32, avx512::conv_f32_dw};

}  // namespace anypcc

// Plain C++ for whatever the compiler targets by default: the portable fallback.
#include "isa.hpp"

#define ANYPCC_FLOAT_LANES 4
#define ANYPCC_FLOAT_VECTORS 4
#define ANYPCC_FLOAT_ROWS 8

namespace anypcc {
namespace generic {
namespace {
#include "conv_float_kernels.hpp"
}  // namespace
}  // namespace generic

extern const Isa kIsaGeneric;
const Isa kIsaGeneric = {"generic", generic::conv_f32, generic::conv_f32_dw};

}  // namespace anypcc

// aarch64 with the dot product extension (every Armv8.2 core since the Cortex-A55/A75).
#include "isa.hpp"

#define ANYPCC_FLOAT_LANES 4
#define ANYPCC_FLOAT_VECTORS 4
#define ANYPCC_FLOAT_ROWS 24

namespace anypcc {
namespace neon {
namespace {
#include "conv_float_kernels.hpp"
}  // namespace
}  // namespace neon

extern const Isa kIsaNeon;
const Isa kIsaNeon = {"neon", neon::conv_f32, neon::conv_f32_dw};

}  // namespace anypcc

// aarch64 with the dot product extension: Cortex-A55, A75 and later, all Jetsons since Xavier's successor
// Orin.
#include <arm_neon.h>

#include "isa.hpp"

namespace anypcc {
namespace {

#include "neon_math.hpp"

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaNeonDot = isa_table("neondot");

}  // namespace anypcc

// Every aarch64 processor.
#include <arm_neon.h>

#include "isa.hpp"

namespace anypcc {
namespace {

#include "isa_kernels.hpp"
#include "neon_math.hpp"

}  // namespace

const Isa kIsaNeon = isa_table("neon");

}  // namespace anypcc

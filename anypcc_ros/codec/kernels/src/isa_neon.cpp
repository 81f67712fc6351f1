// Every aarch64 processor.
#include <arm_neon.h>

#include "isa.hpp"

namespace anypcc {
namespace {

#include "neon_math.hpp"

#include "isa_kernels.hpp"

}  // namespace

const Isa kIsaNeon = isa_table("neon");

}  // namespace anypcc

// The code paths: one table of function pointers per instruction set. Every isa_*.cpp file compiles the same kernel
// sources with its own compiler flags and fills one table. Those files must not use inline functions of the standard
// library: the linker could keep the copy compiled for a newer processor and use it everywhere.
#pragma once

#include <cstdint>

#include "plan.hpp"

namespace anypcc {

struct Isa {
  const char* name;

  // y[out] += x[in] @ w over `count` pairs of distinct output rows; x (., cin), w (cin, cout), y (., cout).
  void (*conv_f32)(const Pair* pairs, int64_t count, const float* x, const float* w, float* y, int cin, int cout);

  // dw += x[in]^T dy[out] over `count` pairs; dw (cin, cout).
  void (*conv_f32_dw)(const Pair* pairs, int64_t count, const float* x, const float* dy, float* dw, int cin,
                      int cout);
};

// The fastest path of this processor, or the one forced by anypcc_set_isa.
const Isa& active_isa();

}  // namespace anypcc

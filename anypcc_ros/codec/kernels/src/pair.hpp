// The unit of work of every sparse product.
#pragma once

#include <cstdint>

namespace anypcc {

struct Pair {
  int32_t in, out;
};

}  // namespace anypcc

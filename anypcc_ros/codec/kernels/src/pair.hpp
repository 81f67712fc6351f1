// The unit of work of every sparse product.
#pragma once

#include <cstdint>

namespace anypcc {

struct Pair {
  int32_t in, out;
};
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pairs are written as one number");

constexpr int kTileRows = 256;  // of a plan

}  // namespace anypcc

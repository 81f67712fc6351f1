// The 27 places around a node, its own in the middle, and masks with a bit for each.
#pragma once

#include <cstdint>

namespace anypcc {

constexpr int kOffsets = 27, kCentre = 13;

// Bits that are set. Without an instruction for it the compiler would call a function.
static inline int ones(uint32_t bits) {
#if defined(__POPCNT__) || !defined(__x86_64__)
  return __builtin_popcount(bits);
#else
  bits -= bits >> 1 & 0x55555555;
  bits = (bits & 0x33333333) + (bits >> 2 & 0x33333333);
  return static_cast<int>(((bits + (bits >> 4)) & 0x0F0F0F0F) * 0x01010101 >> 24);
#endif
}

}  // namespace anypcc

// An octree level: its nodes in Morton order and who touches whom, derived from the level above without a
// search.
#pragma once

#include <cstdint>

#include "buffer.hpp"

namespace anypcc {

constexpr int kOffsets = 27, kCentre = 13;

// Bits that are set. Without an instruction for it the compiler would call a function.
inline int ones(uint32_t bits) {
#if defined(__POPCNT__) || !defined(__x86_64__)
  return __builtin_popcount(bits);
#else
  bits -= bits >> 1 & 0x55555555;
  bits = (bits & 0x33333333) + (bits >> 2 & 0x33333333);
  return static_cast<int>(((bits + (bits >> 4)) & 0x0F0F0F0F) * 0x01010101 >> 24);
#endif
}

struct Level {
  int64_t nodes = 0;
  int64_t first_group = 0;  // nodes of checkerboard group 0

  // The neighbours of node i, without itself: bit k of masks[i] is set where a node lies at offset
  // k = 9 * (dx + 1) + 3 * (dy + 1) + (dz + 1); their rows are entries[start[i]] and following, by offset.
  Buffer<uint32_t> masks;
  Buffer<int64_t> start;
  GrowingBuffer<int32_t> entries;

  Buffer<int32_t> parent_row;  // row of the parent in the level above
  Buffer<uint8_t> octant;      // o = 4 * bx + 2 * by + bz
  Buffer<int32_t> groups;      // rows of group 0, octants of even parity; behind them those of group 1
  Buffer<int32_t> place;       // position of a node within its group

  const int32_t* row(int64_t i) const { return entries.data() + start.data()[i]; }
  const int32_t* group(int which) const { return groups.data() + (which == 0 ? 0 : first_group); }
  int64_t group_size(int which) const { return which == 0 ? first_group : nodes - first_group; }
};

}  // namespace anypcc

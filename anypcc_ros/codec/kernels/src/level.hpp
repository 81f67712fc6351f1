// An octree level: its nodes in Morton order and who touches whom, derived from the level above without a
// search.
#pragma once

#include <cstdint>

#include "buffer.hpp"
#include "offsets.hpp"

namespace anypcc {

struct Level {
  int64_t nodes = 0;
  int64_t first_group = 0;  // nodes of checkerboard group 0

  // The neighbours of node i, without itself: bit k of masks[i] is set where a node lies at offset
  // k = 9 * (dx + 1) + 3 * (dy + 1) + (dz + 1); their rows are entries[start[i]] and following, by offset. After the last
  // ones there are zeros, so that more of them may be read than there are.
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

// A plan: the (input row, output row) pairs of a sparse operator, by tile of output rows, then by tap.
#pragma once

#include <cstdint>

#include "buffer.hpp"
#include "pair.hpp"

namespace anypcc {

constexpr int kMaxTaps = 32;

struct Plan {
  int64_t n_out = 0, n_pairs = 0, n_tiles = 0;
  int taps = 0;
  // The tap, if any, through which every output row is fed by the input row of the same number: such pairs
  // are not listed.
  int identity_tap = -1;
  // Pairs of tile t and tap k are pairs[start[t * taps + k]] up to start[t * taps + k + 1]. Their output rows
  // count from the first row of the tile and ascend.
  Buffer<Pair> pairs;
  Buffer<int32_t> start;
  Buffer<uint32_t> masks;  // of the table a plan is built from, where the caller has none

  int64_t tile_begin(int64_t tile) const { return tile * kTileRows; }
  int64_t tile_end(int64_t tile) const {
    const int64_t end = (tile + 1) * kTileRows;
    return end < n_out ? end : n_out;
  }
  // Pairs of the tiles before this one, and of all; with those through the identity tap.
  int64_t pairs_before(int64_t tile) const {
    return start.data()[tile * taps] + (identity_tap < 0 ? 0 : tile_begin(tile));
  }
  int64_t all_pairs() const { return n_pairs + (identity_tap < 0 ? 0 : n_out); }
};

}  // namespace anypcc

// Kernel maps without a search: the neighbours of a level follow from those of the level above it.
#include <cstring>

#include "status.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

// Octant o = 4 * bx + 2 * by + bz; offset k = 9 * (dx + 1) + 3 * (dy + 1) + (dz + 1).
struct Tables {
  // rank[code][o]: children of a node with this occupancy code that come before octant o.
  uint8_t rank[256][8];
  // A child's 27 neighbours lie in 8 of its parent's 27 neighbours. For the j-th of those of a child at octant b:
  uint8_t parent[8][8];      // its offset k
  uint8_t mask[8][8];        // which of its octants touch the child
  uint8_t offset[8][8][8];   // and, by octant, the offset k from the child

  constexpr Tables() : rank(), parent(), mask(), offset() {
    for (int code = 0; code < 256; ++code) {
      for (int o = 1; o < 8; ++o) rank[code][o] = static_cast<uint8_t>(rank[code][o - 1] + ((code >> (o - 1)) & 1));
    }
    for (int b = 0; b < 8; ++b) {
      for (int k = 0; k < 27; ++k) {
        // t: the neighbour's cell per axis, in -1..2, where the child's parent covers 0..1.
        const int t[3] = {(b >> 2) + k / 9 - 1, ((b >> 1) & 1) + k / 3 % 3 - 1, (b & 1) + k % 3 - 1};
        int j = 0, p = 0, o = 0;
        for (int axis = 0; axis < 3; ++axis) {
          const int shift = t[axis] < 0 ? -1 : t[axis] / 2;
          j = 2 * j + (shift != 0);
          p = 3 * p + shift + 1;
          o = 2 * o + (t[axis] & 1);
        }
        parent[b][j] = static_cast<uint8_t>(p);
        mask[b][j] = static_cast<uint8_t>(mask[b][j] | 1 << o);
        offset[b][j][o] = static_cast<uint8_t>(k);
      }
    }
  }
};

constexpr Tables kTables;

void expand(const int32_t* parents, const uint8_t* codes, const int32_t* first_child, int64_t begin, int64_t end,
            int32_t* children, int32_t* parent_row, uint8_t* octant) {
  for (int64_t p = begin; p < end; ++p) {
    const int32_t* around = parents + p * 27;
    int64_t child = first_child[p];
    for (unsigned left = codes[p]; left != 0; left &= left - 1, ++child) {
      const int b = __builtin_ctz(left);
      int32_t* const row = children + child * 27;
      std::memset(row, 0xff, sizeof(int32_t) * 27);
      for (int j = 0; j < 8; ++j) {
        const int32_t q = around[kTables.parent[b][j]];
        if (q < 0) continue;
        const uint8_t* rank = kTables.rank[codes[q]];
        for (unsigned hits = codes[q] & kTables.mask[b][j]; hits != 0; hits &= hits - 1) {
          const int o = __builtin_ctz(hits);
          row[kTables.offset[b][j][o]] = first_child[q] + rank[o];
        }
      }
      parent_row[child] = static_cast<int32_t>(p);
      octant[child] = static_cast<uint8_t>(b);
    }
  }
}

}  // namespace
}  // namespace anypcc

// The 3x3x3 table of a level from its parents'. Offset k = 9 * (dx + 1) + 3 * (dy + 1) + (dz + 1); children are ordered by
// parent, then octant o = 4 * bx + 2 * by + bz, child o being present when bit o of the parent's code is set.
//   parents     int32 (n_parent, 27)   row of the node at each offset, or -1
//   codes       uint8 (n_parent,)
//   first_child int32 (n_parent,)      exclusive prefix sum of the codes' bit counts
// Written: children int32 (n_child, 27), parent_row int32 (n_child,), octant uint8 (n_child,). Returns n_child; kBadArgument
// when n_child is not the number of bits set, kBadIndex when a parent's neighbour is not a row of the table.
ANYPCC_EXPORT int64_t anypcc_expand_neighbors(const int32_t* parents, const uint8_t* codes, const int32_t* first_child,
                                              int64_t n_parent, int64_t n_child, int32_t* children,
                                              int32_t* parent_row, uint8_t* octant, int threads) {
  using namespace anypcc;
  if (n_parent < 0 || n_child < 0 || n_child > INT32_MAX) return kBadArgument;
  int64_t sum = 0;
  for (int64_t p = 0; p < n_parent; ++p) {
    if (first_child[p] != sum) return kBadArgument;
    sum += __builtin_popcount(codes[p]);
  }
  if (sum != n_child) return kBadArgument;
  uint32_t worst = 0;
  for (int64_t i = 0; i < n_parent * 27; ++i) {
    const uint32_t above = static_cast<uint32_t>(parents[i]) + 1u;
    worst = above > worst ? above : worst;
  }
  if (worst > static_cast<uint64_t>(n_parent)) return kBadIndex;
  parallel_ranges(n_parent, threads_for(n_child, 4096, resolve_threads(threads)),
                  [&](int64_t begin, int64_t end, int) {
                    expand(parents, codes, first_child, begin, end, children, parent_row, octant);
                  });
  return n_child;
}

// Kernel maps without a search: the neighbours of a level follow from those of the level above it.
#include <atomic>
#include <cstring>

#include "api.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

// Octant o = 4 * bx + 2 * by + bz; offset k = 9 * (dx + 1) + 3 * (dy + 1) + (dz + 1).
//
// A node's children and all neighbours of these lie in a block of 4 x 4 x 4 cells, of which the node itself
// is the middle 2 x 2 x 2: cell 16 x + 4 y + z, with x, y, z in 0 .. 3. A child at octant (bx, by, bz) sees
// the cells from 16 bx + 4 by + bz on, 3 x 3 x 3 of them.
struct Tables {
  uint8_t rank[256][8];  // children of a node with this occupancy code that come before octant o
  uint8_t inside[27];    // octants of the neighbour at offset k that lie in the block
  uint8_t cell[27][8];   // and which of its cells each of them is
  uint8_t seen[27];      // the cell at offset k of the child whose cells start at 0

  constexpr Tables() : rank(), inside(), cell(), seen() {
    for (int code = 0; code < 256; ++code) {
      for (int o = 1; o < 8; ++o) {
        rank[code][o] = static_cast<uint8_t>(rank[code][o - 1] + (code >> (o - 1) & 1));
      }
    }
    for (int k = 0; k < 27; ++k) {
      seen[k] = static_cast<uint8_t>(16 * (k / 9) + 4 * (k / 3 % 3) + k % 3);
      for (int o = 0; o < 8; ++o) {
        const int x = 2 * (k / 9) - 1 + (o >> 2), y = 2 * (k / 3 % 3) - 1 + (o >> 1 & 1),
                  z = 2 * (k % 3) - 1 + (o & 1);
        if (x < 0 || x > 3 || y < 0 || y > 3 || z < 0 || z > 3) continue;
        inside[k] = static_cast<uint8_t>(inside[k] | 1 << o);
        cell[k][o] = static_cast<uint8_t>(16 * x + 4 * y + z);
      }
    }
  }
};

constexpr Tables kTables;
constexpr uint32_t kAllOffsets = (1u << 27) - 1;

// Bits 16 x + 4 y + z, with x, y, z in 0 .. 2, moved together to bits 9 x + 3 y + z.
uint32_t compress(uint64_t block) {
  uint32_t mask = 0;
  for (int x = 0; x < 3; ++x) {
    const uint32_t plane = static_cast<uint32_t>(block >> (16 * x));
    mask |= ((plane & 7) | (plane >> 1 & 0x38) | (plane >> 2 & 0x1C0)) << (9 * x);
  }
  return mask;
}

uint32_t row_mask(const int32_t* row) {
  uint32_t mask = 0;
  for (int k = 0; k < 27; ++k) mask |= static_cast<uint32_t>(row[k] != -1) << k;
  return mask;
}

struct Expansion {
  const int32_t* parents;
  const uint32_t* parent_masks;
  const uint8_t* codes;
  const int32_t* first_child;
  int64_t n_parent, n_child;
  int32_t* children;
  uint32_t* masks;
  int32_t* parent_row;
  uint8_t* octant;

  // False if the input is inconsistent; nothing is written out of bounds then either.
  bool run(int64_t begin, int64_t end) const {
    int32_t cells[64];
    for (int64_t p = begin; p < end; ++p) {
      int64_t child = first_child[p];
      const int64_t next = child + __builtin_popcount(codes[p]);
      if (child < 0 || next > n_child || (p + 1 < n_parent ? first_child[p + 1] : n_child) != next)
        return false;

      // Few neighbours are written one by one; where there are many, whole rows of cells are cheaper.
      const uint32_t around =
          parent_masks == nullptr ? row_mask(parents + p * 27) : parent_masks[p] & kAllOffsets;
      const bool crowded = __builtin_popcount(around) > 6;
      if (crowded) std::memset(cells, 0xff, sizeof(cells));
      uint64_t present = 0;
      for (uint32_t neighbors = around; neighbors != 0; neighbors &= neighbors - 1) {
        const int k = __builtin_ctz(neighbors);
        const int32_t q = parents[p * 27 + k];
        if (static_cast<uint32_t>(q) >= n_parent) return false;
        const unsigned code = codes[q];
        for (unsigned hits = code & kTables.inside[k]; hits != 0; hits &= hits - 1) {
          const int o = __builtin_ctz(hits), cell = kTables.cell[k][o];
          cells[cell] = first_child[q] + kTables.rank[code][o];
          present |= uint64_t{1} << cell;
        }
      }

      for (unsigned left = codes[p]; left != 0; left &= left - 1, ++child) {
        const int b = __builtin_ctz(left);
        const int corner = 16 * (b >> 2) + 4 * (b >> 1 & 1) + (b & 1);
        const uint32_t mask = compress(present >> corner);
        if (crowded) {
          copy_block(cells + corner, children + child * 27);
        } else {
          pick(cells + corner, mask, children + child * 27);
        }
        masks[child] = mask;
        parent_row[child] = static_cast<int32_t>(p);
        octant[child] = static_cast<uint8_t>(b);
      }
    }
    return true;
  }

  // 3 x 3 x 3 cells. Rows of three are copied as four, whose fourth the next row overwrites.
  static void copy_block(const int32_t* block, int32_t* row) {
    for (int r = 0; r < 8; ++r)
      std::memcpy(row + 3 * r, block + 16 * (r / 3) + 4 * (r % 3), 4 * sizeof(int32_t));
    std::memcpy(row + 24, block + 16 * 2 + 4 * 2, 3 * sizeof(int32_t));
  }

  // Only the cells that `mask` names.
  static void pick(const int32_t* block, uint32_t mask, int32_t* row) {
    std::memset(row, 0xff, 27 * sizeof(int32_t));
    for (; mask != 0; mask &= mask - 1) {
      const int k = __builtin_ctz(mask);
      row[k] = block[kTables.seen[k]];
    }
  }
};

}  // namespace
}  // namespace anypcc

int64_t anypcc_expand_neighbors(const int32_t* parents, const uint32_t* parent_masks, const uint8_t* codes,
                                const int32_t* first_child, int64_t n_parent, int64_t n_child,
                                int32_t* children, uint32_t* masks, int32_t* parent_row, uint8_t* octant,
                                int threads) {
  using namespace anypcc;
  if (n_parent < 0 || n_child < 0 || n_child > INT32_MAX || (n_parent == 0 && n_child != 0))
    return kBadArgument;
  if (n_parent > 0 && first_child[0] != 0) return kBadIndex;
  const Expansion expansion{parents, parent_masks, codes, first_child, n_parent,
                            n_child, children,     masks, parent_row,  octant};
  std::atomic<bool> valid{true};
  parallel_ranges(n_parent, threads_for(n_child, 2048, resolve_threads(threads)),
                  [&](int64_t begin, int64_t end, int) {
                    if (!expansion.run(begin, end)) valid = false;
                  });
  return valid ? kOk : kBadIndex;
}

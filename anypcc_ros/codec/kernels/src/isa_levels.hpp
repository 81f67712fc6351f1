// The children of an octree level and who touches whom among them, without a search; included by isa_kernels.hpp.

#ifdef ANYPCC_AVX512
using Block = RegisterBlock;
#else
#include "block_tables.hpp"

// Bits 16 x + 4 y + z, with x, y, z in 0 .. 2, moved together to bits 9 x + 3 y + z.
inline uint32_t together(uint64_t block) {
  uint32_t mask = 0;
  for (int x = 0; x < 3; ++x) {
    const uint32_t plane = static_cast<uint32_t>(block >> (16 * x));
    mask |= ((plane & 7) | (plane >> 1 & 0x38) | (plane >> 2 & 0x1C0)) << (9 * x);
  }
  return mask;
}

// The block's cells that are there, and their rows.
struct PlainBlock {
  uint64_t present = 0;
  int32_t rows[64];

  // The children of the neighbour at offset k, of which the first one has this row.
  void put(int k, int32_t first, unsigned code) {
    const uint64_t cells = kBlockTables.cells(k, code);
    present |= cells;
    // An octant of every neighbour has the places of one parity on each axis.
    for (uint64_t left = cells; left != 0; left &= left - 1) {
      const int cell = __builtin_ctzll(left), at = cell ^ 21;
      rows[cell] = first + kBlockTables.rank[code][(at >> 2 & 4) | (at >> 1 & 2) | (at & 1)];
    }
  }

  // Rows of the cells that the child at this octant sees, by offset; those offsets.
  uint32_t take(int octant, int32_t* entries, int64_t& used) const {
    const int corner = 16 * (octant >> 2) + 4 * (octant >> 1 & 1) + (octant & 1);
    const uint64_t seen = present >> corner & (kSeen & ~kOwn);
    for (uint64_t left = seen; left != 0; left &= left - 1) entries[used++] = rows[corner + __builtin_ctzll(left)];
    return together(seen);
  }
};

using Block = PlainBlock;
#endif

int64_t expand(const Expansion& of, int64_t begin, int64_t end, int32_t* entries, int64_t used) {
  for (int64_t p = begin; p < end; ++p) {
    const unsigned own = of.codes[p];
    int64_t child = of.first_child[p];
    const uint32_t around = of.masks[p];
    if (around == 0 && (own & (own - 1)) == 0) {  // alone, and so is its only child
      if (own == 0) continue;
      of.child_masks[child] = 0;
      of.child_start[child] = used;
      of.parent_row[child] = static_cast<int32_t>(p);
      of.octant[child] = static_cast<uint8_t>(__builtin_ctz(own));
      continue;
    }
    Block block;
    block.put(kCentre, of.first_child[p], own);
    const int32_t* near = of.entries + of.start[p];
    for (uint32_t left = around; left != 0; left &= left - 1, ++near) {
      block.put(__builtin_ctz(left), of.first_child[*near], of.codes[*near]);
    }
    for (unsigned left = own; left != 0; left &= left - 1, ++child) {
      const int octant = __builtin_ctz(left);
      of.child_start[child] = used;
      of.parent_row[child] = static_cast<int32_t>(p);
      of.octant[child] = static_cast<uint8_t>(octant);
      of.child_masks[child] = block.take(octant, entries, used);
    }
  }
  return used;
}

void count_neighbors(const Neighbors& of, int64_t begin, int64_t end, int32_t* counts) {
  constexpr int64_t kMost = 255;  // that a byte counts
  for (int k = 0; k < kOffsets; ++k) counts[k] = 0;
  for (int64_t first = begin; first < end; first += kMost) {
    const int64_t last = end - first < kMost ? end : first + kMost;
    uint64_t bytes[4] = {};
    for (int64_t i = first; i < last; ++i) {
      const uint32_t mask = of.masks[of.readers == nullptr ? i : of.readers[i]] & of.which;
#pragma GCC unroll 4
      for (int part = 0; part < 4; ++part) bytes[part] += kBlockTables.bytes[mask >> (8 * part) & 255];
    }
    for (int k = 0; k < kOffsets; ++k) counts[k] += static_cast<int32_t>(bytes[k / 8] >> (k % 8 * 8) & 255);
  }
}

template <bool Across>
void list_pairs(const Neighbors& of, int64_t begin, int64_t end, Pair* const* first) {
  constexpr int kAtOnce = 4;
  constexpr uint32_t kNowhere = ~uint32_t{0} << kOffsets;
  // Four at a time, whether there are as many or not: that is foreseen more often than how many there are. What is too much
  // goes to places of its own.
  Pair nowhere[kAtOnce - 1][kTileRows];
  Pair* next[kOffsets + kAtOnce - 1];
  for (int k = 0; k < kOffsets; ++k) next[k] = first[k];
  for (int k = 0; k < kAtOnce - 1; ++k) next[kOffsets + k] = nowhere[k];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = Across ? of.readers[i] : i;
    const uint32_t mask = of.masks[row];
    const int32_t* entry = of.entries + of.start[row];
    const uint64_t out = static_cast<uint64_t>(i - begin) << 32;
    uint32_t left = mask & of.which;
    for (int count = ones(left); count > 0; count -= kAtOnce) {
      left |= kNowhere;
#pragma GCC unroll 4
      for (int u = 0; u < kAtOnce; ++u, left &= left - 1) {
        const int k = __builtin_ctz(left);
        const int32_t in = Across ? of.place[entry[ones(mask & ((1u << k) - 1))]] : *entry++;
        const uint64_t pair = static_cast<uint32_t>(in) | out;  // in one piece
        __builtin_memcpy(next[k]++, &pair, sizeof(pair));
      }
    }
  }
}

void list_neighbors(const Neighbors& of, int64_t begin, int64_t end, Pair* const* next) {
  if (of.readers == nullptr) {
    list_pairs<false>(of, begin, end, next);
  } else {
    list_pairs<true>(of, begin, end, next);
  }
}

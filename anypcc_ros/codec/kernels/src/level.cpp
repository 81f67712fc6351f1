// Levels: the children of a level and their neighbours follow from the level's own, without a search.
#include "level.hpp"

#include <atomic>
#include <cstring>

#include "api.hpp"
#include "recycled.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

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
constexpr uint32_t kCentreBit = 1u << kCentre;
constexpr unsigned kOddOctants = 0x96;  // bit o: octant o has an odd number of ones, it is in group 1
constexpr int64_t kGrain = 2048;        // children below which a second thread costs more than it brings

// Bits 16 x + 4 y + z, with x, y, z in 0 .. 2, moved together to bits 9 x + 3 y + z.
uint32_t compress(uint64_t block) {
  uint32_t mask = 0;
  for (int x = 0; x < 3; ++x) {
    const uint32_t plane = static_cast<uint32_t>(block >> (16 * x));
    mask |= ((plane & 7) | (plane >> 1 & 0x38) | (plane >> 2 & 0x1C0)) << (9 * x);
  }
  return mask;
}

struct Expansion {
  const Level& above;
  const uint8_t* codes;
  const int32_t* first_child;
  Level& below;

  // The children of parents [begin, end), with entries counted from 0 in a buffer of their own. Returns how
  // many entries there are.
  int64_t run(int64_t begin, int64_t end, GrowingBuffer<int32_t>& buffer) const {
    uint32_t* const masks = below.masks.data();
    int64_t* const start = below.start.data();
    int32_t* const parent_row = below.parent_row.data();
    uint8_t* const octant = below.octant.data();
    int32_t cells[64];
    int64_t used = 0;
    for (int64_t p = begin; p < end; ++p) {
      const unsigned own = codes[p];
      int64_t child = first_child[p];
      const uint32_t around = above.masks.data()[p];
      if (around == 0 && (own & (own - 1)) == 0) {  // alone, and so is its only child
        if (own == 0) continue;
        masks[child] = 0;
        start[child] = used;
        parent_row[child] = static_cast<int32_t>(p);
        octant[child] = static_cast<uint8_t>(__builtin_ctz(own));
        continue;
      }
      int32_t* const entries = buffer.reserve(used + 8 * (kOffsets - 1));
      uint64_t present = 0;
      const auto place = [&](int k, int64_t q) {
        const unsigned code = codes[q];
        for (unsigned hits = code & kTables.inside[k]; hits != 0; hits &= hits - 1) {
          const int o = __builtin_ctz(hits), cell = kTables.cell[k][o];
          cells[cell] = first_child[q] + kTables.rank[code][o];
          present |= uint64_t{1} << cell;
        }
      };
      place(kCentre, p);
      const int32_t* near = above.row(p);
      for (uint32_t left = around; left != 0; left &= left - 1) place(__builtin_ctz(left), *near++);

      for (unsigned left = own; left != 0; left &= left - 1, ++child) {
        const int b = __builtin_ctz(left);
        const int corner = 16 * (b >> 2) + 4 * (b >> 1 & 1) + (b & 1);
        const uint32_t mask = compress(present >> corner) & ~kCentreBit;
        masks[child] = mask;
        start[child] = used;
        parent_row[child] = static_cast<int32_t>(p);
        octant[child] = static_cast<uint8_t>(b);
        for (uint32_t seen = mask; seen != 0; seen &= seen - 1) {
          entries[used++] = cells[corner + kTables.seen[__builtin_ctz(seen)]];
        }
      }
    }
    return used;
  }
};

void reserve_nodes(Level& level, int64_t nodes) {
  level.nodes = nodes;
  level.masks.reserve(nodes);
  level.start.reserve(nodes);
  level.parent_row.reserve(nodes);
  level.octant.reserve(nodes);
  level.groups.reserve(nodes);
  level.place.reserve(nodes);
}

void split_groups(Level& level) {
  const uint8_t* const octant = level.octant.data();
  int64_t even = 0;
  for (int64_t i = 0; i < level.nodes; ++i) even += ~kOddOctants >> (octant[i] & 7) & 1;
  level.first_group = even;
  int32_t* const place = level.place.data();
  int32_t* const groups = level.groups.data();
  int32_t next[2] = {0, static_cast<int32_t>(even)};
  const int32_t first[2] = {0, static_cast<int32_t>(even)};
  for (int64_t i = 0; i < level.nodes; ++i) {
    const unsigned group = kOddOctants >> (octant[i] & 7) & 1;
    place[i] = next[group] - first[group];
    groups[next[group]++] = static_cast<int32_t>(i);
  }
}

int64_t expand(const Level& above, const uint8_t* codes, Level& below, int threads) {
  thread_local Buffer<int32_t> first_children;
  int32_t* const first_child = first_children.reserve(above.nodes);
  int64_t children = 0;
  for (int64_t p = 0; p < above.nodes; ++p) {
    first_child[p] = static_cast<int32_t>(children);
    children += ones(codes[p]);
    if (children > INT32_MAX) return kBadArgument;
  }
  reserve_nodes(below, children);

  // Every thread lists the neighbours of its own parents' children; then the lists are put end to end.
  const Expansion expansion{above, codes, first_child, below};
  const int workers = threads_for(children, kGrain, resolve_threads(threads));
  struct Part {
    GrowingBuffer<int32_t>* buffer;
    int64_t begin, end, used;
  };
  Part parts[kMaxThreads] = {};
  thread_local GrowingBuffer<int32_t> others_of_caller[kMaxThreads];
  GrowingBuffer<int32_t>* const others = others_of_caller;  // of this thread, whichever uses it below
  std::atomic<bool> enough_memory{true};
  parallel_ranges(above.nodes, workers, [&](int64_t begin, int64_t end, int worker) {
    try {
      GrowingBuffer<int32_t>& buffer = worker == 0 ? below.entries : others[worker];
      parts[worker] = {&buffer, begin, end, expansion.run(begin, end, buffer)};
    } catch (const std::bad_alloc&) {
      enough_memory = false;
    }
  });
  if (!enough_memory) return kOutOfMemory;
  int64_t used = parts[0].used;
  for (int worker = 1; worker < workers; ++worker) {
    const Part& part = parts[worker];
    if (part.buffer == nullptr) continue;
    int32_t* const entries = below.entries.reserve(used + part.used);
    if (part.used > 0) std::memcpy(entries + used, part.buffer->data(), sizeof(int32_t) * part.used);
    const int64_t last = part.end < above.nodes ? first_child[part.end] : children;
    for (int64_t i = first_child[part.begin]; i < last; ++i) below.start.data()[i] += used;
    used += part.used;
  }
  split_groups(below);
  return children;
}

// A level from the table (nodes, 27) of its neighbours.
int64_t from_table(const int32_t* table, const int32_t* parent_row, const uint8_t* octant, int64_t nodes,
                   Level& level) {
  reserve_nodes(level, nodes);
  std::memcpy(level.parent_row.data(), parent_row, sizeof(int32_t) * nodes);
  std::memcpy(level.octant.data(), octant, nodes);
  int64_t used = 0;
  for (int64_t i = 0; i < nodes; ++i) {
    int32_t* const entries = level.entries.reserve(used + kOffsets);
    level.start.data()[i] = used;
    uint32_t mask = 0;
    for (int k = 0; k < kOffsets; ++k) {
      const int32_t row = table[i * kOffsets + k];
      if (k == kCentre ? row != i : row < -1 || row >= nodes) return kBadIndex;
      if (k == kCentre || row == -1) continue;
      mask |= 1u << k;
      entries[used++] = row;
    }
    level.masks.data()[i] = mask;
  }
  split_groups(level);
  return nodes;
}

constexpr int64_t kLargeLevel = 1 << 20;  // nodes

// The level that `build` makes of an empty one; null, and its error in `status`, if it cannot.
template <class Build>
Level* built(int64_t* status, const Build& build) {
  Level* const level = Recycled<Level>::take();
  if (level == nullptr) {
    *status = kOutOfMemory;
    return nullptr;
  }
  try {
    *status = build(*level);
  } catch (const std::bad_alloc&) {
    *status = kOutOfMemory;
  }
  if (*status >= 0) return level;
  delete level;
  return nullptr;
}

}  // namespace
}  // namespace anypcc

using namespace anypcc;

Level* anypcc_level_expand(const Level* above, const uint8_t* codes, int threads, int64_t* status) {
  return built(status, [&](Level& level) { return expand(*above, codes, level, threads); });
}

Level* anypcc_level_from_table(const int32_t* table, const int32_t* parent_row, const uint8_t* octant,
                               int64_t nodes, int64_t* status) {
  return built(status, [&](Level& level) -> int64_t {
    if (nodes < 0 || nodes > INT32_MAX) return kBadArgument;
    return from_table(table, parent_row, octant, nodes, level);
  });
}

void anypcc_level_free(Level* level) {
  if (level != nullptr) Recycled<Level>::give(level, level->nodes > kLargeLevel);
}

void anypcc_level_arrays(const Level* level, LevelArrays* arrays) {
  *arrays = {level->nodes,         level->first_group,  level->masks.data(), level->parent_row.data(),
             level->octant.data(), level->groups.data()};
}

void anypcc_level_table(const Level* level, int32_t* table, int threads) {
  const int workers = threads_for(level->nodes, kGrain, resolve_threads(threads));
  parallel_ranges(level->nodes, workers, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      int32_t* const row = table + i * kOffsets;
      std::memset(row, 0xff, sizeof(int32_t) * kOffsets);
      row[kCentre] = static_cast<int32_t>(i);
      const int32_t* entry = level->row(i);
      for (uint32_t left = level->masks.data()[i]; left != 0; left &= left - 1) {
        row[__builtin_ctz(left)] = *entry++;
      }
    }
  });
}

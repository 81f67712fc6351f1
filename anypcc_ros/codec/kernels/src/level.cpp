// Levels: the children of a level and their neighbours follow from the level's own, without a search.
#include "level.hpp"

#include <atomic>
#include <cstring>

#include "api.hpp"
#include "isa.hpp"
#include "recycled.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

constexpr unsigned kOddOctants = 0x96;  // bit o: octant o has an odd number of ones, it is in group 1
constexpr int64_t kGrain = 2048;        // children below which a second thread costs more than it brings

// Nodes that are expanded between two looks whether there is room.
constexpr int64_t kAtOnce = 64;

// The children of nodes [begin, end), with entries counted from 0 in a buffer of their own. Returns how many entries there are.
int64_t expand_range(const Expansion& expansion, int64_t begin, int64_t end, GrowingBuffer<int32_t>& buffer) {
  const Isa& isa = active_isa();
  int64_t used = 0;
  for (int64_t p = begin; p < end; p += kAtOnce) {
    const int64_t last = p + kAtOnce < end ? p + kAtOnce : end;
    int32_t* const entries = buffer.reserve(used + (last - p) * kMostEntries + kSpareEntries);
    used = isa.expand(expansion, p, last, entries, used);
  }
  return used;
}

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
  const Expansion expansion{above.masks.data(), above.start.data(), above.entries.data(),
                            codes,              first_child,        below.masks.data(),
                            below.start.data(), below.parent_row.data(), below.octant.data()};
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
      parts[worker] = {&buffer, begin, end, expand_range(expansion, begin, end, buffer)};
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
  std::memset(below.entries.reserve(used + kSpareEntries) + used, 0, sizeof(int32_t) * kSpareEntries);
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
  std::memset(level.entries.reserve(used + kSpareEntries) + used, 0, sizeof(int32_t) * kSpareEntries);
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

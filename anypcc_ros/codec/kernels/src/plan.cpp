#include "plan.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include "api.hpp"
#include "isa.hpp"
#include "level.hpp"
#include "recycled.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

constexpr int64_t kLargePlan = 1 << 24;  // pairs

// Rules: which input rows feed an output row. visit(row, hit) calls hit(tap, input row) for each.

// All columns of a table (n_out, taps), with a bit per entry that is not -1.
struct WholeTable {
  const int32_t* table;
  const uint32_t* masks;
  int taps;

  template <class Hit>
  void visit(int64_t row, const Hit& hit) const {
    const int32_t* entry = table + row * taps;
    for (uint32_t left = masks[row] & UINT32_MAX >> (32 - taps); left != 0; left &= left - 1) {
      const int tap = __builtin_ctz(left);
      hit(tap, entry[tap]);
    }
  }
};

// Exactly one input row and tap per output row.
struct OneTap {
  const int32_t* in;
  const uint8_t* tap;

  template <class Hit>
  void visit(int64_t row, const Hit& hit) const {
    hit(tap[row], in[row]);
  }
};

// The masks of a table (rows, width) whose caller has none.
const uint32_t* row_masks(Plan& plan, const int32_t* table, int64_t rows, int width, int threads) {
  uint32_t* const masks = plan.masks.reserve(rows);
  parallel_ranges(rows, threads_for(rows, 2048, threads), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      uint32_t mask = 0;
      for (int k = 0; k < width; ++k) mask |= static_cast<uint32_t>(table[i * width + k] != -1) << k;
      masks[i] = mask;
    }
  });
  return masks;
}

// Makes an empty plan of this size. Returns the place of its starts: counts go one place to the right, so that their running sum
// leaves the starts.
int32_t* begin(Plan& plan, int64_t n_out, int taps) {
  plan.n_out = n_out;
  plan.taps = taps;
  plan.n_pairs = 0;
  plan.identity_tap = -1;
  plan.n_tiles = (n_out + kTileRows - 1) / kTileRows;
  int32_t* const start = plan.start.reserve(plan.n_tiles * taps + 1);
  start[0] = 0;
  return start;
}

// Makes starts of counts. Returns the number of pairs, or kBadArgument.
int64_t begin_pairs(Plan& plan) {
  int32_t* const start = plan.start.data();
  int64_t sum = 0;
  for (int64_t i = 1; i <= plan.n_tiles * plan.taps; ++i) {
    sum += start[i];
    if (sum > INT32_MAX) return kBadArgument;
    start[i] = static_cast<int32_t>(sum);
  }
  plan.pairs.reserve(sum);
  return sum;
}

// Two passes over the rule, each tile by one thread: count, then fill. Returns the number of pairs.
template <class Rule>
int64_t build(Plan& plan, const Rule& rule, int64_t n_in, int64_t n_out, int taps, int threads) {
  int32_t* const start = begin(plan, n_out, taps);
  const int workers = threads_for(n_out, 2048, threads);
  std::atomic<bool> valid{true};
  parallel_ranges(plan.n_tiles, workers, [&](int64_t begin, int64_t end, int) {
    int64_t end_in = 0;  // one past the largest input row; a negative one counts as huge
    int end_tap = 0;
    for (int64_t tile = begin; tile < end; ++tile) {
      int32_t count[256] = {};  // OneTap may name any tap
      for (int64_t i = plan.tile_begin(tile); i < plan.tile_end(tile); ++i) {
        rule.visit(i, [&](int tap, int32_t in) {
          end_in = std::max(end_in, int64_t{static_cast<uint32_t>(in)} + 1);
          end_tap = std::max(end_tap, tap + 1);
          ++count[tap];
        });
      }
      std::memcpy(start + tile * taps + 1, count, sizeof(int32_t) * taps);
    }
    if (end_in > n_in || end_tap > taps) valid = false;
  });
  if (!valid) return kBadIndex;
  const int64_t sum = begin_pairs(plan);
  if (sum < 0) return sum;
  Pair* const pairs = plan.pairs.data();
  parallel_ranges(plan.n_tiles, workers, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      int32_t next[kMaxTaps];
      std::memcpy(next, start + tile * taps, sizeof(int32_t) * taps);
      const int64_t first = plan.tile_begin(tile);
      for (int64_t i = first; i < plan.tile_end(tile); ++i) {
        rule.visit(i,
                   [&](int tap, int32_t in) { pairs[next[tap]++] = {in, static_cast<int32_t>(i - first)}; });
      }
    }
  });
  return plan.n_pairs = sum;
}

constexpr uint32_t kOddOffsets = [] {
  uint32_t odd = 0;
  for (int k = 0; k < kOffsets; ++k) odd |= static_cast<uint32_t>((k / 9 + k / 3 % 3 + k % 3) % 2 == 0) << k;
  return odd;
}();

Neighbors neighbors_of(const Level& level, uint32_t which) {
  return {level.masks.data(), level.start.data(), level.entries.data(), which, nullptr, nullptr};
}

// As `build`, of neighbours, of which nothing needs to be checked.
int64_t build_neighbors(Plan& plan, const Neighbors& rule, int64_t n_out, int threads) {
  const Isa& isa = active_isa();
  const int taps = ones(rule.which);
  int32_t* const start = begin(plan, n_out, taps);
  const int workers = threads_for(n_out, 2048, threads);
  parallel_ranges(plan.n_tiles, workers, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      int32_t counts[kOffsets], *to = start + tile * taps + 1;
      isa.count_neighbors(rule, plan.tile_begin(tile), plan.tile_end(tile), counts);
      for (uint32_t left = rule.which; left != 0; left &= left - 1) *to++ = counts[__builtin_ctz(left)];
    }
  });
  const int64_t sum = begin_pairs(plan);
  if (sum < 0) return sum;
  Pair* const pairs = plan.pairs.data();
  parallel_ranges(plan.n_tiles, workers, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      Pair* next[kOffsets];
      const int32_t* from = start + tile * taps;
      for (uint32_t left = rule.which; left != 0; left &= left - 1) next[__builtin_ctz(left)] = pairs + *from++;
      isa.list_neighbors(rule, plan.tile_begin(tile), plan.tile_end(tile), next);
    }
  });
  return plan.n_pairs = sum;
}

bool valid(const Plan* plan, int64_t n_in, int64_t n_out, int taps) {
  return plan != nullptr && n_in >= 0 && n_out >= 0 && n_in <= INT32_MAX && n_out <= INT32_MAX && taps >= 1 &&
         taps <= kMaxTaps;
}

// The result of `build`, a function without arguments; the plan is left empty if that is an error.
template <class Build>
int64_t built_or_empty(Plan& plan, const Build& build) {
  int64_t result;
  try {
    result = build();
  } catch (const std::bad_alloc&) {
    result = kOutOfMemory;
  }
  if (result < 0) plan.n_out = plan.n_tiles = plan.n_pairs = 0;
  return result;
}

}  // namespace
}  // namespace anypcc

using namespace anypcc;

Plan* anypcc_plan_new() { return Recycled<Plan>::take(); }

void anypcc_plan_free(Plan* plan) {
  if (plan != nullptr) Recycled<Plan>::give(plan, plan->n_pairs > kLargePlan);
}

int64_t anypcc_plan_build(Plan* plan, const int32_t* table, const uint32_t* masks, int64_t n_in,
                          int64_t n_out, int taps, int threads) {
  if (!valid(plan, n_in, n_out, taps)) return kBadArgument;
  const int workers = resolve_threads(threads);
  return built_or_empty(*plan, [&] {
    if (masks == nullptr) masks = row_masks(*plan, table, n_out, taps, workers);
    return build(*plan, WholeTable{table, masks, taps}, n_in, n_out, taps, workers);
  });
}

int64_t anypcc_plan_build_neighbors(Plan* plan, const Level* level, int threads) {
  if (plan == nullptr || level == nullptr) return kBadArgument;
  return built_or_empty(*plan, [&] {
    const Neighbors all = neighbors_of(*level, (1u << kOffsets) - 1);
    const int64_t pairs = build_neighbors(*plan, all, level->nodes, resolve_threads(threads));
    plan->identity_tap = kCentre;
    return pairs < 0 ? pairs : plan->all_pairs();
  });
}

int64_t anypcc_plan_build_across(Plan* plan, const Level* level, int reader, int threads) {
  if (plan == nullptr || level == nullptr || reader < 0 || reader > 1) return kBadArgument;
  return built_or_empty(*plan, [&] {
    Neighbors across = neighbors_of(*level, kOddOffsets);
    across.readers = level->group(reader);
    across.place = level->place.data();
    return build_neighbors(*plan, across, level->group_size(reader), resolve_threads(threads));
  });
}

int64_t anypcc_plan_build_one_tap(Plan* plan, const int32_t* in, const uint8_t* tap, int64_t n_in,
                                  int64_t n_out, int taps, int threads) {
  if (!valid(plan, n_in, n_out, taps)) return kBadArgument;
  return built_or_empty(
      *plan, [&] { return build(*plan, OneTap{in, tap}, n_in, n_out, taps, resolve_threads(threads)); });
}

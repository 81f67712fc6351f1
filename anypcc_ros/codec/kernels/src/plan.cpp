#include "plan.hpp"

#include <atomic>
#include <cstring>
#include <new>

#include "status.hpp"
#include "thread_pool.hpp"

namespace anypcc {

int64_t Plan::build(const int32_t* table, int64_t rows_in, int64_t rows_out, int tap_count, int threads) {
  n_in = rows_in;
  n_out = rows_out;
  taps = tap_count;
  n_pairs = 0;
  n_tiles = (n_out + kTileRows - 1) / kTileRows;
  const int workers = threads_for(n_out * taps, 1 << 16, threads);
  int32_t* const starts = start.reserve(n_tiles * taps + 1);

  // First pass: pairs per tile and tap, put one place to the right so that the running sum leaves the starts.
  starts[0] = 0;
  std::atomic<bool> valid{true};
  parallel_ranges(n_tiles, workers, [&](int64_t begin, int64_t end, int) {
    uint32_t worst = 0;  // 1 + the largest entry: an entry below -1 wraps round to a huge value
    for (int64_t tile = begin; tile < end; ++tile) {
      int32_t count[kMaxTaps] = {};
      const int32_t* row = table + tile_begin(tile) * taps;
      for (int64_t i = tile_begin(tile); i < tile_end(tile); ++i, row += taps) {
        for (int k = 0; k < taps; ++k) {
          const uint32_t above = static_cast<uint32_t>(row[k]) + 1u;
          worst = above > worst ? above : worst;
          count[k] += row[k] >= 0;
        }
      }
      std::memcpy(starts + tile * taps + 1, count, sizeof(int32_t) * taps);
    }
    if (worst > static_cast<uint64_t>(n_in)) valid = false;
  });
  if (!valid) return kBadIndex;
  int64_t sum = 0;
  for (int64_t i = 1; i <= n_tiles * taps; ++i) {
    sum += starts[i];
    if (sum > INT32_MAX) return kBadArgument;
    starts[i] = static_cast<int32_t>(sum);
  }
  n_pairs = sum;

  Pair* const all = pairs.reserve(n_pairs);
  parallel_ranges(n_tiles, workers, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      int32_t next[kMaxTaps];
      std::memcpy(next, starts + tile * taps, sizeof(int32_t) * taps);
      const int32_t* row = table + tile_begin(tile) * taps;
      for (int64_t i = tile_begin(tile); i < tile_end(tile); ++i, row += taps) {
        for (int k = 0; k < taps; ++k) {
          if (row[k] >= 0) all[next[k]++] = {row[k], static_cast<int32_t>(i)};
        }
      }
    }
  });
  return n_pairs;
}

}  // namespace anypcc

using anypcc::Plan;

ANYPCC_EXPORT Plan* anypcc_plan_new() { return new (std::nothrow) Plan; }

ANYPCC_EXPORT void anypcc_plan_free(Plan* plan) { delete plan; }

// Returns the number of pairs. A plan may be built again, for another table, with the memory it has.
ANYPCC_EXPORT int64_t anypcc_plan_build(Plan* plan, const int32_t* table, int64_t n_in, int64_t n_out, int taps,
                                        int threads) {
  if (plan == nullptr || n_in < 0 || n_out < 0 || n_in > INT32_MAX || n_out > INT32_MAX || taps < 1 ||
      taps > anypcc::kMaxTaps) {
    return anypcc::kBadArgument;
  }
  int64_t result;
  try {
    result = plan->build(table, n_in, n_out, taps, anypcc::resolve_threads(threads));
  } catch (const std::bad_alloc&) {
    result = anypcc::kOutOfMemory;
  }
  if (result < 0) plan->n_in = plan->n_out = plan->n_tiles = plan->n_pairs = 0;
  return result;
}

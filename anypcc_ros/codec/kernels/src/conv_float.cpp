// The float32 sparse convolution and its weight gradient: what training runs.
#include <atomic>
#include <cstring>
#include <new>

#include "api.hpp"
#include "buffer.hpp"
#include "isa.hpp"
#include "plan.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

// Multiply-adds below which a second thread costs more than it brings.
constexpr int64_t kGrain = 1 << 19;

bool valid(const Plan* plan, int cin, int cout) {
  return plan != nullptr && cin > 0 && cout > 0 && cin % 16 == 0 && cout % 16 == 0;
}

int workers_for(const Plan& plan, int cin, int cout, int threads) {
  return threads_for(plan.all_pairs() * cin * cout, kGrain, resolve_threads(threads));
}

void conv(const Plan& plan, const float* x, const float* w, const float* bias, float* y, int cin, int cout,
          int threads) {
  const Isa& isa = active_isa();
  const int64_t size = int64_t{cin} * cout;
  Buffer<float> zeros;
  if (bias == nullptr) bias = static_cast<float*>(std::memset(zeros.reserve(cout), 0, sizeof(float) * cout));
  std::atomic<int64_t> next{0};
  parallel_workers(workers_for(plan, cin, cout, threads), [&](int) {
    for (int64_t tile; (tile = next.fetch_add(1, std::memory_order_relaxed)) < plan.n_tiles;) {
      const int64_t first = plan.tile_begin(tile), rows = plan.tile_end(tile) - first;
      float* const sums = y + first * cout;
      if (plan.identity_tap >= 0) {
        isa.rows_f32({first, nullptr, nullptr, bias}, rows, x, w + plan.identity_tap * size, sums, cin, cout);
      } else {
        for (int64_t i = 0; i < rows; ++i) std::memcpy(sums + i * cout, bias, sizeof(float) * cout);
      }
      const int32_t* start = plan.start.data() + tile * plan.taps;
      for (int k = 0; k < plan.taps; ++k) {
        if (start[k] == start[k + 1]) continue;
        isa.product_f32(plan.pairs.data() + start[k], start[k + 1] - start[k], x, w + k * size, sums, cin,
                        cout);
      }
    }
  });
}

// Output row i from input row i, for a tile.
struct Same {
  Pair pairs[kTileRows];
  constexpr Same() : pairs() {
    for (int i = 0; i < kTileRows; ++i) pairs[i] = {i, i};
  }
};
constexpr Same kSame;

// Each thread sums over its own run of tiles, split so that runs have nearly equal pairs; then the sums are
// added in thread order. So the result depends on the number of threads, but never on their timing.
int64_t conv_dw(const Plan& plan, const float* x, const float* dy, float* dw, int cin, int cout,
                int threads) {
  const Isa& isa = active_isa();
  const int workers = workers_for(plan, cin, cout, threads);
  const int64_t size = int64_t{plan.taps} * cin * cout;
  Buffer<float> others;
  others.reserve((workers - 1) * size);

  // A tile's rows of x and dy stay in the cache over all its taps.
  const auto first_tile = [&](int worker) {
    const int64_t target = plan.all_pairs() * worker / workers;
    int64_t low = 0, high = plan.n_tiles;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (plan.pairs_before(middle) < target)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  parallel_workers(workers, [&](int worker) {
    float* const mine = worker == 0 ? dw : others.data() + (worker - 1) * size;
    std::memset(mine, 0, sizeof(float) * size);
    const int64_t end = worker + 1 == workers ? plan.n_tiles : first_tile(worker + 1);
    for (int64_t tile = first_tile(worker); tile < end; ++tile) {
      const int64_t first = plan.tile_begin(tile);
      if (plan.identity_tap >= 0) {
        isa.outer_f32(kSame.pairs, plan.tile_end(tile) - first, x + first * cin, dy + first * cout,
                      mine + int64_t{plan.identity_tap} * cin * cout, cin, cout);
      }
      const int32_t* start = plan.start.data() + tile * plan.taps;
      for (int k = 0; k < plan.taps; ++k) {
        const int64_t count = start[k + 1] - start[k];
        if (count > 0) {
          isa.outer_f32(plan.pairs.data() + start[k], count, x, dy + first * cout,
                        mine + int64_t{k} * cin * cout, cin, cout);
        }
      }
    }
  });
  for (int worker = 1; worker < workers; ++worker) {
    const float* part = others.data() + (worker - 1) * size;
    for (int64_t i = 0; i < size; ++i) dw[i] += part[i];
  }
  return kOk;
}

}  // namespace
}  // namespace anypcc

using anypcc::Plan;

int64_t anypcc_conv_f32(const Plan* plan, const float* x, const float* w, const float* bias, float* y,
                        int cin, int cout, int threads) {
  if (!anypcc::valid(plan, cin, cout)) return anypcc::kBadArgument;
  try {
    anypcc::conv(*plan, x, w, bias, y, cin, cout, threads);
    return anypcc::kOk;
  } catch (const std::bad_alloc&) {
    return anypcc::kOutOfMemory;
  }
}

int64_t anypcc_conv_f32_dw(const Plan* plan, const float* x, const float* dy, float* dw, int cin, int cout,
                           int threads) {
  if (!anypcc::valid(plan, cin, cout)) return anypcc::kBadArgument;
  try {
    return anypcc::conv_dw(*plan, x, dy, dw, cin, cout, threads);
  } catch (const std::bad_alloc&) {
    return anypcc::kOutOfMemory;
  }
}

// The exact integer layers: sparse convolution, linear layer and prediction head.
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

bool valid(const Layer* layer) {
  return layer != nullptr && layer->taps > 0 && layer->inputs > 0 && layer->inputs % 16 == 0 &&
         layer->outputs > 0 && layer->outputs % 16 == 0 && layer->rows > 0 && layer->shift > 0 &&
         layer->shift <= 62;
}

// Multiply-adds, and rows, below which a second thread costs more than it brings.
constexpr int64_t kGrain = 1 << 20;
constexpr int64_t kRowGrain = 512;

// What a thread keeps between calls.
struct Scratch {
  Buffer<int32_t> sums;
  Buffer<uint8_t> hidden;
  Pair pairs[kTileRows];
};
thread_local Scratch scratch;

// `count` numbers, a multiple of 16: a copy of known length needs no call.
void copy_sums(int32_t* to, const int32_t* from, int count) {
  for (int j = 0; j < count; j += 16) std::memcpy(to + j, from + j, 16 * sizeof(int32_t));
}

// Calls body(tile) for every tile, each on whichever thread is free; false if a thread ran out of memory.
template <class Body>
bool for_tiles(int64_t tiles, int workers, const Body& body) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> enough_memory{true};
  parallel_workers(workers, [&](int) {
    try {
      for (int64_t tile; (tile = next.fetch_add(1, std::memory_order_relaxed)) < tiles;) body(tile);
    } catch (const std::bad_alloc&) {
      enough_memory = false;
    }
  });
  return enough_memory;
}

int64_t conv(const Plan& plan, const Layer& layer, const uint8_t* x, const uint8_t* residual, uint8_t* y,
             int threads) {
  const Isa& isa = active_isa();
  const int cin = layer.inputs, cout = layer.outputs;
  const int workers = threads_for(plan.n_pairs * cin * cout, kGrain, resolve_threads(threads));
  const bool done = for_tiles(plan.n_tiles, workers, [&](int64_t tile) {
    const int64_t first = plan.tile_begin(tile), rows = plan.tile_end(tile) - first;
    int32_t* const sums = scratch.sums.reserve(kTileRows * int64_t{cout});
    for (int64_t i = 0; i < rows; ++i) copy_sums(sums + i * cout, layer.bias, cout);
    const int32_t* start = plan.start.data() + tile * plan.taps;
    for (int k = 0; k < plan.taps; ++k) {
      isa.product_int8(plan.pairs.data() + start[k], start[k + 1] - start[k], x,
                       layer.weight + int64_t{k} * cin * cout, sums, cin, cout);
    }
    isa.requantise(sums, layer.multiplier, layer.shift,
                   residual == nullptr ? nullptr : residual + first * cout, y + first * cout, rows, cout);
  });
  return done ? kOk : kOutOfMemory;
}

// The input of a layer without taps: row rows[i] of x and bias row codes[i]; i and 0 where these are null.
struct Rows {
  const uint8_t* x;
  int64_t n_in;
  const int32_t* rows;
  const uint8_t* codes;
};

// sums (count, outputs) = bias[code] + x @ w for the output rows from `first` on; false for a bad index.
bool linear_sums(const Isa& isa, const Layer& layer, const Rows& in, int64_t first, int64_t count,
                 int32_t* sums) {
  const int cout = layer.outputs;
  Pair* const pairs = scratch.pairs;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = in.rows == nullptr ? first + i : in.rows[first + i];
    const int code = in.codes == nullptr ? 0 : in.codes[first + i];
    if (row < 0 || row >= in.n_in || code >= layer.rows) return false;
    pairs[i] = {static_cast<int32_t>(row), static_cast<int32_t>(i)};
    copy_sums(sums + i * cout, layer.bias + int64_t{code} * cout, cout);
  }
  isa.product_int8(pairs, count, in.x, layer.weight, sums, layer.inputs, cout);
  return true;
}

// Calls body(first row, rows), false for a bad index, over [0, count) in tiles; the status of the whole.
template <class Body>
int64_t for_rows(int64_t count, int tile_rows, int threads, const Body& body) {
  std::atomic<bool> valid{true};
  const int workers = threads_for(count, kRowGrain, resolve_threads(threads));
  const bool done = for_tiles((count + tile_rows - 1) / tile_rows, workers, [&](int64_t tile) {
    const int64_t first = tile * tile_rows;
    const int64_t rows = count - first < tile_rows ? count - first : tile_rows;
    if (!body(first, rows)) valid = false;
  });
  return !done ? kOutOfMemory : !valid ? kBadIndex : kOk;
}

int64_t linear(const Layer& layer, const Rows& in, int64_t count, const uint8_t* residual, uint8_t* y,
               int threads) {
  const Isa& isa = active_isa();
  return for_rows(count, kTileRows, threads, [&](int64_t first, int64_t rows) {
    int32_t* const sums = scratch.sums.reserve(kTileRows * int64_t{layer.outputs});
    if (!linear_sums(isa, layer, in, first, rows, sums)) return false;
    const int64_t offset = first * layer.outputs;
    isa.requantise(sums, layer.multiplier, layer.shift, residual == nullptr ? nullptr : residual + offset,
                   y + offset, rows, layer.outputs);
    return true;
  });
}

int64_t head(const Layer& hidden, const Layer& out, const Rows& in, int64_t count, int32_t* logits,
             int threads) {
  const Isa& isa = active_isa();
  const int64_t width = hidden.outputs > out.outputs ? hidden.outputs : out.outputs;
  // 256 logits a row: fewer rows, so that they stay in the first-level cache.
  const int tile_rows = out.outputs > 64 ? kTileRows / 8 : kTileRows / 2;
  return for_rows(count, tile_rows, threads, [&](int64_t first, int64_t rows) {
    int32_t* const sums = scratch.sums.reserve(kTileRows * width);
    uint8_t* const activations = scratch.hidden.reserve(kTileRows * int64_t{hidden.outputs});
    if (!linear_sums(isa, hidden, in, first, rows, sums)) return false;
    isa.requantise(sums, hidden.multiplier, hidden.shift, nullptr, activations, rows, hidden.outputs);
    linear_sums(isa, out, {activations, rows, nullptr, nullptr}, 0, rows, sums);
    isa.rescale(sums, out.multiplier, out.shift, logits + first * out.outputs, rows, out.outputs);
    return true;
  });
}

}  // namespace
}  // namespace anypcc

using anypcc::Layer;
using anypcc::Plan;

int64_t anypcc_conv_int8(const Plan* plan, const Layer* layer, const uint8_t* x, const uint8_t* residual,
                         uint8_t* y, int threads) {
  if (plan == nullptr || !anypcc::valid(layer) || layer->taps != plan->taps || layer->rows != 1) {
    return anypcc::kBadArgument;
  }
  return anypcc::conv(*plan, *layer, x, residual, y, threads);
}

int64_t anypcc_linear_int8(const Layer* layer, const uint8_t* x, int64_t n_in, const int32_t* rows,
                           const uint8_t* codes, int64_t count, const uint8_t* residual, uint8_t* y,
                           int threads) {
  if (!anypcc::valid(layer) || layer->taps != 1 || count < 0 || n_in > INT32_MAX) return anypcc::kBadArgument;
  return anypcc::linear(*layer, {x, n_in, rows, codes}, count, residual, y, threads);
}

int64_t anypcc_head_int8(const Layer* hidden, const Layer* out, const uint8_t* x, int64_t n_in,
                         const int32_t* rows, const uint8_t* codes, int64_t count, int32_t* logits,
                         int threads) {
  if (!anypcc::valid(hidden) || !anypcc::valid(out) || hidden->taps != 1 || out->taps != 1 ||
      out->rows != 1 || out->inputs != hidden->outputs || count < 0 || n_in > INT32_MAX) {
    return anypcc::kBadArgument;
  }
  return anypcc::head(*hidden, *out, {x, n_in, rows, codes}, count, logits, threads);
}

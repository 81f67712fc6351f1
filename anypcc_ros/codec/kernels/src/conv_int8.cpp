// The exact integer layers: sparse convolution, linear layer and prediction head.
#include <atomic>
#include <cstring>
#include <new>

#include "api.hpp"
#include "buffer.hpp"
#include "isa.hpp"
#include "level.hpp"
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
constexpr int kOctants = 8;
constexpr int kBlockRows = 128;  // of a layer without taps: few enough for the first-level cache

// What a thread keeps between calls.
struct Scratch {
  Buffer<int32_t> sums;
  Buffer<uint8_t> hidden;
  int32_t ins[kTileRows], outs[kTileRows];
};
thread_local Scratch scratch;

Activation activation_of(const Layer& layer) {
  return {layer.multiplier, layer.lowest, layer.highest, layer.shift};
}

// y (., outputs), rows outs[i], or i where that is null, = activations of the rows of a layer's tap, at most kTileRows.
void activated_rows(const Isa& isa, const Layer& layer, int tap, const RowSource<int32_t>& source, int64_t count,
                    const uint8_t* x, const int32_t* outs, uint8_t* y) {
  const int cin = layer.inputs, cout = layer.outputs;
  const int8_t* const weight = layer.weight + int64_t{tap} * cin * cout;
  const Activation activation = activation_of(layer);
  if (isa.rows_activated != nullptr && activation.lowest != nullptr) {
    isa.rows_activated({source, outs, activation, y}, count, x, weight, cin, cout);
    return;
  }
  int32_t* const sums = scratch.sums.reserve(kTileRows * int64_t{cout});
  isa.rows_int8(source, count, x, weight, sums, cin, cout);
  if (outs == nullptr) return isa.activate(sums, activation, nullptr, nullptr, y, count, cout);
  for (int64_t i = 0; i < count; ++i) {
    isa.activate(sums + i * cout, activation, nullptr, nullptr, y + int64_t{outs[i]} * cout, 1, cout);
  }
}

// Calls body(tile) for every tile, each on whichever thread is free; kOk or the last error.
template <class Body>
int64_t for_tiles(int64_t tiles, int workers, const Body& body) {
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> status{kOk};
  parallel_workers(workers, [&](int) {
    try {
      for (int64_t tile; (tile = next.fetch_add(1, std::memory_order_relaxed)) < tiles;) {
        const int64_t one = body(tile);
        if (one != kOk) status = one;
      }
    } catch (const std::bad_alloc&) {
      status = kOutOfMemory;
    }
  });
  return status;
}

// The sums of a tile of a plan, which has identity taps or none, into `sums`.
void tile_sums(const Isa& isa, const Plan& plan, int64_t tile, const Layer& layer, const uint8_t* x,
               int32_t* sums) {
  const int cin = layer.inputs, cout = layer.outputs;
  const int64_t first = plan.tile_begin(tile), rows = plan.tile_end(tile) - first, size = int64_t{cin} * cout;
  if (plan.identity_tap >= 0) {
    isa.rows_int8({first, nullptr, nullptr, layer.bias}, rows, x, layer.weight + plan.identity_tap * size,
                  sums, cin, cout);
  } else {
    for (int64_t i = 0; i < rows; ++i) std::memcpy(sums + i * cout, layer.bias, sizeof(int32_t) * cout);
  }
  const int32_t* start = plan.start.data() + tile * plan.taps;
  for (int k = 0; k < plan.taps; ++k) {
    if (start[k] == start[k + 1]) continue;
    isa.product_int8(plan.pairs.data() + start[k], start[k + 1] - start[k], x, layer.weight + k * size, sums,
                     cin, cout);
  }
}

int64_t conv(const Plan& plan, const Layer& layer, const uint8_t* x, const uint8_t* residual,
             const int32_t* residual_rows, uint8_t* y, int threads) {
  const Isa& isa = active_isa();
  const int cout = layer.outputs;
  const Activation activation = activation_of(layer);
  const int workers = threads_for(plan.all_pairs() * layer.inputs * cout, kGrain, resolve_threads(threads));
  return for_tiles(plan.n_tiles, workers, [&](int64_t tile) {
    const int64_t first = plan.tile_begin(tile), rows = plan.tile_end(tile) - first;
    int32_t* const sums = scratch.sums.reserve(kTileRows * int64_t{cout});
    tile_sums(isa, plan, tile, layer, x, sums);
    const int32_t* const others = residual_rows == nullptr ? nullptr : residual_rows + first;
    const uint8_t* const more = residual == nullptr || others != nullptr ? residual : residual + first * cout;
    isa.activate(sums, activation, more, others, y + first * cout, rows, cout);
    return kOk;
  });
}

// Every child from its parent, through the tap of its octant.
int64_t up(const Level& level, const Layer& layer, const uint8_t* x, int64_t parents, uint8_t* y,
           int threads) {
  const Isa& isa = active_isa();
  const int cin = layer.inputs, cout = layer.outputs;
  const int workers = threads_for(level.nodes * cin * cout, kGrain, resolve_threads(threads));
  // Parents ascend, so that the last one tells about all.
  if (level.nodes > 0 && level.parent_row.data()[level.nodes - 1] >= parents) return kBadIndex;
  return for_tiles((level.nodes + kTileRows - 1) / kTileRows, workers, [&](int64_t tile) {
    const int64_t first = tile * kTileRows;
    const int64_t rows = level.nodes - first < kTileRows ? level.nodes - first : kTileRows;
    const uint8_t* const octant = level.octant.data() + first;
    const int32_t* const parent = level.parent_row.data() + first;
    int32_t start[kOctants + 2] = {};  // after the loops below the pairs of octant o end at start[o + 1]
    for (int64_t i = 0; i < rows; ++i) ++start[octant[i] + 2];
    for (int o = 2; o < kOctants + 2; ++o) start[o] += start[o - 1];
    int32_t *const ins = scratch.ins, *const outs = scratch.outs;
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t at = start[octant[i] + 1]++;
      ins[at] = parent[i];
      outs[at] = static_cast<int32_t>(i);
    }
    for (int o = 0; o < kOctants; ++o) {
      activated_rows(isa, layer, o, {0, ins + start[o], nullptr, layer.bias}, start[o + 1] - start[o], x, outs + start[o],
                     y + first * cout);
    }
    return kOk;
  });
}

// The input of a layer without taps: row rows[i] of x and bias row codes[i]; i and 0 where these are null.
struct Rows {
  const uint8_t* x;
  int64_t n_in;
  const int32_t* rows;
  const uint8_t* codes;

  // Of the output rows from `first` on.
  RowSource<int32_t> source(int64_t first, const int32_t* bias) const {
    return {first, rows == nullptr ? nullptr : rows + first, codes == nullptr ? nullptr : codes + first, bias};
  }

  bool valid(int64_t first, int64_t count, int bias_rows) const {
    uint32_t largest = 0;  // a negative row counts as huge
    if (rows != nullptr) {
      for (int64_t i = first; i < first + count; ++i) {
        const uint32_t row = static_cast<uint32_t>(rows[i]);
        largest = row > largest ? row : largest;
      }
    } else if (first + count > n_in) {
      return false;
    }
    uint8_t code = 0;
    if (codes != nullptr) {
      for (int64_t i = first; i < first + count; ++i) code = codes[i] > code ? codes[i] : code;
    }
    return (count == 0 || rows == nullptr || largest < n_in) && code < bias_rows;
  }
};

// Calls body(first row, rows), false for a bad index, over [0, count) in tiles; the status of the whole.
template <class Body>
int64_t for_rows(int64_t count, int tile_rows, int threads, const Body& body) {
  const int workers = threads_for(count, kRowGrain, resolve_threads(threads));
  return for_tiles((count + tile_rows - 1) / tile_rows, workers, [&](int64_t tile) {
    const int64_t first = tile * tile_rows;
    const int64_t rows = count - first < tile_rows ? count - first : tile_rows;
    return body(first, rows) ? kOk : kBadIndex;
  });
}

int64_t linear(const Layer& layer, const Rows& in, int64_t count, const uint8_t* residual, uint8_t* y,
               int threads) {
  const Isa& isa = active_isa();
  return for_rows(count, kBlockRows, threads, [&](int64_t first, int64_t rows) {
    if (!in.valid(first, rows, layer.rows)) return false;
    const int64_t offset = first * layer.outputs;
    const RowSource<int32_t> source = in.source(first, layer.bias);
    if (residual == nullptr) {
      activated_rows(isa, layer, 0, source, rows, in.x, nullptr, y + offset);
      return true;
    }
    int32_t* const sums = scratch.sums.reserve(kTileRows * int64_t{layer.outputs});
    isa.rows_int8(source, rows, in.x, layer.weight, sums, layer.inputs, layer.outputs);
    isa.activate(sums, activation_of(layer), residual + offset, nullptr, y + offset, rows, layer.outputs);
    return true;
  });
}

int64_t head(const Layer& hidden, const Layer& out, const Rows& in, int64_t count, int32_t* logits,
             int threads) {
  const Isa& isa = active_isa();
  // 256 logits a row: fewer rows, so that they stay in the first-level cache.
  const int block_rows = out.outputs > 64 ? kBlockRows / 4 : kBlockRows;
  return for_rows(count, block_rows, threads, [&](int64_t first, int64_t rows) {
    if (!in.valid(first, rows, hidden.rows)) return false;
    uint8_t* const activations = scratch.hidden.reserve(kBlockRows * int64_t{hidden.outputs});
    activated_rows(isa, hidden, 0, in.source(first, hidden.bias), rows, in.x, nullptr, activations);
    int32_t* const sums = scratch.sums.reserve(kTileRows * int64_t{out.outputs});
    isa.rows_int8({0, nullptr, nullptr, out.bias}, rows, activations, out.weight, sums, out.inputs, out.outputs);
    isa.rescale(sums, out.multiplier, out.shift, logits + first * out.outputs, rows, out.outputs);
    return true;
  });
}

}  // namespace
}  // namespace anypcc

using anypcc::Layer;
using anypcc::Level;
using anypcc::Plan;

int64_t anypcc_conv_int8(const Plan* plan, const Layer* layer, const uint8_t* x, const uint8_t* residual,
                         const int32_t* residual_rows, int64_t n_residual, uint8_t* y, int threads) {
  if (plan == nullptr || !anypcc::valid(layer) || layer->taps != plan->taps || layer->rows != 1) {
    return anypcc::kBadArgument;
  }
  for (int64_t i = 0; residual_rows != nullptr && i < plan->n_out; ++i) {
    if (residual_rows[i] < 0 || residual_rows[i] >= n_residual) return anypcc::kBadIndex;
  }
  return anypcc::conv(*plan, *layer, x, residual, residual_rows, y, threads);
}

int64_t anypcc_up_int8(const Level* level, const Layer* layer, const uint8_t* x, int64_t parents, uint8_t* y,
                       int threads) {
  if (level == nullptr || !anypcc::valid(layer) || layer->taps != anypcc::kOctants || layer->rows != 1) {
    return anypcc::kBadArgument;
  }
  return anypcc::up(*level, *layer, x, parents, y, threads);
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

// Small counts under learned statistics (codec/counts.py).
#include <algorithm>
#include <new>
#include <vector>

#include "api.hpp"
#include "range_encoder.hpp"

namespace anypcc {
namespace {

constexpr int kSmallCounts = kCalibrated;  // symbols
constexpr int kWeight = 16;                // of one value that was seen
constexpr float kTotalLimit = 1 << 20;     // of a context: every whole number below 2^24 is exact
constexpr int64_t kFirstBlock = 64, kLastBlock = 4096;

// The symbols' frequencies in every context, and where their parts of the range coder's range end.
class Statistics {
 public:
  explicit Statistics(int contexts) : rows_(contexts) {}

  const int32_t* bounds(uint8_t context) const { return rows_[context].bound; }
  void saw(uint8_t context, int symbol) { rows_[context].seen[symbol] += kWeight; }

  // Takes in what was seen since the last time.
  void learn() {
    for (Row& row : rows_) {
      float total = 0;
      for (int s = 0; s < kSmallCounts; ++s) {
        row.frequency[s] += static_cast<float>(row.seen[s]);
        row.seen[s] = 0;
        total += row.frequency[s];
      }
      if (total >= kTotalLimit) {
        total = 0;
        for (float& f : row.frequency) total += f = static_cast<float>((static_cast<int32_t>(f) + 1) / 2);
      }
      const float scale = frequency_scale(kSmallCounts, total);
      float before = 0;
      for (int s = 0; s < kSmallCounts; ++s) {
        before += row.frequency[s];
        row.bound[s] = static_cast<int32_t>(bound_at(s + 1, kSmallCounts, before, scale));
      }
    }
  }

 private:
  struct Row {
    float frequency[kSmallCounts] = {32, 8, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    int32_t bound[kSmallCounts];
    int32_t seen[kSmallCounts] = {};
  };
  std::vector<Row> rows_;
};

// Calls body(row), false for what no encoder wrote, in the order of coding, of the rows below `count` in `order`; learns after
// every block.
template <class Body>
bool for_blocks(const int32_t* order, int64_t ordered, int64_t count, Statistics& statistics, const Body& body) {
  int64_t size = kFirstBlock, left = size;
  statistics.learn();
  for (int64_t i = 0; i < ordered; ++i) {
    if (order[i] >= count) continue;
    if (left == 0) {
      statistics.learn();
      size = left = std::min(2 * size, kLastBlock);
    }
    --left;
    if (!body(order[i])) return false;
  }
  return true;
}

// How many contexts there are; -1 where `order` has other than `count` rows below that, or negative ones.
int contexts_of(const uint8_t* contexts, int64_t count, const int32_t* order, int64_t ordered) {
  int64_t rows = 0;
  for (int64_t i = 0; i < ordered; ++i) {
    if (order[i] < 0) return -1;
    rows += order[i] < count;
  }
  return rows == count ? 1 + (count == 0 ? 0 : *std::max_element(contexts, contexts + count)) : -1;
}

}  // namespace
}  // namespace anypcc

using namespace anypcc;

int64_t anypcc_density_contexts(const int64_t* coords, int64_t count, uint8_t* contexts) {
  if (count < 0) return kBadArgument;
  const auto together = [&](int64_t i, int levels) {  // the cell i and the one before it
    uint64_t apart = 0;
    for (int axis = 0; axis < 3; ++axis) apart |= static_cast<uint64_t>(coords[3 * i + axis] ^ coords[3 * i + axis - 3]) >> levels;
    return apart == 0;
  };
  for (int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && together(end, 2);) ++end;
    const int octave = 63 - __builtin_clzll(static_cast<uint64_t>(end - begin));
    for (int64_t first = begin, last; first < end; first = last) {
      for (last = first + 1; last < end && together(last, 1);) ++last;
      const int crowd = static_cast<int>(std::min<int64_t>(last - first - 1, 3));
      std::fill(contexts + first, contexts + last, static_cast<uint8_t>(crowd * 7 + octave));
    }
  }
  return kOk;
}

int64_t anypcc_counts_encode(RangeEncoder* encoder, const uint8_t* symbols, const uint8_t* contexts, int64_t count,
                             const int32_t* order, int64_t ordered) {
  if (encoder == nullptr || count < 0 || ordered < count) return kBadArgument;
  if (std::any_of(symbols, symbols + count, [](uint8_t symbol) { return symbol >= kSmallCounts; })) return kBadIndex;
  try {
    const int kinds = contexts_of(contexts, count, order, ordered);
    if (kinds < 0) return kBadIndex;
    Statistics statistics(kinds);
    uint32_t* const words = encoder->reserve(count);
    for_blocks(order, ordered, count, statistics, [&](int64_t row) {
      encode_bounded(encoder->writer, words, statistics.bounds(contexts[row]), symbols[row]);
      statistics.saw(contexts[row], symbols[row]);
      return true;
    });
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

int64_t anypcc_counts_decode(RangeDecoder* words, const uint8_t* contexts, int64_t count, const int32_t* order,
                             int64_t ordered, uint8_t* symbols) {
  if (words == nullptr || count < 0 || ordered < count) return kBadArgument;
  try {
    const int kinds = contexts_of(contexts, count, order, ordered);
    if (kinds < 0) return kBadIndex;
    Statistics statistics(kinds);
    RangeDecoder state = *words;
    const bool valid = for_blocks(order, ordered, count, statistics, [&](int64_t row) {
      const int symbol = decode_bounded(state, statistics.bounds(contexts[row]));
      if (symbol < 0) return false;
      symbols[row] = static_cast<uint8_t>(symbol);
      statistics.saw(contexts[row], symbol);
      return true;
    });
    *words = state;
    return valid ? kOk : kBadIndex;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

// The range decoder of docs/bitstream.md: what constriction's decodes under Categorical(perfect=False),
// several times faster, as nothing is built for a symbol that the search does not ask for.
#include "api.hpp"

namespace anypcc {
namespace {

constexpr int kPrecision = 24;

uint32_t next_word(RangeDecoder& state) { return state.next < state.count ? state.words[state.next++] : 0; }

// The next symbol under `size` frequencies that are whole numbers and sum to `total`; -1 if no encoder wrote
// this.
int decode(RangeDecoder& state, const float* frequency, int size, float scale) {
  const uint64_t unit = state.range >> kPrecision, place = state.value / unit;
  if (place >= uint64_t{1} << kPrecision) return -1;
  float before = 0;  // the frequencies so far: whole numbers below 2^24, which float holds
  uint32_t begin = 0;
  for (int symbol = 0;; ++symbol) {
    before += frequency[symbol];
    const uint32_t end = symbol + 1 == size ? 1u << kPrecision
                                            : static_cast<uint32_t>(symbol + 1) +
                                                  static_cast<uint32_t>(static_cast<int32_t>(before * scale));
    if (place >= end) {
      begin = end;
      continue;
    }
    state.value -= begin * unit;
    state.range = (end - begin) * unit;
    if (state.range >> 32 == 0) {
      state.value = state.value << 32 | next_word(state);
      state.range <<= 32;
    }
    return symbol;
  }
}

}  // namespace
}  // namespace anypcc

using anypcc::RangeDecoder;

int64_t anypcc_range_decode(RangeDecoder* state, const float* frequencies, int64_t count, int size,
                            int32_t* symbols) {
  if (state == nullptr || count < 0 || size < 1 || size > 1 << 16) return anypcc::kBadArgument;
  for (int64_t i = 0; i < count; ++i, frequencies += size) {
    float total = 0;
    for (int j = 0; j < size; ++j) total += frequencies[j];
    // Negated, so that not-a-number fails, too; then the bounds below stay within 2^24 and ascend.
    if (!(total >= 1 && total <= 1 << anypcc::kPrecision)) return anypcc::kBadArgument;
    const float scale = static_cast<float>((1 << anypcc::kPrecision) - size) / total;
    const int symbol = anypcc::decode(*state, frequencies, size, scale);
    if (symbol < 0) return anypcc::kBadIndex;
    symbols[i] = symbol;
  }
  return anypcc::kOk;
}

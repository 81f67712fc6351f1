// The range coder of docs/bitstream.md for decisions of two outcomes, under frequencies of sum 2^16.
#pragma once

#include "range_encoder.hpp"

namespace anypcc {

// Where the range of a one begins, if `ones` of 2^16 are ones.
inline uint64_t bound_of_ones(int32_t ones) {
  constexpr float kScale = ((1 << kCoderPrecision) - 2) / 65536.0f;
  return 1 + static_cast<uint32_t>(static_cast<int32_t>(static_cast<float>(65536 - ones) * kScale));
}

class BinaryEncoder {
 public:
  // Room for as many words as `words_needed` says.
  explicit BinaryEncoder(uint32_t* words) : words_(words) {}

  static constexpr int64_t words_needed(int64_t decisions) { return decisions / 2 + 4; }

  void encode(int bit, int32_t ones) {
    const uint64_t bound = bound_of_ones(ones);
    writer_.encode(words_, bit ? bound : 0, bit ? uint64_t{1} << kCoderPrecision : bound);
  }

  // How many words there are in all.
  int64_t finish() { return writer_.finish(words_); }

 private:
  uint32_t* words_;
  RangeWriter writer_;
};

// The next bit, or -1 if no encoder wrote these words.
inline int decode_bit(RangeDecoder& state, int32_t ones) {
  const uint64_t unit = state.range >> kCoderPrecision;
  if (state.value >> kCoderPrecision >= unit) return -1;
  const uint64_t bound = bound_of_ones(ones) * unit;
  const int bit = state.value >= bound;
  state.value -= bit ? bound : 0;
  state.range = bit ? (unit << kCoderPrecision) - bound : bound;
  refill(state);
  return bit;
}

}  // namespace anypcc

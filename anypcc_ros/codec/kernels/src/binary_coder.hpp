// The range coder of docs/bitstream.md for decisions of two outcomes, under frequencies of sum 2^16.
#pragma once

#include "range_decoder.hpp"

namespace anypcc {

// Where the range of a one begins, if `ones` of 2^16 are ones.
inline uint64_t bound_of_ones(int32_t ones) {
  constexpr float kScale = ((1 << kCoderPrecision) - 2) / 65536.0f;
  return 1 + static_cast<uint32_t>(static_cast<int32_t>(static_cast<float>(65536 - ones) * kScale));
}

// Writes the words that constriction's RangeEncoder does.
class BinaryEncoder {
 public:
  // Room for as many words as `words_needed` says.
  explicit BinaryEncoder(uint32_t* words) : words_(words) {}

  static constexpr int64_t words_needed(int64_t decisions) { return decisions / 2 + 4; }

  void encode(int bit, int32_t ones) {
    const uint64_t unit = range_ >> kCoderPrecision, bound = bound_of_ones(ones);
    const uint64_t lower = lower_ + (bit ? bound * unit : 0);
    range_ = (bit ? (uint64_t{1} << kCoderPrecision) - bound : bound) * unit;
    if (held_ > 0 && lower + range_ > lower) {
      release(lower < lower_);
      held_ = 0;
    }
    lower_ = lower;
    if (range_ >> 32 != 0) return;
    const uint32_t word = static_cast<uint32_t>(lower_ >> 32);
    lower_ <<= 32;
    range_ <<= 32;
    if (held_ > 0) {
      ++held_;
    } else if (lower_ + range_ > lower_) {
      words_[count_++] = word;
    } else {
      held_ = 1;
      first_held_ = word;
    }
  }

  // How many words there are in all.
  int64_t finish() {
    if (range_ == UINT64_MAX) return 0;
    const uint64_t point = lower_ + 0xFFFFFFFF;
    if (held_ > 0) release(point < lower_);
    words_[count_++] = static_cast<uint32_t>(point >> 32);
    if (static_cast<uint32_t>((lower_ + range_) >> 32) == static_cast<uint32_t>(point >> 32)) words_[count_++] = 0;
    return count_;
  }

 private:
  // The words that a carry may still have changed: the first one, and others that are all ones.
  void release(bool carry) {
    words_[count_++] = first_held_ + (carry ? 1 : 0);
    for (int64_t i = 1; i < held_; ++i) words_[count_++] = carry ? 0 : UINT32_MAX;
  }

  uint32_t* words_;
  int64_t count_ = 0, held_ = 0;
  uint32_t first_held_ = 0;
  uint64_t lower_ = 0, range_ = UINT64_MAX;
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

// The range encoder of docs/bitstream.md: it writes the words that constriction's RangeEncoder does.
#pragma once

#include "buffer.hpp"
#include "range_decoder.hpp"

namespace anypcc {

// The arithmetic, on words that whoever owns them has room for: as many as there are symbols, and 3 more.
class RangeWriter {
 public:
  static constexpr int64_t kMostAtEnd = 3;

  // A symbol whose part of 2^kCoderPrecision is [begin, end).
  void encode(uint32_t* words, uint64_t begin, uint64_t end) {
    const uint64_t unit = range_ >> kCoderPrecision, lower = lower_ + begin * unit;
    range_ = (end - begin) * unit;
    if (held_ > 0 && lower + range_ > lower) {
      release(words, lower < lower_);
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
      words[count_++] = word;
    } else {
      held_ = 1;
      first_held_ = word;
    }
  }

  // How many words there are in all. A copy may finish, and the writer go on: then the last ones change.
  int64_t finish(uint32_t* words) {
    if (range_ == UINT64_MAX) return 0;
    const uint64_t point = lower_ + 0xFFFFFFFF;
    if (held_ > 0) release(words, point < lower_);
    const uint32_t last = static_cast<uint32_t>(point >> 32);
    words[count_++] = last;
    if (static_cast<uint32_t>((lower_ + range_) >> 32) == last) words[count_++] = 0;
    return count_;
  }

  // Words so far, also those that a carry may still change.
  int64_t words() const { return count_ + held_; }

 private:
  // The words that a carry may still have changed: the first one, and others that are all ones.
  void release(uint32_t* words, bool carry) {
    words[count_++] = first_held_ + (carry ? 1 : 0);
    for (int64_t i = 1; i < held_; ++i) words[count_++] = carry ? 0 : UINT32_MAX;
  }

  int64_t count_ = 0, held_ = 0;
  uint32_t first_held_ = 0;
  uint64_t lower_ = 0, range_ = UINT64_MAX;
};

struct RangeEncoder {
  // Room for the words of so many symbols more.
  uint32_t* reserve(int64_t symbols) {
    return words.reserve(writer.words() + symbols + RangeWriter::kMostAtEnd);
  }

  GrowingBuffer<uint32_t> words;
  RangeWriter writer;
};

// One of the symbols whose parts end at these ascending bounds.
inline void encode_bounded(RangeWriter& writer, uint32_t* words, const int32_t* bounds, int symbol) {
  writer.encode(words, symbol == 0 ? 0 : static_cast<uint64_t>(bounds[symbol - 1]),
                static_cast<uint64_t>(bounds[symbol]));
}

}  // namespace anypcc

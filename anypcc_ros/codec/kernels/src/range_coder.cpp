// The range coder, under given frequencies and under those that logits predict.
#include <algorithm>
#include <atomic>
#include <new>

#include "isa.hpp"
#include "range_decoder.hpp"
#include "range_encoder.hpp"
#include "recycled.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

constexpr int64_t kLargeEncoder = 1 << 22;  // words
constexpr int kMostSymbols = 256;           // of what logits predict

// The sum of a row of frequencies, 0 if they are none.
float total_of(const float* frequencies, int size) {
  float total = 0;
  for (int j = 0; j < size; ++j) total += frequencies[j];
  // Not-a-number fails, too; then the bounds stay within 2^24 and ascend.
  return total >= 1 && total <= 1 << kCoderPrecision ? total : 0;
}

// Calls body(first row, rows, their bounds) on blocks of kSoftmaxRows.
template <class Body>
void for_bounds(const int32_t* logits, const uint32_t* exp2, int64_t count, int symbols, const Body& body) {
  const Isa& isa = active_isa();
  thread_local Buffer<int32_t> buffer;
  int32_t* const bounds = buffer.reserve(kSoftmaxRows * kMostSymbols);
  for (int64_t i = 0; i < count; i += kSoftmaxRows) {
    const int64_t rows = std::min<int64_t>(count - i, kSoftmaxRows);
    isa.softmax(logits + i * symbols, exp2, nullptr, bounds, rows, symbols);
    body(i, rows, bounds);
  }
}

// What one thread decodes while another one computes the bounds of the blocks to come.
class Lookahead {
 public:
  Lookahead(const int32_t* logits, const uint32_t* exp2, int64_t count)
      : logits_(logits), exp2_(exp2), count_(count), blocks_((count + kSoftmaxRows - 1) / kSoftmaxRows) {
    thread_local Buffer<int32_t> buffer;
    ring_ = buffer.reserve((kRing + 1) * kBlock);
  }

  // False for words that no encoder wrote.
  bool decode(RangeDecoder& words, uint8_t* symbols) {
    RangeDecoder state = words;
    bool valid = true;
    for (int64_t block = 0; block < blocks_ && valid; ++block) {
      const int32_t* const bounds = bounds_of(block);
      const int64_t first = block * kSoftmaxRows, rows = rows_of(block);
      for (int64_t i = 0; i < rows && valid; ++i) {
        const int symbol = decode_bounded(state, bounds + i * kCalibrated);
        symbols[first + i] = static_cast<uint8_t>(symbol);
        valid = symbol >= 0;
      }
      decoded_.store(block + 1, std::memory_order_release);
    }
    claimed_.store(blocks_);  // nobody need go on
    decoded_.store(blocks_);
    words = state;
    return valid;
  }

  void compute_ahead() {
    for (;;) {
      int64_t block = claimed_.load();
      if (block >= blocks_) return;
      if (block >= decoded_.load(std::memory_order_acquire) + kRing) {
        relax();
      } else if (claimed_.compare_exchange_weak(block, block + 1)) {
        compute(block, ring_ + block % kRing * kBlock);
        ready_.store(block + 1, std::memory_order_release);
      }
    }
  }

 private:
  static constexpr int64_t kRing = 64, kBlock = kSoftmaxRows * kCalibrated;
  static constexpr int kPatience = 2000;

  int64_t rows_of(int64_t block) const { return std::min<int64_t>(count_ - block * kSoftmaxRows, kSoftmaxRows); }

  void compute(int64_t block, int32_t* bounds) const {
    const int32_t* const logits = logits_ + block * kBlock;
    active_isa().softmax(logits, exp2_, nullptr, bounds, rows_of(block), kCalibrated);
  }

  // Of a block that nobody has begun, or that somebody has begun and was interrupted, this thread's own.
  const int32_t* bounds_of(int64_t block) {
    int64_t next = block;
    if (!claimed_.compare_exchange_strong(next, block + 1)) {
      for (int i = 0; i < kPatience; ++i) {
        if (ready_.load(std::memory_order_acquire) > block) return ring_ + block % kRing * kBlock;
        relax();
      }
    }
    int32_t* const own = ring_ + kRing * kBlock;
    compute(block, own);
    return own;
  }

  const int32_t* const logits_;
  const uint32_t* const exp2_;
  const int64_t count_, blocks_;
  int32_t* ring_;                    // kRing blocks of whoever computes ahead, and one of the decoder
  std::atomic<int64_t> claimed_{0};  // blocks that somebody has begun
  std::atomic<int64_t> ready_{0};    // one past the last block that was computed ahead
  std::atomic<int64_t> decoded_{0};
};

constexpr int64_t kGrain = 2048;  // symbols below which a second thread costs more than it brings

bool valid(int64_t count, int symbols) {
  return count >= 0 && (symbols == kCalibrated || symbols == kMostSymbols);
}

}  // namespace
}  // namespace anypcc

using namespace anypcc;

int64_t anypcc_range_decode(RangeDecoder* state, const float* frequencies, int64_t count, int size,
                            int32_t* symbols) {
  if (state == nullptr || count < 0 || size < 1 || size > 1 << 16) return kBadArgument;
  for (int64_t i = 0; i < count; ++i, frequencies += size) {
    const float total = total_of(frequencies, size);
    if (total == 0) return kBadArgument;
    const int symbol = decode_symbol(*state, frequencies, size, frequency_scale(size, total));
    if (symbol < 0) return kBadIndex;
    symbols[i] = symbol;
  }
  return kOk;
}

RangeEncoder* anypcc_range_encoder_new() {
  RangeEncoder* const encoder = Recycled<RangeEncoder>::take();
  if (encoder != nullptr) encoder->writer = {};
  return encoder;
}

void anypcc_range_encoder_free(RangeEncoder* encoder) {
  if (encoder != nullptr) Recycled<RangeEncoder>::give(encoder, encoder->writer.words() > kLargeEncoder);
}

int64_t anypcc_range_encode(RangeEncoder* encoder, const int32_t* symbols, const float* frequencies,
                            int64_t count, int size) {
  if (encoder == nullptr || count < 0 || size < 1 || size > 1 << 16) return kBadArgument;
  for (int64_t i = 0; i < count; ++i) {
    if (symbols[i] < 0 || symbols[i] >= size) return kBadIndex;
    if (total_of(frequencies + i * size, size) == 0) return kBadArgument;
  }
  try {
    uint32_t* const words = encoder->reserve(count);
    for (int64_t i = 0; i < count; ++i, frequencies += size) {
      const float scale = frequency_scale(size, total_of(frequencies, size));
      float before = 0;
      for (int j = 0; j < symbols[i]; ++j) before += frequencies[j];
      const uint32_t begin = bound_at(symbols[i], size, before, scale);
      const uint32_t end = bound_at(symbols[i] + 1, size, before + frequencies[symbols[i]], scale);
      encoder->writer.encode(words, begin, end);
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

int64_t anypcc_range_encoder_finish(RangeEncoder* encoder, const uint32_t** words) {
  if (encoder == nullptr) return kBadArgument;
  try {
    *words = encoder->reserve(0);
    RangeWriter writer = encoder->writer;
    return writer.finish(encoder->words.data());
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

int64_t anypcc_predicted_encode(RangeEncoder* encoder, const int32_t* logits, const uint32_t* exp2,
                                const uint8_t* symbols, int64_t count, int size) {
  if (encoder == nullptr || !valid(count, size)) return kBadArgument;
  for (int64_t i = 0; i < count; ++i) {
    if (symbols[i] >= size) return kBadIndex;
  }
  try {
    uint32_t* const words = encoder->reserve(count);
    for_bounds(logits, exp2, count, size, [&](int64_t first, int64_t rows, const int32_t* bounds) {
      for (int64_t i = 0; i < rows; ++i, bounds += size) {
        encode_bounded(encoder->writer, words, bounds, symbols[first + i]);
      }
    });
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

int64_t anypcc_predicted_decode(RangeDecoder* words, const int32_t* logits, const uint32_t* exp2,
                                int64_t count, uint8_t* symbols, int threads) {
  if (words == nullptr || count < 0) return kBadArgument;
  try {
    Lookahead lookahead(logits, exp2, count);
    bool decoded = false;
    parallel_workers(std::min(threads_for(count, kGrain, resolve_threads(threads)), 2), [&](int worker) {
      if (worker == 0) {
        decoded = lookahead.decode(*words, symbols);
      } else {
        lookahead.compute_ahead();
      }
    });
    return decoded ? kOk : kBadIndex;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

// Channels: the values of codec/channels.py, coded under the mixed contexts of codec/mixing.py.
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "api.hpp"
#include "buffer.hpp"
#include "isa.hpp"
#include "range_encoder.hpp"
#include "recycled.hpp"

namespace anypcc {
namespace {

constexpr int kMaxBits = 8, kPartBits = 4;  // of a token, and of a symbol
constexpr int kMaxSelectors = 16;

int bit_length(uint64_t value) { return value == 0 ? 0 : 64 - __builtin_clzll(value); }

// What was learned, and the block of tokens at work. Its arithmetic is in isa_mixing.hpp.
class Mixer {
 public:
  Mixer(int bits, const int64_t* sizes, int selectors)
      : parts_(bits > kPartBits ? 2 : 1),
        bits_{bits > kPartBits ? bits - kPartBits : bits, kPartBits},
        selectors_(selectors),
        stride_(1 + (parts_ - 1) * (1 << bits_[0])) {
    int64_t contexts = 0;
    for (int k = 0; k < kMixed; ++k) {
      first_[k] = static_cast<uint32_t>(contexts);
      contexts += sizes[k];
    }
    places_.resize(contexts);
    if (counts_ == nullptr) throw std::bad_alloc();
    place();  // of no context
    for (auto& part : weights_) std::fill_n(part, kMaxSelectors * kMixed, kWeightSum / kMixed);
  }
  Mixer(const Mixer&) = delete;
  Mixer& operator=(const Mixer&) = delete;
  ~Mixer() { Recycled<Counts>::give(counts_, used_ > kLarge); }

  int parts() const { return parts_; }
  int bits(int part) const { return bits_[part]; }

  void begin(int size) {
    size_ = size;
    part_ = 0;
  }

  // Of token i of the block; contexts (kinds,).
  void set(int i, const uint32_t* contexts, int selector) {
    for (int k = 0; k < kMixed; ++k) {
      uint32_t& row = places_[first_[k] + contexts[k]];
      if (row == 0) row = place();
      rows_[i * kMixed + k] = row;
      __builtin_prefetch(counts_->data() + static_cast<int64_t>(row) * kSymbols, 1);
    }
    selector_[i] = static_cast<uint8_t>(selector);
  }

  // For the next part: where the ranges of each token's symbols end, (size, kSymbols).
  const int32_t* predict() {
    int32_t coarse[kMaxSelectors * kMixed], beginnings[kMaxSelectors];
    for (int s = 0; s < selectors_; ++s) {
      uint32_t sum = 0;
      for (int k = s * kMixed; k < s * kMixed + kMixed; ++k) {
        coarse[k] = weights_[part_][k] >> kCoarser;
        sum += static_cast<uint32_t>(coarse[k]);
      }
      beginnings[s] = static_cast<int32_t>((1u << 11) - (127u << 8) * sum);
    }
    active_isa().mix(block(), coarse, beginnings);
    return bounds_;
  }

  // The part's values (size,) were these.
  void learn(const uint8_t* values) {
    if (part_ + 1 < parts_) fetch(values);
    weigh(values);
    active_isa().count_mix(block(), values);
    if (++part_ == parts_) return;
    for (int i = 0; i < size_; ++i) {
      for (int k = 0; k < kMixed; ++k) rows_[i * kMixed + k] += 1 + values[i];
    }
  }

 private:
  using Counts = GrowingBuffer<float>;
  static constexpr int64_t kLarge = 1 << 20;  // rows
  static constexpr float kUnseen = 2;
  static constexpr int kRate = 5;
  static constexpr int kCoarser = 4;  // bits of a weight that only learning uses
  static constexpr int32_t kWeightSum = 3 << 15, kWeightLimit = (1 << 19) - 1;

  // Begins to fetch the rows of the next part.
  void fetch(const uint8_t* values) const {
    for (int i = 0; i < size_; ++i) {
      for (int k = 0; k < kMixed; ++k) {
        __builtin_prefetch(counts_->data() + (int64_t{rows_[i * kMixed + k]} + 1 + values[i]) * kSymbols, 1);
      }
    }
  }

  void weigh(const uint8_t* values) {
    int members[kMaxSelectors] = {};
    for (int i = 0; i < size_; ++i) ++members[selector_[i]];
    std::memset(gradient_, 0, sizeof(int32_t) * static_cast<size_t>(selectors_ * kMixed * kSymbols));
    active_isa().weigh_mix(block(), values, gradient_);
    for (int s = 0; s < selectors_; ++s) {
      if (members[s] == 0) continue;
      const int shift = kRate + bit_length(members[s]) / 2;
      for (int k = s * kMixed; k < s * kMixed + kMixed; ++k) {
        int32_t sum = 0;  // at most 64 times 16 of 19 bits
        for (int j = 0; j < kSymbols; ++j) sum += gradient_[k * kSymbols + j];
        weights_[part_][k] = std::clamp(weights_[part_][k] + (sum >> shift), -kWeightLimit, kWeightLimit);
      }
    }
  }

  // The counts of one more context, which has seen nothing: of its tokens' first part, then of the second after each value of the first.
  uint32_t place() {
    const int64_t begin = used_;
    used_ += stride_;
    std::fill_n(counts_->reserve(used_ * kSymbols) + begin * kSymbols, stride_ * kSymbols, kUnseen);
    return static_cast<uint32_t>(begin);
  }

  MixBlock block() {
    return {size_, 1 << bits_[part_], counts_->data(), rows_, selector_, bounds_, shares_};
  }

  const int parts_, bits_[2], selectors_;
  const int64_t stride_;
  uint32_t first_[kMixed];
  std::vector<uint32_t> places_;  // the row at which the counts of a context begin; 0 if it was never seen
  Counts* counts_ = Recycled<Counts>::take();
  int64_t used_ = 0;

  int part_ = 0, size_ = 0;
  int32_t weights_[2][kMaxSelectors * kMixed];  // in units of 2^-16
  uint32_t rows_[kMixBlock * kMixed];
  uint8_t selector_[kMixBlock];
  alignas(64) int32_t bounds_[kMixBlock * kSymbols], shares_[kMixBlock * kSymbols];
  alignas(64) int32_t gradient_[kMaxSelectors * kMixed * kSymbols];
};

// ---- what values leave besides their tokens: bits, the highest first ----

class BitSink {
 public:
  explicit BitSink(uint8_t* bytes) : bytes_(bytes) {}
  void write(uint64_t value, int bits) {
    for (int bit = bits - 1; bit >= 0; --bit) {
      pending_ = pending_ << 1 | (value >> bit & 1);
      if (++count_ % 8 == 0) bytes_[count_ / 8 - 1] = static_cast<uint8_t>(pending_);
    }
  }
  int64_t finish() {
    if (const int rest = count_ % 8) bytes_[count_ / 8] = static_cast<uint8_t>(pending_ << (8 - rest));
    return (count_ + 7) / 8;
  }

 private:
  uint8_t* bytes_;
  uint32_t pending_ = 0;
  int64_t count_ = 0;
};

class BitSource {
 public:
  BitSource(const uint8_t* bytes, int64_t size) : bytes_(bytes), size_(8 * size) {}
  uint64_t read(int bits) {
    uint64_t value = 0;
    for (int bit = 0; bit < bits; ++bit, ++at_) {
      value = value << 1 | (at_ < size_ ? bytes_[at_ / 8] >> (7 - at_ % 8) & 1 : 0);
    }
    return value;
  }
  int64_t used() const { return at_; }
  bool overrun() const { return at_ > size_; }

 private:
  const uint8_t* bytes_;
  int64_t size_, at_ = 0;
};

// ---- tokens of integers ----

uint64_t zigzag(int64_t value) { return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63); }
int64_t unzigzag(uint64_t value) { return static_cast<int64_t>((value >> 1) ^ -(value & 1)); }
int64_t wrapping_sum(int64_t a, int64_t b) { return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b)); }
int64_t wrapping_difference(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}

uint32_t token_of(uint64_t value) {
  if (value < 16) return static_cast<uint32_t>(value);
  const int octave = bit_length(value) - 5;
  return static_cast<uint32_t>(16 + 4 * octave + (value >> (octave + 2) & 3));
}

int rest_bits(uint32_t token) { return token < 16 ? 0 : static_cast<int>(token - 16) / 4 + 2; }
uint64_t least_of(uint32_t token) { return token < 16 ? token : uint64_t{4 + (token & 3)} << rest_bits(token); }

// Of five, without a branch.
template <class T>
T median(const T* v) {
  const T low = std::max(std::min(v[0], v[1]), std::min(v[2], v[3]));
  const T high = std::min(std::max(v[0], v[1]), std::max(v[2], v[3]));
  return std::max(std::min(low, high), std::min(std::max(low, high), v[4]));
}

// ---- the two kinds of channels ----

// Of how far values of a few bits lie apart, rounded down, at most 7.
struct Roots {
  uint8_t of[1 << kMaxBits];
  constexpr Roots() : of() {
    for (int root = 1; root < 8; ++root) {
      for (int spread = root * root; spread < 1 << kMaxBits; ++spread) of[spread] = static_cast<uint8_t>(root);
    }
  }
};
constexpr Roots kRoots;

// Values of a few bits, which are tokens themselves.
class Direct {
 public:
  static constexpr int kSelectors = 8;

  Direct(const Surroundings& around, int kind, int64_t low, const uint8_t*)
      : around_(around),
        bits_(kind),
        coarse_(std::max(kind - 5, 0)),
        part_(std::max(bit_length(static_cast<uint64_t>(std::max<int64_t>(around.points - 1, 0))) - kPlaceBits, 0)),
        low_(low),
        sizes_{8 << kind, 16 << kind, 2048, 4096} {}
  int bits() const { return bits_; }
  const int64_t* sizes() const { return sizes_; }

  int contexts(int64_t row, int64_t, const int64_t*, const uint8_t* tokens, uint32_t* context) const {
    const int32_t* const nearest = around_.nearest + kNeighbors * row;
    const uint8_t* const share = around_.shares + 2 * row;
    int32_t near[kNeighbors];
    for (int j = 0; j < kNeighbors; ++j) near[j] = tokens[nearest[j]];
    const int32_t three = near[0] + ((share[0] * (near[1] - near[0]) + share[1] * (near[2] - near[0]) + 128) >> 8);
    const int32_t spread = std::max({near[0], near[1], near[2]}) - std::min({near[0], near[1], near[2]});
    const uint32_t root = kRoots.of[spread], reach = around_.reach[row] & 15;
    context[0] = static_cast<uint32_t>(three) * 8 + root;
    context[1] = static_cast<uint32_t>(near[0]) * 16 + reach;
    context[2] = static_cast<uint32_t>(row >> part_) * 32 + static_cast<uint32_t>(median(near) >> coarse_);
    context[3] = around_.elevation[row] * 16u + reach;
    return static_cast<int>(root);
  }

  uint32_t split(int64_t value, int64_t, uint64_t*) const { return static_cast<uint32_t>(value - low_); }
  int64_t join(uint32_t token, uint64_t, int64_t) const { return wrapping_sum(low_, token); }
  int rest(uint32_t) const { return 0; }

 private:
  static constexpr int kPlaceBits = 6;

  const Surroundings& around_;
  int bits_, coarse_, part_;
  int64_t low_, sizes_[kMixed];
};

// Any values, as what a prediction leaves.
class Residual {
 public:
  static constexpr int kSelectors = 16;

  Residual(const Surroundings& around, int kind, int64_t, const uint8_t* reference)
      : around_(around), kind_(kind), reference_(reference) {}
  int bits() const { return kMaxBits; }
  const int64_t* sizes() const {
    static constexpr int64_t kSizes[kMixed] = {4096, 4096, 4096, 4096};
    return kSizes;
  }

  int contexts(int64_t row, int64_t i, const int64_t* known, const uint8_t* tokens, uint32_t* context) {
    constexpr int64_t kClipped = int64_t{1} << 40;
    const int32_t* const nearest = around_.nearest + kNeighbors * row;
    const bool alone = nearest[0] == row;  // the first point, which nothing is known before
    const int64_t first = alone ? 0 : known[nearest[0]];
    int64_t apart[kNeighbors];
    uint32_t errors[kNeighbors], noise = 0;
    for (int j = 0; j < kNeighbors; ++j) {
      const int64_t difference = alone ? 0 : wrapping_difference(known[nearest[j]], first);
      apart[j] = std::min(std::max(difference, -kClipped), kClipped);
      errors[j] = tokens[nearest[j]];
      noise += errors[j];
    }
    noise /= kNeighbors;
    int64_t ahead;
    if (kind_ == kMedian) {
      ahead = median(apart);
    } else {
      ahead = (apart[1] * around_.shares[2 * row] + apart[2] * around_.shares[2 * row + 1] + 128) >> 8;
    }
    predicted_[i] = kind_ == kPlain ? 0 : wrapping_sum(first, ahead);
    const int64_t spread = std::max({apart[0], apart[1], apart[2]}) - std::min({apart[0], apart[1], apart[2]});
    const uint32_t wide = token_of(static_cast<uint64_t>(spread)), distance = around_.distance[row] & 15;
    context[0] = wide * 16 + distance;
    context[1] = errors[0] * 16 + (errors[1] >> 4);
    context[2] = ((reference_ == nullptr ? 0 : reference_[row]) * 16) + (errors[0] >> 4);
    context[3] = token_of(zigzag(ahead)) * 16 + (wide >> 4);
    return static_cast<int>(noise >> 4);
  }

  uint32_t split(int64_t value, int64_t i, uint64_t* rest) const {
    const uint64_t residual = zigzag(wrapping_difference(value, predicted_[i]));
    const uint32_t token = token_of(residual);
    *rest = residual - least_of(token);
    return token;
  }
  int64_t join(uint32_t token, uint64_t rest, int64_t i) const {
    return wrapping_sum(predicted_[i], unzigzag(least_of(token) + rest));
  }
  int rest(uint32_t token) const { return rest_bits(token); }

  static constexpr int kMedian = 254, kPlain = 253;

 private:
  const Surroundings& around_;
  int kind_;
  const uint8_t* reference_;
  int64_t predicted_[kMixBlock];
};

template <class Channel>
class Coding {
 public:
  Coding(const Surroundings& around, int kind, int64_t low, const uint8_t* reference)
      : around_(around),
        channel_(around, kind, low, reference),
        mixer_(channel_.bits(), channel_.sizes(), Channel::kSelectors) {}

  int64_t encode(const int64_t* values, uint8_t* tokens, uint8_t* rests, uint32_t* words, int64_t* sizes) {
    RangeWriter coder;
    BitSink sink(rests);
    uint8_t part[kMixBlock];
    int64_t begin = 0;
    for (int64_t b = 0; b < around_.blocks; begin += around_.lengths[b++]) {
      const int32_t* const rows = around_.order + begin;
      const int size = static_cast<int>(around_.lengths[b]);
      start(rows, size, values, tokens);
      for (int i = 0; i < size; ++i) {
        uint64_t rest = 0;
        const uint32_t token = channel_.split(values[rows[i]], i, &rest);
        tokens[rows[i]] = static_cast<uint8_t>(token);
        sink.write(rest, channel_.rest(token));
      }
      int below = channel_.bits();
      for (int p = 0; p < mixer_.parts(); ++p) {
        below -= mixer_.bits(p);
        const int32_t* bounds = mixer_.predict();
        for (int i = 0; i < size; ++i, bounds += kSymbols) {
          part[i] = tokens[rows[i]] >> below & ((1 << mixer_.bits(p)) - 1);
          encode_bounded(coder, words, bounds, part[i]);
        }
        mixer_.learn(part);
      }
    }
    sizes[0] = sink.finish();
    sizes[1] = coder.finish(words);
    return kOk;
  }

  int64_t decode(RangeDecoder& coder, const uint8_t* rests, int64_t rest_bytes, int64_t* values, uint8_t* tokens,
                 int64_t* used) {
    BitSource source(rests, rest_bytes);
    uint8_t part[kMixBlock], token[kMixBlock];
    int64_t begin = 0;
    for (int64_t b = 0; b < around_.blocks && !source.overrun(); begin += around_.lengths[b++]) {
      const int32_t* const rows = around_.order + begin;
      const int size = static_cast<int>(around_.lengths[b]);
      start(rows, size, values, tokens);
      std::fill_n(token, size, 0);
      for (int p = 0; p < mixer_.parts(); ++p) {
        const int32_t* bounds = mixer_.predict();
        RangeDecoder state = coder;  // the compiler keeps this one in registers
        for (int i = 0; i < size; ++i, bounds += kSymbols) {
          const int symbol = decode_bounded(state, bounds);
          if (symbol < 0) return kBadIndex;
          part[i] = static_cast<uint8_t>(symbol);
          token[i] = static_cast<uint8_t>((token[i] << mixer_.bits(p)) + symbol);
        }
        coder = state;
        mixer_.learn(part);
      }
      for (int i = 0; i < size; ++i) {
        tokens[rows[i]] = token[i];
        values[rows[i]] = channel_.join(token[i], source.read(channel_.rest(token[i])), i);
      }
    }
    *used = source.used();
    return kOk;
  }

 private:
  void start(const int32_t* rows, int size, const int64_t* known, const uint8_t* tokens) {
    mixer_.begin(size);
    for (int i = 0; i < size; ++i) {
      uint32_t context[kMixed];
      const int selector = channel_.contexts(rows[i], i, known, tokens, context);
      mixer_.set(i, context, selector);
    }
  }

  const Surroundings& around_;
  Channel channel_;
  Mixer mixer_;
};

bool valid(const Surroundings& around, int kind) {
  if (around.points < 0 || around.blocks < 0) return false;
  if (kind != 255 && kind != Residual::kMedian && kind != Residual::kPlain && (kind < 1 || kind > kMaxBits)) return false;
  int64_t points = 0;
  for (int64_t b = 0; b < around.blocks; ++b) {
    if (around.lengths[b] < 0 || around.lengths[b] > kMixBlock) return false;
    points += around.lengths[b];
  }
  return points == around.points;
}

// Tokens are read of what was not coded yet, which the caller sees to; but nothing is read from elsewhere.
bool within(const Surroundings& around) {
  uint32_t largest = 0;  // as unsigned, so that negative ones are large
  for (int64_t i = 0; i < around.points; ++i) largest = std::max(largest, static_cast<uint32_t>(around.order[i]));
  for (int64_t i = 0; i < kNeighbors * around.points; ++i) {
    largest = std::max(largest, static_cast<uint32_t>(around.nearest[i]));
  }
  return around.points == 0 || largest < around.points;
}

template <class Function>
int64_t run(const Surroundings& around, int kind, int64_t low, const uint8_t* reference, const Function& function) {
  if (!valid(around, kind)) return kBadArgument;
  if (!within(around)) return kBadIndex;
  try {
    if (kind > kMaxBits) {
      Coding<Residual> coding(around, kind, low, reference);
      return function(coding);
    }
    Coding<Direct> coding(around, kind, low, reference);
    return function(coding);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

}  // namespace
}  // namespace anypcc

int64_t anypcc_channel_encode(const anypcc::Surroundings* around, int kind, int64_t low,
                              const uint8_t* reference, const int64_t* values, uint8_t* tokens, uint8_t* rests,
                              uint32_t* words, int64_t* sizes) {
  return anypcc::run(*around, kind, low, reference,
                     [&](auto& coding) { return coding.encode(values, tokens, rests, words, sizes); });
}

int64_t anypcc_channel_decode(const anypcc::Surroundings* around, int kind, int64_t low,
                              const uint8_t* reference, anypcc::RangeDecoder* words, const uint8_t* rests,
                              int64_t rest_bytes, int64_t* values, uint8_t* tokens, int64_t* used) {
  return anypcc::run(*around, kind, low, reference,
                     [&](auto& coding) { return coding.decode(*words, rests, rest_bytes, values, tokens, used); });
}

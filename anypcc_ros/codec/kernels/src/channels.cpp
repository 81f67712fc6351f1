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
        selectors_(selectors) {
    int64_t contexts = 0;
    for (int k = 0; k < kMixed; ++k) {
      first_[k] = static_cast<uint32_t>(contexts);
      contexts += sizes[k];
    }
    places_.resize(contexts);
    if (lines_ == nullptr) throw std::bad_alloc();
    place(1);  // of no context
    for (auto& part : weights_) std::fill_n(part, kMaxSelectors * kMixed, kWeightSum / kMixed);
  }
  Mixer(const Mixer&) = delete;
  Mixer& operator=(const Mixer&) = delete;
  ~Mixer() { Recycled<Lines>::give(lines_, used_ > kLarge); }

  int parts() const { return parts_; }
  int bits(int part) const { return bits_[part]; }

  // A block of so many tokens; contexts (size, kMixed), selectors (size,).
  void begin(int size, const uint32_t* contexts, const uint8_t* selectors) {
    size_ = size;
    part_ = 0;
    std::memcpy(selector_, selectors, static_cast<size_t>(size));
    for (int i = 0; i < size; ++i) {
#pragma GCC unroll 4
      for (int k = 0; k < kMixed; ++k) {
        uint32_t& row = places_[first_[k] + contexts[i * kMixed + k]];
        if (__builtin_expect(row == 0, 0)) row = place(parts_);
        rows_[i * kMixed + k] = row;
        __builtin_prefetch(lines_->data() + row, 1);
      }
    }
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
    const bool more = part_ + 1 < parts_;
    choose(values);
    if (more) go_on(values);
    weigh(values);
    active_isa().count_mix(block(), values);
    if (more) std::memcpy(rows_, next_, sizeof(uint32_t) * static_cast<size_t>(size_ * kMixed));
    ++part_;
  }

 private:
  // Counts of the symbols of one part in one context; or, behind those of the first part of two, where those of the second one
  // are after each value of the first, 0 where that was never seen.
  union Line {
    float counts[kSymbols];
    uint32_t rows[kSymbols];
  };
  using Lines = GrowingBuffer<Line>;
  static constexpr int64_t kLarge = 1 << 20;
  static constexpr float kUnseen = 2;
  static constexpr int kRate = 5;
  static constexpr int kSure = 64000, kEvery = 4;  // of 2^16
  static constexpr int kCoarser = 4;  // bits of a weight that only learning uses
  static constexpr int32_t kWeightSum = 3 << 15, kWeightLimit = (1 << 19) - 1;

  // Which tokens are worth learning from: of those that were all but certain only every fourth.
  void choose(const uint8_t* values) {
    taught_ = 0;
    for (int i = 0; i < size_; ++i) {
      teachers_[taught_] = static_cast<uint8_t>(i);
      taught_ += (shares_[i * kSymbols + values[i]] < kSure) | (i % kEvery == 0);
    }
  }

  // Finds the counts of the next part, and begins to fetch them.
  void go_on(const uint8_t* values) {
    for (int i = 0; i < size_; ++i) {
      for (int k = 0; k < kMixed; ++k) {
        const uint32_t first = rows_[i * kMixed + k];
        uint32_t row = lines_->data()[first + 1].rows[values[i]];
        if (row == 0) {
          row = place(1);
          lines_->data()[first + 1].rows[values[i]] = row;
        }
        next_[i * kMixed + k] = row;
        __builtin_prefetch(lines_->data() + row, 1);
      }
    }
  }

  void weigh(const uint8_t* values) {
    int members[kMaxSelectors] = {};
    for (int j = 0; j < taught_; ++j) ++members[selector_[teachers_[j]]];
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

  // Counts that have seen nothing, with what follows them if there are two parts.
  uint32_t place(int lines) {
    const int64_t begin = used_;
    used_ += lines;
    Line* const line = lines_->reserve(used_) + begin;
    std::fill_n(line->counts, kSymbols, kUnseen);
    if (lines > 1) std::fill_n(line[1].rows, kSymbols, 0);
    return static_cast<uint32_t>(begin);
  }

  MixBlock block() {
    return {size_, 1 << bits_[part_], lines_->data()->counts, rows_, selector_, bounds_, shares_, teachers_, taught_};
  }

  const int parts_, bits_[2], selectors_;
  uint32_t first_[kMixed];
  std::vector<uint32_t> places_;  // the row at which the counts of a context begin; 0 if it was never seen
  Lines* lines_ = Recycled<Lines>::take();
  int64_t used_ = 0;

  int part_ = 0, size_ = 0, taught_ = 0;
  int32_t weights_[2][kMaxSelectors * kMixed];  // in units of 2^-16
  uint32_t rows_[kMixBlock * kMixed], next_[kMixBlock * kMixed];
  uint8_t selector_[kMixBlock], teachers_[kMixBlock];
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

// One of 16 classes of tokens.
uint32_t coarse(uint32_t token) { return token < 48 ? token >> 2 : 12 + (token >> 6); }

int rest_bits(uint32_t token) { return token < 16 ? 0 : static_cast<int>(token - 16) / 4 + 2; }
uint64_t least_of(uint32_t token) { return token < 16 ? token : uint64_t{4 + (token & 3)} << rest_bits(token); }

// Of five, without a branch.
template <class T>
T median(const T* v) {
  const T low = std::max(std::min(v[0], v[1]), std::min(v[2], v[3]));
  const T high = std::min(std::max(v[0], v[1]), std::max(v[2], v[3]));
  return std::max(std::min(low, high), std::min(std::max(low, high), v[4]));
}

// How far the first so many lie apart.
template <int Count, class T>
T spread(const T* v) {
  T low = v[0], high = v[0];
  for (int j = 1; j < Count; ++j) {
    low = std::min(low, v[j]);
    high = std::max(high, v[j]);
  }
  return high - low;
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
    const uint32_t root = kRoots.of[spread<kNeighbors>(near)], reach = around_.reach[row] & 15;
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
    uint32_t errors[kNeighbors], sum = 0;
    for (int j = 0; j < kNeighbors; ++j) {
      const int64_t difference = alone ? 0 : wrapping_difference(known[nearest[j]], first);
      apart[j] = std::min(std::max(difference, -kClipped), kClipped);
      errors[j] = tokens[nearest[j]];
      sum += errors[j];
    }
    int64_t ahead;
    if (kind_ == kMedian) {
      ahead = median(apart);
    } else {
      ahead = (apart[1] * around_.shares[2 * row] + apart[2] * around_.shares[2 * row + 1] + 128) >> 8;
    }
    predicted_[i] = kind_ == kPlain ? 0 : wrapping_sum(first, ahead);
    const uint32_t wide = token_of(static_cast<uint64_t>(spread<kNeighbors>(apart)));
    const uint32_t narrow = token_of(static_cast<uint64_t>(spread<3>(apart))), distance = around_.distance[row] & 15;
    context[0] = narrow * 16 + distance;
    context[1] = errors[0] * 16 + coarse(errors[1]);
    context[2] = ((reference_ == nullptr ? 0 : reference_[row]) * 16) + coarse(sum / kNeighbors);
    context[3] = token_of(zigzag(ahead)) * 16 + coarse(wide);
    return static_cast<int>(coarse(std::min(sum / 2, 255u)));
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
    uint8_t part[kMixBlock], token[kMixBlock];
    int64_t begin = 0;
    for (int64_t b = 0; b < around_.blocks; begin += around_.lengths[b++]) {
      const int32_t* const rows = around_.order + begin;
      const int size = static_cast<int>(around_.lengths[b]);
      start(rows, size, values, tokens);
      for (int i = 0; i < size; ++i) {
        uint64_t rest = 0;
        const uint32_t one = channel_.split(values[rows[i]], i, &rest);
        tokens[rows[i]] = token[i] = static_cast<uint8_t>(one);
        sink.write(rest, channel_.rest(one));
      }
      int below = channel_.bits();
      for (int p = 0; p < mixer_.parts(); ++p) {
        below -= mixer_.bits(p);
        const int32_t* bounds = mixer_.predict();
        RangeWriter state = coder;  // the compiler keeps this one in registers
        const int mask = (1 << mixer_.bits(p)) - 1;
        for (int i = 0; i < size; ++i, bounds += kSymbols) {
          part[i] = static_cast<uint8_t>(token[i] >> below & mask);
          encode_bounded(state, words, bounds, part[i]);
        }
        coder = state;
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
    uint32_t contexts[kMixBlock * kMixed];
    uint8_t selectors[kMixBlock];
    for (int i = 0; i < size; ++i) {
      selectors[i] = static_cast<uint8_t>(channel_.contexts(rows[i], i, known, tokens, contexts + i * kMixed));
    }
    mixer_.begin(size, contexts, selectors);
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

// Channels: the values of codec/channels.py, coded under the mixed contexts of codec/mixing.py.
#include <algorithm>
#include <new>
#include <vector>

#include "api.hpp"
#include "binary_coder.hpp"
#include "buffer.hpp"
#include "isa.hpp"
#include "recycled.hpp"

namespace anypcc {
namespace {

constexpr int kMaxBits = 8;  // of a token
constexpr int kRate = 13;
constexpr int kCoarser = 4;  // bits of a weight that only learning uses
constexpr int32_t kWeightLimit = (1 << 19) - 1;
constexpr int64_t kMaxBlock = 1 << 15;  // tokens, so that counts stay below 2^16

int bit_length(uint64_t value) { return value == 0 ? 0 : 64 - __builtin_clzll(value); }

// What was learned, and the block of tokens at work. Its arithmetic is in isa_mixing.hpp.
class Mixer {
 public:
  Mixer(const MixingTables& tables, int bits, const int64_t* sizes, int kinds, int selectors, int64_t block)
      : tables_(tables),
        bits_(bits),
        kinds_(kinds),
        selectors_(selectors),
        stride_((bits > kNibble ? kGroup : 0) + (1 << bits)),
        nodes_(block * kMixed),
        ratios_(block * kMixed),
        ones_(block),
        prefix_(block),
        selector_(block),
        weights_(static_cast<size_t>(bits) * selectors * kMixed),
        coarse_(static_cast<size_t>(selectors) * kMixed),
        gradient_(static_cast<size_t>(selectors) * kMixed),
        members_(selectors) {
    int64_t contexts = 0;
    for (int k = 0; k < kinds; ++k) {
      first_[k] = static_cast<uint32_t>(contexts);
      contexts += sizes[k];
    }
    places_.resize(contexts);
    if (counts_ == nullptr) throw std::bad_alloc();
    place();
    for (size_t i = 0; i < weights_.size(); ++i) weights_[i] = static_cast<int>(i % kMixed) < kinds ? tables.weight : 0;
  }
  Mixer(const Mixer&) = delete;
  Mixer& operator=(const Mixer&) = delete;
  ~Mixer() { Recycled<Counts>::give(counts_, used_ > kLarge); }

  void begin(int64_t size) {
    size_ = size;
    level_ = 0;
    std::fill_n(prefix_.begin(), size, 1);
  }

  // Of token i of the block; contexts (kinds,).
  void set(int64_t i, const uint32_t* contexts, int selector) {
    for (int k = 0; k < kinds_; ++k) {
      uint32_t& begin = places_[first_[k] + contexts[k]];
      if (begin == 0) begin = place();
      nodes_[i * kMixed + k] = begin;
    }
    for (int k = kinds_; k < kMixed; ++k) nodes_[i * kMixed + k] = 0;
    selector_[i] = static_cast<uint8_t>(selector);
  }

  // For the next bit: of each token, how many of 2^16 are ones.
  const int32_t* predict() {
    const int32_t* const weights = weights_.data() + static_cast<int64_t>(level_) * selectors_ * kMixed;
    for (int j = 0; j < selectors_ * kMixed; ++j) coarse_[j] = weights[j] >> kCoarser;
    active_isa().mix(block(), coarse_.data(), ones_.data());
    const int32_t steepest = tables_.steepest;
    for (int64_t i = 0; i < size_; ++i) {
      ones_[i] = tables_.probability[std::min(std::max(ones_[i], -steepest), steepest) + steepest];
    }
    return ones_.data();
  }

  // The bits (size,) were these.
  void learn(const uint8_t* bits) {
    std::fill(gradient_.begin(), gradient_.end(), 0.0);
    std::fill(members_.begin(), members_.end(), 0);
    active_isa().learn_mix(block(), bits, ones_.data(), gradient_.data());
    for (int64_t i = 0; i < size_; ++i) {
      ++members_[selector_[i]];
      prefix_[i] = static_cast<uint8_t>(2 * prefix_[i] + bits[i]);
    }
    int32_t* const weights = weights_.data() + static_cast<int64_t>(level_) * selectors_ * kMixed;
    for (int s = 0; s < selectors_; ++s) {
      const int shift = kRate + bit_length(members_[s]) / 2;
      for (int k = s * kMixed; k < s * kMixed + kinds_; ++k) {
        const int64_t moved = weights[k] + (static_cast<int64_t>(gradient_[k]) >> shift);
        weights[k] = static_cast<int32_t>(std::clamp<int64_t>(moved, -kWeightLimit, kWeightLimit));
      }
    }
    if (++level_ != kNibble) return;
    for (int64_t i = 0; i < size_; ++i) {
      const uint32_t group = kGroup + ((prefix_[i] - kGroup) << (bits_ - kNibble));
      for (int k = 0; k < kinds_; ++k) nodes_[i * kMixed + k] += group;
      prefix_[i] = 1;
    }
  }

 private:
  // The decisions of a token's first four bits stand together, and so do those of the others after each value of
  // these four: few cache lines for a token.
  static constexpr int kNibble = 4, kGroup = 1 << kNibble;

  using Counts = GrowingBuffer<uint32_t>;
  static constexpr int64_t kLarge = 1 << 23;  // counts

  // The counts of one more context, all zero.
  uint32_t place() {
    const int64_t begin = used_;
    used_ += stride_;
    std::fill_n(counts_->reserve(used_) + begin, stride_, 0);
    return static_cast<uint32_t>(begin);
  }

  MixBlock block() {
    return {size_, kinds_, counts_->data(), nodes_.data(), prefix_.data(), selector_.data(), ratios_.data()};
  }

  const MixingTables& tables_;
  const int bits_, kinds_, selectors_;
  const uint32_t stride_;
  uint32_t first_[kMixed];
  std::vector<uint32_t> places_;  // where the counts of a context begin; 0 if it was never seen
  Counts* counts_ = Recycled<Counts>::take();  // the first ones are of no context: they fill the vectors, and stay zero
  int64_t used_ = 0;

  int level_ = 0;
  int64_t size_ = 0;
  std::vector<uint32_t> nodes_;
  std::vector<int32_t> ratios_, ones_;
  std::vector<uint8_t> prefix_, selector_;
  std::vector<int32_t> weights_;  // (bits, selectors, kMixed), in units of 2^-16
  std::vector<int32_t> coarse_;   // (selectors, kMixed)
  std::vector<double> gradient_;  // likewise
  std::vector<int64_t> members_;  // (selectors,)
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

template <class T>
void sort_five(const T* from, T* sorted) {
  for (int j = 0; j < kNeighbors; ++j) {
    int at = j;
    for (; at > 0 && sorted[at - 1] > from[j]; --at) sorted[at] = sorted[at - 1];
    sorted[at] = from[j];
  }
}

// ---- the two kinds of channels ----

// Values of a few bits, which are tokens themselves.
class Direct {
 public:
  static constexpr int kKinds = 7, kSelectors = 8;

  Direct(const Surroundings& around, int kind, int64_t low, const uint8_t*)
      : around_(around), bits_(kind), low_(low), coarse_(std::max(kind - 6, 0)), coarser_(std::max(kind - 5, 0)) {
    const int64_t values = int64_t{1} << kind;
    const int64_t sizes[kKinds] = {8 * values, 16 * values, 4096, 16 * values, 16 * values, 2048, 4096};
    std::copy(sizes, sizes + kKinds, sizes_);
  }
  int bits() const { return bits_; }
  const int64_t* sizes() const { return sizes_; }

  int contexts(int64_t row, int64_t, const int64_t*, const uint8_t* tokens, uint32_t* context) const {
    const int32_t* const nearest = around_.nearest + kNeighbors * row;
    const int32_t* const weight = around_.weights + kNeighbors * row;
    // At most 5 * 255 * 2^20: everything fits 32 bits.
    uint32_t near[kNeighbors], sorted[kNeighbors], sum = 0, total = 0, three = 0;
    for (int j = 0; j < kNeighbors; ++j) {
      near[j] = tokens[nearest[j]];
      sum += static_cast<uint32_t>(weight[j]) * near[j];
      total += static_cast<uint32_t>(weight[j]);
      if (j == 2) three = (sum + (total >> 1)) / total;
    }
    sort_five(near, sorted);
    const uint32_t mean = (sum + (total >> 1)) / total, reach = around_.reach[row] & 15;
    const uint32_t spread = std::max({near[0], near[1], near[2]}) - std::min({near[0], near[1], near[2]});
    const uint32_t root = (spread >= 1) + (spread >= 4) + (spread >= 9) + (spread >= 16) + (spread >= 25) +
                          (spread >= 36) + (spread >= 49);
    context[0] = three * 8 + root;
    context[1] = near[0] * 16 + reach;
    context[2] = (near[0] >> coarse_) * 64 + (near[1] >> coarse_);
    context[3] = mean * 16 + (around_.distance[row] & 15);
    context[4] = sorted[2] * 16 + reach;
    context[5] = static_cast<uint32_t>(row * 64 / around_.points) * 32 + (mean >> coarser_);
    context[6] = static_cast<uint32_t>(around_.elevation[row]) * 16 + reach;
    return static_cast<int>(root);
  }

  uint32_t split(int64_t value, int64_t, uint64_t*) const { return static_cast<uint32_t>(value - low_); }
  int64_t join(uint32_t token, uint64_t, int64_t) const { return wrapping_sum(low_, token); }
  int rest(uint32_t) const { return 0; }

 private:
  const Surroundings& around_;
  int bits_;
  int64_t low_;
  int coarse_, coarser_;
  int64_t sizes_[kKinds];
};

// Any values, as what a prediction leaves.
class Residual {
 public:
  static constexpr int kKinds = 6, kSelectors = 16;

  Residual(const Surroundings& around, int kind, int64_t, const uint8_t* reference)
      : around_(around), kind_(kind), reference_(reference), predicted_(kMaxBlock) {}
  int bits() const { return kMaxBits; }
  const int64_t* sizes() const {
    static constexpr int64_t kSizes[kKinds] = {4096, 4096, 2048, 4096, 1, 4096};
    return kSizes;
  }

  int contexts(int64_t row, int64_t i, const int64_t* known, const uint8_t* tokens, uint32_t* context) {
    constexpr int64_t kClipped = int64_t{1} << 40;
    const int32_t* const nearest = around_.nearest + kNeighbors * row;
    const int32_t* const weight = around_.weights + kNeighbors * row;
    const bool alone = nearest[0] == row;  // the first point, which nothing is known before
    const int64_t first = alone ? 0 : known[nearest[0]];
    int64_t apart[kNeighbors], sum = 0, total = 0;
    uint32_t errors[kNeighbors], noise = 0;
    for (int j = 0; j < kNeighbors; ++j) {
      const int64_t difference = alone ? 0 : wrapping_difference(known[nearest[j]], first);
      apart[j] = std::min(std::max(difference, -kClipped), kClipped);
      errors[j] = tokens[nearest[j]];
      noise += errors[j];
      if (j > 2) continue;
      sum += apart[j] * weight[j];
      total += weight[j];
    }
    noise /= kNeighbors;
    int64_t ahead;
    if (kind_ == kMedian) {
      int64_t sorted[kNeighbors];
      sort_five(apart, sorted);
      ahead = sorted[2];
    } else {
      const int64_t numerator = sum + (total >> 1);
      ahead = numerator / total - (numerator % total < 0);
    }
    predicted_[i] = kind_ == kPlain ? 0 : wrapping_sum(first, ahead);
    const int64_t spread = std::max({apart[0], apart[1], apart[2]}) - std::min({apart[0], apart[1], apart[2]});
    const uint32_t wide = token_of(static_cast<uint64_t>(spread)), distance = around_.distance[row] & 15;
    context[0] = wide * 16 + distance;
    context[1] = errors[0] * 16 + (errors[1] >> 4);
    context[2] = noise * 8 + (distance >> 1);
    context[3] = (reference_ == nullptr ? 0 : reference_[row] * 16) + (errors[0] >> 4);
    context[4] = 0;
    context[5] = token_of(zigzag(ahead)) * 16 + (wide >> 4);
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
  std::vector<int64_t> predicted_;
};

template <class Channel>
class Coding {
 public:
  Coding(const Surroundings& around, const MixingTables& tables, int kind, int64_t low, const uint8_t* reference)
      : around_(around),
        largest_(around.blocks == 0 ? 0 : *std::max_element(around.lengths, around.lengths + around.blocks)),
        channel_(around, kind, low, reference),
        mixer_(tables, channel_.bits(), channel_.sizes(), Channel::kKinds, Channel::kSelectors, largest_) {}

  int64_t encode(const int64_t* values, uint8_t* tokens, uint8_t* rests, uint32_t* words, int64_t* sizes) {
    BinaryEncoder coder(words);
    BitSink sink(rests);
    std::vector<uint8_t> bit(largest_);
    int64_t begin = 0;
    for (int64_t b = 0; b < around_.blocks; begin += around_.lengths[b++]) {
      const int32_t* const rows = around_.order + begin;
      const int64_t size = around_.lengths[b];
      start(rows, size, values, tokens);
      for (int64_t i = 0; i < size; ++i) {
        uint64_t rest = 0;
        const uint32_t token = channel_.split(values[rows[i]], i, &rest);
        tokens[rows[i]] = static_cast<uint8_t>(token);
        sink.write(rest, channel_.rest(token));
      }
      for (int place = channel_.bits() - 1; place >= 0; --place) {
        const int32_t* const ones = mixer_.predict();
        for (int64_t i = 0; i < size; ++i) {
          bit[i] = tokens[rows[i]] >> place & 1;
          coder.encode(bit[i], ones[i]);
        }
        mixer_.learn(bit.data());
      }
    }
    sizes[0] = sink.finish();
    sizes[1] = coder.finish();
    return kOk;
  }

  int64_t decode(RangeDecoder& coder, const uint8_t* rests, int64_t rest_bytes, int64_t* values, uint8_t* tokens,
                 int64_t* used) {
    BitSource source(rests, rest_bytes);
    std::vector<uint8_t> bit(largest_), token(largest_);
    int64_t begin = 0;
    for (int64_t b = 0; b < around_.blocks && !source.overrun(); begin += around_.lengths[b++]) {
      const int32_t* const rows = around_.order + begin;
      const int64_t size = around_.lengths[b];
      start(rows, size, values, tokens);
      std::fill_n(token.begin(), size, 0);
      for (int place = channel_.bits() - 1; place >= 0; --place) {
        const int32_t* const ones = mixer_.predict();
        RangeDecoder state = coder;  // the compiler keeps this one in registers
        for (int64_t i = 0; i < size; ++i) {
          const int decoded = decode_bit(state, ones[i]);
          if (decoded < 0) return kBadIndex;
          bit[i] = static_cast<uint8_t>(decoded);
          token[i] = static_cast<uint8_t>(2 * token[i] + decoded);
        }
        coder = state;
        mixer_.learn(bit.data());
      }
      for (int64_t i = 0; i < size; ++i) {
        tokens[rows[i]] = token[i];
        values[rows[i]] = channel_.join(token[i], source.read(channel_.rest(token[i])), i);
      }
    }
    *used = source.used();
    return kOk;
  }

 private:
  void start(const int32_t* rows, int64_t size, const int64_t* known, const uint8_t* tokens) {
    mixer_.begin(size);
    for (int64_t i = 0; i < size; ++i) {
      uint32_t context[kMixed];
      const int selector = channel_.contexts(rows[i], i, known, tokens, context);
      mixer_.set(i, context, selector);
    }
  }

  const Surroundings& around_;
  int64_t largest_;
  Channel channel_;
  Mixer mixer_;
};

bool valid(const Surroundings& around, const MixingTables& tables, int kind) {
  if (around.points < 0 || around.blocks < 0 || tables.steepest < 0) return false;
  if (kind != 255 && kind != Residual::kMedian && kind != Residual::kPlain && (kind < 1 || kind > kMaxBits)) return false;
  int64_t points = 0;
  for (int64_t b = 0; b < around.blocks; ++b) {
    if (around.lengths[b] < 0 || around.lengths[b] > kMaxBlock) return false;
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
int64_t run(const Surroundings& around, const MixingTables& tables, int kind, int64_t low, const uint8_t* reference,
            const Function& function) {
  if (!valid(around, tables, kind)) return kBadArgument;
  if (!within(around)) return kBadIndex;
  try {
    if (kind > kMaxBits) {
      Coding<Residual> coding(around, tables, kind, low, reference);
      return function(coding);
    }
    Coding<Direct> coding(around, tables, kind, low, reference);
    return function(coding);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

}  // namespace
}  // namespace anypcc

int64_t anypcc_channel_encode(const anypcc::Surroundings* around, const anypcc::MixingTables* tables, int kind, int64_t low,
                              const uint8_t* reference, const int64_t* values, uint8_t* tokens, uint8_t* rests,
                              uint32_t* words, int64_t* sizes) {
  return anypcc::run(*around, *tables, kind, low, reference,
                     [&](auto& coding) { return coding.encode(values, tokens, rests, words, sizes); });
}

int64_t anypcc_channel_decode(const anypcc::Surroundings* around, const anypcc::MixingTables* tables, int kind, int64_t low,
                              const uint8_t* reference, anypcc::RangeDecoder* words, const uint8_t* rests,
                              int64_t rest_bytes, int64_t* values, uint8_t* tokens, int64_t* used) {
  return anypcc::run(*around, *tables, kind, low, reference,
                     [&](auto& coding) { return coding.decode(*words, rests, rest_bytes, values, tokens, used); });
}

// Attributes: the mixing of codec/mixing.py and the neighbour search of codec/surroundings.py.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "api.hpp"

namespace anypcc {

constexpr int kMaxKinds = 16;
constexpr int kMaxBits = 8;
constexpr int kCountLimit = 255;  // of the sum of a decision's two counts
constexpr int kRate = 13;
constexpr int64_t kMaxBlock = 1 << 15;  // tokens, which the counts must hold before they are halved

struct Mixer {
  Mixer(int bits, int kinds, int selectors, int64_t decisions, int steepest)
      : bits(bits),
        kinds(kinds),
        selectors(selectors),
        steepest(steepest),
        decisions(decisions),
        counts(static_cast<uint16_t*>(std::calloc(2 * decisions, sizeof(uint16_t)))),  // zero pages until they are used
        weights(static_cast<size_t>(bits) * selectors * kinds),
        gradient(static_cast<size_t>(selectors) * kinds),
        members(selectors) {
    if (counts == nullptr || decisions > UINT32_MAX) throw std::bad_alloc();
  }
  Mixer(const Mixer&) = delete;
  Mixer& operator=(const Mixer&) = delete;
  ~Mixer() { std::free(counts); }

  int bits, kinds, selectors, steepest;
  int64_t decisions;
  uint16_t* counts;
  std::vector<int64_t> first, weights, gradient, members;
  std::vector<int32_t> logarithm, probability;

  // The block at work.
  int level = 0;
  int64_t size = 0;
  std::vector<uint32_t> nodes;  // (size, kinds), of the prefix 0
  std::vector<uint32_t> large;  // decisions that were counted more often than the limit
  std::vector<int32_t> ratios, prefix, selector, ones;
};

namespace {

int bit_length(int64_t value) { return value == 0 ? 0 : 64 - __builtin_clzll(static_cast<uint64_t>(value)); }

}  // namespace
}  // namespace anypcc

using anypcc::Mixer;

Mixer* anypcc_mixer_new(int bits, const int64_t* sizes, int kinds, int selectors, int64_t weight,
                        const int32_t* logarithm, int64_t logarithms, const int32_t* probability, int steepest) {
  if (bits < 1 || bits > anypcc::kMaxBits || kinds < 1 || kinds > anypcc::kMaxKinds || selectors < 1) return nullptr;
  try {
    std::vector<int64_t> first;
    int64_t contexts = 0;
    for (int k = 0; k < kinds; ++k) {
      if (sizes[k] < 1 || sizes[k] > INT32_MAX) return nullptr;
      first.push_back(contexts << bits);
      contexts += sizes[k];
    }
    first.push_back(contexts << bits);
    Mixer* const mixer = new Mixer(bits, kinds, selectors, contexts << bits, steepest);
    mixer->first = std::move(first);
    mixer->weights.assign(mixer->weights.size(), weight);
    mixer->logarithm.assign(logarithm, logarithm + logarithms);
    mixer->probability.assign(probability, probability + 2 * steepest + 1);
    return mixer;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void anypcc_mixer_free(Mixer* mixer) { delete mixer; }

int64_t anypcc_mixer_begin(Mixer* mixer, const int64_t* contexts, const int64_t* selector, int64_t count) {
  if (mixer == nullptr || count < 0 || count > anypcc::kMaxBlock) return anypcc::kBadArgument;
  const int kinds = mixer->kinds;
  try {
    mixer->nodes.resize(count * kinds);
    mixer->ratios.resize(count * kinds);
    mixer->selector.resize(count);
    mixer->prefix.assign(count, 1);
    mixer->ones.resize(count);
    mixer->large.reserve(count * kinds);  // learning allocates nothing
  } catch (const std::bad_alloc&) {
    return anypcc::kOutOfMemory;
  }
  for (int64_t i = 0; i < count; ++i) {
    if (selector[i] < 0 || selector[i] >= mixer->selectors) return anypcc::kBadIndex;
    mixer->selector[i] = static_cast<int32_t>(selector[i]);
    for (int k = 0; k < kinds; ++k) {
      const int64_t context = contexts[i * kinds + k];
      const int64_t node = mixer->first[k] + (context << mixer->bits);
      if (context < 0 || node >= mixer->first[k + 1]) return anypcc::kBadIndex;
      mixer->nodes[i * kinds + k] = static_cast<uint32_t>(node);
    }
  }
  mixer->level = 0;
  mixer->size = count;
  return anypcc::kOk;
}

int64_t anypcc_mixer_predict(Mixer* mixer, float* frequencies) {
  if (mixer == nullptr || mixer->level >= mixer->bits) return anypcc::kBadArgument;
  const int kinds = mixer->kinds, steepest = mixer->steepest;
  const int64_t* const weights = mixer->weights.data() + static_cast<int64_t>(mixer->level) * mixer->selectors * kinds;
  for (int64_t i = 0; i < mixer->size; ++i) {
    const uint32_t* const node = mixer->nodes.data() + i * kinds;
    const int64_t* const weight = weights + mixer->selector[i] * kinds;
    int32_t* const ratio = mixer->ratios.data() + i * kinds;
    int64_t mixed = 1 << 15;
    for (int k = 0; k < kinds; ++k) {
      const uint16_t* const count = mixer->counts + 2 * static_cast<int64_t>(node[k] + mixer->prefix[i]);
      ratio[k] = mixer->logarithm[count[1]] - mixer->logarithm[count[0]];
      mixed += weight[k] * ratio[k];
    }
    mixed >>= 16;
    mixed = mixed < -steepest ? -steepest : mixed > steepest ? steepest : mixed;
    const int32_t ones = mixer->probability[mixed + steepest];
    mixer->ones[i] = ones;
    frequencies[2 * i] = static_cast<float>(65536 - ones);
    frequencies[2 * i + 1] = static_cast<float>(ones);
  }
  return anypcc::kOk;
}

int64_t anypcc_mixer_learn(Mixer* mixer, const int32_t* bits) {
  if (mixer == nullptr || mixer->level >= mixer->bits) return anypcc::kBadArgument;
  const int kinds = mixer->kinds;
  std::memset(mixer->gradient.data(), 0, mixer->gradient.size() * sizeof(int64_t));
  std::memset(mixer->members.data(), 0, mixer->members.size() * sizeof(int64_t));
  mixer->large.clear();
  for (int64_t i = 0; i < mixer->size; ++i) {
    const int bit = bits[i] & 1;
    const int64_t error = (bit << 16) - mixer->ones[i];
    const uint32_t* const node = mixer->nodes.data() + i * kinds;
    const int32_t* const ratio = mixer->ratios.data() + i * kinds;
    int64_t* const gradient = mixer->gradient.data() + mixer->selector[i] * kinds;
    ++mixer->members[mixer->selector[i]];
    for (int k = 0; k < kinds; ++k) {
      gradient[k] += error * ratio[k];
      const uint32_t decision = node[k] + mixer->prefix[i];
      uint16_t* const count = mixer->counts + 2 * static_cast<int64_t>(decision);
      ++count[bit];
      if (count[0] + count[1] > anypcc::kCountLimit) mixer->large.push_back(decision);
    }
    mixer->prefix[i] = 2 * mixer->prefix[i] + bit;
  }
  for (const uint32_t decision : mixer->large) {
    uint16_t* const count = mixer->counts + 2 * static_cast<int64_t>(decision);
    while (count[0] + count[1] > anypcc::kCountLimit) {
      count[0] >>= 1;
      count[1] >>= 1;
    }
  }
  int64_t* const weights = mixer->weights.data() + static_cast<int64_t>(mixer->level) * mixer->selectors * kinds;
  for (int s = 0; s < mixer->selectors; ++s) {
    const int shift = anypcc::kRate + anypcc::bit_length(mixer->members[s]) / 2;
    for (int k = 0; k < kinds; ++k) weights[s * kinds + k] += mixer->gradient[s * kinds + k] >> shift;
  }
  ++mixer->level;
  return anypcc::kOk;
}

int64_t anypcc_direct_contexts(const int64_t* tokens, const int64_t* nearest, const int64_t* weights,
                               const int64_t* distance, const int64_t* reach, const int64_t* elevation,
                               int64_t points, const int64_t* rows, int64_t count, int bits, int64_t* contexts,
                               int64_t* spread) {
  constexpr int kNeighbors = 5, kKinds = 7;
  if (points < 0 || count < 0 || bits < 1 || bits > anypcc::kMaxBits) return anypcc::kBadArgument;
  const int coarse = bits > 6 ? bits - 6 : 0, coarser = bits > 5 ? bits - 5 : 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rows[i];
    if (row < 0 || row >= points) return anypcc::kBadIndex;
    int64_t near[kNeighbors], sorted[kNeighbors], sum = 0, total = 0, three = 0;
    for (int j = 0; j < kNeighbors; ++j) {
      const int64_t other = nearest[kNeighbors * row + j];
      if (other < 0 || other >= points) return anypcc::kBadIndex;
      near[j] = tokens[other];
      const int64_t weight = weights[kNeighbors * row + j];
      sum += weight * near[j];
      total += weight;
      if (j == 2) three = (sum + (total >> 1)) / total;  // nothing here is negative
      int at = j;
      for (; at > 0 && sorted[at - 1] > near[j]; --at) sorted[at] = sorted[at - 1];
      sorted[at] = near[j];
    }
    const int64_t mean = (sum + (total >> 1)) / total;
    const int64_t low = std::min({near[0], near[1], near[2]}), high = std::max({near[0], near[1], near[2]});
    int64_t root = 0;
    while (root < 7 && (root + 1) * (root + 1) <= high - low) ++root;
    int64_t* const context = contexts + kKinds * i;
    context[0] = three * 8 + root;
    context[1] = near[0] * 16 + reach[row];
    context[2] = (near[0] >> coarse) * 64 + (near[1] >> coarse);
    context[3] = mean * 16 + distance[row];
    context[4] = sorted[2] * 16 + reach[row];
    context[5] = row * 64 / points * 32 + (mean >> coarser);
    context[6] = elevation[row] * 16 + reach[row];
    spread[i] = root;
  }
  return anypcc::kOk;
}

int64_t anypcc_nearest_known(const int64_t* grid, const int64_t* curve, int64_t points, const int64_t* rows,
                             const int64_t* passes, int64_t n_passes, int64_t* nearest, int64_t* squares) {
  constexpr int kNeighbors = 5, kWindow = 4;
  constexpr int64_t kFarthest = int64_t{1} << 30;
  if (points < 0 || n_passes < 0) return anypcc::kBadArgument;
  try {
    std::vector<uint8_t> known(points);
    std::vector<int64_t> decoded[2], place(points), rank(points);
    for (int64_t i = 0; i < points; ++i) {
      if (curve[i] < 0 || curve[i] >= points) return anypcc::kBadIndex;
      place[curve[i]] = i;
    }
    int64_t begin = 0;
    for (int64_t pass = 0; pass < n_passes; ++pass) {
      const int64_t end = begin + passes[pass];
      if (end < begin || end > points) return anypcc::kBadArgument;
      // The known points along both curves; `rank`: how many of them come before a point on the second one.
      decoded[0].clear();
      decoded[1].clear();
      for (int64_t i = 0; i < points; ++i) {
        if (known[i]) decoded[0].push_back(i);
        rank[curve[i]] = static_cast<int64_t>(decoded[1].size());
        if (known[curve[i]]) decoded[1].push_back(curve[i]);
      }
      int64_t before = 0;  // known points before a row, which ascend within a pass
      for (int64_t i = begin; i < end && !decoded[0].empty(); ++i) {
        const int64_t row = rows[i];
        if (row < 0 || row >= points || known[row]) return anypcc::kBadIndex;
        while (before < static_cast<int64_t>(decoded[0].size()) && decoded[0][before] < row) ++before;
        int64_t found = 0, best[kNeighbors], square[kNeighbors];
        for (int which = 0; which < 2; ++which) {
          const std::vector<int64_t>& candidates = decoded[which];
          const int64_t middle = which == 0 ? before : rank[row];
          const int64_t from = middle < kWindow ? 0 : middle - kWindow;
          const int64_t to = middle + kWindow < static_cast<int64_t>(candidates.size()) ? middle + kWindow
                                                                                         : candidates.size();
          for (int64_t c = from; c < to; ++c) {
            const int64_t other = candidates[c];
            int64_t sum = 0;
            for (int axis = 0; axis < 3; ++axis) {
              int64_t apart = std::llabs(grid[3 * other + axis] - grid[3 * row + axis]);
              apart = apart < kFarthest ? apart : kFarthest;
              sum += apart * apart;
            }
            int64_t at = found;
            while (at > 0 && (square[at - 1] > sum || (square[at - 1] == sum && best[at - 1] > other))) --at;
            if (at == kNeighbors || (at > 0 && best[at - 1] == other)) continue;
            found = found < kNeighbors ? found + 1 : found;
            for (int64_t j = found - 1; j > at; --j) {
              best[j] = best[j - 1];
              square[j] = square[j - 1];
            }
            best[at] = other;
            square[at] = sum;
          }
        }
        for (int64_t j = 0; j < kNeighbors; ++j) {
          nearest[kNeighbors * row + j] = best[j < found ? j : 0];
          squares[kNeighbors * row + j] = square[j < found ? j : 0];
        }
      }
      for (int64_t i = begin; i < end; ++i) known[rows[i]] = 1;
      begin = end;
    }
  } catch (const std::bad_alloc&) {
    return anypcc::kOutOfMemory;
  }
  return anypcc::kOk;
}

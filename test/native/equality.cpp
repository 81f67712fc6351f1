// Every code path of the native kernels against plain loops: what the Python
// tests check with NumPy, for machines that are emulated or have no Python.
// Prints "N passed, M failed"; the exit status is 1 if any failed.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "api.hpp"

namespace {

std::mt19937 random_bits(1);
int passed = 0, failed = 0;

int between(int low,
            int high) {  // inclusive; not a standard distribution, whose values
                         // differ between libraries
  return low + static_cast<int>(random_bits() % (static_cast<unsigned>(high - low) + 1u));
}

template <class T>
std::vector<T> numbers(size_t count, int low, int high) {
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(between(low, high));
  return values;
}

void check(bool right, const std::string& what) {
  right ? ++passed : ++failed;
  if (!right) std::printf("FAILED: %s\n", what.c_str());
}

struct Weights {
  int taps, inputs, outputs, rows, shift;
  std::vector<int8_t> weight, packed;
  std::vector<int32_t> bias, multiplier, lowest, highest;

  Weights(int taps, int inputs, int outputs, int rows, bool extreme)
      : taps(taps), inputs(inputs), outputs(outputs), rows(rows), shift(24) {
    weight = numbers<int8_t>(size_t(taps) * inputs * outputs, -127, 127);
    if (extreme) {  // every column all 127 or all -127
      for (size_t i = 0; i < weight.size(); ++i) weight[i] = weight[i % outputs] < 0 ? -127 : 127;
    }
    bias = numbers<int32_t>(size_t(rows) * outputs, -(1 << 20), 1 << 20);
    multiplier = numbers<int32_t>(outputs, 0, extreme ? (1 << 28) - 1 : 1 << 16);
    // As integer_layers.py computes them, where every multiplier allows it.
    const int64_t one = int64_t{1} << shift, half = one / 2;
    if (*std::max_element(multiplier.begin(), multiplier.end()) <= half) {
      for (const int64_t m : multiplier) {
        const auto within = [](int64_t sum) {
          return static_cast<int32_t>(std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX));
        };
        lowest.push_back(m == 0 ? INT32_MIN : within(-((126 * one + half + m) / m)));
        highest.push_back(m == 0 ? INT32_MAX : within((127 * one - half + m - 1) / m));
      }
    }
    packed.resize(weight.size());
    for (int k = 0; k < taps; ++k) {
      for (int c = 0; c < inputs; ++c) {
        for (int j = 0; j < outputs; ++j) {
          packed[((size_t(k) * inputs / 4 + c / 4) * outputs + j) * 4 + c % 4] = at(k, c, j);
        }
      }
    }
  }

  int8_t at(int k, int c, int j) const { return weight[(size_t(k) * inputs + c) * outputs + j]; }
  anypcc::Layer layer() const {
    return {packed.data(),
            bias.data(),
            multiplier.data(),
            lowest.empty() ? nullptr : lowest.data(),
            highest.empty() ? nullptr : highest.data(),
            taps,
            inputs,
            outputs,
            rows,
            shift};
  }
  int64_t rescale(int64_t sum, int j) const {
    return (sum * multiplier[j] + (int64_t{1} << (shift - 1))) >> shift;
  }
};

uint8_t activate(int64_t value) { return static_cast<uint8_t>(std::clamp<int64_t>(value, 0, 127)); }

void convolution(const std::string& isa, int n_in, int n_out, int taps, int filled, int cin, int cout,
                 bool extreme, int threads) {
  std::vector<int32_t> table(size_t(n_out) * taps, -1);
  for (int32_t& entry : table) {
    if (n_in > 0 && between(1, 100) <= filled) entry = between(0, n_in - 1);
  }
  const auto x =
      extreme ? std::vector<uint8_t>(size_t(n_in) * cin, 127) : numbers<uint8_t>(size_t(n_in) * cin, 0, 127);
  const auto residual = numbers<uint8_t>(size_t(n_out) * cout, 0, 127);
  const Weights weights(taps, cin, cout, 1, extreme);
  std::vector<uint8_t> expected(size_t(n_out) * cout);
  std::vector<float> sums(expected.size()), xf(x.begin(), x.end()),
      wf(weights.weight.begin(), weights.weight.end());
  for (int i = 0; i < n_out; ++i) {
    for (int j = 0; j < cout; ++j) {
      int64_t sum = 0;
      for (int k = 0; k < taps; ++k) {
        const int in = table[size_t(i) * taps + k];
        for (int c = 0; in >= 0 && c < cin; ++c) sum += x[size_t(in) * cin + c] * weights.at(k, c, j);
      }
      const size_t at = size_t(i) * cout + j;
      sums[at] = static_cast<float>(sum);
      expected[at] = activate(weights.rescale(sum + weights.bias[j], j) + residual[at]);
    }
  }
  const std::string what = isa + " " + std::to_string(n_out) + " rows " + std::to_string(taps) + " taps " +
                           std::to_string(cin) + "->" + std::to_string(cout) + (extreme ? " extreme" : "");
  anypcc::Plan* plan = anypcc_plan_new();
  anypcc_plan_build(plan, table.data(), nullptr, n_in, n_out, taps, threads);
  const anypcc::Layer layer = weights.layer();
  std::vector<uint8_t> y(expected.size(), 255);
  anypcc_conv_int8(plan, &layer, x.data(), residual.data(), nullptr, n_out, y.data(), threads);
  check(y == expected, what + " conv_int8");
  std::vector<float> yf(sums.size());
  anypcc_conv_f32(plan, xf.data(), wf.data(), nullptr, yf.data(), cin, cout, threads);
  check(yf == sums, what + " conv_f32 of integers");
  anypcc_plan_free(plan);
}

// Plans and features of a level against those of its table.
void level(const std::string& isa, int bits, int threads) {
  std::vector<int32_t> root_table(27, -1);
  root_table[13] = 0;
  const int32_t no_parent = 0;
  const uint8_t first_octant = 0;
  int64_t status;
  anypcc::Level* level = anypcc_level_from_table(root_table.data(), &no_parent, &first_octant, 1, &status);
  int64_t parents = 1;
  std::vector<std::array<int, 3>> places{{0, 0, 0}};
  for (int bit = 0; bit < bits; ++bit) {
    auto codes = numbers<uint8_t>(parents, bit < 2 ? 255 : 0, 255);
    for (uint8_t& code : codes) code = bit > 2 && between(0, 2) > 0 ? static_cast<uint8_t>(1 << code % 8) : code;
    anypcc::Level* const below = anypcc_level_expand(level, codes.data(), threads, &status);
    anypcc_level_free(level);
    level = below;
    anypcc::LevelArrays arrays;
    anypcc_level_arrays(level, &arrays);
    const int64_t n = arrays.nodes;
    std::vector<int32_t> table(n * 27), one_tap(n * 8, -1);
    anypcc_level_table(level, table.data(), threads);
    std::vector<std::array<int, 3>> children;
    std::map<std::array<int, 3>, int32_t> rows;
    for (int64_t i = 0; i < n; ++i) {
      const int o = arrays.octant[i];
      one_tap[i * 8 + o] = arrays.parent_row[i];
      const auto& above = places[arrays.parent_row[i]];
      children.push_back({2 * above[0] + (o >> 2), 2 * above[1] + (o >> 1 & 1), 2 * above[2] + (o & 1)});
      rows[children.back()] = static_cast<int32_t>(i);
    }
    places = children;
    std::vector<int32_t> wanted(n * 27, -1), position(n), across(n * 14, -1);
    for (int64_t i = 0; i < n; ++i) {
      for (int k = 0; k < 27; ++k) {
        const auto& at = places[i];
        const auto other = rows.find({at[0] + k / 9 - 1, at[1] + k / 3 % 3 - 1, at[2] + k % 3 - 1});
        if (other != rows.end()) wanted[i * 27 + k] = other->second;
      }
    }
    const std::string what = isa + " level of " + std::to_string(n);
    check(table == wanted && static_cast<int64_t>(rows.size()) == n, what + " neighbours");

    const int cin = 32, cout = 16;
    const Weights weights(27, cin, cout, 1, false);
    const anypcc::Layer layer = weights.layer();
    const auto x = numbers<uint8_t>(n * cin, 0, 127), above = numbers<uint8_t>(parents * cin, 0, 127);
    std::vector<uint8_t> expected(n * cout), found(n * cout);
    anypcc::Plan *plan = anypcc_plan_new(), *of_table = anypcc_plan_new();
    anypcc_plan_build_neighbors(plan, level, threads);
    anypcc_plan_build(of_table, table.data(), nullptr, n, n, 27, threads);
    anypcc_conv_int8(plan, &layer, x.data(), nullptr, nullptr, 0, found.data(), threads);
    anypcc_conv_int8(of_table, &layer, x.data(), nullptr, nullptr, 0, expected.data(), threads);
    check(found == expected, what + " conv_int8");
    anypcc_plan_build(of_table, one_tap.data(), nullptr, parents, n, 8, threads);
    for (bool extreme : {false, true}) {
      const Weights up_weights(8, cin, cout, 1, extreme);
      const anypcc::Layer up_layer = up_weights.layer();
      anypcc_up_int8(level, &up_layer, above.data(), parents, found.data(), threads);
      anypcc_conv_int8(of_table, &up_layer, above.data(), nullptr, nullptr, 0, expected.data(), threads);
      check(found == expected, what + " up_int8");
    }
    for (int reader : {0, 1}) {
      const int64_t even = arrays.first_group, readers = reader == 0 ? even : n - even;
      for (int64_t i = 0; i < n; ++i) position[arrays.groups[i]] = static_cast<int32_t>(i < even ? i : i - even);
      for (int64_t i = 0; i < readers; ++i) {
        const int64_t node = arrays.groups[reader == 0 ? i : even + i];
        for (int k = 0, tap = 0; k < 27; ++k) {
          if ((k / 9 + k / 3 % 3 + k % 3) % 2 != 0) continue;
          const int32_t other = wanted[node * 27 + k];
          across[i * 14 + tap++] = other < 0 ? -1 : position[other];
        }
      }
      const Weights weights(14, cin, cout, 1, false);
      const anypcc::Layer layer = weights.layer();
      anypcc_plan_build_across(plan, level, reader, threads);
      anypcc_plan_build(of_table, across.data(), nullptr, n - readers, readers, 14, threads);
      anypcc_conv_int8(plan, &layer, x.data(), nullptr, nullptr, 0, found.data(), threads);
      anypcc_conv_int8(of_table, &layer, x.data(), nullptr, nullptr, 0, expected.data(), threads);
      check(found == expected, what + " conv_int8 across");
    }
    anypcc_plan_free(plan);
    anypcc_plan_free(of_table);
    parents = n;
  }
  anypcc_level_free(level);
}

void head(const std::string& isa, int count, int symbols, bool extreme, int threads) {
  const int cin = 32, width = 32;
  const Weights hidden(1, cin, width, 16, false), out(1, width, symbols, 1, extreme);
  const auto x = numbers<uint8_t>(size_t(count) * cin, 0, 127), codes = numbers<uint8_t>(count, 0, 15);
  std::vector<uint8_t> activations(size_t(count) * width), y(activations.size());
  std::vector<int32_t> expected(size_t(count) * symbols), found(expected.size());
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < width; ++j) {
      int64_t sum = hidden.bias[codes[i] * width + j];
      for (int c = 0; c < cin; ++c) sum += x[size_t(i) * cin + c] * hidden.at(0, c, j);
      activations[size_t(i) * width + j] = activate(hidden.rescale(sum, j));
    }
    for (int j = 0; j < symbols; ++j) {
      int64_t sum = out.bias[j];
      for (int c = 0; c < width; ++c) sum += activations[size_t(i) * width + c] * out.at(0, c, j);
      expected[size_t(i) * symbols + j] = static_cast<int32_t>(out.rescale(sum, j));
    }
  }
  const anypcc::Layer first = hidden.layer(), last = out.layer();
  const std::string what =
      isa + " " + std::to_string(count) + " rows " + std::to_string(symbols) + " symbols";
  anypcc_linear_int8(&first, x.data(), count, nullptr, codes.data(), count, nullptr, y.data(), threads);
  check(y == activations, what + " linear_int8");
  anypcc_head_int8(&first, &last, x.data(), count, nullptr, codes.data(), count, found.data(), threads);
  check(found == expected, what + " head_int8");
}

// The frequencies of one node, from its logits.
std::vector<float> softmax_of(const std::vector<int64_t>& logits, const std::vector<uint32_t>& exp2) {
  const auto symbols = static_cast<int64_t>(logits.size());
  const auto largest = std::max_element(logits.begin(), logits.end());
  int64_t total = 0, rest = 65536;
  for (int64_t logit : logits) total += exp2[std::min<int64_t>(*largest - logit, 511)];
  std::vector<float> frequencies;
  for (int64_t logit : logits) {
    const int64_t weight = exp2[std::min<int64_t>(*largest - logit, 511)];
    const int64_t frequency = 1 + weight * (65536 - symbols) / total;
    frequencies.push_back(static_cast<float>(frequency));
    rest -= frequency;
  }
  frequencies[largest - logits.begin()] += static_cast<float>(rest);
  return frequencies;
}

std::vector<uint32_t> exponentials() {
  std::vector<uint32_t> exp2(512);
  for (int d = 0; d < 512; ++d) exp2[d] = static_cast<uint32_t>((512 - d) * 100 + d % 7);
  return exp2;
}

void softmax(const std::string& isa, int count, int symbols, int spread) {
  const auto exp2 = exponentials();
  const auto logits = numbers<int32_t>(size_t(count) * symbols, -spread, spread);
  std::vector<float> expected, found(logits.size());
  for (int i = 0; i < count; ++i) {
    const auto row = softmax_of({logits.begin() + i * symbols, logits.begin() + (i + 1) * symbols}, exp2);
    expected.insert(expected.end(), row.begin(), row.end());
  }
  anypcc_softmax(logits.data(), exp2.data(), count, symbols, found.data());
  check(found == expected,
        isa + " " + std::to_string(count) + " rows " + std::to_string(symbols) + " symbols softmax");
}

// Learning as codec/calibration.py has it, one node and one table at a time, in
// 64 bits.
void calibration(const std::string& isa, int count, int rows, int spread) {
  constexpr int kTables = 3, kChunk = 16;
  const auto exp2 = exponentials();
  const auto logits = numbers<int32_t>(size_t(count) * 16, -spread, spread);
  const auto symbols = numbers<uint8_t>(count, 0, 3);
  std::vector<int32_t> contexts(size_t(count) * kTables);
  for (size_t i = 0; i < contexts.size(); ++i) {
    contexts[i] = static_cast<int32_t>(i) % kTables * rows + between(0, rows - 1);
  }
  std::vector<int64_t> bias(size_t(rows) * kTables * 16), curvature(bias.size());
  std::vector<int64_t> weights(kTables + 1, 1 << 16);
  std::vector<float> expected;
  for (int first = 0; first < count; first += kChunk) {
    const int last = std::min(first + kChunk, count);
    std::vector<int64_t> slopes(kTables + 1);
    for (int i = first; i < last; ++i) {
      const int32_t* context = contexts.data() + size_t(i) * kTables;
      std::vector<int64_t> corrected(16);
      for (int j = 0; j < 16; ++j) {
        int64_t sum = 0;
        for (int t = 0; t < kTables; ++t) sum += (weights[t] >> 8) * bias[size_t(context[t]) * 16 + j];
        const int64_t logit = std::clamp<int64_t>(logits[size_t(i) * 16 + j], -(1 << 20), 1 << 20);
        corrected[j] = (logit * (weights[kTables] >> 8) + (sum >> 8) + 128) >> 8;
      }
      const auto frequencies = softmax_of(corrected, exp2);
      expected.insert(expected.end(), frequencies.begin(), frequencies.end());
    }
    const auto error = [&](int i, int j) {
      return (j == symbols[i] ? 65536 : 0) - static_cast<int64_t>(expected[size_t(i) * 16 + j]);
    };
    for (int i = first; i < last; ++i) {
      for (int j = 0; j < 16; ++j) {
        for (int t = 0; t < kTables; ++t) {
          const size_t k = size_t(contexts[size_t(i) * kTables + t]) * 16 + j;
          bias[k] = std::clamp<int64_t>(bias[k], -(1 << 17), 1 << 17);
          slopes[t] += ((error(i, j) + 32) >> 6) * (bias[k] >> 4);
          const auto frequency = static_cast<int64_t>(expected[size_t(i) * 16 + j]);
          curvature[k] = std::min<int64_t>(curvature[k] + (frequency * (65536 - frequency) >> 20), 1 << 20);
        }
        slopes[kTables] +=
            ((error(i, j) + 4) >> 3) * std::clamp<int64_t>(logits[size_t(i) * 16 + j], -(1 << 11), 1 << 11);
      }
    }
    for (int i = first; i < last; ++i) {
      for (int t = 0; t < kTables; ++t) {
        for (int j = 0; j < 16; ++j) {
          const size_t k = size_t(contexts[size_t(i) * kTables + t]) * 16 + j;
          const float step = static_cast<float>(error(i, j)) * 1035.0f / static_cast<float>(curvature[k] + (8 << 12));
          bias[k] += static_cast<int64_t>(std::nearbyint(step));
        }
      }
    }
    for (int t = 0; t <= kTables; ++t) {
      const int64_t moved = std::clamp<int64_t>(slopes[t] >> (t < kTables ? 11 : 12), -(1 << 12), 1 << 12);
      weights[t] = std::clamp<int64_t>(weights[t] + moved, -(1 << 16), 1 << 18);
    }
  }
  std::vector<float> found(expected.size());
  anypcc::Calibration* learner = anypcc_calibration_new(int64_t{kTables} * rows);
  anypcc_calibration_replay(learner, logits.data(), contexts.data(), kTables, exp2.data(), symbols.data(),
                            count, found.data(), nullptr);
  anypcc_calibration_free(learner);
  check(found == expected, isa + " " + std::to_string(count) + " rows calibration");

  // The same symbols through the range coder: under these frequencies and by the calibration itself.
  anypcc::RangeEncoder* const plain = anypcc_range_encoder_new();
  anypcc::RangeEncoder* const own = anypcc_range_encoder_new();
  const std::vector<int32_t> wide(symbols.begin(), symbols.end());
  anypcc_range_encode(plain, wide.data(), expected.data(), count, 16);
  learner = anypcc_calibration_new(int64_t{kTables} * rows);
  anypcc_calibration_replay(learner, logits.data(), contexts.data(), kTables, exp2.data(), symbols.data(),
                            count, nullptr, own);
  anypcc_calibration_free(learner);
  anypcc_predicted_encode(own, logits.data(), exp2.data(), symbols.data(), count, 16);
  const uint32_t *expected_words, *words;
  const int64_t expected_size = anypcc_range_encoder_finish(plain, &expected_words);
  const int64_t size = anypcc_range_encoder_finish(own, &words);
  const int64_t settled = std::max<int64_t>(expected_size - 2, 0);  // what follows may change the last ones
  check(size >= expected_size && std::equal(expected_words, expected_words + settled, words),
        isa + " " + std::to_string(count) + " rows encoded");

  anypcc::RangeDecoder reader{words, size, 2, uint64_t{words[0]} << 32 | words[1], UINT64_MAX};
  std::vector<uint8_t> one(count), other(count);
  learner = anypcc_calibration_new(int64_t{kTables} * rows);
  anypcc_calibration_decode(learner, logits.data(), contexts.data(), kTables, exp2.data(), &reader, count,
                            one.data());
  anypcc_calibration_free(learner);
  anypcc_predicted_decode(&reader, logits.data(), exp2.data(), count, other.data(), 2);
  check(one == symbols && other == symbols, isa + " " + std::to_string(count) + " rows decoded");
  anypcc_range_encoder_free(plain);
  anypcc_range_encoder_free(own);
}

// Contexts and crossings of beams, which the Python tests compare with NumPy: every processor must find
// what was found there, told by a sum over all of it.
void contexts(const std::string& isa) {
  constexpr int kNodes = 5000, kBeams = 33;
  random_bits.seed(7);
  std::vector<int64_t> slopes, heights, phases, laterals;
  for (int i = 0; i < kBeams; ++i) {
    slopes.push_back(i * 500000 - 8000000 + between(0, 99999));
    heights.push_back(between(-90, 90));
    phases.push_back(int64_t{between(0, 1 << 30)} * 4);
    laterals.push_back(between(-50, 50));
  }
  const anypcc::Beams beams{slopes.data(), heights.data(), phases.data(), laterals.data(),
                            {7, -5},       kBeams,         700,           8};
  auto coords = numbers<uint32_t>(size_t(kNodes) * 3, 0, 900);
  std::vector<uint64_t> cells(kNodes);
  for (auto& cell : cells) cell = uint64_t(between(0, 4095)) << 30 | uint64_t(between(0, (1 << 30) - 1));
  const auto codes = numbers<uint8_t>(kNodes, 0, 255);
  std::vector<int32_t> rows(kNodes);
  for (int i = 0; i < kNodes; ++i) rows[i] = kNodes - 1 - i;
  const int64_t shift[3] = {-1000, -900, -400};
  const int32_t columns[4] = {0, 1, 2, 3}, first[8] = {0, 5000, 6000, 7000, 17000, 18000, 19000, 20000};
  uint64_t sum = 0;
  for (int levels_below : {1, 4}) {
    std::vector<uint8_t> bins(size_t(kNodes) * 4);
    std::vector<int32_t> found(size_t(kNodes) * 8);
    const double turn = static_cast<double>((int64_t{683565276} * 700 * (2 << levels_below)) >> 8);
    anypcc_beam_bins(&beams, coords.data(), kNodes, rows.data(), kNodes, shift, levels_below, turn,
                     bins.data(), 2);
    for (const uint8_t* beyond_edges : {static_cast<const uint8_t*>(nullptr), codes.data()}) {
      anypcc_context_rows(cells.data(), beyond_edges, codes.data(), kNodes, rows.data(), kNodes, 1,
                          bins.data(), 4, columns, first, 8, found.data(), 2);
      for (int32_t row : found) sum = sum * 1099511628211u + static_cast<uint32_t>(row);
    }
  }
  check(sum == 12738789735960894124u, isa + " contexts");
}

void octree(int count, int bits) {
  auto coords = numbers<int32_t>(size_t(count) * 3, 0, (1 << bits) - 1);
  std::vector<int64_t> back(coords.size());
  std::vector<uint64_t> keys(count);
  std::vector<uint32_t> order(count);
  anypcc_morton_encode(coords.data(), count, keys.data(), 2);
  anypcc_morton_decode(keys.data(), count, back.data(), 2);
  check(std::equal(coords.begin(), coords.end(), back.begin()), "Morton keys");
  const std::vector<uint64_t> unsorted = keys;
  anypcc_sort_keys(keys.data(), order.data(), count);
  bool sorted = std::is_sorted(keys.begin(), keys.end());
  for (int i = 0; i < count; ++i) sorted = sorted && unsorted[order[i]] == keys[i];
  check(sorted, "sorted keys");
  std::vector<int64_t> occurrences(count);
  keys.resize(anypcc_unique_keys(keys.data(), count, occurrences.data()));
  std::vector<uint64_t> parents(keys.size()), children(keys.size());
  std::vector<uint8_t> codes(keys.size());
  const int64_t above =
      anypcc_parent_keys(keys.data(), static_cast<int64_t>(keys.size()), parents.data(), codes.data());
  const int64_t below = anypcc_child_keys(parents.data(), codes.data(), above, children.data(),
                                          static_cast<int64_t>(children.size()));
  check(below == static_cast<int64_t>(keys.size()) && children == keys, "parents and children");
}

}  // namespace

int main() {
  for (int i = 0; const char* isa = anypcc_usable_isa(i); ++i) {
    if (anypcc_set_isa(isa) != anypcc::kOk) return 2;
    for (int threads : {1, 2}) {
      for (bool extreme : {false, true}) {
        convolution(isa, 1, 1, 27, 100, 16, 16, extreme, threads);
        convolution(isa, 0, 5, 27, 50, 32, 32, extreme, threads);
        convolution(isa, 300, 300, 27, 30, 32, 32, extreme, threads);
        convolution(isa, 200, 270, 8, 13, 64, 48, extreme, threads);
        convolution(isa, 90, 100, 14, 100, 16, 112, extreme, threads);
        head(isa, 1, 16, extreme, threads);
        head(isa, 1100, 16, extreme, threads);
        head(isa, 70, 256, extreme, threads);
      }
      level(isa, 6, threads);
    }
    for (int spread : {0, 300, 1 << 22}) {
      softmax(isa, 999, 16, spread);
      softmax(isa, 70, 256, spread);
      calibration(isa, 1, 5, spread);
      calibration(isa, 4000, 9, spread);
      calibration(isa, 9001, 2000, spread);
    }
    contexts(isa);
  }
  octree(20000, 21);
  octree(20000, 4);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0;
}

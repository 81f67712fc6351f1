// The calibration's state and entry points; its arithmetic is in isa_calibration.hpp.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>

#include "api.hpp"
#include "buffer.hpp"
#include "isa.hpp"
#include "range_encoder.hpp"
#include "recycled.hpp"

namespace anypcc {

constexpr int64_t kLargeCalibration = 1 << 17;  // rows
constexpr int32_t kOne = 1 << 16;               // as a weight

struct Calibration {
  // Knows nothing of `count` contexts.
  void begin(int64_t count) {
    rows = count;
    std::memset(learned.reserve(count), 0, sizeof(CalibrationRow) * count);
    for (auto& set : weights) std::fill(std::begin(set), std::end(set), kOne);
  }

  CalibrationState state(int tables) { return {learned.data(), weights[tables], tables}; }

  int64_t rows = 0;
  Buffer<CalibrationRow> learned;
  int32_t weights[kMostTables + 1][kMostTables + 1];  // by the number of tables
};

namespace {

bool valid(const Calibration* calibration, const int32_t* contexts, int tables, int64_t count,
           int64_t* status) {
  *status = kBadArgument;
  if (calibration == nullptr || tables < 1 || tables > kMostTables || count < 0) return false;
  *status = kBadIndex;
  uint32_t largest = 0;  // as unsigned, so that negative ones are large
  for (int64_t i = 0; i < count * tables; ++i) {
    const uint32_t row = static_cast<uint32_t>(contexts[i]);
    largest = row > largest ? row : largest;
  }
  if (count > 0 && largest >= static_cast<uint64_t>(calibration->rows)) return false;
  *status = kOk;
  return true;
}

}  // namespace
}  // namespace anypcc

using anypcc::active_isa;
using anypcc::Calibration;
using anypcc::kCalibrated;
using anypcc::kCalibrationChunk;

int64_t anypcc_softmax(const int32_t* logits, const uint32_t* exp2, int64_t count, int symbols,
                       float* frequencies) {
  if (count < 0 || (symbols != kCalibrated && symbols != 256)) return anypcc::kBadArgument;
  active_isa().softmax(logits, exp2, frequencies, nullptr, count, symbols);
  return anypcc::kOk;
}

Calibration* anypcc_calibration_new(int64_t rows) {
  if (rows < 1 || rows > INT32_MAX / kCalibrated) return nullptr;
  Calibration* const calibration = anypcc::Recycled<Calibration>::take();
  try {
    if (calibration != nullptr) calibration->begin(rows);
  } catch (const std::bad_alloc&) {
    delete calibration;
    return nullptr;
  }
  return calibration;
}

void anypcc_calibration_free(Calibration* calibration) {
  if (calibration == nullptr) return;
  anypcc::Recycled<Calibration>::give(calibration, calibration->rows > anypcc::kLargeCalibration);
}

int64_t anypcc_calibration_weights(const Calibration* calibration, int tables, int32_t* weights) {
  if (calibration == nullptr || tables < 1 || tables > anypcc::kMostTables) return anypcc::kBadArgument;
  std::copy_n(calibration->weights[tables], tables + 1, weights);
  return anypcc::kOk;
}

int64_t anypcc_calibration_replay(Calibration* calibration, const int32_t* logits, const int32_t* contexts,
                                  int tables, const uint32_t* exp2, const uint8_t* symbols, int64_t count,
                                  float* frequencies, anypcc::RangeEncoder* words) {
  int64_t status;
  if (!anypcc::valid(calibration, contexts, tables, count, &status)) return status;
  if (frequencies == nullptr && words == nullptr) return anypcc::kBadArgument;
  for (int64_t i = 0; i < count; ++i) {
    if (symbols[i] >= kCalibrated) return anypcc::kBadIndex;
  }
  const anypcc::Isa& isa = active_isa();
  const anypcc::CalibrationState state = calibration->state(tables);
  alignas(64) float own[kCalibrationChunk * kCalibrated];
  alignas(64) int32_t bounds[kCalibrationChunk * kCalibrated];
  try {
    uint32_t* const out = words == nullptr ? nullptr : words->reserve(count);
    for (int64_t first = 0; first < count; first += kCalibrationChunk) {
      const int64_t rows = std::min<int64_t>(count - first, kCalibrationChunk);
      const int32_t* const logit = logits + first * kCalibrated;
      const int32_t* const context = contexts + first * tables;
      float* const frequency = words == nullptr ? frequencies + first * kCalibrated : own;
      isa.calibrate(state, logit, context, exp2, frequency, words == nullptr ? nullptr : bounds, rows);
      isa.learn(state, logit, frequency, context, symbols + first, rows);
      for (int64_t i = 0; words != nullptr && i < rows; ++i) {
        anypcc::encode_bounded(words->writer, out, bounds + i * kCalibrated, symbols[first + i]);
      }
    }
  } catch (const std::bad_alloc&) {
    return anypcc::kOutOfMemory;
  }
  return status;
}

int64_t anypcc_calibration_decode(Calibration* calibration, const int32_t* logits, const int32_t* contexts,
                                  int tables, const uint32_t* exp2, anypcc::RangeDecoder* words,
                                  int64_t count, uint8_t* symbols) {
  int64_t status;
  if (!anypcc::valid(calibration, contexts, tables, count, &status)) return status;
  if (words == nullptr) return anypcc::kBadArgument;
  const anypcc::Isa& isa = active_isa();
  const anypcc::CalibrationState state = calibration->state(tables);
  alignas(64) float frequencies[kCalibrationChunk * kCalibrated];
  alignas(64) int32_t bounds[kCalibrationChunk * kCalibrated];
  anypcc::RangeDecoder reader = *words;  // the compiler keeps this one in registers
  for (int64_t first = 0; first < count && status == anypcc::kOk; first += kCalibrationChunk) {
    const int64_t rows = std::min<int64_t>(count - first, kCalibrationChunk);
    const int32_t* const logit = logits + first * kCalibrated;
    const int32_t* const context = contexts + first * tables;
    isa.calibrate(state, logit, context, exp2, frequencies, bounds, rows);
    for (int64_t i = 0; i < rows && status == anypcc::kOk; ++i) {
      const int symbol = anypcc::decode_bounded(reader, bounds + i * kCalibrated);
      symbols[first + i] = static_cast<uint8_t>(symbol);
      if (symbol < 0) status = anypcc::kBadIndex;
    }
    if (status == anypcc::kOk) isa.learn(state, logit, frequencies, context, symbols + first, rows);
  }
  *words = reader;
  return status;
}

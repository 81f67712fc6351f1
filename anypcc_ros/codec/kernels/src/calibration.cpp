// The calibration's state and entry points; its arithmetic is in isa_calibration.hpp.
#include <cstring>
#include <new>

#include "api.hpp"
#include "buffer.hpp"
#include "isa.hpp"
#include "range_encoder.hpp"
#include "recycled.hpp"

namespace anypcc {

constexpr int64_t kMaxChunk = 1 << 14;  // rows whose summed gradients fit 32 bits
constexpr int kMaxTables = 16;
constexpr int64_t kLargeCalibration = 1 << 17;  // rows

struct Calibration {
  // Knows nothing of `count` contexts.
  void begin(int64_t count) {
    rows = count;
    std::memset(learned.reserve(count), 0, sizeof(CalibrationRow) * count);
    std::memset(seen.reserve(count), 0, count);
    touched.reserve(count + 1);  // one more: a row is written before it is known whether it is a new one
  }

  int32_t* bounds_of(int64_t chunk) { return bounds.reserve((chunk + kSoftmaxRows) * kCalibrated); }

  CalibrationTables tables() const { return {learned.data(), seen.data(), touched.data()}; }

  int64_t rows = 0;
  Buffer<CalibrationRow> learned;
  Buffer<uint8_t> seen;
  Buffer<int32_t> touched;
  Buffer<int32_t> bounds;  // of the symbols of a chunk, in the range coder
};

namespace {

bool valid(const Calibration* calibration, const int32_t* contexts, int tables, int64_t count,
           int64_t* status) {
  *status = kBadArgument;
  if (calibration == nullptr || tables < 1 || tables > kMaxTables || count < 0) return false;
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

int64_t anypcc_calibration_frequencies(const Calibration* calibration, const int32_t* logits,
                                       const int32_t* contexts, int tables, const uint32_t* exp2,
                                       int64_t count, float* frequencies) {
  int64_t status;
  if (!anypcc::valid(calibration, contexts, tables, count, &status)) return status;
  active_isa().calibrate(logits, contexts, tables, calibration->learned.data(), exp2, frequencies, nullptr,
                         count);
  return status;
}

int64_t anypcc_calibration_learn(Calibration* calibration, const float* frequencies, const int32_t* contexts,
                                 int tables, const uint8_t* symbols, int64_t count) {
  int64_t status;
  if (!anypcc::valid(calibration, contexts, tables, count, &status)) return status;
  if (count > anypcc::kMaxChunk) return anypcc::kBadArgument;
  active_isa().learn(calibration->tables(), frequencies, contexts, tables, symbols, count);
  return status;
}

int64_t anypcc_calibration_replay(Calibration* calibration, const int32_t* logits, const int32_t* contexts,
                                  int tables, const uint32_t* exp2, const uint8_t* symbols, int64_t count,
                                  int64_t chunk, float* frequencies, anypcc::RangeEncoder* words) {
  int64_t status;
  if (!anypcc::valid(calibration, contexts, tables, count, &status)) return status;
  if (chunk < 1 || chunk > anypcc::kMaxChunk) return anypcc::kBadArgument;
  for (int64_t i = 0; i < count; ++i) {
    if (symbols[i] >= kCalibrated) return anypcc::kBadIndex;
  }
  const anypcc::Isa& isa = active_isa();
  const anypcc::CalibrationTables t = calibration->tables();
  try {
    int32_t* const bounds = words == nullptr ? nullptr : calibration->bounds_of(chunk);
    uint32_t* const out = words == nullptr ? nullptr : words->reserve(count);
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t rows = count - first < chunk ? count - first : chunk;
      const int32_t* const context = contexts + first * tables;
      float* const frequency = words == nullptr ? frequencies + first * kCalibrated : frequencies;
      isa.calibrate(logits + first * kCalibrated, context, tables, t.rows, exp2, frequency, bounds, rows);
      isa.learn(t, frequency, context, tables, symbols + first, rows);
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
                                  int64_t count, int64_t chunk, float* frequencies, uint8_t* symbols) {
  int64_t status;
  if (!anypcc::valid(calibration, contexts, tables, count, &status)) return status;
  if (words == nullptr || chunk < 1 || chunk > anypcc::kMaxChunk) return anypcc::kBadArgument;
  const anypcc::Isa& isa = active_isa();
  const anypcc::CalibrationTables t = calibration->tables();
  int32_t* bounds;
  try {
    bounds = calibration->bounds_of(chunk);
  } catch (const std::bad_alloc&) {
    return anypcc::kOutOfMemory;
  }
  anypcc::RangeDecoder state = *words;  // the compiler keeps this one in registers
  for (int64_t first = 0; first < count && status == anypcc::kOk; first += chunk) {
    const int64_t rows = count - first < chunk ? count - first : chunk;
    const int32_t* const context = contexts + first * tables;
    isa.calibrate(logits + first * kCalibrated, context, tables, t.rows, exp2, frequencies, bounds, rows);
    for (int64_t i = 0; i < rows && status == anypcc::kOk; ++i) {
      const int symbol = anypcc::decode_bounded(state, bounds + i * kCalibrated);
      symbols[first + i] = static_cast<uint8_t>(symbol);
      if (symbol < 0) status = anypcc::kBadIndex;
    }
    if (status == anypcc::kOk) isa.learn(t, frequencies, context, tables, symbols + first, rows);
  }
  *words = state;
  return status;
}

// The range decoder of docs/bitstream.md: what constriction's decodes under Categorical(perfect=False),
// several times faster, as nothing is built for a symbol that the search does not ask for.
#pragma once

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "api.hpp"
#include "isa.hpp"

namespace anypcc {

// After a symbol: the next word, if the range has become small.
inline void refill(RangeDecoder& state) {
  if (state.range >> 32 != 0) return;
  const uint32_t word = state.next < state.count ? state.words[state.next++] : 0;
  state.value = state.value << 32 | word;
  state.range <<= 32;
}

// What frequencies of this sum are multiplied with.
inline float frequency_scale(int size, float total) {
  return static_cast<float>((1 << kCoderPrecision) - size) / total;
}

// Where the part of `symbol` begins, if frequencies of sum `before` come first; past the last symbol, where all end.
inline uint32_t bound_at(int symbol, int size, float before, float scale) {
  if (symbol == size) return 1u << kCoderPrecision;
  return static_cast<uint32_t>(symbol) + static_cast<uint32_t>(static_cast<int32_t>(before * scale));
}

// The next symbol under `size` frequencies that are whole numbers, with their frequency_scale; -1 if no encoder
// wrote this.
inline int decode_symbol(RangeDecoder& state, const float* frequency, int size, float scale) {
  const uint64_t unit = state.range >> kCoderPrecision, place = state.value / unit;
  if (place >= uint64_t{1} << kCoderPrecision) return -1;
  float before = 0;  // the frequencies so far: whole numbers below 2^24, which float holds
  uint32_t begin = 0;
  for (int symbol = 0;; ++symbol) {
    before += frequency[symbol];
    const uint32_t end = bound_at(symbol + 1, size, before, scale);
    if (place >= end) {
      begin = end;
      continue;
    }
    state.value -= begin * unit;
    state.range = (end - begin) * unit;
    refill(state);
    return symbol;
  }
}

// How many of kCalibrated ascending bounds are at most `wanted`; the last one is more. Looking at all of them takes less time than
// a search, which would be mispredicted.
inline int bounds_passed(const int32_t* bounds, int32_t wanted) {
#ifdef __SSE2__
  const __m128i limit = _mm_set1_epi32(wanted);
  const auto above = [&](int first) {
    return _mm_cmpgt_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bounds + first)), limit);
  };
  const __m128i low = _mm_packs_epi32(above(0), above(4)), high = _mm_packs_epi32(above(8), above(12));
  return __builtin_ctz(static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(low, high))));
#else
  typedef int32_t Four __attribute__((vector_size(16)));
  Four passed = {};
  for (int j = 0; j < kCalibrated; j += 4) {
    Four ends;
    __builtin_memcpy(&ends, bounds + j, sizeof(ends));
    passed -= ends <= wanted;
  }
  return passed[0] + passed[1] + passed[2] + passed[3];
#endif
}

// The next of kCalibrated symbols whose parts of 2^kCoderPrecision end at these ascending bounds; -1 as above.
inline int decode_bounded(RangeDecoder& state, const int32_t* bounds) {
  const uint64_t unit = state.range >> kCoderPrecision, place = state.value / unit;
  if (place >= uint64_t{1} << kCoderPrecision) return -1;
  const int symbol = bounds_passed(bounds, static_cast<int32_t>(place));
  // Without a branch, which would often be foreseen wrongly.
  const int later = symbol > 0;
  const uint64_t begin = static_cast<uint32_t>(bounds[symbol - later] & -later);
  state.value -= begin * unit;
  state.range = (static_cast<uint64_t>(bounds[symbol]) - begin) * unit;
  refill(state);
  return symbol;
}

}  // namespace anypcc

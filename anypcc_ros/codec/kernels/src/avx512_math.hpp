// Arithmetic in 512-bit registers. Included inside the namespace of the instruction set (no include guard, on purpose).

#include "float_math.hpp"

using FloatMath = FloatVectors<16, 4, 24>;

struct Int8Math {
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;
  using Vector = __m512i;
  static constexpr int kLanes = 16, kDepth = 4, kVectors = 4, kRegisters = 24;

  static Vector load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Vector load_weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Vector v) { _mm512_storeu_si512(p, v); }
  static Vector splat(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  static Vector multiply_add(Vector sum, Vector value, Vector weights) {
    return _mm512_dpbusd_epi32(sum, value, weights);
  }
};

// What isa_kernels.hpp has for the others. The instructions that narrow into memory are many times slower than those that narrow
// into a register, and 64-bit products slower than those of 32 bits each.

inline __m512i rescaled(const int32_t* sum, const int32_t* multiplier, int shift) {
  const __m512i half = _mm512_set1_epi64(int64_t{1} << (shift - 1));
  const __m512i s = _mm512_loadu_si512(sum), m = _mm512_loadu_si512(multiplier);
  const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(s, m), half);
  const __m512i odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(s, 32), _mm512_srli_epi64(m, 32)), half);
  const __m128i down = _mm_cvtsi32_si128(shift);
  const __m512i high = _mm512_slli_epi64(_mm512_sra_epi64(odd, down), 32);
  return _mm512_mask_mov_epi32(_mm512_sra_epi64(even, down), 0xAAAA, high);
}

inline void rescale_row(const int32_t* sum, const int32_t* multiplier, int shift, int32_t* result) {
  _mm512_storeu_si512(result, rescaled(sum, multiplier, shift));
}

inline __m512i bounded(__m512i sum, const Activation& activation, int column) {
  const __m512i above = _mm512_max_epi32(sum, _mm512_loadu_si512(activation.lowest + column));
  const __m512i within = _mm512_min_epi32(above, _mm512_loadu_si512(activation.highest + column));
  const __m512i product = _mm512_mullo_epi32(within, _mm512_loadu_si512(activation.multiplier + column));
  const __m512i half = _mm512_set1_epi32(static_cast<int32_t>(uint32_t{1} << (activation.shift - 1)));
  return _mm512_sra_epi32(_mm512_add_epi32(product, half), _mm_cvtsi32_si128(activation.shift));
}

inline void narrowed(__m512i value, const uint8_t* more, uint8_t* y) {
  __m128i narrow = _mm512_cvtsepi32_epi8(value);
  if (more != nullptr) narrow = _mm_adds_epi8(narrow, _mm_loadu_si128(reinterpret_cast<const __m128i*>(more)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm_max_epi8(narrow, _mm_setzero_si128()));
}

inline void activate_vector(__m512i sum, const Activation& activation, int column, const uint8_t* more, uint8_t* y) {
  narrowed(bounded(sum, activation, column), more, y);
}

inline void activate_row(const int32_t* sum, const Activation& activation, int column, const uint8_t* more, uint8_t* y) {
  narrowed(activation.lowest != nullptr ? bounded(_mm512_loadu_si512(sum), activation, column)
                                        : rescaled(sum, activation.multiplier + column, activation.shift),
           more, y);
}

#include "block_tables.hpp"

// PlainBlock in four registers, one for each plane of 16 cells.
struct RegisterBlock {
  uint64_t present = 0;
  __m512i plane[4] = {};

  void put(int k, int32_t first, unsigned code) {
    const uint64_t cells = kBlockTables.cells(k, code);
    present |= cells;
    // Whatever the neighbour, a cell is of the octant that its place tells: odd places on an axis are the lower ones.
    const __m512i lower = _mm512_setr_epi32(3, 2, 3, 2, 1, 0, 1, 0, 3, 2, 3, 2, 1, 0, 1, 0);
    const __m512i upper = _mm512_setr_epi32(7, 6, 7, 6, 5, 4, 5, 4, 7, 6, 7, 6, 5, 4, 5, 4);
    const __m128i rank = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kBlockTables.rank[code]));
    const __m512i rows =
        _mm512_castsi256_si512(_mm256_add_epi32(_mm256_cvtepu8_epi32(rank), _mm256_set1_epi32(first)));
    const __m512i of_lower = _mm512_maskz_permutexvar_epi32(0xFFFF, lower, rows);
    const __m512i of_upper = _mm512_maskz_permutexvar_epi32(0xFFFF, upper, rows);
    const auto at = [cells](int x) {
      uint32_t mask = static_cast<uint32_t>(cells >> (16 * x));
      __asm__("" : "+r"(mask));  // shifted here: in mask registers it takes several times as long
      return static_cast<__mmask16>(mask);
    };
    plane[0] = _mm512_mask_mov_epi32(plane[0], at(0), of_upper);
    plane[1] = _mm512_mask_mov_epi32(plane[1], at(1), of_lower);
    plane[2] = _mm512_mask_mov_epi32(plane[2], at(2), of_upper);
    plane[3] = _mm512_mask_mov_epi32(plane[3], at(3), of_lower);
  }

  // Writes up to 16 rows beyond those it counts.
  uint32_t take(int octant, int32_t* entries, int64_t& used) const {
    const int high = octant >> 2, corner = 4 * (octant >> 1 & 1) + (octant & 1);
    const auto which = static_cast<__mmask16>(-high);
    const uint64_t seen = present >> (16 * high) & (kSeen & ~kOwn) << corner;
#pragma GCC unroll 3
    for (int x = 0; x < 3; ++x) {
      const uint32_t here = static_cast<uint32_t>(seen >> (16 * x)) & 0xFFFF;
      const __m512i rows = _mm512_mask_mov_epi32(plane[x], which, plane[x + 1]);
      _mm512_storeu_si512(entries + used, _mm512_maskz_compress_epi32(static_cast<__mmask16>(here), rows));
      used += _mm_popcnt_u32(here);
    }
    return static_cast<uint32_t>(_pext_u64(seen, kSeen << corner));
  }
};

// The neighbour search of codec/surroundings.py, all candidates of a point at a time; included by
// isa_kernels.hpp.

typedef double Candidates __attribute__((vector_size(8 * kCandidates)));
typedef float CandidatesInMemory __attribute__((vector_size(4 * kCandidates), aligned(4), may_alias));
typedef uint32_t CandidateRows __attribute__((vector_size(4 * kCandidates)));
typedef uint32_t CandidateRowsInMemory __attribute__((vector_size(4 * kCandidates), aligned(4), may_alias));
typedef int32_t CandidateMask __attribute__((vector_size(4 * kCandidates)));
typedef int64_t WideCandidateMask __attribute__((vector_size(8 * kCandidates)));

inline Candidates differences(const float* from, int32_t to) {
  return __builtin_convertvector(*reinterpret_cast<const CandidatesInMemory*>(from), Candidates) - to;
}

inline double least_of_all(Candidates v) {
  typedef double Half __attribute__((vector_size(4 * kCandidates)));
  typedef double Quarter __attribute__((vector_size(2 * kCandidates)));
  Half half[2];
  __builtin_memcpy(half, &v, sizeof(v));
  half[0] = half[0] < half[1] ? half[0] : half[1];
  Quarter quarter[2];
  __builtin_memcpy(quarter, half, sizeof(half[0]));
  quarter[0] = quarter[0] < quarter[1] ? quarter[0] : quarter[1];
  return quarter[0][0] < quarter[0][1] ? quarter[0][0] : quarter[0][1];
}

void nearest_candidates(const CurveWindow* curves, const int32_t* local, const int32_t* rows, int64_t count,
                        uint32_t* nearest, double* squares) {
  // Squares of distances times 16, and the place among the candidates: whole numbers below 2^46, but for those
  // that stand in where there is no candidate.
  constexpr Candidates kFirst = {0, 1, 2, 3, 4, 5, 6, 7}, kSecond = {8, 9, 10, 11, 12, 13, 14, 15};
  constexpr Candidates kNone = Candidates{} + 1e30;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rows[i];
    Candidates key[2];
    CandidateRows candidate[2];
    for (int c = 0; c < 2; ++c) {
      const int64_t begin = curves[c].rank[row];
      const Candidates dx = differences(curves[c].x + begin, local[3 * row]),
                       dy = differences(curves[c].y + begin, local[3 * row + 1]),
                       dz = differences(curves[c].z + begin, local[3 * row + 2]);
      key[c] = (dx * dx + dy * dy + dz * dz) * 16 + (c == 0 ? kFirst : kSecond);
      candidate[c] = *reinterpret_cast<const CandidateRowsInMemory*>(curves[c].row + begin);
    }
    CandidateMask again = {};
    for (int j = 0; j < kCandidates; ++j) again |= candidate[1] == candidate[0][j];
    key[1] = __builtin_convertvector(again, WideCandidateMask) ? kNone : key[1];
    for (int j = 0; j < kNeighbors; ++j) {
      const double least = least_of_all(key[0] < key[1] ? key[0] : key[1]);
      if (least >= kNowhere) {  // fewer candidates than that: the nearest once more
        nearest[kNeighbors * i + j] = j == 0 ? static_cast<uint32_t>(row) : nearest[kNeighbors * i];
        squares[kNeighbors * i + j] = j == 0 ? 0 : squares[kNeighbors * i];
        continue;
      }
      key[0] = key[0] == least ? kNone : key[0];
      key[1] = key[1] == least ? kNone : key[1];
      const int64_t whole = static_cast<int64_t>(least), place = whole & 15;
      const CurveWindow& curve = curves[place / kCandidates];
      nearest[kNeighbors * i + j] = curve.row[curve.rank[row] + place % kCandidates];
      squares[kNeighbors * i + j] = static_cast<double>(whole >> 4);
    }
  }
}

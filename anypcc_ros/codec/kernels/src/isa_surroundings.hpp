// The neighbour search of codec/surroundings.py, kSearched points at a time; included by isa_kernels.hpp.

// Candidates of kSearched points, one row for each.
struct Gathered {
  alignas(64) int32_t axes[4][2 * kCandidates][kSearched];  // x, y, z and the number
};

void gather_candidates(const NearestPoints& at, Gathered& to) {
  for (int i = 0; i < kSearched; i += 4) {
    for (int j = 0; j < 2 * kCandidates; ++j) {
      Four in[4];
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) __builtin_memcpy(&in[p], at.before[j / kCandidates][i + p] + j % kCandidates, sizeof(Four));
      const Four low01 = ANYPCC_MIX(in[0], in[1], 0, 4, 1, 5), high01 = ANYPCC_MIX(in[0], in[1], 2, 6, 3, 7);
      const Four low23 = ANYPCC_MIX(in[2], in[3], 0, 4, 1, 5), high23 = ANYPCC_MIX(in[2], in[3], 2, 6, 3, 7);
      const Four out[4] = {ANYPCC_MIX(low01, low23, 0, 1, 4, 5), ANYPCC_MIX(low01, low23, 2, 3, 6, 7),
                           ANYPCC_MIX(high01, high23, 0, 1, 4, 5), ANYPCC_MIX(high01, high23, 2, 3, 6, 7)};
#pragma GCC unroll 4
      for (int axis = 0; axis < 4; ++axis) __builtin_memcpy(to.axes[axis][j] + i, &out[axis], sizeof(Four));
    }
  }
}

void nearest_points(NearestPoints& at) {
  constexpr int kPlaceBits = 4;
  Gathered gathered;
  gather_candidates(at, gathered);
  // Squares of distances and places among the candidates, below 2^32 - 1, which is none.
  UnsignedRow best[kNeighbors], lowest = UnsignedRow{} + UINT32_MAX;
  for (UnsignedRow& one : best) one = UnsignedRow{} + UINT32_MAX;
  Row highest = Row{} - 1;
  for (int j = 0; j < 2 * kCandidates; ++j) {
    const Row number = row_at(gathered.axes[3][j]);
    Row square = {}, left_out = number >> 31;
    for (int axis = 0; axis < 3; ++axis) {
      const Row apart = row_at(gathered.axes[axis][j]) - row_at(at.place[axis]);
      const Row limited = most(least(apart, Row{} + kFarthestApart), Row{} - kFarthestApart);
      square += limited * limited;
    }
    if (j < kCandidates) {
      lowest = lowest < (UnsignedRow)number ? lowest : (UnsignedRow)number;
      highest = most(highest, number);
    } else {  // on the first curve, too: its candidates follow each other
      left_out |= (number >= (Row)lowest) & (number <= highest);
    }
    UnsignedRow key = ((UnsignedRow)square << kPlaceBits | static_cast<uint32_t>(j)) | (UnsignedRow)left_out;
    for (UnsignedRow& one : best) {
      const UnsignedRow nearer = key < one ? key : one;
      key = key < one ? one : key;
      one = nearer;
    }
  }
  double distance[3][kSearched];
  for (int n = 0; n < kNeighbors; ++n) {
    alignas(64) uint32_t keys[kSearched];
    const UnsignedRow there = best[n] == UINT32_MAX ? best[0] : best[n];  // fewer than that: the nearest once more
    __builtin_memcpy(keys, &there, sizeof(keys));
    for (int i = 0; i < kSearched; ++i) at.row[n][i] = gathered.axes[3][keys[i] & ((1 << kPlaceBits) - 1)][i];
    if (n >= 3) continue;
    for (int i = 0; i < kSearched; ++i) {
      const int32_t square = static_cast<int32_t>(keys[i] >> kPlaceBits);
      distance[n][i] = 1 + static_cast<int32_t>(__builtin_sqrt(static_cast<double>(square)));
      if (n == 0) at.square[i] = square;
    }
  }
  for (int i = 0; i < kSearched; ++i) {
    const double second = distance[0][i] * distance[2][i], third = distance[0][i] * distance[1][i];
    const double all = distance[1][i] * distance[2][i] + second + third;  // whole numbers: exact in any order
    at.shares[0][i] = static_cast<int32_t>(256 * second / all);
    at.shares[1][i] = static_cast<int32_t>(256 * third / all);
  }
}

void directions(const int64_t* grid, int64_t points, int32_t* slopes, uint8_t* reach) {
  constexpr int64_t kClamp = 1 << 25;  // so that squares and their sums are exact
  constexpr int kBlock = 64;
  for (int64_t begin = 0; begin < points; begin += kBlock) {
    const int size = static_cast<int>(points - begin < kBlock ? points - begin : kBlock);
    double place[3][kBlock] = {};
    for (int i = 0; i < size; ++i) {
      for (int axis = 0; axis < 3; ++axis) {
        const int64_t v = grid[3 * (begin + i) + axis];
        place[axis][i] = static_cast<double>(static_cast<int32_t>(v < -kClamp ? -kClamp : v > kClamp ? kClamp : v));
      }
    }
    int32_t slope[kBlock], length[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      const double x = place[0][i], y = place[1][i], z = place[2][i];
      const double across = x * x + y * y, square = across + z * z;
      const int32_t root = static_cast<int32_t>(__builtin_sqrt(across));
      const double quotient = z * kSlopesOfOne / (root > 1 ? root : 1);
      const double limited = quotient < -kSlopes / 2 ? -kSlopes / 2 : quotient > kSlopes / 2 - 1 ? kSlopes / 2 - 1 : quotient;
      slope[i] = static_cast<int32_t>(limited) + kSlopes / 2;
      int64_t bits;
      __builtin_memcpy(&bits, &square, sizeof(bits));
      length[i] = square < 1 ? 0 : static_cast<int32_t>(bits >> 52) - 1022;
    }
    for (int i = 0; i < size; ++i) {
      slopes[begin + i] = slope[i];
      reach[begin + i] = static_cast<uint8_t>(length[i]);
    }
  }
}

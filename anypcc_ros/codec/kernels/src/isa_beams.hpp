// Where the planes of laser beams pass (codec/beams.py), for many places at a time; included by
// isa_kernels.hpp. All numbers are integers that int32, uint32 as a residue modulo 2^32, or double hold
// exactly, so that every instruction set has vectors for them.

constexpr double kWholeNumbers = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer

inline uint32_t low_bits(double whole) {  // of an integer below 2^51 in magnitude
  const double shifted = whole + kWholeNumbers;
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  return static_cast<uint32_t>(bits);
}

// (a * b) >> 30 of a result that fits 32 bits.
inline int32_t product_30(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint64_t>(static_cast<int64_t>(a) * b) >> 30);
}

void distances(const int32_t* __restrict x, const int32_t* __restrict y, int32_t* __restrict rho) {
  for (int i = 0; i < kBeamPlaces; ++i) {
    const double dx = x[i], dy = y[i];
    rho[i] = static_cast<int32_t>(__builtin_sqrt(dx * dx + dy * dy));
  }
}

ANYPCC_STEP void height_step(const int32_t* __restrict rho, const int64_t* __restrict middle,
                             const int64_t* __restrict slope, const int64_t* __restrict apex,
                             int64_t* __restrict above) {
  for (int i = 0; i < kBeamPlaces; ++i) above[i] = (slope[i] * rho[i] >> kSlopeBits) + apex[i] - middle[i];
}

void cone_heights(const int32_t* rho, int64_t ordered_from, ConePlaces& at) {
  height_step(rho, at.middle, at.slope_under, at.apex_under, at.above_under);
  height_step(rho, at.middle, at.slope_over, at.apex_over, at.above_over);
  for (int i = 0; i < kBeamPlaces; ++i) {
    const int64_t crossing = rho[i] < ordered_from ? -1 : 0, not_under = at.above_under[i] < 0 ? 0 : -1,
                  not_over = at.above_over[i] < 0 ? -1 : 0;
    at.wrong[i] = crossing | (at.any_under[i] & not_under) | (at.any_over[i] & not_over);
  }
}

void cone_bins(const ConePlaces& at, int child_bits, int last, int32_t* __restrict beam, int32_t* __restrict bins) {
  const int64_t three = int64_t{3} << child_bits;  // children high is what is near
  const auto lasts = static_cast<uint64_t>(last);
  for (int i = 0; i < kBeamPlaces; ++i) {
    const int64_t under = at.above_under[i], over = at.above_over[i];
    const int64_t from_under = under < 0 ? -under : under, from_over = over < 0 ? -over : over;
    const bool lower = from_under < from_over;
    const int64_t above = lower ? under : over, from = lower ? from_under : from_over;
    const bool near = 2 * from <= three;
    // The quotient is at most 3 * 15, where this product is a third of it.
    const uint64_t eighth = static_cast<uint64_t>(near ? 2 * above + three : 0) * lasts >> (child_bits + 1);
    const auto place = static_cast<int32_t>(eighth * 21846 >> 16);
    beam[i] = static_cast<int32_t>(lower ? at.under[i] : at.over[i]);
    bins[i] = near ? 1 + (place < last - 1 ? place : last - 1) : 0;
  }
}

// Angle of the directions (x, y) in 2^-32 turn.
ANYPCC_STEP void angle_step(const int32_t* __restrict x, const int32_t* __restrict y,
                            uint32_t* __restrict angle) {
  constexpr int32_t kArcTangent[8] = {683564820, -227831322, 136347594, -95073905,
                                      65909394,  -38218057,  14943577,  -2771213};
  for (int i = 0; i < kBeamPlaces; ++i) {
    const int32_t width = x[i] < 0 ? -x[i] : x[i], height = y[i] < 0 ? -y[i] : y[i];
    const int32_t low = width < height ? width : height, high = width < height ? height : width;
    const double slope = static_cast<double>(low) * (1 << 30) / static_cast<double>(high > 1 ? high : 1);
    const auto t = static_cast<int32_t>(slope);
    const int32_t square = product_30(t, t);
    int32_t polynomial = kArcTangent[7];
#pragma GCC unroll 7
    for (int c = 6; c >= 0; --c) polynomial = kArcTangent[c] + product_30(polynomial, square);
    uint32_t turn = static_cast<uint32_t>(product_30(polynomial, t));
    turn = height > width ? (1u << 30) - turn : turn;
    turn = x[i] < 0 ? (1u << 31) - turn : turn;
    angle[i] = y[i] < 0 ? 0u - turn : turn;
  }
}

void plane_bins(const int32_t* __restrict x, const int32_t* __restrict y, const int32_t* __restrict rho,
                const double* __restrict lateral, const uint32_t* __restrict phase, const PlaneBins& scale,
                int32_t* __restrict bins) {
  alignas(64) uint32_t angle[kBeamPlaces];
  angle_step(x, y, angle);
  const auto columns = scale.columns;
  const double turn = scale.turn;
  const int32_t last = scale.last;
  for (int i = 0; i < kBeamPlaces; ++i) {
    const double quotient = lateral[i] / static_cast<double>(rho[i] > 1 ? rho[i] : 1);
    const double nearest = (quotient + kWholeNumbers) - kWholeNumbers;
    const double below = nearest > quotient ? nearest - 1 : nearest;
    const uint32_t turned = (angle[i] - low_bits(below) - phase[i]) * columns, back = 0u - turned;
    const auto apart = static_cast<int32_t>((turned < back ? turned : back) >> 8);
    const double eighths = static_cast<double>(apart) * (static_cast<double>(rho[i]) * 8) / turn;
    bins[i] = static_cast<int32_t>(eighths < last ? eighths : last);
  }
}

// What the calibration's contexts are made of: the cells across a node's faces, the network's favourite and
// the laser beams that cross the node (codec/contexts.py and codec/beams.py).
#include <atomic>
#include <cmath>

#include "api.hpp"
#include "isa.hpp"
#include "level.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

constexpr int64_t kGrain = 4096;  // nodes below which a second thread costs more than it brings

// Calls body(begin, end), which returns false for an index out of range, on ranges of [0, count).
template <class Body>
int64_t checked_ranges(int64_t count, int threads, Body&& body) {
  std::atomic<bool> valid{true};
  parallel_ranges(count, threads_for(count, kGrain, resolve_threads(threads)),
                  [&](int64_t begin, int64_t end, int) {
                    if (!body(begin, end)) valid = false;
                  });
  return valid ? kOk : kBadIndex;
}

bool within(int32_t row, int64_t rows) { return static_cast<uint32_t>(row) < static_cast<uint64_t>(rows); }

// ---- faces ----

constexpr int kFaces = 6;
constexpr int kFaceTaps[kFaces] = {4, 10, 12, 14, 16, 22};  // -x, -y, -z, +z, +y, +x

// Octant o = 4 x + 2 y + z; either half of a code has the cells (y, z) = (0, 0), (0, 1), (1, 0), (1, 1) of
// one x. What is returned are the cells that touch that half beyond the node's faces in y and z.
uint32_t cells_across_yz(const uint32_t* codes, int first) {
  const uint32_t below_y = codes[1] >> first & 15, above_y = codes[4] >> first & 15;
  const uint32_t below_z = codes[2] >> first & 15, above_z = codes[3] >> first & 15;
  const uint32_t y = below_y >> 2 | (above_y & 3) << 2;
  const uint32_t z =
      (below_z >> 1 & 1) | (below_z >> 3 & 1) << 1 | (above_z & 1) << 2 | (above_z >> 2 & 1) << 3;
  return y << 4 | z;
}

uint32_t cells_of(const Level& level, int64_t node, const uint8_t* codes) {
  const uint32_t mask = level.masks.data()[node];
  const int32_t* const neighbors = level.row(node);
  uint32_t exists = 0, code[kFaces] = {};
  for (int f = 0; f < kFaces; ++f) {
    const uint32_t bit = 1u << kFaceTaps[f];
    if ((mask & bit) == 0) continue;
    exists |= 1u << f;
    if (codes != nullptr) code[f] = codes[neighbors[__builtin_popcount(mask & (bit - 1))]];
  }
  return exists | code[0] >> 4 << 6 | (code[5] & 15) << 10 | cells_across_yz(code, 0) << 14 |
         cells_across_yz(code, 4) << 22;
}

// ---- beams ----

constexpr int kSlopeBits = 24, kColumns = 4, kMostBins = 16;
constexpr int64_t kDistanceLimit = 1 << 24, kRadian = 683565276, kTurn = int64_t{1} << 32;
constexpr int64_t kArcTangent[8] = {683564820, -227831322, 136347594, -95073905,
                                    65909394,  -38218057,  14943577,  -2771213};

int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }
int64_t limited(int64_t value) {
  return value < -kDistanceLimit ? -kDistanceLimit : value > kDistanceLimit ? kDistanceLimit : value;
}

// Angle of the direction (x, y) in 2^-32 turn.
int64_t angle(int64_t x, int64_t y) {
  const int64_t width = magnitude(x), height = magnitude(y);
  const int64_t low = width < height ? width : height, high = width < height ? height : width;
  const int64_t t =
      static_cast<int64_t>(static_cast<double>(low) * (1 << 30) / static_cast<double>(high > 0 ? high : 1));
  const int64_t square = t * t >> 30;
  int64_t polynomial = 0;
  for (int i = 7; i >= 0; --i) polynomial = kArcTangent[i] + (polynomial * square >> 30);
  int64_t turn = polynomial * t >> 30;
  if (height > width) turn = (kTurn >> 2) - turn;
  if (x < 0) turn = (kTurn >> 1) - turn;
  return (y < 0 ? -turn : turn) & (kTurn - 1);
}

// Which beams cross the columns of children of one node after the other: at low and high y of the half at low
// x, then of that at high x.
class Crossing {
 public:
  // `turn`: an eighth of a child across, in the unit of `apart` and per quarter cell of distance.
  Crossing(const Beams& beams, int levels_below, double turn)
      : beams_(beams), child_bits_(levels_below + 1), turn_(turn) {
    for (int64_t i = 1; i < beams.count && ordered_from_ <= kDistanceLimit * 2; ++i) {
      const int64_t rise = beams.slopes[i] - beams.slopes[i - 1];
      const int64_t drop = beams.heights[i - 1] - beams.heights[i] + 1;  // one more for rounding
      if (drop <= 0 && rise >= 0) continue;
      const double from =
          rise > 0 ? static_cast<double>(drop) * (1 << kSlopeBits) / static_cast<double>(rise) : 1e18;
      if (from >= static_cast<double>(ordered_from_)) ordered_from_ = static_cast<int64_t>(from) + 1;
    }
  }

  void bins(int64_t low_x, int64_t low_y, int64_t low_z, int* cone, int* plane) {
    const int64_t child = int64_t{1} << child_bits_, middle = low_z + child;
    for (int c = 0; c < kColumns; ++c) {
      const int64_t x = limited(low_x + child / 2 + (c >> 1) * child - beams_.axis[0]);
      const int64_t y = limited(low_y + child / 2 + (c & 1) * child - beams_.axis[1]);
      const auto rho = static_cast<int64_t>(std::sqrt(static_cast<double>(x * x + y * y)));
      find(rho, middle);
      const int64_t under = first_ > 0 ? first_ - 1 : 0,
                    over = first_ < beams_.count ? first_ : beams_.count - 1;
      const int64_t above_under = height(under, rho) - middle, above_over = height(over, rho) - middle;
      const bool lower = magnitude(above_under) < magnitude(above_over);
      const int64_t beam = lower ? under : over, above = lower ? above_under : above_over;
      const int last = beams_.bins - 1;
      if (2 * magnitude(above) > 3 * child) {
        cone[c] = 0;
        plane[c] = last;
        continue;
      }
      const int64_t place = ((2 * above + 3 * child) * last >> (child_bits_ + 1)) / 3;  // / (6 * child)
      cone[c] = 1 + static_cast<int>(place < last - 1 ? place : last - 1);
      if (beams_.columns > 0) plane[c] = plane_bin(angle(x, y), rho, beam);
    }
  }

 private:
  int64_t height(int64_t beam, int64_t rho) const {
    return (beams_.slopes[beam] * rho >> kSlopeBits) + beams_.heights[beam];
  }

  bool below(int64_t beam, int64_t rho, int64_t middle) const { return height(beam, rho) < middle; }

  // Sets first_ to what the binary search for the first beam above `middle` finds. Where no beams cross there
  // is but one such place, which is looked for near the one before.
  void find(int64_t rho, int64_t middle) {
    if (rho >= ordered_from_) {
      for (int steps = 0; steps < kSteps; ++steps) {
        if (first_ < beams_.count && below(first_, rho, middle)) {
          ++first_;
        } else if (first_ > 0 && !below(first_ - 1, rho, middle)) {
          --first_;
        } else {
          return;
        }
      }
    }
    int64_t length = beams_.count;
    first_ = 0;
    while (length > 0) {
      const int64_t half = length >> 1, probe = first_ + half;
      const bool further = below(probe, rho, middle);
      first_ = further ? probe + 1 : first_;
      length = further ? length - half - 1 : half;
    }
  }

  int plane_bin(int64_t direction, int64_t rho, int64_t beam) const {
    const double quotient =
        static_cast<double>(beams_.laterals[beam] * kRadian) / static_cast<double>(rho > 0 ? rho : 1);
    auto lateral = static_cast<int64_t>(quotient);
    lateral -= static_cast<double>(lateral) > quotient;  // rounded down
    const int64_t turned = (direction - lateral - beams_.phases[beam]) * beams_.columns & (kTurn - 1);
    const int64_t apart = (turned < kTurn - turned ? turned : kTurn - turned) >> 8;
    const double eighths = static_cast<double>(apart * rho * 8) / turn_;
    return eighths < beams_.bins - 1 ? static_cast<int>(eighths) : beams_.bins - 1;
  }

  static constexpr int kSteps = 3;

  const Beams& beams_;
  const int child_bits_;  // the edge of a child is 2^child_bits_ quarter cells
  const double turn_;
  int64_t ordered_from_ = 0;  // distance from which on no beams cross
  int64_t first_ = 0;         // the first beam above the middle of the column looked at last
};

}  // namespace
}  // namespace anypcc

using namespace anypcc;

int64_t anypcc_face_cells(const Level* level, const int32_t* rows, int64_t count, const uint8_t* codes,
                          const uint8_t* above, int64_t n_above, uint32_t* cells, int threads) {
  if (level == nullptr || count < 0 || (codes == nullptr) == (above == nullptr)) return kBadArgument;
  return checked_ranges(count, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!within(rows[i], level->nodes)) return false;
      cells[i] = cells_of(*level, rows[i], codes);
      if (above == nullptr) continue;
      const int32_t parent = level->parent_row.data()[rows[i]];
      if (!within(parent, n_above)) return false;
      cells[i] |= above[parent] * ((1u << 14) + (1u << 22));
    }
    return true;
  });
}

int64_t anypcc_beam_bins(const Beams* beams, const uint32_t* coords, int64_t n_coords, const int32_t* rows,
                         int64_t count, const int64_t* shift, int levels_below, double turn, uint8_t* bins,
                         int threads) {
  if (beams == nullptr || beams->count < 1 || beams->bins < 2 || beams->bins > kMostBins || count < 0 ||
      levels_below < 1 || levels_below > 32) {
    return kBadArgument;
  }
  const int kinds = beams->columns > 0 ? 2 : 1;
  return checked_ranges(count, threads, [&](int64_t begin, int64_t end) {
    Crossing crossing(*beams, levels_below, turn);
    for (int64_t i = begin; i < end; ++i) {
      if (!within(rows[i], n_coords)) return false;
      int64_t low[3];
      for (int axis = 0; axis < 3; ++axis) {
        const int64_t corner =
            (static_cast<int64_t>(coords[int64_t{rows[i]} * 3 + axis]) << levels_below) + shift[axis];
        low[axis] = 4 * corner - 2;
      }
      int cone[kColumns], plane[kColumns];
      crossing.bins(low[0], low[1], low[2], cone, plane);
      for (int half = 0; half < 2; ++half) {
        uint8_t* const row = bins + (2 * i + half) * kinds;
        row[0] = static_cast<uint8_t>(cone[2 * half] * beams->bins + cone[2 * half + 1]);
        if (kinds == 2) row[1] = static_cast<uint8_t>(plane[2 * half] * beams->bins + plane[2 * half + 1]);
      }
    }
    return true;
  });
}

int64_t anypcc_context_rows(const uint32_t* cells, const uint8_t* codes, int64_t n_codes, const int32_t* rows,
                            int64_t count, int high, const int32_t* logits, const uint8_t* bins, int n_bins,
                            const int32_t* columns, const int32_t* first, int tables, int32_t* contexts,
                            int threads) {
  constexpr int kFixed = 4;
  if (count < 0 || tables < kFixed || (tables > kFixed && bins == nullptr)) return kBadArgument;
  for (int t = kFixed; t < tables; ++t) {
    if (columns[t - kFixed] < 0 || columns[t - kFixed] >= n_bins) return kBadArgument;
  }
  const int x_shift = high != 0 ? 10 : 6, yz_shift = high != 0 ? 22 : 14, known = high != 0 ? 15 : 0;
  return checked_ranges(count, threads, [&](int64_t begin, int64_t end) {
    int32_t* const own = contexts + begin * tables;
    active_isa().favourites(logits + begin * kCalibrated, own + 3, tables, end - begin);
    for (int64_t i = begin; i < end; ++i) {
      if (!within(rows[i], n_codes)) return false;
      int32_t* const row = contexts + i * tables;
      row[0] = first[0] + static_cast<int32_t>(cells[i] & 63);
      row[1] = first[1] + static_cast<int32_t>((cells[i] >> x_shift & 15) * 16) + (codes[rows[i]] & known);
      row[2] = first[2] + static_cast<int32_t>(cells[i] >> yz_shift & 255);
      row[3] += first[3];
      for (int t = kFixed; t < tables; ++t) row[t] = first[t] + bins[i * n_bins + columns[t - kFixed]];
    }
    return true;
  });
}

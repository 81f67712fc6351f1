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

constexpr int kSlopeBits = 24, kMostBins = 16;
constexpr int64_t kDistanceLimit = 1 << 24, kRadian = 683565276;

int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }
int32_t limited(int64_t value) {
  return static_cast<int32_t>(value < -kDistanceLimit  ? -kDistanceLimit
                              : value > kDistanceLimit ? kDistanceLimit
                                                       : value);
}

// Which beams cross the columns of children of one node after the other.
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

  static constexpr int kColumns = 4, kNodes = kBeamPlaces / kColumns;

  // Bins of up to kNodes nodes, (nodes, 2) or with planes (nodes, 2, 2), from their lowest corners (nodes,
  // 3).
  void bins(const int64_t (*low)[3], int64_t nodes, uint8_t* result) {
    const Isa& isa = active_isa();
    const int64_t child = int64_t{1} << child_bits_, places = nodes * kColumns;
    for (int64_t i = 0; i < kBeamPlaces; ++i) {
      const int64_t node = i < places ? i / kColumns : 0, c = i % kColumns;
      x_[i] = limited(low[node][0] + child / 2 + (c >> 1) * child - beams_.axis[0]);
      y_[i] = limited(low[node][1] + child / 2 + (c & 1) * child - beams_.axis[1]);
    }
    isa.distances(x_, y_, rho_);
    for (int64_t i = 0; i < places; ++i) cone_[i] = cross(i, low[i / kColumns][2] + child);
    const int size = beams_.bins, kinds = beams_.columns > 0 ? 2 : 1;
    if (kinds == 2) {
      const PlaneBins scale{turn_, static_cast<uint32_t>(beams_.columns), size - 1};
      isa.plane_bins(x_, y_, rho_, lateral_, phase_, scale, plane_);
    }
    for (int64_t i = 0; i < places; i += 2) {
      uint8_t* const row = result + i / 2 * kinds;
      row[0] = static_cast<uint8_t>(cone_[i] * size + cone_[i + 1]);
      if (kinds == 1) continue;
      const int first = cone_[i] == 0 ? size - 1 : plane_[i],
                second = cone_[i + 1] == 0 ? size - 1 : plane_[i + 1];
      row[1] = static_cast<uint8_t>(first * size + second);
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

  // The bin of the nearest cone, 0 if none is near, at place i; notes what its planes are computed from.
  int32_t cross(int64_t i, int64_t middle) {
    const int64_t rho = rho_[i], last = beams_.bins - 1;
    find(rho, middle);
    const int64_t under = first_ > 0 ? first_ - 1 : 0,
                  over = first_ < beams_.count ? first_ : beams_.count - 1;
    const int64_t above_under = height(under, rho) - middle, above_over = height(over, rho) - middle;
    const bool lower = magnitude(above_under) < magnitude(above_over);
    const int64_t beam = lower ? under : over, above = lower ? above_under : above_over;
    const int64_t three = int64_t{3} << child_bits_;  // children high is what is near
    if (beams_.columns > 0) {
      lateral_[i] = static_cast<double>(beams_.laterals[beam] * kRadian);
      phase_[i] = static_cast<uint32_t>(beams_.phases[beam]);
    }
    if (2 * magnitude(above) > three) return 0;
    const int64_t place = ((2 * above + three) * last >> (child_bits_ + 1)) / 3;
    return static_cast<int32_t>(1 + (place < last - 1 ? place : last - 1));
  }

  static constexpr int kSteps = 3;

  const Beams& beams_;
  const int child_bits_;  // the edge of a child is 2^child_bits_ quarter cells
  const double turn_;
  int64_t ordered_from_ = 0;  // distance from which on no beams cross
  int64_t first_ = 0;         // the first beam above the middle of the column looked at last

  // The places at hand: columns of children at low and high y of the half at low x, then of that at high x.
  alignas(64) int32_t x_[kBeamPlaces], y_[kBeamPlaces], rho_[kBeamPlaces], cone_[kBeamPlaces],
      plane_[kBeamPlaces];
  alignas(64) double lateral_[kBeamPlaces] = {};
  alignas(64) uint32_t phase_[kBeamPlaces] = {};
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
    int64_t low[Crossing::kNodes][3];
    for (int64_t i = begin; i < end; i += Crossing::kNodes) {
      const int64_t nodes = end - i < Crossing::kNodes ? end - i : Crossing::kNodes;
      for (int64_t n = 0; n < nodes; ++n) {
        if (!within(rows[i + n], n_coords)) return false;
        const uint32_t* const place = coords + int64_t{rows[i + n]} * 3;
        for (int axis = 0; axis < 3; ++axis) {
          low[n][axis] = 4 * ((static_cast<int64_t>(place[axis]) << levels_below) + shift[axis]) - 2;
        }
      }
      crossing.bins(low, nodes, bins + 2 * i * kinds);
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

// What the calibration's contexts are made of: a node's neighbours, the cells across its faces, and the laser
// beams that cross it (codec/contexts.py and codec/beams.py).
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

// Which of the 12 neighbours exist that touch an edge alone, in the order of their taps: these are odd, and
// 13 is the node itself.
uint32_t edges_of(uint32_t mask) {
  uint32_t odd = mask >> 1 & 0x1555555;
  odd = (odd | odd >> 1) & 0x3333333;
  odd = (odd | odd >> 2) & 0xF0F0F0F;
  odd = (odd | odd >> 4) & 0xFF00FF;
  odd = (odd | odd >> 8) & 0xFFFF;
  return (odd & 0x3F) | (odd >> 7) << 6;
}

uint64_t cells_of(const Level& level, int64_t node, const uint8_t* codes) {
  const uint32_t mask = level.masks.data()[node];
  const int32_t* const neighbors = level.row(node);
  uint32_t exists = 0, code[kFaces] = {};
  for (int f = 0; f < kFaces; ++f) {
    const uint32_t bit = 1u << kFaceTaps[f];
    if ((mask & bit) == 0) continue;
    exists |= 1u << f;
    if (codes != nullptr) code[f] = codes[neighbors[ones(mask & (bit - 1))]];
  }
  return exists | code[0] >> 4 << 6 | (code[5] & 15) << 10 | cells_across_yz(code, 0) << 14 |
         cells_across_yz(code, 4) << 22 | uint64_t{edges_of(mask)} << 30;
}

// ---- edges at high x ----

constexpr int kHighEdges = 4;
constexpr int kHighEdgeTaps[kHighEdges] = {19, 21, 23, 25};  // -y, -z, +z, +y
constexpr int kOctantsThere[kHighEdges][2] = {{2, 3}, {1, 3}, {0, 2}, {0, 1}};

uint32_t beyond_edges_of(const Level& level, int64_t node, const uint8_t* codes) {
  const uint32_t mask = level.masks.data()[node];
  const int32_t* const neighbors = level.row(node);
  uint32_t cells = 0;
  for (int e = 0; e < kHighEdges; ++e) {
    const uint32_t bit = 1u << kHighEdgeTaps[e];
    if ((mask & bit) == 0) continue;
    const uint32_t code = codes[neighbors[ones(mask & (bit - 1))]];
    const auto& octants = kOctantsThere[e];
    cells |= ((code >> octants[0] & 1) | (code >> octants[1] & 1) << 1) << 2 * e;
  }
  return cells;
}

// ---- beams ----

constexpr int kMostBins = 16, kMostBeams = 512;
constexpr int64_t kDistanceLimit = 1 << 24, kRadian = 683565276;

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
    for (int64_t i = 0; i < beams.count && beams.columns > 0; ++i) {
      laterals_[i] = static_cast<double>(beams.laterals[i] * kRadian);
      phases_[i] = static_cast<uint32_t>(beams.phases[i]);
    }
  }

  static constexpr int kColumns = 4, kNodes = kBeamPlaces / kColumns;

  // Bins of up to kNodes nodes, (nodes, 2) or with planes (nodes, 2, 2), from their lowest corners (nodes,
  // 3).
  void bins(const int64_t (*low)[3], int64_t nodes, uint8_t* result) {
    const Isa& isa = active_isa();
    const int64_t child = int64_t{1} << child_bits_, places = nodes * kColumns;
    for (int64_t n = 0; n < kNodes; ++n) {
      const int64_t* const corner = low[n < nodes ? n : 0];
      const int32_t x[2] = {limited(corner[0] + child / 2 - beams_.axis[0]),
                            limited(corner[0] + child / 2 + child - beams_.axis[0])};
      const int32_t y[2] = {limited(corner[1] + child / 2 - beams_.axis[1]),
                            limited(corner[1] + child / 2 + child - beams_.axis[1])};
      for (int64_t c = 0; c < kColumns; ++c) {
        x_[n * kColumns + c] = x[c >> 1];
        y_[n * kColumns + c] = y[c & 1];
        at_.middle[n * kColumns + c] = corner[2] + child;
      }
    }
    isa.distances(x_, y_, rho_);

    // What is found for one column of a node mostly holds for the others, too.
    int32_t first[kNodes];
    find_where_ordered(first);
    for (int64_t n = 0; n < kNodes; ++n) take_neighbors<kColumns>(n * kColumns, first[n]);
    isa.cone_heights(rho_, ordered_from_, at_);
    for (int64_t i = 0; i < places; ++i) {
      if (at_.wrong[i] == 0) continue;
      take_neighbors<1>(i, find(rho_[i], at_.middle[i]));
      at_.above_under[i] = height(at_.under[i], rho_[i]) - at_.middle[i];
      at_.above_over[i] = height(at_.over[i], rho_[i]) - at_.middle[i];
    }
    const int size = beams_.bins, kinds = beams_.columns > 0 ? 2 : 1;
    isa.cone_bins(at_, child_bits_, size - 1, beam_, cone_);
    if (kinds == 2) {
      for (int64_t i = 0; i < kBeamPlaces; ++i) {
        lateral_[i] = laterals_[beam_[i]];
        phase_[i] = phases_[beam_[i]];
      }
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

  // What the binary search of codec/beams.py finds for the first beam above `middle`.
  int64_t find(int64_t rho, int64_t middle) const {
    int64_t length = beams_.count, first = 0;
    while (length > 0) {
      const int64_t half = length >> 1, probe = first + half;
      const bool further = height(probe, rho) < middle;
      first = further ? probe + 1 : first;
      length = further ? length - half - 1 : half;
    }
    return first;
  }

  // The same for the first column of every node, where no beams cross and there is but one such place: all searches step by
  // step, as one alone would wait for its products.
  void find_where_ordered(int32_t* first) const {
    const int32_t count = static_cast<int32_t>(beams_.count);
    for (int64_t n = 0; n < kNodes; ++n) first[n] = 0;
    for (int32_t step = kMostBeams; step > 0; step >>= 1) {
      if (step > count) continue;
      for (int64_t n = 0; n < kNodes; ++n) {
        const int32_t next = first[n] + step, probe = (next < count ? next : count) - 1;
        const bool further = height(probe, rho_[n * kColumns]) < at_.middle[n * kColumns];
        first[n] += step & -static_cast<int32_t>(further & (next <= count));
      }
    }
  }

  // The places from i on are below the beam `first` and above the one before it.
  template <int Places>
  void take_neighbors(int64_t i, int64_t first) {
    const int64_t under = first > 0 ? first - 1 : 0, over = first < beams_.count ? first : beams_.count - 1;
    const auto put = [&](int64_t* row, int64_t value) {
      for (int64_t c = 0; c < Places; ++c) row[i + c] = value;
    };
    put(at_.under, under);
    put(at_.over, over);
    put(at_.any_under, first > 0 ? -1 : 0);
    put(at_.any_over, first < beams_.count ? -1 : 0);
    put(at_.slope_under, beams_.slopes[under]);
    put(at_.slope_over, beams_.slopes[over]);
    put(at_.apex_under, beams_.heights[under]);
    put(at_.apex_over, beams_.heights[over]);
  }

  const Beams& beams_;
  const int child_bits_;  // the edge of a child is 2^child_bits_ quarter cells
  const double turn_;
  int64_t ordered_from_ = 0;  // distance from which on no beams cross
  double laterals_[kMostBeams];  // of the beams, as distances times kRadian
  uint32_t phases_[kMostBeams];

  // The places at hand: columns of children at low and high y of the half at low x, then of that at high x.
  alignas(64) int32_t x_[kBeamPlaces], y_[kBeamPlaces], rho_[kBeamPlaces], beam_[kBeamPlaces],
      cone_[kBeamPlaces], plane_[kBeamPlaces];
  alignas(64) double lateral_[kBeamPlaces];
  alignas(64) uint32_t phase_[kBeamPlaces];
  ConePlaces at_;
};

}  // namespace
}  // namespace anypcc

using namespace anypcc;

int64_t anypcc_face_cells(const Level* level, const int32_t* rows, int64_t count, const uint8_t* codes,
                          const uint8_t* above, int64_t n_above, uint64_t* cells, int threads) {
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

int64_t anypcc_edge_cells(const Level* level, const int32_t* rows, int64_t count, const uint8_t* codes,
                          uint8_t* cells, int threads) {
  if (level == nullptr || count < 0) return kBadArgument;
  return checked_ranges(count, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!within(rows[i], level->nodes)) return false;
      cells[i] = static_cast<uint8_t>(beyond_edges_of(*level, rows[i], codes));
    }
    return true;
  });
}

int64_t anypcc_beam_bins(const Beams* beams, const uint32_t* coords, int64_t n_coords, const int32_t* rows,
                         int64_t count, const int64_t* shift, int levels_below, double turn, uint8_t* bins,
                         int threads) {
  if (beams == nullptr || beams->count < 1 || beams->bins < 2 || beams->bins > kMostBins || beams->count > kMostBeams || count < 0 ||
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

int64_t anypcc_context_rows(const uint64_t* cells, const uint8_t* beyond_edges, const uint8_t* codes,
                            int64_t n_codes, const int32_t* rows, int64_t count, int high,
                            const uint8_t* bins, int n_bins, const int32_t* columns, const int32_t* first,
                            int tables, int32_t* contexts, int threads) {
  constexpr int kFixed = 4;
  if (count < 0 || tables < kFixed || (tables > kFixed && bins == nullptr)) return kBadArgument;
  for (int t = kFixed; t < tables; ++t) {
    if (columns[t - kFixed] < 0 || columns[t - kFixed] >= n_bins) return kBadArgument;
  }
  const int x_shift = high != 0 ? 10 : 6, yz_shift = high != 0 ? 22 : 14, known = high != 0 ? 15 : 0;
  return checked_ranges(count, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!within(rows[i], n_codes)) return false;
      int32_t* const row = contexts + i * tables;
      const int32_t low = codes[rows[i]] & known;
      row[0] = first[0] + static_cast<int32_t>(cells[i] & 63) * 16 + low;
      const uint64_t beyond = beyond_edges == nullptr ? cells[i] >> x_shift & 15 : beyond_edges[i];
      row[1] = first[1] + static_cast<int32_t>(beyond) * 16 + low;
      row[2] = first[2] + static_cast<int32_t>(cells[i] >> yz_shift & 255);
      row[3] = first[3] + static_cast<int32_t>(cells[i] >> 30);
      for (int t = kFixed; t < tables; ++t) row[t] = first[t] + bins[i * n_bins + columns[t - kFixed]];
    }
    return true;
  });
}

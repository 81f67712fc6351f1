// The neighbour search of codec/surroundings.py; its arithmetic is in isa_surroundings.hpp.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "api.hpp"
#include "buffer.hpp"
#include "isa.hpp"
#include "recycled.hpp"

namespace anypcc {
namespace {

constexpr int kSearchBits = 20, kCurveBits = 13;  // of coordinates; those along the second curve have one more
constexpr int64_t kLarge = 1 << 20;               // points of which nothing is kept for the next frame
constexpr int64_t kSplit = 1024;                  // levels of so many points or more have four passes
constexpr int kParts[] = {0, 2, 1, 3};
constexpr int kBeyond = kCandidates / 2;

int depth_of(uint64_t extent) { return extent == 0 ? 0 : 64 - __builtin_clzll(extent); }

// The points of a pass: those whose number has these low bits, from the first one on.
struct Pass {
  uint32_t mask, first;
  int64_t count;
};

// Of so many points all passes but the first, which is point 0; the last one first. At most 4 * 31.
int passes_of(int64_t points, Pass* passes) {
  int count = 0;
  for (int level = 0; int64_t{1} << level < points; ++level) {
    const uint32_t step = 2u << level;
    const int64_t rows = (points - (step >> 1) + step - 1) / step;
    if (rows < kSplit) {
      passes[count++] = {step - 1, step >> 1, rows};
      continue;
    }
    for (int p = 3; p >= 0; --p) {
      const uint32_t first = (step >> 1) + step * static_cast<uint32_t>(kParts[p]);
      passes[count++] = {4 * step - 1, first, (points - first + 4 * step - 1) / (4 * step)};
    }
  }
  return count;
}

// The points along one curve that are known before some pass, and places for those that are nowhere before and behind them.
class CurvePoints {
 public:
  // All points; curve (points,): a permutation, or null for their own order.
  void fill(const int32_t* local, const uint32_t* curve, int64_t points) {
    count_ = points;
    CurvePoint* const at = places_.reserve(points + 2 * kBeyond);
    rows_.reserve(points);
    ranks_.reserve(points);
    for (int64_t i = 0; i < points; ++i) {
      const int64_t from = curve == nullptr ? i : curve[i];
      at[i + kBeyond] = {local[3 * from], local[3 * from + 1], local[3 * from + 2], static_cast<int32_t>(from)};
    }
    for (int64_t i = 0; i < kBeyond; ++i) at[i] = at[points + kBeyond + i] = kNowhere;
  }

  // Takes out the points of a pass; before (pass.count,): where each one's candidates then begin, by its number in the pass.
  void take_out(const Pass& pass, const CurvePoint** before) {
    CurvePoint* const at = places_.data() + kBeyond;
    uint32_t *const rows = rows_.data(), *const ranks = ranks_.data();
    int64_t kept = 0, taken = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const CurvePoint point = at[i];
      const bool gone = (static_cast<uint32_t>(point.row) & pass.mask) == pass.first;
      rows[taken] = static_cast<uint32_t>(point.row);
      ranks[taken] = static_cast<uint32_t>(kept);
      at[kept] = point;
      taken += gone;
      kept += !gone;
    }
    count_ = kept;
    for (int64_t i = 0; i < kBeyond; ++i) at[kept + i] = kNowhere;
    const int shift = depth_of(pass.mask);  // their numbers differ by the mask and one
    for (int64_t i = 0; i < taken; ++i) before[rows[i] >> shift] = places_.data() + ranks[i];
  }

 private:
  static constexpr CurvePoint kNowhere{0, 0, 0, -1};

  int64_t count_ = 0;
  Buffer<CurvePoint> places_;
  Buffer<uint32_t> rows_, ranks_;  // of those taken out
};

// What a search needs besides the points.
struct Search {
  Buffer<int32_t> local, shifted;
  Buffer<uint64_t> keys;
  Buffer<uint32_t> curve;
  CurvePoints along[2];
  Buffer<const CurvePoint*> before[2];
  Buffer<int32_t> slopes;
};

void find_nearest(Search& search, int64_t points, const SurroundingsOut& out) {
  Pass passes[4 * 32];
  const int count = passes_of(points, passes);
  search.along[0].fill(search.local.data(), nullptr, points);
  search.along[1].fill(search.local.data(), search.curve.data(), points);
  for (auto& before : search.before) before.reserve(points + kSearched);
  NearestPoints found;
  for (int p = 0; p < count; ++p) {
    const Pass& pass = passes[p];
    const int64_t step = int64_t{pass.mask} + 1;
    for (int c = 0; c < 2; ++c) search.along[c].take_out(pass, search.before[c].data());
    for (int64_t from = 0; from < pass.count; from += kSearched) {
      const int64_t size = std::min<int64_t>(pass.count - from, kSearched);
      for (int i = 0; i < kSearched; ++i) {
        const int64_t row = pass.first + step * (from + std::min<int64_t>(i, size - 1));
        for (int axis = 0; axis < 3; ++axis) found.place[axis][i] = search.local.data()[3 * row + axis];
        for (int c = 0; c < 2; ++c) found.before[c][i] = search.before[c].data()[from + std::min<int64_t>(i, size - 1)];
      }
      active_isa().nearest_points(found);
      for (int64_t i = 0; i < size; ++i) {
        const int64_t row = pass.first + step * (from + i);
        for (int j = 0; j < kNeighbors; ++j) out.nearest[kNeighbors * row + j] = found.row[j][i];
        out.shares[2 * row] = static_cast<uint8_t>(found.shares[0][i]);
        out.shares[2 * row + 1] = static_cast<uint8_t>(found.shares[1][i]);
        out.distance[row] = static_cast<uint8_t>((depth_of(static_cast<uint64_t>(found.square[i])) + 1) / 2);
      }
    }
  }
  for (int j = 0; j < kNeighbors; ++j) out.nearest[j] = 0;
  out.shares[0] = out.shares[1] = kThird;
  out.distance[0] = 0;
}

// Classes of the distance and the elevation from (0, 0, 0).
void classify(const int64_t* grid, int64_t points, int32_t* slopes, const SurroundingsOut& out) {
  active_isa().directions(grid, points, slopes, out.reach);
  int shortest = UINT8_MAX;
  for (int64_t i = 0; i < points; ++i) shortest = std::min<int>(shortest, out.reach[i]);
  uint32_t before[kSlopes + 1] = {};
  for (int64_t i = 0; i < points; ++i) {
    out.reach[i] = static_cast<uint8_t>(std::min(out.reach[i] - shortest, 15));
    ++before[slopes[i] + 1];
  }
  for (int s = 0; s < kSlopes; ++s) before[s + 1] += before[s];
  uint8_t part[kSlopes];
  for (int s = 0; s < kSlopes; ++s) part[s] = static_cast<uint8_t>(std::min<int64_t>(int64_t{before[s]} * 256 / points, 255));
  for (int64_t i = 0; i < points; ++i) out.elevation[i] = part[slopes[i]];
}

}  // namespace
}  // namespace anypcc

int64_t anypcc_surroundings(const int64_t* grid, int64_t points, const anypcc::SurroundingsOut* out) {
  using namespace anypcc;
  if (points < 0 || points > INT32_MAX) return kBadArgument;
  if (points == 0) return kOk;
  Search* const search = Recycled<Search>::take();
  if (search == nullptr) return kOutOfMemory;
  try {
    int64_t low[3], high[3];
    std::memcpy(low, grid, sizeof(low));
    std::memcpy(high, grid, sizeof(high));
    for (int64_t i = 0; i < points; ++i) {
      for (int axis = 0; axis < 3; ++axis) {
        low[axis] = std::min(low[axis], grid[3 * i + axis]);
        high[axis] = std::max(high[axis], grid[3 * i + axis]);
      }
    }
    uint64_t extent = 0;
    for (int axis = 0; axis < 3; ++axis) {
      extent = std::max(extent, static_cast<uint64_t>(high[axis]) - static_cast<uint64_t>(low[axis]));
    }
    const int depth = depth_of(extent), coarser = std::max(depth - kSearchBits, 0), bits = std::min(depth, kSearchBits);
    const int32_t third = (1 << bits) / 3;
    const int along = std::max(bits - kCurveBits, 0);
    int32_t *const local = search->local.reserve(3 * points), *const shifted = search->shifted.reserve(3 * points);
    for (int64_t i = 0; i < points; ++i) {
      for (int axis = 0; axis < 3; ++axis) {
        const uint64_t apart = static_cast<uint64_t>(grid[3 * i + axis]) - static_cast<uint64_t>(low[axis]);
        local[3 * i + axis] = static_cast<int32_t>(apart >> coarser);
        shifted[3 * i + axis] = (local[3 * i + axis] + third) >> along;
      }
    }
    uint64_t* const keys = search->keys.reserve(points);
    anypcc_morton_encode(shifted, points, keys, 1);
    anypcc_sort_keys(keys, search->curve.reserve(points), points);
    classify(grid, points, search->slopes.reserve(points), *out);
    find_nearest(*search, points, *out);
  } catch (const std::bad_alloc&) {
    delete search;
    return kOutOfMemory;
  }
  Recycled<Search>::give(search, points > kLarge);
  return kOk;
}

int64_t anypcc_row_surroundings(int64_t points, const anypcc::SurroundingsOut* out) {
  using namespace anypcc;
  if (points < 0 || points > INT32_MAX) return kBadArgument;
  try {
    Buffer<uint8_t> buffer;
    uint8_t* const pass_of = buffer.reserve(points);  // from 0, the last one, on
    Pass passes[4 * 32];
    const int count = passes_of(points, passes);
    for (int p = 0; p < count; ++p) {
      for (int64_t row = passes[p].first; row < points; row += int64_t{passes[p].mask} + 1) pass_of[row] = static_cast<uint8_t>(p);
    }
    if (points > 0) pass_of[0] = UINT8_MAX;
    for (int64_t row = 0; row < points; ++row) {
      int32_t* const nearest = out->nearest + kNeighbors * row;
      int found = 0;
      // Of two that are as far away the one before comes first.
      const int64_t step = row == 0 ? points : row & -row;  // closer ones are all of later passes
      int64_t before = row - step, after = row + step;
      for (int left = kBeyond, right = kBeyond; found < kNeighbors; before -= step, after += step) {
        const bool more_before = left > 0 && before >= 0, more_after = right > 0 && after < points;
        if (!more_before && !more_after) break;
        if (more_before && pass_of[before] > pass_of[row]) {
          nearest[found++] = static_cast<int32_t>(before);
          --left;
        }
        if (more_after && pass_of[after] > pass_of[row] && found < kNeighbors) {
          nearest[found++] = static_cast<int32_t>(after);
          --right;
        }
      }
      for (int j = found; j < kNeighbors; ++j) nearest[j] = found == 0 ? static_cast<int32_t>(row) : nearest[0];
      const int64_t first = std::min<int64_t>(std::abs(nearest[0] - row), kFarthestApart);
      const int64_t second = std::min<int64_t>(std::abs(nearest[1] - row), kFarthestApart);
      out->shares[2 * row] = static_cast<uint8_t>(256 * (first + 1) / (first + second + 2));
      out->shares[2 * row + 1] = 0;
      out->distance[row] = static_cast<uint8_t>(depth_of(static_cast<uint64_t>(first)));
      out->reach[row] = static_cast<uint8_t>(std::min(depth_of(static_cast<uint64_t>(row * row)), 15));
      out->elevation[row] = 0;
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

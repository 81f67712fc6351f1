// The neighbour search of codec/surroundings.py; its arithmetic is in isa_surroundings.hpp.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>
#include <vector>

#include "api.hpp"
#include "isa.hpp"

namespace anypcc {
namespace {

constexpr int kSearchBits = 20;  // of coordinates: squares then fit float64
constexpr int64_t kFarthest = 1 << kSearchBits, kClamp = 1 << 30;
constexpr int64_t kRows = 256;          // looked for at a time
constexpr int kBeyond = kCandidates / 2;

// The points along one curve that are known before some pass.
class CurvePoints {
 public:
  // All of them; curve (points,): a permutation, or null for their own order.
  CurvePoints(const int32_t* local, const uint32_t* curve, const uint8_t* pass, int64_t points)
      : count_(points),
        x_(points + 2 * kBeyond, kNowhere),
        y_(points + 2 * kBeyond, kNowhere),
        z_(points + 2 * kBeyond, kNowhere),
        row_(points + 2 * kBeyond, UINT32_MAX),
        pass_(points),
        rank_(points) {
    for (int64_t i = 0; i < points; ++i) {
      const int64_t from = curve == nullptr ? i : curve[i];
      x_[i + kBeyond] = static_cast<float>(local[3 * from]);
      y_[i + kBeyond] = static_cast<float>(local[3 * from + 1]);
      z_[i + kBeyond] = static_cast<float>(local[3 * from + 2]);
      row_[i + kBeyond] = static_cast<uint32_t>(from);
      pass_[i] = pass[from];
    }
  }

  // Takes out the points of a pass, which then have a rank.
  void take_out(uint8_t pass) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t from = i + kBeyond, to = kept + kBeyond;
      rank_[row_[from]] = static_cast<uint32_t>(kept);
      x_[to] = x_[from];
      y_[to] = y_[from];
      z_[to] = z_[from];
      row_[to] = row_[from];
      pass_[kept] = pass_[i];
      kept += pass_[i] != pass;
    }
    count_ = kept;
    for (int64_t end = kept + kBeyond; end < kept + 2 * kBeyond; ++end) {
      x_[end] = y_[end] = z_[end] = kNowhere;
      row_[end] = UINT32_MAX;
    }
  }

  CurveWindow window() const { return {x_.data(), y_.data(), z_.data(), row_.data(), rank_.data()}; }

 private:
  int64_t count_;
  std::vector<float> x_, y_, z_;
  std::vector<uint32_t> row_;
  std::vector<uint8_t> pass_;
  std::vector<uint32_t> rank_;  // by row
};

// Of a distance, whose square is a whole number.
int32_t weight_of(double root) { return std::max((1 << 20) / (1 + static_cast<int32_t>(root)), 1); }
uint8_t octave_of(double root) {
  const uint32_t whole = static_cast<uint32_t>(root);
  return static_cast<uint8_t>(whole == 0 ? 0 : std::min(32 - __builtin_clz(whole), 15));
}

// The bit length of a whole number once it is rounded to double.
int rounded_length(int64_t value) {
  int exponent;
  std::frexp(static_cast<double>(value), &exponent);
  return value == 0 ? 0 : exponent;
}

// Whether order (points,) is a permutation, pass after pass; the pass of each point then.
bool passes_of(const int32_t* order, const int64_t* passes, int64_t n_passes, int64_t points, std::vector<uint8_t>* pass_of) {
  pass_of->assign(points, UINT8_MAX);
  int64_t begin = 0;
  for (int64_t pass = 0; pass < n_passes; ++pass) {
    for (const int64_t end = begin + passes[pass]; begin < end; ++begin) {
      if (order[begin] < 0 || order[begin] >= points || (*pass_of)[order[begin]] != UINT8_MAX) return false;
      (*pass_of)[order[begin]] = static_cast<uint8_t>(pass);
    }
  }
  return true;
}

void find_nearest(const int32_t* local, const uint32_t* curve, int64_t points, const int32_t* order, const int64_t* passes,
                  int64_t n_passes, const uint8_t* pass_of, const SurroundingsOut& out) {
  CurvePoints along[2] = {{local, nullptr, pass_of, points}, {local, curve, pass_of, points}};
  const CurveWindow curves[2] = {along[0].window(), along[1].window()};
  uint32_t rows[kRows * kNeighbors];
  double squares[kRows * kNeighbors];
  int64_t end = points;
  for (int64_t pass = n_passes - 1; pass >= 0; --pass) {
    for (CurvePoints& known : along) known.take_out(static_cast<uint8_t>(pass));
    const int64_t begin = end - passes[pass];
    for (int64_t from = begin; from < end; from += kRows) {
      const int64_t count = std::min(end - from, kRows);
      active_isa().nearest_candidates(curves, local, order + from, count, rows, squares);
      for (int64_t i = 0; i < count * kNeighbors; ++i) squares[i] = std::sqrt(squares[i]);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = order[from + i];
        for (int j = 0; j < kNeighbors; ++j) {
          out.nearest[kNeighbors * row + j] = static_cast<int32_t>(rows[kNeighbors * i + j]);
          out.weights[kNeighbors * row + j] = weight_of(squares[kNeighbors * i + j]);
        }
        out.distance[row] = octave_of(squares[kNeighbors * i]);
      }
    }
    end = begin;
  }
}

// The second curve: the order of the shifted places.
void shifted_curve(const int32_t* local, int64_t points, int depth, std::vector<uint64_t>* keys, std::vector<uint32_t>* curve) {
  const int32_t third = (1 << std::min(depth, kSearchBits)) / 3;
  std::vector<int32_t> shifted(3 * points);
  for (int64_t i = 0; i < 3 * points; ++i) shifted[i] = local[i] + third;
  anypcc_morton_encode(shifted.data(), points, keys->data(), 1);
  anypcc_sort_keys(keys->data(), curve->data(), points);
}

// Classes of the distance and the elevation from (0, 0, 0).
void classify(const int64_t* grid, int64_t points, std::vector<uint64_t>* keys, std::vector<uint32_t>* order,
              const SurroundingsOut& out) {
  std::vector<int64_t> slope(points);
  int64_t least = INT64_MAX;
  int shortest = 64;
  for (int64_t i = 0; i < points; ++i) {
    int64_t n[3];
    for (int axis = 0; axis < 3; ++axis) n[axis] = std::clamp(grid[3 * i + axis], -kClamp, kClamp);
    const int64_t across = n[0] * n[0] + n[1] * n[1];
    const int length = rounded_length(across + n[2] * n[2]);
    out.reach[i] = static_cast<uint8_t>(length);
    shortest = std::min(shortest, length);
    const int64_t root = std::max<int64_t>(static_cast<int64_t>(std::sqrt(static_cast<double>(across))), 1);
    const int64_t height = n[2] * (1 << 24), quotient = height / root;
    slope[i] = quotient - (height - quotient * root < 0);
    least = std::min(least, slope[i]);
  }
  for (int64_t i = 0; i < points; ++i) {
    out.reach[i] = static_cast<uint8_t>(std::min(out.reach[i] - shortest, 15));
    (*keys)[i] = static_cast<uint64_t>(slope[i] - least);
  }
  anypcc_sort_keys(keys->data(), order->data(), points);
  for (int64_t i = 0; i < points; ++i) out.elevation[(*order)[i]] = static_cast<uint8_t>(i * 256 / points);
}

bool valid(int64_t points, const int64_t* passes, int64_t n_passes) {
  if (points < 0 || points > INT32_MAX || n_passes < 0 || n_passes >= UINT8_MAX) return false;
  int64_t end = 0;
  for (int64_t pass = 0; pass < n_passes; ++pass) {
    if (passes[pass] < 0 || passes[pass] > points - end) return false;
    end += passes[pass];
  }
  return end == points;
}

}  // namespace
}  // namespace anypcc

int64_t anypcc_surroundings(const int64_t* grid, int64_t points, const int32_t* order, const int64_t* passes,
                            int64_t n_passes, const anypcc::SurroundingsOut* out) {
  using namespace anypcc;
  if (!valid(points, passes, n_passes)) return kBadArgument;
  try {
    std::vector<uint8_t> pass_of;
    if (!passes_of(order, passes, n_passes, points, &pass_of)) return kBadIndex;
    int64_t low[3] = {INT64_MAX, INT64_MAX, INT64_MAX};
    for (int64_t i = 0; i < 3 * points; ++i) low[i % 3] = std::min(low[i % 3], grid[i]);
    uint64_t extent = 0;
    for (int64_t i = 0; i < 3 * points; ++i) extent = std::max(extent, static_cast<uint64_t>(grid[i]) - static_cast<uint64_t>(low[i % 3]));
    const int depth = extent == 0 ? 0 : 64 - __builtin_clzll(extent), coarser = std::max(depth - kSearchBits, 0);
    std::vector<int32_t> local(3 * points);
    for (int64_t i = 0; i < 3 * points; ++i) {
      local[i] = static_cast<int32_t>((static_cast<uint64_t>(grid[i]) - static_cast<uint64_t>(low[i % 3])) >> coarser);
    }
    std::vector<uint64_t> keys(points);
    std::vector<uint32_t> curve(points);
    classify(grid, points, &keys, &curve, *out);
    shifted_curve(local.data(), points, depth, &keys, &curve);
    std::vector<uint64_t>().swap(keys);  // what follows needs the memory
    find_nearest(local.data(), curve.data(), points, order, passes, n_passes, pass_of.data(), *out);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

int64_t anypcc_row_surroundings(int64_t points, const int32_t* order, const int64_t* passes, int64_t n_passes,
                                const anypcc::SurroundingsOut* out) {
  using namespace anypcc;
  if (!valid(points, passes, n_passes) || points > kFarthest) return kBadArgument;
  try {
    std::vector<uint8_t> pass_of;
    if (!passes_of(order, passes, n_passes, points, &pass_of)) return kBadIndex;
    for (int64_t row = 0; row < points; ++row) {
      int32_t* const nearest = out->nearest + kNeighbors * row;
      int found = 0;
      // Of two that are as far away the one before comes first.
      const int64_t step = row == 0 ? points : row & -row;  // closer ones are all of later passes
      int64_t before = row - step, after = row + step;
      for (int left = kBeyond, right = kBeyond; found < kNeighbors; before -= step, after += step) {
        const bool more_before = left > 0 && before >= 0, more_after = right > 0 && after < points;
        if (!more_before && !more_after) break;
        if (more_before && pass_of[before] < pass_of[row]) {
          nearest[found++] = static_cast<int32_t>(before);
          --left;
        }
        if (more_after && pass_of[after] < pass_of[row] && found < kNeighbors) {
          nearest[found++] = static_cast<int32_t>(after);
          --right;
        }
      }
      for (int j = found; j < kNeighbors; ++j) nearest[j] = found == 0 ? static_cast<int32_t>(row) : nearest[0];
      for (int j = 0; j < kNeighbors; ++j) {
        out->weights[kNeighbors * row + j] = j < 2 ? weight_of(static_cast<double>(std::abs(nearest[j] - row))) : 0;
      }
      out->distance[row] = octave_of(static_cast<double>(std::abs(nearest[0] - row)));
      out->reach[row] = static_cast<uint8_t>(std::min(rounded_length(row * row), 15));
      out->elevation[row] = static_cast<uint8_t>(row * 256 / points);
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

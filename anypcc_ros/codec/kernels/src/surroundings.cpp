// The neighbour search of codec/surroundings.py; its arithmetic is in isa_surroundings.hpp.
#include <cmath>
#include <vector>

#include "api.hpp"
#include "isa.hpp"

namespace anypcc {
namespace {

constexpr int64_t kFarthest = 1 << 20;  // coordinates stay below it: squares then fit float64
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

bool permutation(const uint32_t* rows, int64_t points) {
  std::vector<uint8_t> seen(points);
  for (int64_t i = 0; i < points; ++i) {
    if (rows[i] >= points || seen[rows[i]]) return false;
    seen[rows[i]] = 1;
  }
  return true;
}

}  // namespace
}  // namespace anypcc

int64_t anypcc_nearest_known(const int32_t* local, const uint32_t* curve, int64_t points, const int32_t* order,
                             const int64_t* passes, int64_t n_passes, int32_t* nearest, int32_t* weights,
                             uint8_t* distance) {
  using namespace anypcc;
  if (points < 0 || points > INT32_MAX || n_passes < 0 || n_passes > UINT8_MAX) return kBadArgument;
  int64_t end = 0;
  for (int64_t pass = 0; pass < n_passes; ++pass) {
    if (passes[pass] < 0 || passes[pass] > points - end) return kBadArgument;
    end += passes[pass];
  }
  if (end != points) return kBadArgument;
  for (int64_t i = 0; i < 3 * points; ++i) {
    if (local[i] < 0 || local[i] >= kFarthest) return kBadIndex;
  }
  try {
    if (!permutation(curve, points) || !permutation(reinterpret_cast<const uint32_t*>(order), points)) return kBadIndex;
    std::vector<uint8_t> pass_of(points);
    for (int64_t pass = n_passes - 1, i = points; pass >= 0; --pass) {
      for (const int64_t begin = i - passes[pass]; i > begin; --i) pass_of[order[i - 1]] = static_cast<uint8_t>(pass);
    }
    CurvePoints along[2] = {{local, nullptr, pass_of.data(), points}, {local, curve, pass_of.data(), points}};
    const CurveWindow curves[2] = {along[0].window(), along[1].window()};
    uint32_t rows[kRows * kNeighbors];
    double squares[kRows * kNeighbors];
    for (int64_t pass = n_passes - 1; pass >= 0; --pass) {
      for (CurvePoints& known : along) known.take_out(static_cast<uint8_t>(pass));
      const int64_t begin = end - passes[pass];
      for (int64_t from = begin; from < end; from += kRows) {
        const int64_t count = end - from < kRows ? end - from : kRows;
        active_isa().nearest_candidates(curves, local, order + from, count, rows, squares);
        for (int64_t i = 0; i < count * kNeighbors; ++i) squares[i] = std::floor(std::sqrt(squares[i]));
        for (int64_t i = 0; i < count; ++i) {
          const int64_t row = order[from + i];
          for (int j = 0; j < kNeighbors; ++j) {
            const int32_t weight = (1 << 20) / (1 + static_cast<int32_t>(squares[kNeighbors * i + j]));
            nearest[kNeighbors * row + j] = static_cast<int32_t>(rows[kNeighbors * i + j]);
            weights[kNeighbors * row + j] = weight > 1 ? weight : 1;
          }
          const uint32_t root = static_cast<uint32_t>(squares[kNeighbors * i]);
          const int octave = root == 0 ? 0 : 32 - __builtin_clz(root);
          distance[row] = static_cast<uint8_t>(octave < 15 ? octave : 15);
        }
      }
      end = begin;
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

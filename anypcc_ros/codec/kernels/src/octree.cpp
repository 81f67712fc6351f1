// Morton order and the octree above it. A key interleaves three coordinates of 21 bits: bit 3 b + 2 is bit b
// of x, then y, z.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "api.hpp"
#include "buffer.hpp"
#include "level.hpp"
#include "thread_pool.hpp"

namespace anypcc {
namespace {

constexpr int kCoordinateBits = 21;
constexpr int64_t kGrain = 1 << 15;  // rows below which a second thread costs more than it brings

uint64_t spread(uint64_t v) {
  v = (v | v << 32) & 0x1F00000000FFFF;
  v = (v | v << 16) & 0x1F0000FF0000FF;
  v = (v | v << 8) & 0x100F00F00F00F00F;
  v = (v | v << 4) & 0x10C30C30C30C30C3;
  return (v | v << 2) & 0x1249249249249249;
}

int64_t gather(uint64_t v) {
  v &= 0x1249249249249249;
  v = (v | v >> 2) & 0x10C30C30C30C30C3;
  v = (v | v >> 4) & 0x100F00F00F00F00F;
  v = (v | v >> 8) & 0x1F0000FF0000FF;
  v = (v | v >> 16) & 0x1F00000000FFFF;
  return static_cast<int64_t>((v | v >> 32) & 0x1FFFFF);
}

// Least significant digit first, 11 bits a pass; passes over digits that all keys share are left out.
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits, kPasses = 6;

struct Item {
  uint64_t key;
  uint32_t row;
};

int64_t sort(uint64_t* keys, uint32_t* order, int64_t count) {
  thread_local Buffer<Item> buffers[2];
  Item *from = buffers[0].reserve(count), *to = buffers[1].reserve(count);
  static thread_local uint32_t histogram[kPasses][kDigits];
  std::memset(histogram, 0, sizeof(histogram));
  for (int64_t i = 0; i < count; ++i) {
    from[i] = {keys[i], static_cast<uint32_t>(i)};
    for (int pass = 0; pass < kPasses; ++pass)
      ++histogram[pass][keys[i] >> (pass * kDigitBits) & (kDigits - 1)];
  }
  for (int pass = 0; pass < kPasses; ++pass) {
    uint32_t* place = histogram[pass];
    const int shift = pass * kDigitBits;
    if (count == 0 || place[from[0].key >> shift & (kDigits - 1)] == count) continue;
    uint32_t sum = 0;
    for (int digit = 0; digit < kDigits; ++digit) {
      const uint32_t here = place[digit];
      place[digit] = sum;
      sum += here;
    }
    for (int64_t i = 0; i < count; ++i) to[place[from[i].key >> shift & (kDigits - 1)]++] = from[i];
    Item* const swap = from;
    from = to;
    to = swap;
  }
  for (int64_t i = 0; i < count; ++i) {
    keys[i] = from[i].key;
    order[i] = from[i].row;
  }
  return count;
}

// Of an occupancy code: the children, and the coordinate bits (x, y, z) of the first four.
constexpr auto kOctants = [] {
  struct {
    uint8_t count[256], bits[256][12];
  } octants{};
  for (int code = 0; code < 256; ++code) {
    for (int o = 0; o < 8; ++o) {
      if ((code >> o & 1) == 0) continue;
      const int at = 3 * octants.count[code]++;
      if (at >= 12) continue;
      octants.bits[code][at] = static_cast<uint8_t>(o >> 2);
      octants.bits[code][at + 1] = static_cast<uint8_t>(o >> 1 & 1);
      octants.bits[code][at + 2] = static_cast<uint8_t>(o & 1);
    }
  }
  return octants;
}();

// Rounds the coordinates of points [begin, end), halves to even. Returns the largest magnitude, not finite if one of them is
// not.
template <class Real>
double to_grid(const Real* xyz, int64_t begin, int64_t end, const double* origin, double step, int64_t* grid) {
  double largest = 0;
  bool finite = true;
  for (int64_t i = begin; i < end; ++i) {
    for (int axis = 0; axis < 3; ++axis) {
      const double value = (static_cast<double>(xyz[3 * i + axis]) - origin[axis]) / step;
      const double size = std::fabs(value);
      finite = finite && size <= std::numeric_limits<double>::max();
      largest = size > largest ? size : largest;
      grid[3 * i + axis] = size < 0x1p53 ? std::llrint(value) : 0;  // beyond that nobody will want it
    }
  }
  return finite ? std::rint(largest) : std::numeric_limits<double>::infinity();
}

// Every row of `Width` bytes as often as it is repeated; how many there are, at most `capacity`, or kBadArgument.
template <int Width>
int64_t repeat(const uint8_t* rows, const int64_t* repeats, int64_t count, uint8_t* repeated, int64_t capacity) {
  int64_t to = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (repeats[i] < 0 || repeats[i] > capacity - to) return kBadArgument;
    for (const int64_t end = to + repeats[i]; to < end; ++to) std::memcpy(repeated + to * Width, rows + i * Width, Width);
  }
  return to;
}

}  // namespace
}  // namespace anypcc

using namespace anypcc;

int64_t anypcc_grid_positions(const int64_t* grid, int64_t count, double step, void* xyz, int doubles) {
  if (count < 0) return kBadArgument;
  if (doubles != 0) {
    double* const to = static_cast<double*>(xyz);
    for (int64_t i = 0; i < 3 * count; ++i) to[i] = static_cast<double>(grid[i]) * step;
  } else {
    float* const to = static_cast<float*>(xyz);
    for (int64_t i = 0; i < 3 * count; ++i) to[i] = static_cast<float>(static_cast<double>(grid[i]) * step);
  }
  return kOk;
}

int64_t anypcc_repeat_rows(const void* rows, int width, const int64_t* repeats, int64_t count, void* repeated, int64_t capacity) {
  if (count < 0 || capacity < 0) return kBadArgument;
  const uint8_t* const from = static_cast<const uint8_t*>(rows);
  uint8_t* const to = static_cast<uint8_t*>(repeated);
  if (width == 12) return repeat<12>(from, repeats, count, to, capacity);
  if (width == 24) return repeat<24>(from, repeats, count, to, capacity);
  return kBadArgument;
}

int64_t anypcc_morton_encode(const int32_t* coords, int64_t count, uint64_t* keys, int threads) {
  if (count < 0) return kBadArgument;
  bool valid[kMaxThreads];
  const int workers = threads_for(count, kGrain, resolve_threads(threads));
  std::memset(valid, 1, sizeof(valid));
  parallel_ranges(count, workers, [&](int64_t begin, int64_t end, int worker) {
    uint32_t bits = 0;
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t x = coords[3 * i], y = coords[3 * i + 1], z = coords[3 * i + 2];
      bits |= x | y | z;
      keys[i] = spread(x & 0x1FFFFF) << 2 | spread(y & 0x1FFFFF) << 1 | spread(z & 0x1FFFFF);
    }
    valid[worker] = bits >> kCoordinateBits == 0;
  });
  for (int worker = 0; worker < workers; ++worker) {
    if (!valid[worker]) return kBadIndex;
  }
  return kOk;
}

int64_t anypcc_grid_coords(const void* xyz, int doubles, int64_t count, const double* origin, double step,
                           int64_t* grid, double* largest, int threads) {
  if (count < 0) return kBadArgument;
  double most[kMaxThreads] = {};
  parallel_ranges(count, threads_for(count, kGrain, resolve_threads(threads)),
                  [&](int64_t begin, int64_t end, int worker) {
                    most[worker] = doubles != 0 ? to_grid(static_cast<const double*>(xyz), begin, end, origin, step, grid)
                                                : to_grid(static_cast<const float*>(xyz), begin, end, origin, step, grid);
                  });
  *largest = *std::max_element(most, most + kMaxThreads);
  return kOk;
}

int64_t anypcc_grid_bounds(const int64_t* grid, int64_t count, int64_t* bounds) {
  if (count < 1) return kBadArgument;
  for (int axis = 0; axis < 3; ++axis) bounds[axis] = bounds[3 + axis] = grid[axis];
  for (int64_t i = 1; i < count; ++i) {
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t value = grid[3 * i + axis];
      bounds[axis] = value < bounds[axis] ? value : bounds[axis];
      bounds[3 + axis] = value > bounds[3 + axis] ? value : bounds[3 + axis];
    }
  }
  return kOk;
}

int64_t anypcc_axis_counts(const int64_t* grid, int64_t count, const int64_t* low, const int64_t* sizes, uint32_t* counts) {
  if (count < 0 || count > UINT32_MAX || sizes[0] < 0 || sizes[1] < 0 || sizes[2] < 0) return kBadArgument;
  for (int axis = 0; axis < 3; counts += sizes[axis++]) {
    const uint64_t size = static_cast<uint64_t>(sizes[axis]), first = static_cast<uint64_t>(low[axis]);
    if (size == 0) continue;
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t place = static_cast<uint64_t>(grid[3 * i + axis]) - first;
      if (place >= size) return kBadIndex;
      ++counts[place];
    }
  }
  return kOk;
}

int64_t anypcc_grid_keys(const int64_t* grid, int64_t count, const int64_t* low, int dropped, uint64_t* keys, int threads) {
  if (count < 0 || dropped < 0 || dropped > 63) return kBadArgument;
  std::atomic<bool> valid{true};
  parallel_ranges(count, threads_for(count, kGrain, resolve_threads(threads)), [&](int64_t begin, int64_t end, int) {
    uint64_t bits = 0;
    for (int64_t i = begin; i < end; ++i) {
      const auto local = [&](int axis) {
        return (static_cast<uint64_t>(grid[3 * i + axis]) - static_cast<uint64_t>(low[axis])) >> dropped;
      };
      const uint64_t x = local(0), y = local(1), z = local(2);
      bits |= x | y | z;
      keys[i] = spread(x & 0x1FFFFF) << 2 | spread(y & 0x1FFFFF) << 1 | spread(z & 0x1FFFFF);
    }
    if (bits >> kCoordinateBits != 0) valid = false;
  });
  return valid ? kOk : kBadIndex;
}

int64_t anypcc_morton_decode(const uint64_t* keys, int64_t count, int64_t* coords, int threads) {
  if (count < 0) return kBadArgument;
  parallel_ranges(count, threads_for(count, kGrain, resolve_threads(threads)),
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t i = begin; i < end; ++i) {
                      coords[3 * i] = gather(keys[i] >> 2);
                      coords[3 * i + 1] = gather(keys[i] >> 1);
                      coords[3 * i + 2] = gather(keys[i]);
                    }
                  });
  return kOk;
}

int64_t anypcc_sort_keys(uint64_t* keys, uint32_t* order, int64_t count) {
  if (count < 0 || count > UINT32_MAX) return kBadArgument;
  try {
    return sort(keys, order, count);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
}

int64_t anypcc_unique_keys(uint64_t* keys, int64_t count, int64_t* occurrences) {
  if (count < 0) return kBadArgument;
  int64_t unique = 0;
  for (int64_t i = 0; i < count; ++unique) {
    int64_t end = i + 1;
    while (end < count && keys[end] == keys[i]) ++end;
    keys[unique] = keys[i];
    occurrences[unique] = end - i;
    i = end;
  }
  return unique;
}

int64_t anypcc_parent_keys(const uint64_t* keys, int64_t count, uint64_t* parents, uint8_t* codes) {
  if (count < 0) return kBadArgument;
  // Without a branch: nobody foresees how many children a node has.
  int64_t node = -1;
  uint64_t last = UINT64_MAX;
  unsigned code = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t parent = keys[i] >> 3;
    const bool another = parent != last;
    code = (another ? 0 : code) | 1u << (keys[i] & 7);
    node += another;
    parents[node] = last = parent;
    codes[node] = static_cast<uint8_t>(code);
  }
  return node + 1;
}

int64_t anypcc_child_coords(const uint32_t* coords, const uint8_t* codes, int64_t count, uint32_t* children,
                            int64_t capacity) {
  if (count < 0) return kBadArgument;
  int64_t child = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int here = kOctants.count[codes[i]];
    if (child + here > capacity) return kBadArgument;
    const uint32_t x = coords[3 * i] << 1, y = coords[3 * i + 1] << 1, z = coords[3 * i + 2] << 1;
    if (here <= 4 && child + 4 <= capacity) {
      // Four in any case, which is foreseen; the next node's take the places of those that there are not.
      const uint8_t* const bits = kOctants.bits[codes[i]];
      uint32_t* const to = children + 3 * child;
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        to[3 * c] = x | bits[3 * c];
        to[3 * c + 1] = y | bits[3 * c + 1];
        to[3 * c + 2] = z | bits[3 * c + 2];
      }
      child += here;
      continue;
    }
    for (unsigned left = codes[i]; left != 0; left &= left - 1, ++child) {
      const unsigned o = static_cast<unsigned>(__builtin_ctz(left));
      children[3 * child] = x | o >> 2;
      children[3 * child + 1] = y | (o >> 1 & 1);
      children[3 * child + 2] = z | (o & 1);
    }
  }
  return child;
}

int64_t anypcc_child_keys(const uint64_t* keys, const uint8_t* codes, int64_t count, uint64_t* children,
                          int64_t capacity) {
  if (count < 0) return kBadArgument;
  int64_t child = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (child + ones(codes[i]) > capacity) return kBadArgument;
    for (unsigned left = codes[i]; left != 0; left &= left - 1) {
      children[child++] = keys[i] << 3 | static_cast<unsigned>(__builtin_ctz(left));
    }
  }
  return child;
}

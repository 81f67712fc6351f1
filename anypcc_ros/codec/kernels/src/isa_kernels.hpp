// The kernels, compiled once per instruction set inside that set's namespace (no include guard, on purpose).
//
// The including file defines two arithmetics, FloatMath and Int8Math, each with
//   Input, Weight, Sum     element types of x, w and y
//   Vector                 kLanes sums in a register, addable by multiply_add
//   kDepth                 input channels that one multiply_add consumes
//   kVectors               most vectors of an output row that a block of the product holds in registers
//   kRegisters             accumulators to use
//   load, store, load_weights, splat, multiply_add

// ---- products ----

// Calls body.run<Vectors>(first column) over all columns (a multiple of 16) in the widest blocks.
template <class Math, int Vectors, class Body>
inline void for_column_blocks(int columns, const Body& body, int column = 0) {
  for (; column + Vectors * Math::kLanes <= columns; column += Vectors * Math::kLanes) {
    body.template run<Vectors>(column);
  }
  if constexpr (Vectors > 1) for_column_blocks<Math, Vectors / 2>(columns, body, column);
}

// Whether sums become activations in the registers they are in. Those of 16 bytes hold too few of them for that to be worth it.
constexpr bool kActivatedAtOnce = Int8Math::kLanes > 4;

// round(sum * multiplier / 2^shift), halves up, of a product below 2^62 and a result that fits 32 bits. The
// offset makes the shift one of an unsigned number: most instruction sets lack the arithmetic 64-bit shift.
struct Rescale {
  static constexpr uint64_t kOffset = uint64_t{1} << 62;
  uint64_t add;
  uint32_t subtract;
  int shift;

  explicit Rescale(int bits)
      : add(kOffset + (uint64_t{1} << (bits - 1))),
        subtract(static_cast<uint32_t>(kOffset >> bits)),
        shift(bits) {}

  int32_t operator()(int32_t sum, int32_t multiplier) const {
    const uint64_t product = static_cast<uint64_t>(static_cast<int64_t>(sum) * multiplier) + add;
    return static_cast<int32_t>(static_cast<uint32_t>(product >> shift) - subtract);
  }
};

#ifndef ANYPCC_AVX512
// Activations of sums in a register, which have bounds, of the columns from `column` on.
inline void activate_vector(Int8Math::Vector sum, const Activation& activation, int column, const uint8_t* more, uint8_t* y) {
  constexpr int kLanes = Int8Math::kLanes;
  typedef int32_t Values __attribute__((vector_size(4 * kLanes)));
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  Values value = (Values)sum, lowest, highest, multiplier;
  __builtin_memcpy(&lowest, activation.lowest + column, sizeof(Values));
  __builtin_memcpy(&highest, activation.highest + column, sizeof(Values));
  __builtin_memcpy(&multiplier, activation.multiplier + column, sizeof(Values));
  value = value > lowest ? value : lowest;
  value = value < highest ? value : highest;
  value = (value * multiplier + (1 << (activation.shift - 1))) >> activation.shift;
  if (more != nullptr) {
    Bytes bytes;
    __builtin_memcpy(&bytes, more, sizeof(Bytes));
    value += __builtin_convertvector(bytes, Values);
    value = value < 127 ? value : 127;
  }
  value = value > 0 ? value : 0;
  for (int j = 0; j < kLanes; ++j) y[j] = static_cast<uint8_t>(value[j]);
}

// 16 activations, of the columns from `column` on.
inline void activate_row(const int32_t* sum, const Activation& activation, int column, const uint8_t* more, uint8_t* y) {
  constexpr int kLanes = Int8Math::kLanes;
  if (kActivatedAtOnce && activation.lowest != nullptr) {
    for (int j = 0; j < 16; j += kLanes) {
      activate_vector(Int8Math::load(sum + j), activation, column + j, more == nullptr ? nullptr : more + j, y + j);
    }
    return;
  }
  const int shift = activation.shift;
  const int32_t* const multiplier = activation.multiplier + column;
  int32_t value[16];
  if (activation.lowest != nullptr) {
    const int32_t half = static_cast<int32_t>(uint32_t{1} << ((shift - 1) & 31));
    const int32_t *lowest = activation.lowest + column, *highest = activation.highest + column;
    for (int j = 0; j < 16; ++j) {
      const int32_t above = sum[j] > lowest[j] ? sum[j] : lowest[j];
      const int32_t within = above < highest[j] ? above : highest[j];
      value[j] = (within * multiplier[j] + half) >> shift;
    }
  } else {
    const Rescale rescale(shift);
    for (int j = 0; j < 16; ++j) {
      const int32_t scaled = rescale(sum[j], multiplier[j]);
      value[j] = scaled < 127 ? scaled : 127;
    }
  }
  if (more != nullptr) {
    for (int j = 0; j < 16; ++j) value[j] += more[j];
  }
  for (int j = 0; j < 16; ++j) {
    const int32_t low = value[j] > 0 ? value[j] : 0;
    y[j] = static_cast<uint8_t>(low < 127 ? low : 127);
  }
}

// 16 results.
inline void rescale_row(const int32_t* sum, const int32_t* multiplier, int shift, int32_t* result) {
  const Rescale rescale(shift);
  for (int j = 0; j < 16; ++j) result[j] = rescale(sum[j], multiplier[j]);
}
#endif

// What a product works on, row by row: PairRows adds to what y holds, SourceRows begins anew.

template <class Math>
struct PairRows {
  using Sum = typename Math::Sum;
  const Pair* pairs;
  Sum* y;

  int64_t in(int64_t i) const { return pairs[i].in; }
  Sum* out(int64_t i, int cout) const { return y + static_cast<int64_t>(pairs[i].out) * cout; }
  const Sum* begin(int64_t i, int cout) const { return out(i, cout); }
  template <int Vectors>
  void end(int64_t i, int cout, int column, const typename Math::Vector (&sum)[Vectors]) const {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) Math::store(out(i, cout) + column + v * Math::kLanes, sum[v]);
  }
};

template <class Math>
struct SourceRows {
  using Sum = typename Math::Sum;
  RowSource<Sum> source;
  Sum* y;

  int64_t in(int64_t i) const { return source.rows == nullptr ? source.first + i : source.rows[i]; }
  const Sum* begin(int64_t i, int cout) const {
    return source.bias + (source.codes == nullptr ? 0 : static_cast<int64_t>(source.codes[i]) * cout);
  }
  template <int Vectors>
  void end(int64_t i, int cout, int column, const typename Math::Vector (&sum)[Vectors]) const {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) Math::store(y + i * cout + column + v * Math::kLanes, sum[v]);
  }
};

// The same, whose sums become activations at once.
struct RowsToActivate {
  SourceRows<Int8Math> rows;
  const int32_t* outs;
  const Activation& activation;
  uint8_t* y;

  int64_t in(int64_t i) const { return rows.in(i); }
  const int32_t* begin(int64_t i, int cout) const { return rows.begin(i, cout); }
  template <int Vectors>
  void end(int64_t i, int cout, int column, const Int8Math::Vector (&sum)[Vectors]) const {
    constexpr int kLanes = Int8Math::kLanes;
    uint8_t* const to = y + (outs == nullptr ? i : outs[i]) * int64_t{cout} + column;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) activate_vector(sum[v], activation, column + v * kLanes, nullptr, to + v * kLanes);
  }
};

// Inputs, and as many outputs, of the layers that take most of the time: known beforehand, they spare a tenth of it.
constexpr int kUsual = 32;

// The product with `Width` inputs and outputs; with any number of them where that is 0.
template <class Math, class Source, int Width>
struct Product {
  using Input = typename Math::Input;
  using Weight = typename Math::Weight;
  using Sum = typename Math::Sum;

  Source source;
  int64_t count;
  const Input* x;
  const Weight* w;
  int inputs, outputs;

  // `Rows` rows from i on in `Vectors` vectors of columns; all their sums stay in registers.
  template <int Rows, int Vectors>
  void block(int64_t i, int column) const {
    const int cin = Width > 0 ? Width : inputs, cout = Width > 0 ? Width : outputs;
    const Source from = source;  // stores below change nothing of it
    const Input* in[Rows];
    typename Math::Vector sum[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      in[r] = x + from.in(i + r) * cin;
      const Sum* const begin = from.begin(i + r, cout) + column;
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] = Math::load(begin + v * Math::kLanes);
    }
    const Weight* at = w + column * Math::kDepth;
#pragma GCC unroll 1
    for (int64_t c = 0; c < cin; c += Math::kDepth, at += cout * Math::kDepth) {
      decltype(Math::load_weights(at)) weights[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) weights[v] = Math::load_weights(at + v * Math::kLanes * Math::kDepth);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const auto value = Math::splat(in[r] + c);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[r][v] = Math::multiply_add(sum[r][v], value, weights[v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      from.end(i + r, cout, column, sum[r]);
    }
  }

  template <int Vectors>
  void run(int column) const {
    constexpr int kMost = Math::kRegisters / Vectors;
    constexpr int kRows = kMost < 8 ? kMost : 8;
    int64_t i = 0;
    for (; i + kRows <= count; i += kRows) block<kRows, Vectors>(i, column);
    rest<kRows - 1, Vectors>(i, column);
  }

  // The last rows, fewer than a block.
  template <int Rows, int Vectors>
  void rest(int64_t i, int column) const {
    if constexpr (Rows > 0) {
      if (count - i == Rows) {
        block<Rows, Vectors>(i, column);
      } else {
        rest<Rows - 1, Vectors>(i, column);
      }
    }
  }
};

template <class Math, class Source>
void multiply(const Source& source, int64_t count, const typename Math::Input* x, const typename Math::Weight* w, int cin,
              int cout) {
  if (cin == kUsual && cout == kUsual) {
    for_column_blocks<Math, Math::kVectors>(cout, Product<Math, Source, kUsual>{source, count, x, w, cin, cout});
  } else {
    for_column_blocks<Math, Math::kVectors>(cout, Product<Math, Source, 0>{source, count, x, w, cin, cout});
  }
}

template <class Math>
void product(const Pair* pairs, int64_t count, const typename Math::Input* x, const typename Math::Weight* w,
             typename Math::Sum* y, int cin, int cout) {
  multiply<Math>(PairRows<Math>{pairs, y}, count, x, w, cin, cout);
}

template <class Math>
void rows(const RowSource<typename Math::Sum>& source, int64_t count, const typename Math::Input* x,
          const typename Math::Weight* w, typename Math::Sum* y, int cin, int cout) {
  multiply<Math>(SourceRows<Math>{source, y}, count, x, w, cin, cout);
}

void rows_activated(const ActivatedRows& rows, int64_t count, const uint8_t* x, const int8_t* w, int cin, int cout) {
  const RowsToActivate source{{rows.source, nullptr}, rows.outs, rows.activation, rows.y};
  multiply<Int8Math>(source, count, x, w, cin, cout);
}

// ---- weight gradient ----

template <class Math>
struct OuterProduct {
  const Pair* pairs;
  int64_t count;
  const float *x, *dy;
  float* dw;
  int cin, cout;

  // dw[c .. c + Rows)[column block] += sum over pairs of x[in][c + r] * dy[out].
  template <int Rows, int Vectors>
  void block(int c, int column) const {
    typename Math::Vector sum[Rows][Vectors];
    float* const target = dw + static_cast<int64_t>(c) * cout + column;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] = Math::load(target + r * cout + v * Math::kLanes);
    }
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; ++i) {
      const float* in = x + static_cast<int64_t>(pairs[i].in) * cin + c;
      const float* out = dy + static_cast<int64_t>(pairs[i].out) * cout + column;
      typename Math::Vector gradient[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) gradient[v] = Math::load(out + v * Math::kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const auto value = Math::splat(in + r);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[r][v] = Math::multiply_add(sum[r][v], value, gradient[v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) Math::store(target + r * cout + v * Math::kLanes, sum[r][v]);
    }
  }

  template <int Vectors>
  void run(int column) const {
    constexpr int kMost = Math::kRegisters / Vectors;
    constexpr int kRows = kMost >= 8 ? 8 : kMost >= 4 ? 4 : 2;  // a power of two, so that it divides cin
    for (int c = 0; c < cin; c += kRows) block<kRows, Vectors>(c, column);
  }

  static void all(const Pair* pairs, int64_t count, const float* x, const float* dy, float* dw, int cin,
                  int cout) {
    for_column_blocks<Math, Math::kVectors>(cout, OuterProduct{pairs, count, x, dy, dw, cin, cout});
  }
};

// ---- integer activation and softmax: plain loops, which the compiler turns into this set's vectors ----

void activate(const int32_t* sum, const Activation& activation, const uint8_t* residual,
              const int32_t* residual_rows, uint8_t* y, int64_t rows, int cout) {
  for (int64_t i = 0; i < rows; ++i, sum += cout, y += cout) {
    const uint8_t* const more =
        residual == nullptr
            ? nullptr
            : residual + static_cast<int64_t>(residual_rows == nullptr ? i : residual_rows[i]) * cout;
    for (int column = 0; column < cout; column += 16) {
      activate_row(sum + column, activation, column, more == nullptr ? nullptr : more + column, y + column);
    }
  }
}

// result = round(sum * multiplier / 2^shift), one multiplier per column.
void rescale(const int32_t* __restrict sum, const int32_t* __restrict multiplier, int shift, int32_t* __restrict result,
             int64_t rows, int cout) {
  for (int64_t i = 0; i < rows; ++i, sum += cout, result += cout) {
    for (int j = 0; j < cout; j += 16) rescale_row(sum + j, multiplier + j, shift, result + j);
  }
}

#include "isa_calibration.hpp"
#include "isa_beams.hpp"
#include "isa_mixing.hpp"
#include "isa_levels.hpp"
#include "isa_surroundings.hpp"

constexpr Isa isa_table(const char* name) {
  return {name,
          product<FloatMath>,
          rows<FloatMath>,
          product<Int8Math>,
          rows<Int8Math>,
          kActivatedAtOnce ? rows_activated : nullptr,
          OuterProduct<FloatMath>::all,
          activate,
          rescale,
          softmax,
          calibrate,
          learn,
          distances,
          cone_heights,
          cone_bins,
          plane_bins,
          mix,
          weigh_mix,
          count_mix,
          nearest_points,
          expand,
          count_neighbors,
          list_neighbors,
          directions};
}

// float32 micro-kernels, compiled once per instruction set inside that set's namespace. Vectors are the compiler's own
// (GCC and Clang vector extensions); the including file defines ANYPCC_FLOAT_LANES, ANYPCC_FLOAT_VECTORS (vectors of a
// row of y held in registers, at most) and ANYPCC_FLOAT_ROWS (accumulating registers over vectors).

constexpr int kLanes = ANYPCC_FLOAT_LANES;
typedef float Floats __attribute__((vector_size(4 * ANYPCC_FLOAT_LANES), aligned(4), may_alias));
typedef float FloatRegister __attribute__((vector_size(4 * ANYPCC_FLOAT_LANES)));

inline FloatRegister load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
inline void store(float* p, FloatRegister v) { *reinterpret_cast<Floats*>(p) = v; }
inline FloatRegister splat(float v) { return v - FloatRegister{}; }

// Calls body.template operator()<Vectors>(first column) over `columns` (a multiple of 16) in the widest blocks.
template <int Vectors = ANYPCC_FLOAT_VECTORS, class Body>
inline void for_column_blocks(int columns, Body&& body, int column = 0) {
  for (; column + Vectors * kLanes <= columns; column += Vectors * kLanes) {
    body.template run<Vectors>(column);
  }
  if constexpr (Vectors > 1) for_column_blocks<Vectors / 2>(columns, body, column);
}

// y[out][0 .. Vectors) += x[in] @ w for Rows pairs: Rows * Vectors accumulators stay in registers.
template <int Rows, int Vectors>
inline void conv_block(const Pair* pairs, const float* x, const float* w, float* y, int cin, int cout) {
  const float* in[Rows];
  FloatRegister sum[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    in[r] = x + static_cast<int64_t>(pairs[r].in) * cin;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      sum[r][v] = load(y + static_cast<int64_t>(pairs[r].out) * cout + v * kLanes);
    }
  }
#pragma GCC unroll 1
  for (int64_t c = 0; c < cin; ++c, w += cout) {
    FloatRegister weight[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) weight[v] = load(w + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const FloatRegister value = splat(in[r][c]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] += value * weight[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      store(y + static_cast<int64_t>(pairs[r].out) * cout + v * kLanes, sum[r][v]);
    }
  }
}

template <int Rows, int Vectors>
inline void conv_rest(const Pair* pairs, int count, const float* x, const float* w, float* y, int cin, int cout) {
  if constexpr (Rows > 0) {
    if (count == Rows) {
      conv_block<Rows, Vectors>(pairs, x, w, y, cin, cout);
    } else {
      conv_rest<Rows - 1, Vectors>(pairs, count, x, w, y, cin, cout);
    }
  }
}

struct ConvColumns {
  const Pair* pairs;
  int64_t count;
  const float *x, *w;
  float* y;
  int cin, cout;

  template <int Vectors>
  void run(int column) const {
    constexpr int kRows = ANYPCC_FLOAT_ROWS / Vectors < 8 ? ANYPCC_FLOAT_ROWS / Vectors : 8;
    int64_t i = 0;
    for (; i + kRows <= count; i += kRows) {
      conv_block<kRows, Vectors>(pairs + i, x, w + column, y + column, cin, cout);
    }
    conv_rest<kRows - 1, Vectors>(pairs + i, static_cast<int>(count - i), x, w + column, y + column, cin, cout);
  }
};

void conv_f32(const Pair* pairs, int64_t count, const float* x, const float* w, float* y, int cin, int cout) {
  for_column_blocks(cout, ConvColumns{pairs, count, x, w, y, cin, cout});
}

struct WeightColumns {
  const Pair* pairs;
  int64_t count;
  const float *x, *dy;
  float* dw;
  int cin, cout;

  // dw[c .. c + Rows)[column block] += sum over pairs of x[in][c + r] * dy[out].
  template <int Rows, int Vectors>
  inline void block(int c, int column) const {
    FloatRegister sum[Rows][Vectors];
    float* const target = dw + static_cast<int64_t>(c) * cout + column;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] = load(target + r * cout + v * kLanes);
    }
#pragma GCC unroll 1
    for (int64_t i = 0; i < count; ++i) {
      const float* in = x + static_cast<int64_t>(pairs[i].in) * cin + c;
      const float* out = dy + static_cast<int64_t>(pairs[i].out) * cout + column;
      FloatRegister gradient[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) gradient[v] = load(out + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const FloatRegister value = splat(in[r]);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[r][v] += value * gradient[v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) store(target + r * cout + v * kLanes, sum[r][v]);
    }
  }

  template <int Vectors>
  void run(int column) const {
    // A power of two, so that it divides cin.
    constexpr int kMost = ANYPCC_FLOAT_ROWS / Vectors;
    constexpr int kRows = kMost >= 8 ? 8 : kMost >= 4 ? 4 : 2;
    for (int c = 0; c < cin; c += kRows) block<kRows, Vectors>(c, column);
  }
};

void conv_f32_dw(const Pair* pairs, int64_t count, const float* x, const float* dy, float* dw, int cin, int cout) {
  for_column_blocks(cout, WeightColumns{pairs, count, x, dy, dw, cin, cout});
}

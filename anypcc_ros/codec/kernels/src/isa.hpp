// The code paths: one table of function pointers per instruction set. Every isa_*.cpp file compiles the same
// kernels (isa_kernels.hpp) with its own compiler flags and fills one table. What those files include must
// not have inline functions with external linkage, such as the standard library's: of several copies the
// linker keeps one, and that could be the one compiled for a newer processor.
#pragma once

#include <cstdint>

#include "offsets.hpp"
#include "pair.hpp"

namespace anypcc {

// Where the output rows of a product get their input row and their first sum.
//   output row i reads input row rows[i], or first + i where `rows` is null;
//   its sums begin at row codes[i] of `bias` (., cout), or at row 0 where `codes` is null.
template <class Sum>
struct RowSource {
  int64_t first;
  const int32_t* rows;
  const uint8_t* codes;
  const Sum* bias;
};

// How sums become activations: clamp(round(sum * multiplier / 2^shift) + residual, 0, 127).
struct Activation {
  const int32_t* multiplier;
  // Sums clamped to these bounds give the same activations and need no more than 32 bits on the way; null
  // if there are no such bounds.
  const int32_t *lowest, *highest;
  int shift;
};

// Rows of a layer that go on as activations, which have bounds: output row outs[i] of y, or i where `outs` is null.
struct ActivatedRows {
  RowSource<int32_t> source;
  const int32_t* outs;
  Activation activation;
  uint8_t* y;
};

constexpr int kCalibrated = 16;  // symbols of a calibrated code part
constexpr int kSoftmaxRows = 64;  // whose frequencies are computed at a time

// The range coder's: a symbol's part of its range is counted in units of 2^-kCoderPrecision.
constexpr int kCoderPrecision = 24;

constexpr int kCalibrationChunk = 16;  // rows that are coded before learning from them
constexpr int kMostTables = 8;         // that a row has contexts in

// What a calibration has learned in one context.
struct alignas(64) CalibrationRow {
  int32_t bias[kCalibrated], curvature[kCalibrated];
};

// The contexts of all tables, and the weights of those that are used, in units of 2^-16; that of the logits comes last.
struct CalibrationState {
  CalibrationRow* rows;
  int32_t* weights;  // (tables + 1,)
  int tables;
};

constexpr int kBeamPlaces = 64;  // where beams are looked for at a time

constexpr int kSlopeBits = 24;   // of the fraction of a cone's slope

// Places at height `middle`, each between two cones: its neighbors, or twice the same one where there is none under or over
// it (any_ is 0, else -1). `above` is how far above the place a cone passes.
struct alignas(64) ConePlaces {
  int64_t middle[kBeamPlaces], under[kBeamPlaces], over[kBeamPlaces];
  int64_t any_under[kBeamPlaces], any_over[kBeamPlaces];
  int64_t slope_under[kBeamPlaces], slope_over[kBeamPlaces], apex_under[kBeamPlaces], apex_over[kBeamPlaces];
  int64_t above_under[kBeamPlaces], above_over[kBeamPlaces];
  int64_t wrong[kBeamPlaces];  // not 0 where these may be the neighbors of another place
};

// `turn` and `columns` of anypcc_beam_bins, and the last bin.
struct PlaneBins {
  double turn;
  uint32_t columns;
  int32_t last;
};

constexpr int kMixed = 4;                 // kinds of contexts
constexpr int kMixBlock = 64;             // tokens of a block at most
constexpr int kSymbols = kCalibrated;     // of a distribution at most
constexpr float kCountLimit = 1000;       // of a symbol that was coded

// A block of tokens under mixed contexts (codec/mixing.py), at one of their parts.
struct MixBlock {
  int64_t size;
  int symbols;
  float* counts;            // (., kSymbols)
  const uint32_t* rows;     // (size, kMixed), of counts
  const uint8_t* selector;  // (size,): which weights
  int32_t* bounds;          // (size, kSymbols): where each symbol's part of 2^kCoderPrecision ends, or it itself
  int32_t* shares;          // likewise: what was expected, in units of 2^-16
  const uint8_t* teachers;  // (taught,): the tokens that are learned from
  int64_t taught;
};

constexpr int kNeighbors = 5, kCandidates = 8;  // points around one, and those along each of two curves
constexpr int kSearched = 16;                   // points whose neighbours are looked for at a time
constexpr int32_t kFarthestApart = 8191;        // along an axis, beyond which all candidates are as far away
constexpr int kThird = 256 / 3;                 // the share of one of three points that are as far away
constexpr int kSlopes = 1 << 14, kSlopesOfOne = 1 << 11;  // classes of slopes, and how many a slope of 1 has

// A point on a curve: its place and its number, which is -1 where there is none.
struct CurvePoint {
  int32_t x, y, z, row;
};

// Points at these places, where their candidates begin on each curve; of them the nearest, the square of the distance of the
// first one, and what the second and third one count of three, in 1 / 256.
struct NearestPoints {
  alignas(64) int32_t place[3][kSearched];
  const CurvePoint* before[2][kSearched];
  alignas(64) int32_t row[kNeighbors][kSearched];
  int32_t square[kSearched], shares[2][kSearched];
};

constexpr int kMostEntries = 8 * (kOffsets - 1);  // neighbours of a node's children
constexpr int kSpareEntries = 16;                 // beyond the last one that may be written over

// A level whose codes are known, of which `entries` are the neighbours (level.hpp), and where each node's children begin in the
// level below; the arrays of that level, which are written.
struct Expansion {
  const uint32_t* masks;
  const int64_t* start;
  const int32_t* entries;
  const uint8_t* codes;
  const int32_t* first_child;
  uint32_t* child_masks;
  int64_t* child_start;
  int32_t* parent_row;
  uint8_t* octant;
};

// Which nodes of a level are fed by their neighbours at the offsets `which`: all, or these readers, of one checkerboard group,
// with neighbours in the other one, of which `place` tells the position there.
struct Neighbors {
  const uint32_t* masks;
  const int64_t* start;
  const int32_t* entries;
  uint32_t which;
  const int32_t *readers, *place;
};

struct Isa {
  const char* name;

  // y[out] += x[in] @ w over `count` pairs of distinct output rows; x (., cin), w (cin, cout), y (., cout).
  void (*product_f32)(const Pair* pairs, int64_t count, const float* x, const float* w, float* y, int cin,
                      int cout);

  // y[i] = first sum of row i + its input row of x @ w, for i in [0, count).
  void (*rows_f32)(const RowSource<float>& source, int64_t count, const float* x, const float* w, float* y,
                   int cin, int cout);

  // The same on integers; w is packed as (cin / 4, cout, 4). Activations are at most 127.
  void (*product_int8)(const Pair* pairs, int64_t count, const uint8_t* x, const int8_t* w, int32_t* y,
                       int cin, int cout);
  void (*rows_int8)(const RowSource<int32_t>& source, int64_t count, const uint8_t* x, const int8_t* w,
                    int32_t* y, int cin, int cout);

  // y = activations of the sums of `count` rows, which are never written; null where the two steps take less time.
  void (*rows_activated)(const ActivatedRows& rows, int64_t count, const uint8_t* x, const int8_t* w, int cin, int cout);

  // dw += x[in]^T dy[out] over `count` pairs; dw (cin, cout).
  void (*outer_f32)(const Pair* pairs, int64_t count, const float* x, const float* dy, float* dw, int cin,
                    int cout);

  // y (rows, cout) from sums. `residual` may be null; its row for output row i is residual_rows[i], or i
  // where that is null.
  void (*activate)(const int32_t* sum, const Activation& activation, const uint8_t* residual,
                   const int32_t* residual_rows, uint8_t* y, int64_t rows, int cout);

  // result = round(sum * multiplier / 2^shift) over `rows` rows of `cout`.
  void (*rescale)(const int32_t* sum, const int32_t* multiplier, int shift, int32_t* result, int64_t rows,
                  int cout);

  // Frequencies of 16 or 256 symbols, summing to 2^16, from their logits; and where the symbols' parts of the range coder's
  // range end, for which there is room up to a multiple of kSoftmaxRows. Either may be null.
  void (*softmax)(const int32_t* logits, const uint32_t* exp2, float* frequency, int32_t* bounds, int64_t rows,
                  int symbols);

  // The same for 16 symbols, of logits corrected by the biases of contexts (rows, tables). Bounds may be null.
  void (*calibrate)(const CalibrationState& state, const int32_t* logits, const int32_t* contexts,
                    const uint32_t* exp2, float* frequency, int32_t* bounds, int64_t rows);

  // Adapts biases and weights to symbols that had these frequencies, of at most kCalibrationChunk rows.
  void (*learn)(const CalibrationState& state, const int32_t* logits, const float* frequency,
                const int32_t* contexts, const uint8_t* symbols, int64_t rows);

  // Distances of kBeamPlaces places (x, y) from the axis, rounded down. At most 2^24 in magnitude.
  void (*distances)(const int32_t* x, const int32_t* y, int32_t* rho);

  // How far above the places at these distances their cones pass, and where they are not between them or nearer to the axis
  // than ordered_from.
  void (*cone_heights)(const int32_t* rho, int64_t ordered_from, ConePlaces& at);

  // The nearer of the two cones of every place, and its bin: 1 to last, 0 where it is farther off than a child and a half,
  // whose edge is 2^child_bits.
  void (*cone_bins)(const ConePlaces& at, int child_bits, int last, int32_t* beam, int32_t* bins);

  // Bins of the nearest planes there, of beams with these laterals in radians, as 2^-32 turn, and phases.
  void (*plane_bins)(const int32_t* x, const int32_t* y, const int32_t* rho, const double* lateral,
                     const uint32_t* phase, const PlaneBins& scale, int32_t* bins);

  // Predicts the next part of a block with weights (selectors, kMixed) in units of 2^-12; and with what
  // sums of weighted logarithms begin with (selectors,): half a unit less (127 << 8) times the weights.
  void (*mix)(const MixBlock& block, const int32_t* weights, const int32_t* beginnings);

  // Adds what its values (size,) say of the weights to gradient (selectors, kMixed, kSymbols).
  void (*weigh_mix)(const MixBlock& block, const uint8_t* values, int32_t* gradient);

  // Counts its values (size,).
  void (*count_mix)(const MixBlock& block, const uint8_t* values);

  // The nearest of the candidates, of which there is at least one. Where there are fewer the nearest takes their place.
  void (*nearest_points)(NearestPoints& at);

  // The children of the nodes [begin, end), whose neighbours are listed from entries[used] on, where there is room for
  // kMostEntries of each node and kSpareEntries more. Returns where the lists end.
  int64_t (*expand)(const Expansion& of, int64_t begin, int64_t end, int32_t* entries, int64_t used);

  // How many of the rows [begin, end) have each of kOffsets neighbours.
  void (*count_neighbors)(const Neighbors& of, int64_t begin, int64_t end, int32_t* counts);

  // Lists the pairs of the rows [begin, end), at most kTileRows, from next[k] on for offset k; output rows count from `begin`.
  void (*list_neighbors)(const Neighbors& of, int64_t begin, int64_t end, Pair* const* next);

  // Of points at grid (points, 3): the class of the slope (points,) and the bit length of the squared distance from (0, 0, 0).
  void (*directions)(const int64_t* grid, int64_t points, int32_t* slopes, uint8_t* reach);
};

extern const Isa kIsaGeneric, kIsaAvx2, kIsaAvxVnni, kIsaAvx512, kIsaNeon, kIsaNeonDot;

// The fastest path of this processor, or the one forced by anypcc_set_isa.
const Isa& active_isa();

}  // namespace anypcc

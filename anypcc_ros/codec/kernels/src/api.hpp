// The C interface of the library: everything the modules beside native.py call. Arrays are row-major and belong to the caller,
// who warrants their sizes; row and code indices are checked. What is written must not overlap what is read,
// unless said. `threads` counts the calling thread; 0 means all cores.
#pragma once

#include <cstdint>

namespace anypcc {

// What the functions return: a count or kOk, or one of the others.
enum Status : int64_t {
  kOk = 0,
  kBadArgument = -1,  // a size out of range or a null pointer
  kBadIndex = -2,     // an index outside the rows it points into
  kOutOfMemory = -3,
  kUnsupported = -4,  // a code path this processor does not have
};

struct Level;
struct Plan;

// A range decoder: words, how many, the next to read; value and range of the arithmetic. It begins with value
// = the first two words and range = 2^64 - 1.
struct RangeDecoder {
  const uint32_t* words;
  int64_t count, next;
  uint64_t value, range;
};
struct RangeEncoder;
struct Calibration;

// codec/surroundings.py: of each point five others (points, 5), the shares of two of them (points, 2), and classes (points,); the
// points in coding order (points,), and how many make each block (blocks,).
struct Surroundings {
  const int32_t* nearest;
  const uint8_t *shares, *distance, *reach, *elevation;  // distance and reach at most 15
  const int32_t* order;
  const int64_t* lengths;
  int64_t points, blocks;
};

// The first five arrays of these.
struct SurroundingsOut {
  int32_t* nearest;
  uint8_t *shares, *distance, *reach, *elevation;
};

// The arrays of a level, which live as long as it does.
struct LevelArrays {
  int64_t nodes, first_group;  // first_group: nodes of checkerboard group 0
  const uint32_t* masks;       // (nodes,): bit k set where a node lies at offset k, itself left out
  const int32_t* parent_row;   // (nodes,): into the level above
  const uint8_t* octant;       // (nodes,)
  const int32_t* groups;       // (nodes,): rows of group 0, then those of group 1
};

// One layer of the integer network. result = (sum * multiplier + 2^(shift - 1)) >> shift of sum = bias[code]
// + x @ w, with x at most 127; the caller warrants that sums and results fit 32 bits.
struct Layer {
  const int8_t* weight;       // packed: (taps, inputs / 4, outputs, 4)
  const int32_t* bias;        // (rows, outputs): one row, or one per code
  const int32_t* multiplier;  // (outputs,)
  // (outputs,), or both null: sums below `lowest` may be taken for `lowest`, those above `highest` for
  // `highest`, without a change of clamp(result + residual, 0, 127); sum * multiplier + 2^(shift - 1) then
  // fits 32 bits.
  const int32_t *lowest, *highest;
  int32_t taps, inputs, outputs, rows, shift;
};

// The laser beams of codec/beams.py, which has their units; phases and laterals only count if there are
// columns.
struct Beams {
  const int64_t *slopes, *heights, *phases, *laterals;  // (count,)
  int64_t axis[2];
  int64_t count, columns;
  int32_t bins;  // 2 to 16 of a column of children
};

}  // namespace anypcc

#pragma GCC visibility push(default)
extern "C" {

// Version of this interface, to be raised with every change of a function or structure.
int64_t anypcc_interface();

// ---- code paths: "auto" restores the fastest; usable ones by index, fastest first, null past the last ----

int64_t anypcc_set_isa(const char* name);
const char* anypcc_active_isa();
const char* anypcc_usable_isa(int index);

// ---- levels: null, and a Status, where one cannot be made ----
//
// Offset k = 9 * (dx + 1) + 3 * (dy + 1) + (dz + 1). Children are ordered by parent, then by octant
// o = 4 * bx + 2 * by + bz, child o being present when bit o of the code is set. Octants with an even number
// of ones are checkerboard group 0.

// The children of `above`, whose occupancy codes are codes (nodes,).
anypcc::Level* anypcc_level_expand(const anypcc::Level* above, const uint8_t* codes, int threads,
                                   int64_t* status);

// A level from the rows of its neighbours (nodes, 27), -1 for none.
anypcc::Level* anypcc_level_from_table(const int32_t* table, const int32_t* parent_row, const uint8_t* octant,
                                       int64_t nodes, int64_t* status);

void anypcc_level_free(anypcc::Level* level);
void anypcc_level_arrays(const anypcc::Level* level, anypcc::LevelArrays* arrays);

// The rows of the neighbours (nodes, 27) of every node, -1 for none.
void anypcc_level_table(const anypcc::Level* level, int32_t* table, int threads);

// ---- plans: built in one of four ways, each returning the number of pairs; building again reuses memory
// ----

anypcc::Plan* anypcc_plan_new();
void anypcc_plan_free(anypcc::Plan* plan);

// table (n_out, taps): the input row feeding an output row through a tap, or -1. masks (n_out,): bit k set
// where column k is not -1, or null.
int64_t anypcc_plan_build(anypcc::Plan* plan, const int32_t* table, const uint32_t* masks, int64_t n_in,
                          int64_t n_out, int taps, int threads);

// The 27 taps of a convolution over a level.
int64_t anypcc_plan_build_neighbors(anypcc::Plan* plan, const anypcc::Level* level, int threads);

// From the nodes of the other checkerboard group to those of group `reader`: the 14 taps between groups, in
// the order of their offsets. Rows are positions within the groups.
int64_t anypcc_plan_build_across(anypcc::Plan* plan, const anypcc::Level* level, int reader, int threads);

// Output row i is fed by input row in[i] through tap tap[i] alone.
int64_t anypcc_plan_build_one_tap(anypcc::Plan* plan, const int32_t* in, const uint8_t* tap, int64_t n_in,
                                  int64_t n_out, int taps, int threads);

// ---- float32; cin and cout are multiples of 16 ----

// y (n_out, cout) = bias (cout,), null for zero, + sum over the pairs of x (n_in, cin)[in] @ w (taps, cin,
// cout)[tap].
int64_t anypcc_conv_f32(const anypcc::Plan* plan, const float* x, const float* w, const float* bias, float* y,
                        int cin, int cout, int threads);

// dw (taps, cin, cout)[tap] = sum over its pairs of x[in]^T dy[out].
int64_t anypcc_conv_f32_dw(const anypcc::Plan* plan, const float* x, const float* dy, float* dw, int cin,
                           int cout, int threads);

// ---- integers: y = clamp(result + residual, 0, 127); residual, of y's shape, may be null ----

// y (n_out, outputs) from x (n_in, inputs) over the pairs of the plan. Where `residual_rows` (n_out,) is not
// null, the residual of output row i is row residual_rows[i] of residual (n_residual, outputs).
int64_t anypcc_conv_int8(const anypcc::Plan* plan, const anypcc::Layer* layer, const uint8_t* x,
                         const uint8_t* residual, const int32_t* residual_rows, int64_t n_residual,
                         uint8_t* y, int threads);

// y (nodes, outputs) of a level from x (parents, inputs) of the level above, through the tap of its octant.
int64_t anypcc_up_int8(const anypcc::Level* level, const anypcc::Layer* layer, const uint8_t* x,
                       int64_t parents, uint8_t* y, int threads);

// y (count, outputs) from row rows[i] of x (n_in, inputs), or row i when `rows` is null, with bias row
// codes[i], or 0.
int64_t anypcc_linear_int8(const anypcc::Layer* layer, const uint8_t* x, int64_t n_in, const int32_t* rows,
                           const uint8_t* codes, int64_t count, const uint8_t* residual, uint8_t* y,
                           int threads);

// The hidden layer, which reads its input like anypcc_linear_int8, then `out`: logits (count, outputs).
int64_t anypcc_head_int8(const anypcc::Layer* hidden, const anypcc::Layer* out, const uint8_t* x,
                         int64_t n_in, const int32_t* rows, const uint8_t* codes, int64_t count,
                         int32_t* logits, int threads);

// ---- probabilities ----

// Frequencies (count, symbols) of 16 or 256 symbols from logits in units of 1/32 bit. With d the distance
// below the largest, at most 511, a symbol weighs exp2[d] and gets 1 + floor(exp2[d] * (2^16 - symbols) /
// total weight); what is missing to 2^16 goes to the first symbol with the largest logit. exp2 (512,), all
// below 2^23 and the first above 0.
int64_t anypcc_softmax(const int32_t* logits, const uint32_t* exp2, int64_t count, int symbols,
                       float* frequencies);

// The calibration of codec/calibration.py: biases of `rows` contexts. Contexts are (count, tables), at most 8
// tables, distinct within a row; kBadIndex for one out of range, of which nothing is used.
anypcc::Calibration* anypcc_calibration_new(int64_t rows);
void anypcc_calibration_free(anypcc::Calibration* calibration);

// What each of so many tables counts, and the logits after them: weights (tables + 1,), 1 is 2^16.
int64_t anypcc_calibration_weights(const anypcc::Calibration* calibration, int tables, int32_t* weights);

// Symbols (count,) of a code part that are known, with logits (count, 16) and contexts (count, tables): predicts and learns,
// a chunk of 16 at a time. Either writes frequencies (count, 16), or encodes the symbols if `words` is not null;
// frequencies may then be null.
int64_t anypcc_calibration_replay(anypcc::Calibration* calibration, const int32_t* logits,
                                  const int32_t* contexts, int tables, const uint32_t* exp2,
                                  const uint8_t* symbols, int64_t count, float* frequencies,
                                  anypcc::RangeEncoder* words);

// Decodes the symbols (count,) of a code part, learning from each chunk. kBadIndex also for words that no
// encoder wrote.
int64_t anypcc_calibration_decode(anypcc::Calibration* calibration, const int32_t* logits,
                                  const int32_t* contexts, int tables, const uint32_t* exp2,
                                  anypcc::RangeDecoder* words, int64_t count, uint8_t* symbols);

// ---- contexts of the calibration (codec/contexts.py, codec/beams.py) ----

// What touches the nodes rows (count,) of a level. cells (count,): bits 0 to 5, the existing face neighbours;
// from bit 6 the 4 cells across the face in x of the low half of the code, from bit 10 of the high half; from
// bit 14 the 8 cells across the faces in y and z of the low half, from bit 22 of the high half; from bit 30
// the existing neighbours across edges. Cells come from codes (nodes,), 0 where they are not known; where
// these are null, both times 8 bits are the code of the parent, of above (n_above,).
int64_t anypcc_face_cells(const anypcc::Level* level, const int32_t* rows, int64_t count,
                          const uint8_t* codes, const uint8_t* above, int64_t n_above, uint64_t* cells,
                          int threads);

// The cells beyond the edges at high x that touch the high half of the code of nodes rows (count,), from codes
// (nodes,): two bits of the neighbour at each edge, that at low y, low z, high z and high y, in octant order.
int64_t anypcc_edge_cells(const anypcc::Level* level, const int32_t* rows, int64_t count,
                          const uint8_t* codes, uint8_t* cells, int threads);

// Where beams cross the nodes rows (count,) of a level with coords (n_coords, 3), in units of 2^levels_below
// cells from the cell shift (3,). `turn`: an eighth of a child's edge in units of 2^-24 turn times `columns`
// at a distance of 8 quarter cells. bins (count, 2, kinds): of the half at low x and of that at high x; kinds
// is 1, the cones, or 2 with columns, whose planes come second.
int64_t anypcc_beam_bins(const anypcc::Beams* beams, const uint32_t* coords, int64_t n_coords,
                         const int32_t* rows, int64_t count, const int64_t* shift, int levels_below,
                         double turn, uint8_t* bins, int threads);

// contexts (count, tables) of the low half of the codes of nodes rows (count,), or of the high half: from
// their cells, what is known of codes (n_codes,) and bins (count, n_bins), of which table
// 4 + t takes columns[t]. Where beyond_edges (count,) is not null it stands for the cells across the face in x.
// Tables begin at row first (tables,).
int64_t anypcc_context_rows(const uint64_t* cells, const uint8_t* beyond_edges, const uint8_t* codes,
                            int64_t n_codes, const int32_t* rows, int64_t count, int high,
                            const uint8_t* bins, int n_bins, const int32_t* columns, const int32_t* first,
                            int tables, int32_t* contexts, int threads);

// ---- range coder ----

// The next symbols (count,) under frequencies (count, size), whole numbers from 1 that sum to at most 2^24 in
// every row; kBadIndex for words that no encoder wrote.
int64_t anypcc_range_decode(anypcc::RangeDecoder* state, const float* frequencies, int64_t count, int size,
                            int32_t* symbols);

anypcc::RangeEncoder* anypcc_range_encoder_new();
void anypcc_range_encoder_free(anypcc::RangeEncoder* encoder);

// Encodes symbols (count,) under such frequencies; nothing of them where one is not below `size`.
int64_t anypcc_range_encode(anypcc::RangeEncoder* encoder, const int32_t* symbols, const float* frequencies,
                            int64_t count, int size);

// The words so far, which the encoder keeps until it is used again, and their number. More symbols may follow: the last words
// may then be others.
int64_t anypcc_range_encoder_finish(anypcc::RangeEncoder* encoder, const uint32_t** words);

// Symbols (count,) under what anypcc_softmax makes of logits (count, size), 16 or 256 of them; decoding 16.
int64_t anypcc_predicted_encode(anypcc::RangeEncoder* encoder, const int32_t* logits, const uint32_t* exp2,
                                const uint8_t* symbols, int64_t count, int size);
int64_t anypcc_predicted_decode(anypcc::RangeDecoder* words, const int32_t* logits, const uint32_t* exp2,
                                int64_t count, uint8_t* symbols, int threads);

// ---- octree ----

// children (capacity, 3) of nodes at coords (count, 3) with these occupancy codes: twice the coordinates plus
// the octant's bits. Returns the number of children, kBadArgument if there are more than `capacity`.
int64_t anypcc_child_coords(const uint32_t* coords, const uint8_t* codes, int64_t count, uint32_t* children,
                            int64_t capacity);

// grid (count, 3) = round((xyz - origin) / step), halves to even, of xyz (count, 3), which are doubles or else floats, with
// origin (3,). `largest`: the largest magnitude; if it is not finite, or 2^53 and more, the grid is of no use.
int64_t anypcc_grid_coords(const void* xyz, int doubles, int64_t count, const double* origin, double step,
                           int64_t* grid, double* largest, int threads);

// xyz (count, 3), of doubles or else of floats, = grid (count, 3) * step, each rounded once to double.
int64_t anypcc_grid_positions(const int64_t* grid, int64_t count, double step, void* xyz, int doubles);

// Row i of rows (count,), each of 12 or 24 bytes, repeats[i] times. Returns how many these are, kBadArgument if there are more
// than `capacity`.
int64_t anypcc_repeat_rows(const void* rows, int width, const int64_t* repeats, int64_t count, void* repeated, int64_t capacity);

// bounds (6,): the smallest coordinates of grid (count, 3), count >= 1, and the largest.
int64_t anypcc_grid_bounds(const int64_t* grid, int64_t count, int64_t* bounds);

// counts: of each axis in turn, how many of grid (count, 3) have each of the coordinates from low[axis] on, of which there are
// sizes[axis], else kBadIndex; axes of size 0 are left out. Added to what is there.
int64_t anypcc_axis_counts(const int64_t* grid, int64_t count, const int64_t* low, const int64_t* sizes, uint32_t* counts);

// keys (count,), as below, of the cells (grid (count, 3) - low (3,)) >> dropped, which is not negative and has 21 bits,
// else kBadIndex.
int64_t anypcc_grid_keys(const int64_t* grid, int64_t count, const int64_t* low, int dropped, uint64_t* keys,
                         int threads);

// keys (count,) from coords (count, 3) of 21 bits each, else kBadIndex: bit 3 b + 2 is bit b of x, then y,
// then z.
int64_t anypcc_morton_encode(const int32_t* coords, int64_t count, uint64_t* keys, int threads);
int64_t anypcc_morton_decode(const uint64_t* keys, int64_t count, int64_t* coords, int threads);

// Sorts keys (count,) in place, stably; order (count,) gets the row each came from.
int64_t anypcc_sort_keys(uint64_t* keys, uint32_t* order, int64_t count);

// Distinct values of sorted keys (count,), in place, and how often each occurs. Returns their number.
int64_t anypcc_unique_keys(uint64_t* keys, int64_t count, int64_t* occurrences);

// The level above distinct sorted keys (count,): parents (count,), which may be keys itself, and their
// occupancy codes (count,). Returns the number of parents.
int64_t anypcc_parent_keys(const uint64_t* keys, int64_t count, uint64_t* parents, uint8_t* codes);

// The level below keys (count,) with occupancy codes (count,): children (capacity,). Returns the number of
// children, kBadArgument if there are more than `capacity`.
int64_t anypcc_child_keys(const uint64_t* keys, const uint8_t* codes, int64_t count, uint64_t* children,
                          int64_t capacity);

// ---- points per cell (codec/counts.py) ----

// Contexts (count,) of cells at coords (count, 3) in Morton order, no two of them equal.
int64_t anypcc_density_contexts(const int64_t* coords, int64_t count, uint8_t* contexts);

// Codes symbols (count,) below 16 in their contexts (count,), in the order of the rows below `count` in order (ordered,), which
// has each of them once. Decoding: kBadIndex also for words that no encoder wrote.
int64_t anypcc_counts_encode(anypcc::RangeEncoder* encoder, const uint8_t* symbols, const uint8_t* contexts, int64_t count,
                             const int32_t* order, int64_t ordered);
int64_t anypcc_counts_decode(anypcc::RangeDecoder* words, const uint8_t* contexts, int64_t count, const int32_t* order,
                             int64_t ordered, uint8_t* symbols);

// ---- attributes ----

// A channel of codec/channels.py under the contexts of codec/mixing.py: `kind` 1 to 8, 253, 254 or 255 and `low` as in its
// header; `reference` (points,) or null. Encoding reads values (points,) and writes tokens (points,), rests (8 for each
// point), words (2 for each point and 4 more), and to sizes (2,) the bytes of the rests and the number of words.
int64_t anypcc_channel_encode(const anypcc::Surroundings* around, int kind, int64_t low, const uint8_t* reference, const int64_t* values, uint8_t* tokens,
                              uint8_t* rests, uint32_t* words, int64_t* sizes);

// Writes values and tokens (points,), both zero before, and to `used` how many bits of the rests were read, more than there
// are if they end too early. kBadIndex for words that no encoder wrote.
int64_t anypcc_channel_decode(const anypcc::Surroundings* around, int kind, int64_t low, const uint8_t* reference, anypcc::RangeDecoder* words,
                              const uint8_t* rests, int64_t rest_bytes, int64_t* values, uint8_t* tokens,
                              int64_t* used);

// Writes what codec/surroundings.py says of points at grid (points, 3), in the codec's order.
int64_t anypcc_surroundings(const int64_t* grid, int64_t points, const anypcc::SurroundingsOut* out);

// The same of points in a row, at most 2^31.
int64_t anypcc_row_surroundings(int64_t points, const anypcc::SurroundingsOut* out);

}  // extern "C"
#pragma GCC visibility pop

#include "range_decoder.hpp"

using anypcc::RangeDecoder;

int64_t anypcc_range_decode(RangeDecoder* state, const float* frequencies, int64_t count, int size,
                            int32_t* symbols) {
  if (state == nullptr || count < 0 || size < 1 || size > 1 << 16) return anypcc::kBadArgument;
  for (int64_t i = 0; i < count; ++i, frequencies += size) {
    float total = 0;
    for (int j = 0; j < size; ++j) total += frequencies[j];
    // Negated, so that not-a-number fails, too; then the bounds below stay within 2^24 and ascend.
    if (!(total >= 1 && total <= 1 << anypcc::kCoderPrecision)) return anypcc::kBadArgument;
    const int symbol = anypcc::decode_symbol(*state, frequencies, size, anypcc::frequency_scale(size, total));
    if (symbol < 0) return anypcc::kBadIndex;
    symbols[i] = symbol;
  }
  return anypcc::kOk;
}

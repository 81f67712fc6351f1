// What the C functions return, and how they are exported.
#pragma once

#include <cstdint>

#define ANYPCC_EXPORT extern "C" __attribute__((visibility("default")))

namespace anypcc {

// A function that yields a count returns it when it succeeds (0 or more), else one of these.
enum Status : int64_t {
  kOk = 0,
  kBadArgument = -1,  // a size out of range or a null pointer
  kBadIndex = -2,     // a table entry outside the rows it points into
  kOutOfMemory = -3,
  kUnsupported = -4,  // a code path this processor does not have
};

}  // namespace anypcc

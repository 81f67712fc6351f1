// Which code path runs: the best one this processor has, unless a test forces another.
#include <atomic>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "api.hpp"
#include "isa.hpp"

namespace anypcc {

namespace {

struct Candidate {
  const Isa* isa;
  bool usable;
};

#if defined(__x86_64__)
// __builtin_cpu_supports knows this feature only from GCC 12 on.
bool has_avx_vnni() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4)) != 0;
}
#endif

// Best first.
const Candidate* candidates(int* count) {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
                             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  static const bool avxvnni = avx2 && has_avx_vnni();
  static const Candidate all[] = {
      {&kIsaAvx512, avx512}, {&kIsaAvxVnni, avxvnni}, {&kIsaAvx2, avx2}, {&kIsaGeneric, true}};
#elif defined(__aarch64__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  static const bool dot_product = (getauxval(AT_HWCAP) & kDotProduct) != 0;
  static const Candidate all[] = {{&kIsaNeonDot, dot_product}, {&kIsaNeon, true}, {&kIsaGeneric, true}};
#else
  static const Candidate all[] = {{&kIsaGeneric, true}};
#endif
  *count = sizeof(all) / sizeof(all[0]);
  return all;
}

const Isa* best() {
  int count;
  const Candidate* all = candidates(&count);
  int i = 0;
  while (!all[i].usable) ++i;
  return all[i].isa;
}

std::atomic<const Isa*> active{best()};

}  // namespace

const Isa& active_isa() { return *active.load(std::memory_order_relaxed); }

}  // namespace anypcc

int64_t anypcc_set_isa(const char* name) {
  if (std::strcmp(name, "auto") == 0) {
    anypcc::active = anypcc::best();
    return anypcc::kOk;
  }
  int count;
  const anypcc::Candidate* all = anypcc::candidates(&count);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(all[i].isa->name, name) == 0) {
      if (!all[i].usable) return anypcc::kUnsupported;
      anypcc::active = all[i].isa;
      return anypcc::kOk;
    }
  }
  return anypcc::kBadArgument;
}

const char* anypcc_active_isa() { return anypcc::active_isa().name; }

const char* anypcc_usable_isa(int index) {
  int count;
  const anypcc::Candidate* all = anypcc::candidates(&count);
  for (int i = 0; i < count; ++i) {
    if (all[i].usable && index-- == 0) return all[i].isa->name;
  }
  return nullptr;
}

int64_t anypcc_interface() { return 20; }

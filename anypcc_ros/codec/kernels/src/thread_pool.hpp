// A persistent pool of worker threads shared by every kernel.
#pragma once

#include <cstdint>
#include <type_traits>

namespace anypcc {

// Most threads one call may use, the caller included.
constexpr int kMaxThreads = 64;

// Threads a call that asks for `requested` gets (0 asks for all the processor's), between 1 and kMaxThreads.
int resolve_threads(int requested);

// Tells the processor that this thread waits for another one.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Calls task(context, worker) once for every worker in [0, workers), each on whichever thread is free. Returns
// when all are done. If the pool already serves another caller, every call is made on the calling thread, one
// after another.
void run_workers(int workers, void (*task)(void* context, int worker), void* context);

template <class Body>
void parallel_workers(int workers, Body&& body) {
  if (workers <= 1) {
    body(0);
    return;
  }
  using Plain = std::remove_reference_t<Body>;
  run_workers(workers, [](void* context, int worker) { (*static_cast<Plain*>(context))(worker); }, &body);
}

// Splits [0, count) into `workers` contiguous ranges of nearly equal length; calls body(begin, end, worker).
template <class Body>
void parallel_ranges(int64_t count, int workers, Body&& body) {
  parallel_workers(workers, [&](int worker) {
    const int64_t begin = count * worker / workers;
    const int64_t end = count * (worker + 1) / workers;
    if (begin < end) body(begin, end, worker);
  });
}

// Threads worth waking for `work` units when one thread should have at least `grain` of them.
inline int threads_for(int64_t work, int64_t grain, int threads) {
  const int64_t useful = work / grain;
  return useful < 2 ? 1 : static_cast<int>(useful < threads ? useful : threads);
}

}  // namespace anypcc

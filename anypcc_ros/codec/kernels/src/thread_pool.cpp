#include "thread_pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace anypcc {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Layers follow one another within microseconds, so a waiting thread spins this often before it sleeps.
constexpr int kSpins = 2000;

template <class Ready>
bool spin_until(Ready ready) {
  for (int i = 0; i < kSpins; ++i) {
    if (ready()) return true;
    relax();
  }
  return false;
}

class Pool {
 public:
  // Threads are detached: the pool lives as long as the process. False if the system grants no more of them.
  bool ensure(int workers) {
    try {
      while (started_ < workers - 1) {
        std::thread(&Pool::serve, this, started_ + 1).detach();
        ++started_;
      }
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }

  void run(int workers, void (*task)(void*, int), void* context) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = task;
      context_ = context;
      workers_ = workers;
      pending_.store(workers - 1, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    task(context, 0);
    const auto finished = [&] { return pending_.load(std::memory_order_acquire) == 0; };
    if (!spin_until(finished)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, finished);
    }
  }

  std::mutex& busy() { return busy_; }

 private:
  void serve(int worker) {
    uint64_t seen = 0;
    for (;;) {
      spin_until([&] { return generation_.load(std::memory_order_acquire) != seen; });
      void (*task)(void*, int);
      void* context;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (worker >= workers_) continue;
        task = task_;
        context = context_;
      }
      task(context, worker);
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::mutex busy_;  // held by the caller being served
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  int started_ = 0;
  int workers_ = 0;
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
};

// The pool of this process. After a fork the child has none of its parent's threads, so it gets a pool of its
// own; the parent's is left alone on purpose (its locks may be held by threads that do not exist here).
Pool& pool() {
  static std::mutex mutex;
  static Pool* current = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  const pid_t self = getpid();
  if (current == nullptr || owner != self) {
    current = new Pool;
    owner = self;
  }
  return *current;
}

}  // namespace

int resolve_threads(int requested) {
  static const int available = std::max(1u, std::thread::hardware_concurrency());
  return std::clamp(requested <= 0 ? available : requested, 1, kMaxThreads);
}

void run_workers(int workers, void (*task)(void*, int), void* context) {
  Pool& shared = pool();
  std::unique_lock<std::mutex> lock(shared.busy(), std::try_to_lock);
  if (workers > 1 && lock.owns_lock() && shared.ensure(workers)) {
    shared.run(workers, task, context);
    return;
  }
  for (int worker = 0; worker < workers; ++worker) task(context, worker);
}

}  // namespace anypcc

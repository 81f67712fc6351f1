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
        std::thread(&Pool::serve, this).detach();
        ++started_;
      }
    } catch (const std::system_error&) {
      return false;
    }
    return true;
  }

  // Units are taken by whoever is free, the caller first of all: it never waits for a thread that has yet to
  // wake up, which takes longer than many a layer.
  void run(int units, void (*task)(void*, int), void* context) {
    Job job{task, context, units, 0};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job.number = ++job_.number;
      job_ = job;
      done_.store(0, std::memory_order_relaxed);
      ticket_.store(uint64_t{job.number} << 32, std::memory_order_release);
    }
    wake_.notify_all();
    work(job);
    const auto finished = [&] { return done_.load(std::memory_order_acquire) == units; };
    if (!spin_until(finished)) {
      std::unique_lock<std::mutex> lock(mutex_);
      all_done_.wait(lock, finished);
    }
  }

  std::mutex& busy() { return busy_; }

 private:
  struct Job {
    void (*task)(void*, int);
    void* context;
    int units;
    uint32_t number;
  };

  void serve() {
    uint32_t seen = 0;
    const auto another = [&] {
      return static_cast<uint32_t>(ticket_.load(std::memory_order_acquire) >> 32) != seen;
    };
    for (;;) {
      spin_until(another);
      Job job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, another);
        job = job_;
      }
      seen = job.number;
      work(job);
    }
  }

  // Does units of the job until none is left.
  void work(const Job& job) {
    for (int unit; (unit = take(job)) < job.units;) {
      job.task(job.context, unit);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == job.units) {
        std::lock_guard<std::mutex> lock(mutex_);
        all_done_.notify_one();
      }
    }
  }

  // The next unit of the job; past the last one if there is none, or if another job has begun meanwhile.
  int take(const Job& job) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (ticket >> 32 == job.number && static_cast<int>(ticket & UINT32_MAX) < job.units) {
      if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
        return static_cast<int>(ticket & UINT32_MAX);
      }
    }
    return job.units;
  }

  std::mutex busy_;  // held by the caller being served
  std::mutex mutex_;
  std::condition_variable wake_, all_done_;
  Job job_{nullptr, nullptr, 0, 0};
  std::atomic<uint64_t> ticket_{0};  // the job's number, and below it the next unit to be taken
  std::atomic<int> done_{0};         // units of the job
  int started_ = 0;
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

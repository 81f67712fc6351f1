// Objects that own memory are not freed but kept for the next frame: their memory has been paged in already.
#pragma once

#include <cstddef>
#include <mutex>
#include <new>
#include <vector>

namespace anypcc {

template <class T>
class Recycled {
 public:
  // Any earlier object, whose content is to be overwritten, or a new one; null if out of memory.
  static T* take() {
    Pool& pool = instance();
    std::lock_guard<std::mutex> lock(pool.mutex);
    if (pool.free.empty()) return new (std::nothrow) T;
    T* const object = pool.free.back();
    pool.free.pop_back();
    return object;
  }

  // Keeps the object, or deletes it if enough are kept or this one is `large`.
  static void give(T* object, bool large) {
    if (object == nullptr) return;
    if (!large) {
      Pool& pool = instance();
      std::lock_guard<std::mutex> lock(pool.mutex);
      if (pool.free.size() < kKept) {
        pool.free.push_back(object);
        return;
      }
    }
    delete object;
  }

 private:
  static constexpr size_t kKept = 8;

  struct Pool {
    std::mutex mutex;
    std::vector<T*> free;
    Pool() { free.reserve(kKept); }
  };

  // Never destroyed: Python may free objects while the process ends.
  static Pool& instance() {
    static Pool* const pool = new Pool;
    return *pool;
  }
};

}  // namespace anypcc

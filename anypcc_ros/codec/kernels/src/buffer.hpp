// Memory that is reused from frame to frame.
#pragma once

#include <cstdint>
#include <memory>

namespace anypcc {

// An array of a plain type that only grows. Its content is undefined after reserve.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t count) {
    if (count > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_.reset(new T[count]);
      capacity_ = count;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
  int64_t capacity_ = 0;
};

}  // namespace anypcc

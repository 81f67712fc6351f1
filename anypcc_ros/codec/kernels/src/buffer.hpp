// Memory that is reused from frame to frame.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace anypcc {

// An array of a plain type that only grows, aligned to cache lines: a vector that crosses two costs twice.
// Its content is undefined after reserve.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t count) {
    if (count > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_.reset(static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(count), kAlignment)));
      capacity_ = count;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<T[], Delete> data_;
  int64_t capacity_ = 0;
};

// The same for an array whose length is not known beforehand: growing keeps the content.
template <class T>
class GrowingBuffer {
 public:
  T* reserve(int64_t count) {
    if (count > capacity_) {
      const int64_t wanted = count > 2 * capacity_ ? count : 2 * capacity_;
      Buffer<T> larger;
      larger.reserve(wanted);
      if (capacity_ > 0) std::memcpy(larger.data(), data(), sizeof(T) * static_cast<size_t>(capacity_));
      buffer_ = std::move(larger);
      capacity_ = wanted;
    }
    return data();
  }
  T* data() const { return buffer_.data(); }

 private:
  Buffer<T> buffer_;
  int64_t capacity_ = 0;
};

}  // namespace anypcc

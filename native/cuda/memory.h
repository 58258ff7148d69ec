// Memory on a device and what copies go through. All of it comes from one pool for each device (runtime.h), in the order of a
// stream: what is given back may be handed out again as soon as the work queued before that is done.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/runtime.h"

namespace clipcid::cuda {

// Host memory that the device copies from and to by itself.
template <typename T>
class Pinned {
 public:
  Pinned() = default;
  Pinned(Pinned&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  Pinned& operator=(Pinned&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~Pinned() { deallocatePinned(data_); }

  Status allocate(int64_t count, Where where = Where::here()) {
    *this = Pinned();
    void* memory = nullptr;
    CLIPCID_TRY(allocatePinned(static_cast<size_t>(count) * sizeof(T), &memory, where));
    data_ = static_cast<T*>(memory);
    count_ = count;
    return {};
  }
  T* get() const { return data_; }
  int64_t count() const { return count_; }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

// A device in use. Lives as long as the process.
class Device {
 public:
  // Null with a reason in `status` when it is not usable. Any thread may ask; each device is made once.
  static Device* get(int index, Status* status);

  const int index;
  const DeviceProperties properties;
  const bool hasSm90Kernels;
  // For what outlives a call: nothing is queued here but the return of memory that nobody uses any more.
  Stream home() const { return home_; }

  // A stream to work on, and its return when all its work is done.
  Status takeStream(Stream* out);
  void returnStream(Stream stream);
  // stagingBytes() of pinned memory to copy through, and its return when nothing is copied from or to it any more.
  Status takeStaging(Pinned<char>* out);
  void returnStaging(Pinned<char> staging);
  // A table that is the same for all calls, made and copied to the device once.
  Status constants(const char* name, const std::function<std::vector<uint32_t>()>& make,
                   const uint32_t** out);

 private:
  Device(int index, DeviceProperties properties)
      : index(index), properties(std::move(properties)), hasSm90Kernels(cuda::hasSm90Kernels(index)) {}

  Stream home_ = nullptr;
  std::mutex mutex_;
  std::vector<Stream> idle_;
  std::vector<Pinned<char>> staging_;
  std::map<std::string, void*> constants_;
};

// Made smaller by tests, so that little data goes through it in many turns.
size_t& stagingBytes();

// Device memory for `count` values; moves, frees itself on the stream it was told.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) deallocate(data_, stream_);
  }

  Status allocate(int64_t count, Stream stream, Where where = Where::here()) {
    *this = Buffer();
    void* memory = nullptr;
    CLIPCID_TRY(cuda::allocate(static_cast<size_t>(count) * sizeof(T), stream, &memory, where));
    data_ = static_cast<T*>(memory);
    count_ = count;
    stream_ = stream;
    return {};
  }
  // Allocates anew unless there is room already; what it held is lost.
  Status atLeast(int64_t count, Stream stream, Where where = Where::here()) {
    return data_ != nullptr && count <= count_ ? Status() : allocate(count, stream, where);
  }
  // From now on it is freed on another stream, by which time all work on it must be done.
  void freeOn(Stream stream) { stream_ = stream; }

  T* get() const { return data_; }
  int64_t count() const { return count_; }
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(T); }
  bool empty() const { return data_ == nullptr; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    std::swap(stream_, other.stream_);
  }

  T* data_ = nullptr;
  int64_t count_ = 0;
  Stream stream_ = nullptr;
};

// One call's work on a device: makes the device the thread's own, and has a stream. Ends when all its work is done.
class Session {
 public:
  explicit Session(Device* device) : device_(device) {}
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Status begin();
  Device& device() const { return *device_; }
  Stream stream() const { return stream_; }
  Status synchronise(Where where = Where::here()) { return cuda::synchronise(stream_, where); }

 private:
  Device* device_;
  Stream stream_ = nullptr;
};

class OwnedEvent {
 public:
  OwnedEvent() = default;
  OwnedEvent(OwnedEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  OwnedEvent& operator=(OwnedEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~OwnedEvent() {
    if (event_ != nullptr) destroyEvent(event_);
  }
  Status create(bool timed = false) { return createEvent(&event_, timed); }
  Event get() const { return event_; }

 private:
  Event event_ = nullptr;
};

// How much of a device's memory one of its users may hold. Of several threads.
class Budget {
 public:
  // `most`: in bytes (Context::maxDeviceMemory); 0: whatever there is.
  explicit Budget(int64_t most) : most_(most) {}

  // kOutOfMemory, and nothing is taken, where it would be more than may be held.
  Status take(int64_t bytes);
  void give(int64_t bytes) { held_ -= bytes; }
  // What may be taken still, and 1 for nothing; 0 where there is no limit.
  int64_t left() const { return most_ > 0 ? std::max<int64_t>(most_ - held_, 1) : 0; }
  // Fails where so many bytes more are not to be had: "<what> needs ... MiB of the GPU's memory, and ...: <remedy>".
  Status require(int64_t bytes, const std::string& what, const std::string& remedy) const;

 private:
  const int64_t most_;
  std::atomic<int64_t> held_{0};
};

// Memory that counts to a budget.
class BudgetedBuffer {
 public:
  BudgetedBuffer() = default;
  BudgetedBuffer(BudgetedBuffer&& other) noexcept { swap(other); }
  BudgetedBuffer& operator=(BudgetedBuffer&& other) noexcept {
    BudgetedBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~BudgetedBuffer() {
    if (budget_ != nullptr) budget_->give(buffer_.count());
  }

  // What it held is lost.
  Status allocate(const std::shared_ptr<Budget>& budget, int64_t bytes, Stream stream,
                  Where where = Where::here());
  char* get() const { return buffer_.get(); }
  int64_t bytes() const { return buffer_.count(); }

 private:
  void swap(BudgetedBuffer& other) {
    std::swap(budget_, other.budget_);
    std::swap(buffer_, other.buffer_);
  }

  std::shared_ptr<Budget> budget_;
  Buffer<char> buffer_;
};

// Bytes of device memory that a call may hold: Context::maxDeviceMemory, or most of what the device has free.
Status deviceBudget(const Context& context, int64_t* out);

}  // namespace clipcid::cuda

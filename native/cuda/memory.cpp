#include "cuda/memory.h"

#include <algorithm>

namespace clipcid::cuda {
namespace {

// The rest is for others, and for what the driver itself needs.
constexpr double kShareOfFree = 0.9;
// Pinned memory is dear to get; so much of it is kept.
constexpr size_t kMostStaging = 4;

constexpr int64_t kMebibyte = 1 << 20;
std::string mebibytes(int64_t bytes) { return std::to_string(bytes / kMebibyte) + " MiB"; }
// Of what is wanted: up to a whole one.
std::string mebibytesOf(int64_t bytes) { return mebibytes(bytes + kMebibyte - 1); }

}  // namespace

Device* Device::get(int index, Status* status) {
  static std::mutex mutex;
  // Never destroyed, nor what is in it: work may be under way when the process ends.
  static auto& made = *new std::map<int, Device*>;
  const std::lock_guard<std::mutex> lock(mutex);
  *status = {};
  const auto at = made.find(index);
  if (at != made.end()) return at->second;
  DeviceProperties properties;
  Stream home = nullptr;
  const auto open = [&]() -> Status {
    CLIPCID_TRY(setDevice(index));
    CLIPCID_TRY(deviceProperties(index, &properties));
    return createStream(&home);
  };
  *status = open();
  if (!status->ok()) return nullptr;
  auto* device = new Device(index, std::move(properties));
  device->home_ = home;
  made[index] = device;
  return device;
}

Status Device::takeStream(Stream* out) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      *out = idle_.back();
      idle_.pop_back();
      return {};
    }
  }
  return createStream(out);
}

void Device::returnStream(Stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(stream);
}

Status Device::takeStaging(Pinned<char>* out) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!staging_.empty()) {
      *out = std::move(staging_.back());
      staging_.pop_back();
      if (out->count() == static_cast<int64_t>(stagingBytes())) return {};
    }
  }
  return out->allocate(static_cast<int64_t>(stagingBytes()));
}

void Device::returnStaging(Pinned<char> staging) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (staging_.size() < kMostStaging) staging_.push_back(std::move(staging));
}

Status Device::constants(const char* name, const std::function<std::vector<uint32_t>()>& make,
                         const uint32_t** out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  void*& table = constants_[name];
  if (table == nullptr) {
    const std::vector<uint32_t> values = make();
    void* memory = nullptr;
    CLIPCID_TRY(allocate(values.size() * 4, home_, &memory));
    CLIPCID_TRY(copyToDevice(memory, values.data(), values.size() * 4, home_));
    CLIPCID_TRY(cuda::synchronise(home_));
    table = memory;
  }
  *out = static_cast<const uint32_t*>(table);
  return {};
}

size_t& stagingBytes() {
  static size_t bytes = size_t{16} << 20;
  return bytes;
}

Status Session::begin() {
  CLIPCID_TRY(setDevice(device_->index));
  return device_->takeStream(&stream_);
}

Session::~Session() {
  if (stream_ == nullptr) return;
  // What failed has been told by then.
  (void)cuda::synchronise(stream_);
  device_->returnStream(stream_);
}

Status Budget::take(int64_t bytes) {
  int64_t held = held_.load();
  do {
    if (most_ > 0 && bytes > most_ - held)
      return {Code::kOutOfMemory, "Training holds " + mebibytesOf(held) + " of the GPU's memory and needs " +
                                      mebibytesOf(bytes) + " more, which is over the " + mebibytes(most_) +
                                      " of maxDeviceMemory"};
  } while (!held_.compare_exchange_weak(held, held + bytes));
  return {};
}

Status Budget::require(int64_t bytes, const std::string& what, const std::string& remedy) const {
  size_t free = 0, total = 0;
  CLIPCID_TRY(memoryOfDevice(&free, &total));
  auto left = static_cast<int64_t>(free);
  std::string there =
      "the GPU has " + mebibytes(left) + " of " + mebibytes(static_cast<int64_t>(total)) + " free";
  if (most_ > 0 && most_ - held_ < left) {
    left = std::max<int64_t>(most_ - held_, 0);
    there = "of the " + mebibytes(most_) + " of maxDeviceMemory " + mebibytes(left) + " are left";
  }
  if (bytes <= left) return {};
  return {Code::kOutOfMemory,
          what + " needs " + mebibytesOf(bytes) + " of the GPU's memory, and " + there + ": " + remedy};
}

Status BudgetedBuffer::allocate(const std::shared_ptr<Budget>& budget, int64_t bytes, Stream stream,
                                Where where) {
  *this = BudgetedBuffer();
  CLIPCID_TRY(budget->take(bytes));
  const Status status = buffer_.allocate(bytes, stream, where);
  if (!status.ok()) {
    budget->give(bytes);
    return status;
  }
  budget_ = budget;
  return {};
}

Status deviceBudget(const Context& context, int64_t* out) {
  if (context.maxDeviceMemory > 0) {
    *out = context.maxDeviceMemory;
    return {};
  }
  size_t free = 0, total = 0;
  CLIPCID_TRY(memoryOfDevice(&free, &total));
  *out = static_cast<int64_t>(static_cast<double>(free) * kShareOfFree);
  return {};
}

}  // namespace clipcid::cuda

// Runs programs on the CPU: memory is the host's, and an operation is done when it returns.
#include <cstring>

#include "core/parallel.h"
#include "cpu/backend.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

class CpuQueue final : public Queue {
 public:
  CpuQueue(Team& team, const Context& context) : team_(team), context_(context) {}
  Status run(const Operation& operation) override {
    if (context_.cancelled()) return Status::aborted();
    return std::visit([&](const auto& args) { return clipcid::run(team_, args); }, operation);
  }

 private:
  Team& team_;
  const Context& context_;
};

class CpuRunner final : public Runner {
 public:
  explicit CpuRunner(int threads) : threads_(threads), memory_(threads) {}

  Status allocate(int64_t bytes, std::shared_ptr<char>* out) override {
    return guarded([&]() -> Status {
      auto array = std::make_shared<AlignedArray<char>>(bytes);
      *out = std::shared_ptr<char>(array, array->get());
      return {};
    });
  }
  Status write(char* to, const void* from, int64_t bytes) override { return copyBytes(to, from, bytes); }
  Status read(void* to, const char* from, int64_t bytes) override { return copyBytes(to, from, bytes); }
  Status copy(char* to, const char* from, int64_t bytes) override { return copyBytes(to, from, bytes); }
  Status clear(char* to, int64_t bytes) override {
    memset(to, 0, static_cast<size_t>(bytes));
    return {};
  }

  Status run(const Context& context, const std::function<Status(Queue&)>& program) override {
    Status status;
    Team::run(threads_, memory_, [&](Team& team) {
      CpuQueue queue(team, context);
      status = guarded([&] { return program(queue); });
    });
    return status;
  }

  int64_t packedFloats(int64_t n, int64_t k, Precision precision) const override {
    return clipcid::packedFloats(n, k, precision);
  }

 private:
  static Status copyBytes(void* to, const void* from, int64_t bytes) {
    memcpy(to, from, static_cast<size_t>(bytes));
    return {};
  }

  const int threads_;
  TeamMemory memory_;
};

}  // namespace

Status CpuBackend::runner(int threads, std::unique_ptr<Runner>* out) {
  return guarded([&]() -> Status {
    *out = std::make_unique<CpuRunner>(threads);
    return {};
  });
}

}  // namespace clipcid

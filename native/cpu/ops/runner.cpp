// Runs programs on the CPU: memory is the host's, and an operation is done when it returns.
#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>

#include "core/loss_steps.h"
#include "core/parallel.h"
#include "core/read_rows.h"
#include "cpu/backend.h"
#include "cpu/ops/ops.h"

namespace clipcid {
namespace {

// What the threads keep of a run, together and each for parts of its own.
struct RunnerMemory {
  explicit RunnerMemory(int threads) : together(threads) {
    for (int thread = 0; thread < threads; ++thread) alone.emplace_back(1);
  }
  TeamMemory together;
  std::deque<TeamMemory> alone;
};

class CpuQueue final : public Queue {
 public:
  // Without `alone`, which has the memory of each of the team's threads, indices go one after the other.
  CpuQueue(Team& team, const Context& context, std::deque<TeamMemory>* alone)
      : team_(team), context_(context), alone_(alone) {}
  Status run(const Operation& operation) override {
    if (context_.cancelled()) return Status::aborted();
    return std::visit([&](const auto& args) { return clipcid::run(team_, args); }, operation);
  }

  Status each(int64_t count, const Body& body) override {
    // With fewer of them than threads, all threads do one after the other together.
    if (alone_ == nullptr || count < team_.threads()) return Queue::each(count, body);
    std::mutex mutex;
    Status failure;
    int64_t failed = count;
    std::atomic<bool> stop{false};
    team_.each(count, [&](int64_t index, int worker) {
      if (stop.load(std::memory_order_relaxed)) return;
      Team team = Team::alone((*alone_)[static_cast<size_t>(worker)]);
      CpuQueue own(team, context_, nullptr);
      Status status = guarded([&] { return body(index, worker, own); });
      if (status.ok()) return;
      stop.store(true, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(mutex);
      if (index > failed) return;
      failed = index;
      failure = std::move(status);
    });
    return failure;
  }

 private:
  Team& team_;
  const Context& context_;
  std::deque<TeamMemory>* alone_;
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

  Status run(const Context& context, const RunName*, const std::function<Status(Queue&)>& program) override {
    Status status;
    Team::run(threads_, memory_.together, [&](Team& team) {
      CpuQueue queue(team, context, &memory_.alone);
      status = guarded([&] { return program(queue); });
    });
    return status;
  }

  int lanes() const override { return threads_; }

  Status adamw(const Context& context, const AdamwArgs& args) override {
    return cpuBackend().adamw(context, args);
  }

  int64_t packedFloats(int64_t n, int64_t k, Precision precision) const override {
    return clipcid::packedFloats(n, k, precision);
  }

  Status matrix(int64_t rows, int64_t dim, std::shared_ptr<DeviceMatrix>* out) override {
    return guarded([&]() -> Status {
      *out = std::make_shared<CpuMatrix>(&cpuBackend(), Dtype::kFloat32, rows, dim);
      return {};
    });
  }
  Status put(DeviceMatrix& to, int64_t row, int64_t rows, const char* from) override {
    return copyBytes(rowOf(to, row), from, rows * to.dim * kFloat);
  }
  Status take(const DeviceMatrix& from, int64_t row, int64_t rows, char* to) override {
    return copyBytes(to, rowOf(from, row), rows * from.dim * kFloat);
  }
  Status copy(DeviceMatrix& to, int64_t row, const DeviceMatrix& from) override {
    return copyBytes(rowOf(to, row), rowOf(from, 0), static_cast<int64_t>(from.bytes()));
  }
  Status read(void* to, const DeviceMatrix& from) override {
    return copyBytes(to, rowOf(from, 0), static_cast<int64_t>(from.bytes()));
  }
  Status lossSteps(const Context& context, std::unique_ptr<LossSteps>* out) override {
    return cpuBackend().lossSteps(context, out);
  }

 private:
  static constexpr int64_t kFloat = sizeof(float);

  static char* rowOf(const DeviceMatrix& matrix, int64_t row) {
    return static_cast<const CpuMatrix&>(matrix).data.get() + row * matrix.dim * kFloat;
  }
  static Status copyBytes(void* to, const void* from, int64_t bytes) {
    memcpy(to, from, static_cast<size_t>(bytes));
    return {};
  }

  const int threads_;
  RunnerMemory memory_;
};

}  // namespace

Status CpuBackend::runner(const Context& context, std::unique_ptr<Runner>* out) {
  return guarded([&]() -> Status {
    *out = std::make_unique<CpuRunner>(context.threads);
    return {};
  });
}

}  // namespace clipcid

// Runs programs on a GPU: operations are queued on one stream, and a run is done when somebody reads.
//
// What comes again is queued as one graph: the first run of a name queues its operations one by one, and so finds out how much
// scratch memory they take; the second is noted down as it queues them, and from then on the graph is launched. Where that fails,
// operations are queued one by one for good. So a step is three graphs: forward, backward, and the update, which several passes
// backward may come before.
//
// Between host and device bytes go through pieces of pinned memory. Inputs that are sent ahead go on a second stream to memory of the
// device that nobody works on, and from there, in the order of the first stream, to where they belong: they travel while other
// work runs.
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <mutex>

#include "core/parallel.h"
#include "cuda/adamw_kernels.h"
#include "cuda/backend.h"
#include "cuda/loss_steps.h"
#include "cuda/ops/ops.h"
#include "cuda/pieces.h"
#include "cuda/upload.h"

namespace clipcid {
namespace {

using namespace cuda;

constexpr size_t kMostGraphs = 64;
// The first word of the names of graphs that are the runner's own; programs count from 1.
constexpr uint64_t kOwnGraphs = 0;

// Where bytes arrive.
struct Landing {
  BudgetedBuffer memory;
  OwnedEvent arrived, taken;
};

class CudaSent final : public Sent {
 public:
  CudaSent(std::shared_ptr<Landing> landing, int64_t bytes) : landing(std::move(landing)), bytes(bytes) {}
  std::shared_ptr<Landing> landing;
  const int64_t bytes;
};

class CudaQueue final : public Queue {
 public:
  CudaQueue(const Work& work, const Context& context) : work_(work), context_(context) {}
  Status run(const Operation& operation) override {
    if (context_.cancelled()) return Status::aborted();
    work_.scratch.begin();
    return std::visit([&](const auto& args) { return cuda::run(work_, args); }, operation);
  }

 private:
  const Work& work_;
  const Context& context_;
};

// Memory of a runner's matrices that nobody uses any more: others get it, in the order of the runner's stream. So it is given back
// by the runner alone, and not while a graph is noted down. It counts to the runner's budget as long as it is there.
struct SpareMemory {
  std::mutex mutex;
  std::vector<Buffer<char>> buffers;
};

class RunnerMatrix final : public CudaMatrix {
 public:
  RunnerMatrix(const Backend* owner, int64_t rows, int64_t dim, std::shared_ptr<SpareMemory> spare)
      : CudaMatrix(owner, Dtype::kFloat32, rows, dim), spare_(std::move(spare)) {}
  ~RunnerMatrix() override {
    if (data.empty()) return;
    const std::lock_guard<std::mutex> lock(spare_->mutex);
    spare_->buffers.push_back(std::move(data));
  }

 private:
  std::shared_ptr<SpareMemory> spare_;
};

class CudaRunner final : public Runner {
 public:
  CudaRunner(Device& device, const Backend* owner, int64_t maxDeviceMemory)
      : device_(device),
        owner_(owner),
        budget_(std::make_shared<Budget>(maxDeviceMemory)),
        scratch_(budget_),
        pieces_(device),
        sendingPieces_(device) {}
  ~CudaRunner() override {
    if (!setDevice(device_.index).ok()) return;
    for (const Stream stream : {sending_, stream_}) {
      if (stream != nullptr) (void)cuda::synchronise(stream);
    }
    forgetGraphs();
    // Memory goes on these streams, before they do.
    landings_.clear();
    {
      const std::lock_guard<std::mutex> lock(spare_->mutex);
      spare_->buffers.clear();
    }
    scratch_ = Scratch();
    fault_ = Buffer<DataFault>();
    tables_ = AdamwTables();
    for (const Stream stream : {sending_, stream_}) {
      if (stream == nullptr) continue;
      (void)cuda::synchronise(stream);
      device_.returnStream(stream);
    }
  }

  Status begin() {
    CLIPCID_TRY(setDevice(device_.index));
    CLIPCID_TRY(device_.takeStream(&stream_));
    CLIPCID_TRY(device_.takeStream(&sending_));
    CLIPCID_TRY(fault_.allocate(1, stream_));
    CLIPCID_TRY(fillBytes(fault_.get(), 0, sizeof(DataFault), stream_));
    CLIPCID_TRY(seen_.allocate(1));
    CLIPCID_TRY(norm_.allocate(1));
    return known_.create();
  }

  Status allocate(int64_t bytes, std::shared_ptr<char>* out) override {
    return guarded([&]() -> Status {
      CLIPCID_TRY(setDevice(device_.index));
      auto buffer = std::make_shared<BudgetedBuffer>();
      CLIPCID_TRY(buffer->allocate(budget_, std::max<int64_t>(bytes, 1), stream_));
      *out = std::shared_ptr<char>(buffer, buffer->get());
      return {};
    });
  }

  Status require(int64_t bytes, const std::string& what, const std::string& remedy) override {
    CLIPCID_TRY(setDevice(device_.index));
    return budget_->require(bytes, what, remedy);
  }

  Status write(char* to, const void* from, int64_t bytes) override {
    CLIPCID_TRY(setDevice(device_.index));
    return pieces_.send(to, from, bytes, stream_);
  }

  Status read(void* to, const char* from, int64_t bytes) override {
    CLIPCID_TRY(setDevice(device_.index));
    CLIPCID_TRY(copyToHost(seen_.get(), fault_.get(), sizeof(DataFault), stream_));
    CLIPCID_TRY(record(known_.get(), stream_));
    CLIPCID_TRY(pieces_.fetch(to, from, bytes, stream_));
    CLIPCID_TRY(cuda::synchronise(known_.get()));
    return faultOfData();
  }

  Status clear(char* to, int64_t bytes) override {
    CLIPCID_TRY(setDevice(device_.index));
    return fillBytes(to, 0, static_cast<size_t>(bytes), stream_);
  }

  Status copy(char* to, const char* from, int64_t bytes) override {
    CLIPCID_TRY(setDevice(device_.index));
    return copyOnDevice(to, from, static_cast<size_t>(bytes), stream_);
  }

  bool sends() const override { return true; }

  Status send(const void* from, int64_t bytes, std::shared_ptr<Sent>* out) override {
    return guarded([&]() -> Status {
      const std::lock_guard<std::mutex> lock(sendingMutex_);
      CLIPCID_TRY(setDevice(device_.index));
      std::shared_ptr<Landing> landing;
      CLIPCID_TRY(landingOf(bytes, &landing));
      CLIPCID_TRY(sendingPieces_.send(landing->memory.get(), from, bytes, sending_));
      CLIPCID_TRY(record(landing->arrived.get(), sending_));
      *out = std::make_shared<CudaSent>(std::move(landing), bytes);
      return {};
    });
  }

  Status land(Sent& sent, char* to) override {
    auto& own = static_cast<CudaSent&>(sent);
    if (own.landing == nullptr) return {Code::kInternal, "Inputs that were sent ahead are used twice"};
    CLIPCID_TRY(setDevice(device_.index));
    CLIPCID_TRY(waitFor(stream_, own.landing->arrived.get()));
    CLIPCID_TRY(copyOnDevice(to, own.landing->memory.get(), static_cast<size_t>(own.bytes), stream_));
    CLIPCID_TRY(record(own.landing->taken.get(), stream_));
    own.landing = nullptr;
    return {};
  }

  Status run(const Context& context, const RunName* name,
             const std::function<Status(Queue&)>& program) override {
    return guarded([&]() -> Status {
      if (context.cancelled()) return Status::aborted();
      CLIPCID_TRY(setDevice(device_.index));
      const Work work = {device_, stream_, scratch_, fault_.get()};
      CudaQueue queue(work, context);
      const auto queueAll = [&] { return program(queue); };
      return name == nullptr ? queueAll() : asGraph(*name, queueAll);
    });
  }

  Status adamw(const Context& context, const AdamwArgs& args) override {
    return guarded([&]() -> Status {
      CLIPCID_TRY(validateAdamw(args));
      // What is queued changes buffers: a step that began to write finishes.
      if (context.cancelled()) return Status::aborted();
      CLIPCID_TRY(setDevice(device_.index));
      CLIPCID_TRY(tables_.prepare(stream_, args));
      const auto word = [](const float* pointer) {
        return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer));
      };
      // Buffers are the same for as long as the parameters' are, but for the average.
      const RunName name = {kOwnGraphs, tables_.generation(), std::bit_cast<uint64_t>(args.clip),
                            word(args.parameters), word(args.ema)};
      CLIPCID_TRY(asGraph(name, [&]() -> Status {
        const AdamwBuffers buffers = {args.parameters, args.gradients, args.first, args.second, args.ema};
        CLIPCID_TRY(tables_.step(stream_, buffers, args.clip, &fault_.get()->kind));
        CLIPCID_TRY(copyToHost(norm_.get(), tables_.norm(), sizeof(double), stream_));
        return copyToHost(seen_.get(), fault_.get(), sizeof(DataFault), stream_);
      }));
      CLIPCID_TRY(record(known_.get(), stream_));
      CLIPCID_TRY(cuda::synchronise(known_.get()));
      CLIPCID_TRY(faultOfData());
      if (!std::isfinite(*norm_.get())) {
        std::vector<float> gradients(static_cast<size_t>(args.length));
        CLIPCID_TRY(pieces_.fetch(gradients.data(), reinterpret_cast<const char*>(args.gradients),
                                  args.length * static_cast<int64_t>(sizeof(float)), stream_));
        return firstNotFinite(args, gradients.data());
      }
      if (args.gradientNorm != nullptr) *args.gradientNorm = *norm_.get();
      return {};
    });
  }

  int64_t packedFloats(int64_t, int64_t, Precision) const override { return 0; }

  Status matrix(int64_t rows, int64_t dim, std::shared_ptr<DeviceMatrix>* out) override {
    return guarded([&]() -> Status {
      CLIPCID_TRY(setDevice(device_.index));
      auto matrix = std::make_shared<RunnerMatrix>(owner_, rows, dim, spare_);
      CLIPCID_TRY(spareMemory(std::max<int64_t>(bytesOf(*matrix, rows), 1), &matrix->data));
      // Behind the elements of a row are zeros.
      if (matrix->stride != dim) CLIPCID_TRY(fillBytes(matrix->data.get(), 0, matrix->data.bytes(), stream_));
      *out = std::move(matrix);
      return {};
    });
  }

  Status put(DeviceMatrix& to, int64_t row, int64_t rows, const char* from) override {
    const auto& matrix = static_cast<const CudaMatrix&>(to);
    const size_t bytes = bytesOf(matrix, 1), dense = denseBytes(matrix);
    CLIPCID_TRY(setDevice(device_.index));
    return copyRowsOnDevice(matrix.data.get() + bytesOf(matrix, row), bytes, from, dense, dense,
                            static_cast<size_t>(rows), stream_);
  }

  Status take(const DeviceMatrix& from, int64_t row, int64_t rows, char* to) override {
    const auto& matrix = static_cast<const CudaMatrix&>(from);
    const size_t bytes = bytesOf(matrix, 1), dense = denseBytes(matrix);
    CLIPCID_TRY(setDevice(device_.index));
    return copyRowsOnDevice(to, dense, matrix.data.get() + bytesOf(matrix, row), bytes, dense,
                            static_cast<size_t>(rows), stream_);
  }

  Status copy(DeviceMatrix& to, int64_t row, const DeviceMatrix& from) override {
    const auto &source = static_cast<const CudaMatrix&>(from), &target = static_cast<const CudaMatrix&>(to);
    CLIPCID_TRY(setDevice(device_.index));
    return copyOnDevice(target.data.get() + bytesOf(target, row), source.data.get(),
                        bytesOf(source, source.rows), stream_);
  }

  Status read(void* to, const DeviceMatrix& from) override {
    const auto& matrix = static_cast<const CudaMatrix&>(from);
    const size_t bytes = bytesOf(matrix, 1), dense = denseBytes(matrix);
    CLIPCID_TRY(setDevice(device_.index));
    CLIPCID_TRY(
        copyRowsToHost(to, dense, matrix.data.get(), bytes, dense, static_cast<size_t>(from.rows), stream_));
    return cuda::synchronise(stream_);
  }

  Status lossSteps(const Context& context, std::unique_ptr<LossSteps>* out) override {
    // What is much travels while earlier work runs, where there is room for it.
    const auto much = static_cast<int64_t>(stagingBytes() / 64);
    const auto bring = [this, much](char* to, const void* from, int64_t bytes) -> Status {
      std::shared_ptr<Sent> sent;
      return bytes >= much && send(from, bytes, &sent).ok() ? land(*sent, to) : write(to, from, bytes);
    };
    LossSite site = {.device = device_, .owner = owner_, .stream = stream_, .write = bring};
    site.left = budget_->left();
    return guarded([&] { return cuda::lossSteps(site, context, out); });
  }

 private:
  struct Noted {
    Graph graph = nullptr;
    int64_t generation = 0;
    bool ran = false, refused = false;
  };

  // `queue` queues what is known by `name`; as a graph from the second time on.
  template <typename QueueAll>
  Status asGraph(const RunName& name, QueueAll queueAll) {
    if (graphs_.size() >= kMostGraphs && graphs_.count(name) == 0) forgetGraphs();
    Noted& noted = graphs_[name];
    if (noted.graph != nullptr && noted.generation == scratch_.generation())
      return launchGraph(noted.graph, stream_);
    if (!noted.ran || noted.refused) {
      noted.ran = true;
      return queueAll();
    }
    if (noted.graph != nullptr) destroyGraph(std::exchange(noted.graph, nullptr));
    // Nothing may be taken or given back while a graph is noted down.
    CLIPCID_TRY(scratch_.settle(stream_));
    if (beginCapture(stream_).ok()) {
      scratch_.mayGrow(false);
      const Status status = queueAll();
      scratch_.mayGrow(true);
      const Status ended = endCapture(stream_, &noted.graph);
      if (status.ok() && ended.ok()) {
        noted.generation = scratch_.generation();
        return launchGraph(noted.graph, stream_);
      }
      if (noted.graph != nullptr) destroyGraph(std::exchange(noted.graph, nullptr));
      if (status.code == Code::kAborted) return status;
    }
    noted.refused = true;
    return queueAll();
  }

  void forgetGraphs() {
    for (auto& [name, noted] : graphs_) {
      if (noted.graph != nullptr) destroyGraph(noted.graph);
    }
    graphs_.clear();
  }

  // One that nobody else holds and that is large enough; the sending stream may write there when it comes to it.
  Status landingOf(int64_t bytes, std::shared_ptr<Landing>* out) {
    std::shared_ptr<Landing> best;
    for (const std::shared_ptr<Landing>& landing : landings_) {
      if (landing.use_count() > 1) continue;
      const bool fits = landing->memory.bytes() >= bytes;
      if (best == nullptr ||
          (fits && (best->memory.bytes() < bytes || landing->memory.bytes() < best->memory.bytes())))
        best = landing;
    }
    // Two at least, so that one is filled while the other is emptied.
    if (best == nullptr || landings_.size() < 2) {
      best = std::make_shared<Landing>();
      CLIPCID_TRY(best->arrived.create());
      CLIPCID_TRY(best->taken.create());
      landings_.push_back(best);
    } else {
      CLIPCID_TRY(waitFor(sending_, best->taken.get()));
    }
    if (best->memory.bytes() < bytes) {
      // By the order of the sending stream, which has waited for whoever took from it last.
      CLIPCID_TRY(best->memory.allocate(budget_, bytes, sending_));
    }
    // Taken in turns.
    landings_.erase(std::find(landings_.begin(), landings_.end(), best));
    landings_.push_back(best);
    *out = std::move(best);
    return {};
  }

  // Of what `seen_` holds; a fault that was told is forgotten.
  Status faultOfData() {
    const DataFault fault = *seen_.get();
    if (fault.kind == 0) return {};
    CLIPCID_TRY(fillBytes(fault_.get(), 0, sizeof(DataFault), stream_));
    return {Code::kInvalidData, "Index " + std::to_string(fault.value) + " at element " +
                                    std::to_string(fault.at) + " is out of range for " +
                                    std::to_string(fault.size) + " rows"};
  }

  static size_t bytesOf(const CudaMatrix& matrix, int64_t rows) {
    return static_cast<size_t>(rows * matrix.stride) * sizeof(float);
  }
  static size_t denseBytes(const CudaMatrix& matrix) {
    return static_cast<size_t>(matrix.dim) * sizeof(float);
  }

  // The smallest that is large enough and not much larger. Few are kept.
  Status spareMemory(int64_t bytes, Buffer<char>* out) {
    constexpr size_t kMostSpare = 16;
    const std::lock_guard<std::mutex> lock(spare_->mutex);
    std::vector<Buffer<char>>& all = spare_->buffers;
    auto best = all.end();
    for (auto at = all.begin(); at != all.end(); ++at) {
      if (at->count() < bytes || at->count() > 2 * bytes) continue;
      if (best == all.end() || at->count() < best->count()) best = at;
    }
    if (best != all.end()) {
      *out = std::move(*best);
      all.erase(best);
    }
    const auto giveBack = [&] {
      budget_->give(all.front().count());
      all.erase(all.begin());
    };
    while (all.size() > kMostSpare) giveBack();
    if (!out->empty()) return {};
    Status status = budget_->take(bytes);
    while (!status.ok() && !all.empty()) {
      giveBack();
      status = budget_->take(bytes);
    }
    if (!status.ok()) return status;
    status = out->allocate(bytes, stream_);
    if (!status.ok()) budget_->give(bytes);
    return status;
  }

  Device& device_;
  const Backend* const owner_;
  Stream stream_ = nullptr, sending_ = nullptr;
  std::shared_ptr<Budget> budget_;
  const std::shared_ptr<SpareMemory> spare_ = std::make_shared<SpareMemory>();
  Scratch scratch_;
  std::map<RunName, Noted> graphs_;
  Buffer<DataFault> fault_;
  Pinned<DataFault> seen_;
  Pinned<double> norm_;
  OwnedEvent known_;
  AdamwTables tables_;

  Pieces pieces_;

  std::mutex sendingMutex_;
  Pieces sendingPieces_;
  std::vector<std::shared_ptr<Landing>> landings_;
};

}  // namespace

namespace cuda {

Status Scratch::take(int64_t bytes, Stream stream, char** out) {
  constexpr int64_t kAlignment = 256;
  const int64_t size = (std::max<int64_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  if (used_ + size > block_.bytes()) {
    if (!mayGrow_) return {Code::kInternal, "An operation takes more memory than the time before"};
    if (block_.bytes() > 0) outgrown_.push_back(std::move(block_));
    block_ = BudgetedBuffer();
    CLIPCID_TRY(block_.allocate(budget_, std::max(most_, taken_ + size), stream));
    used_ = 0;
    ++generation_;
  }
  *out = block_.get() + used_;
  used_ += size;
  taken_ += size;
  most_ = std::max(most_, taken_);
  return {};
}

Status Scratch::settle(Stream stream) {
  begin();
  if (most_ <= block_.bytes()) return {};
  block_ = BudgetedBuffer();
  ++generation_;
  return block_.allocate(budget_, most_, stream);
}

}  // namespace cuda

Status CudaBackend::runner(const Context& context, std::unique_ptr<Runner>* out) {
  return guarded([&]() -> Status {
    auto runner = std::make_unique<CudaRunner>(device_, this, context.maxDeviceMemory);
    CLIPCID_TRY(runner->begin());
    *out = std::move(runner);
    return {};
  });
}

}  // namespace clipcid

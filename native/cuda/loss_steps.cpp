// All of the loss is queued on one stream: of a program's, between its passes forward and backward (ops/runner.cpp). The host waits
// once, for the numbers that the terms are; with them come the first rows that cannot be normalised. Matrices of the host are
// brought to the device before the step that takes them, and from it at the end.
#include "cuda/loss_steps.h"

#include "core/parallel.h"
#include "cuda/loss_passes.h"
#include "cuda/matmul_kernels.h"
#include "cuda/rows.h"

namespace clipcid::cuda {
namespace {

constexpr int kMostTerms = 16, kMostFaults = 8;

// What comes back beside gradients, in one copy.
struct Readings {
  double terms[kMostTerms];
  uint32_t faults[kMostFaults];
};

int64_t strideOf(int64_t dim) { return deviceStride(Dtype::kFloat32, dim); }

const CudaMatrix& cudaMatrix(const DeviceMatrix& matrix) { return static_cast<const CudaMatrix&>(matrix); }

class CudaLossSteps final : public LossSteps {
 public:
  CudaLossSteps(const LossSite& site, const Context& context)
      : site_(site), device_(site.device), context_(context), session_(&site.device) {}
  // The host's memory that copies read must not go before they are done.
  ~CudaLossSteps() override {
    if (stream_ != nullptr && !finished_) (void)synchronise(stream_);
  }

  Status begin() {
    if (site_.stream == nullptr) {
      CLIPCID_TRY(session_.begin());
      stream_ = session_.stream();
    } else {
      CLIPCID_TRY(setDevice(device_.index));
      stream_ = site_.stream;
    }
    CLIPCID_TRY(deviceBudget(context_, &budget_));
    if (site_.left > 0) budget_ = std::min(budget_, site_.left);
    CLIPCID_TRY(allocate(1, &readings_));
    return fillBytes(readings_->get(), 0xff, sizeof(Readings), stream_);
  }

  const Backend* owner() const override { return site_.owner; }

  Status bring(const LossMatrix& matrix, int64_t rows, int64_t dim, const float** out) override {
    if (matrix.device != nullptr) {
      *out = reinterpret_cast<const float*>(cudaMatrix(*matrix.device).data.get());
      return {};
    }
    float* to = nullptr;
    CLIPCID_TRY(room(rows, dim, &to));
    *out = to;
    if (site_.write && strideOf(dim) == dim) return send(to, matrix.data, rows * dim);
    Uploader uploader(context_, device_);
    return uploader.rows(HostRows(Rows(floatView(matrix.data, rows, dim))), 0, rows,
                         reinterpret_cast<char*>(to), stream_);
  }

  Status room(int64_t rows, int64_t dim, float** out) override {
    Buffer<float>* buffer = nullptr;
    CLIPCID_TRY(allocate(rows * strideOf(dim), &buffer));
    *out = buffer->get();
    // Behind the elements of a row are zeros.
    return strideOf(dim) == dim ? Status() : fillBytes(buffer->get(), 0, buffer->bytes(), stream_);
  }

  Status place(const LossGradient& gradient, int64_t rows, int64_t dim, float** out) override {
    if (gradient.device != nullptr) {
      *out = reinterpret_cast<float*>(cudaMatrix(*gradient.device).data.get());
      return {};
    }
    CLIPCID_TRY(room(rows, dim, out));
    results_.push_back({gradient.data, *out, rows, dim});
    return {};
  }

  Status clear(float* matrix, int64_t rows, int64_t dim) override {
    return fillBytes(matrix, 0, static_cast<size_t>(rows * strideOf(dim)) * sizeof(float), stream_);
  }

  Status normalise(const std::string& name, const float* raw, int64_t rows, int64_t dim,
                   UnitView* out) override {
    Buffer<double>* norms = nullptr;
    float* unit = nullptr;
    uint32_t* fault = nullptr;
    CLIPCID_TRY(allocate(rows, &norms));
    CLIPCID_TRY(room(rows, dim, &unit));
    CLIPCID_TRY(watch(name, nullptr, &fault));
    DeviceRows view;
    view.data = raw;
    view.stride = strideOf(dim);
    view.dim = dim;
    view.count = rows;
    CLIPCID_TRY(normsOfRows(device_, stream_, view, norms->get()));
    CLIPCID_TRY(normaliseRows(device_, stream_, shapeOf(rows, dim), raw, norms->get(), unit, fault));
    *out = {unit, norms->get(), rows, dim};
    return {};
  }

  Status throughNormalise(const UnitView& unit, const float* gradient, bool add, float* out) override {
    return unitGradient(device_, stream_, shapeOf(unit.rows, unit.dim), unit.unit, unit.norms, gradient, add,
                        out);
  }

  Status multiply(const MatmulArgs& product) override {
    MatmulKernelArgs work;
    work.a = product.a;
    work.b = product.b;
    work.c = product.c;
    work.m = product.m;
    work.n = product.n;
    work.k = product.k;
    work.strideA = strideOf(product.transposeA ? product.m : product.k);
    work.strideB = strideOf(product.transposeB ? product.k : product.n);
    work.strideC = strideOf(product.n);
    work.transposeA = product.transposeA;
    work.transposeB = product.transposeB;
    work.alpha = product.alpha;
    work.beta = product.beta;
    return multiplyMatrices(stream_, work);
  }

  Status contrast(const ContrastArgs& args) override {
    ContrastPass pass;
    pass.x = args.x;
    pass.y = args.y;
    pass.rows = args.rows;
    pass.dim = args.dim;
    pass.scale = args.scale;
    pass.weight = args.weight;
    pass.columns = args.columns;
    pass.dx = args.dx;
    pass.dy = args.dy;
    CLIPCID_TRY(read({args.value, args.logScaleGradient}, &pass.terms));
    return cuda::contrast(passSite(), pass);
  }

  Status cluster(const LossArgs& args, const UnitView& s, const float* teacher, float* ds,
                 LossResult* result) override;
  Status finish() override;

 private:
  struct Result {
    float* to;
    const float* from;
    int64_t rows, dim;
  };
  // Rows of which the first that cannot be normalised is told: row i is that of index indices[i], or i.
  struct Watched {
    std::string name;
    const int32_t* indices;
  };

  static LossRows shapeOf(int64_t rows, int64_t dim) { return {rows, dim, strideOf(dim)}; }
  PassSite passSite() const { return {device_, context_, stream_, budget_, held_}; }

  // Memory until the steps go.
  template <typename T>
  Status allocate(int64_t count, Buffer<T>** out) {
    auto buffer = std::make_shared<Buffer<T>>();
    CLIPCID_TRY(buffer->allocate(count, stream_));
    held_ += static_cast<int64_t>(buffer->bytes());
    *out = buffer.get();
    buffers_.push_back(std::move(buffer));
    return {};
  }

  // Values of the host, which stay there until the end.
  template <typename T>
  Status send(T* to, const T* from, int64_t count) {
    const auto bytes = static_cast<size_t>(count) * sizeof(T);
    if (site_.write) return site_.write(reinterpret_cast<char*>(to), from, static_cast<int64_t>(bytes));
    return copyToDevice(to, from, bytes, stream_);
  }
  template <typename T>
  Status send(const T* from, int64_t count, const T** out) {
    Buffer<T>* buffer = nullptr;
    CLIPCID_TRY(allocate(count, &buffer));
    *out = buffer->get();
    return send(buffer->get(), from, count);
  }

  // Where numbers are written that go here in the end.
  Status read(const std::vector<double*>& to, double** out) {
    *out = readings_->get()->terms + terms_.size();
    terms_.insert(terms_.end(), to.begin(), to.end());
    return terms_.size() <= kMostTerms ? Status()
                                       : Status(Code::kInternal, "The loss has more terms than known");
  }

  Status watch(const std::string& name, const int32_t* indices, uint32_t** out) {
    *out = readings_->get()->faults + watched_.size();
    watched_.push_back({name, indices});
    return watched_.size() <= kMostFaults ? Status()
                                          : Status(Code::kInternal, "The loss has more matrices than known");
  }

  const LossSite site_;
  Device& device_;
  const Context& context_;
  Session session_;
  Stream stream_ = nullptr;
  int64_t budget_ = 0, held_ = 0;
  bool finished_ = false;
  std::vector<std::shared_ptr<void>> buffers_;
  std::vector<int32_t> targets_;  // of the host
  Buffer<Readings>* readings_ = nullptr;
  std::vector<double*> terms_;
  std::vector<Watched> watched_;
  std::vector<Result> results_;
};

Status CudaLossSteps::cluster(const LossArgs& args, const UnitView& s, const float* teacher, float* ds,
                              LossResult* result) {
  const int64_t batch = s.rows, dim = s.dim;
  const bool ce = args.ceWeight > 0, kl = args.klWeight > 0;
  const bool cached = kl && args.softCentroids != nullptr;
  const double factor = 1 / (args.temperature * static_cast<double>(batch));
  Buffer<double>*lse = nullptr, *targetLogit = nullptr, *divergence = nullptr;
  const float *soft = nullptr, *entropies = nullptr;
  float* sums = nullptr;
  CLIPCID_TRY(allocate(batch, &lse));
  CLIPCID_TRY(room(batch, dim, &sums));
  DistilPass pass;
  pass.student = s.unit;
  pass.rows = batch;
  pass.dim = dim;
  pass.keys.count = args.sample != nullptr ? args.sampleCount : args.clusters;
  pass.keys.indices = args.sample;
  pass.keys.host = args.centroids.data;
  if (args.centroids.device != nullptr)
    pass.keys.resident = reinterpret_cast<const float*>(cudaMatrix(*args.centroids.device).data.get());
  pass.keys.unit = pass.keys.measure = true;
  pass.scale = 1 / args.temperature;
  pass.studentWeight = args.ceWeight + args.klWeight;
  pass.lse = lse->get();
  if (ce) {
    CLIPCID_TRY(targetsOf(args, &targets_));
    CLIPCID_TRY(send(targets_.data(), batch, &pass.targets));
    CLIPCID_TRY(allocate(batch, &targetLogit));
    pass.targetLogit = targetLogit->get();
    pass.targetWeight = args.ceWeight;
  }
  if (kl) CLIPCID_TRY(allocate(batch, &divergence));
  if (kl && !cached) {
    pass.teacher = teacher;
    pass.teacherScale = 1 / args.teacherTemperature;
    pass.teacherWeight = args.klWeight;
    pass.divergence = divergence->get();
  }
  pass.sums = sums;
  CLIPCID_TRY(watch("centroids", args.sample, &pass.fault));
  if (args.sample != nullptr && (pass.keys.resident != nullptr || result->centroids.device != nullptr))
    CLIPCID_TRY(send(args.sample, args.sampleCount, &pass.keys.placed));

  // The gradient of the centres, a chunk at a time: in place, or by way of the device's memory.
  float* gradients = nullptr;
  if (args.learned && result->centroids.device != nullptr) {
    CLIPCID_TRY(place(result->centroids, args.clusters, dim, &gradients));
    if (args.sample != nullptr) CLIPCID_TRY(clear(gradients, args.clusters, dim));
  } else if (args.learned && args.sample != nullptr) {
    std::fill_n(result->centroids.data, args.clusters * dim, 0.0f);
  }
  if (args.learned) {
    pass.keySums = [&](SoftmaxSweep& sweep, const SoftmaxSweep::Side& keys, float* from) -> Status {
      const int32_t* indices = args.sample == nullptr ? nullptr : args.sample + keys.first;
      const int64_t stride = sweep.outStride();
      CLIPCID_TRY(sweep.eachPiece(
          pass.keys, keys.first, keys.count, [&](const float* raw, int64_t begin, int64_t count) -> Status {
            float* const own = from + (begin - keys.first) * stride;
            float* to = own;
            const int32_t* at = nullptr;
            if (gradients != nullptr && indices != nullptr) {
              to = gradients;
              at = pass.keys.placed + begin;
            } else if (gradients != nullptr) {
              to = gradients + begin * stride;
            }
            return rawGradient(device_, stream_, shapeOf(count, dim), raw, keys.norms.get() + begin, own,
                               static_cast<float>(factor), at, to);
          }));
      if (gradients != nullptr) return {};
      float* to = result->centroids.data;
      return sweep.downloadRows(from, keys.count, indices, false,
                                indices == nullptr ? to + keys.first * dim : to);
    };
  }
  CLIPCID_TRY(distil(passSite(), pass));

  if (cached) {
    CLIPCID_TRY(bring(args.softCentroids, batch, dim, &soft));
    CLIPCID_TRY(send(args.entropies, batch, &entropies));
  }
  ClusterRowsArgs rows;
  rows.rows = shapeOf(batch, dim);
  rows.sums = sums;
  rows.s = s.unit;
  rows.lse = lse->get();
  rows.factor = static_cast<float>(factor);
  rows.scale = pass.scale;
  rows.ds = ds;
  if (cached) {
    rows.soft = soft;
    rows.entropies = entropies;
    rows.teacherWeight = static_cast<float>(args.klWeight);
    rows.divergence = divergence->get();
  }
  CLIPCID_TRY(clusterRows(device_, stream_, rows));
  double* term = nullptr;
  if (ce) {
    CLIPCID_TRY(read({&result->clusterCe}, &term));
    CLIPCID_TRY(meanOf(stream_, lse->get(), targetLogit->get(), batch, term));
  }
  if (kl) {
    CLIPCID_TRY(read({&result->clusterKl}, &term));
    CLIPCID_TRY(meanOf(stream_, divergence->get(), nullptr, batch, term));
  }
  return {};
}

Status CudaLossSteps::finish() {
  Readings found;
  CLIPCID_TRY(copyToHost(&found, readings_->get(), sizeof found, stream_));
  for (const Result& result : results_) {
    const auto bytes = static_cast<size_t>(result.dim) * sizeof(float);
    CLIPCID_TRY(copyRowsToHost(result.to, bytes, result.from,
                               static_cast<size_t>(strideOf(result.dim)) * sizeof(float), bytes,
                               static_cast<size_t>(result.rows), stream_));
  }
  CLIPCID_TRY(synchronise(stream_));
  finished_ = true;
  for (size_t i = 0; i < watched_.size(); ++i) {
    const uint32_t row = found.faults[i];
    if (row == kNoFault) continue;
    const auto& [name, indices] = watched_[i];
    return faultyRow(name, indices != nullptr ? indices[row] : int64_t{row});
  }
  for (size_t i = 0; i < terms_.size(); ++i) *terms_[i] = found.terms[i];
  return {};
}

}  // namespace

Status lossSteps(const LossSite& site, const Context& context, std::unique_ptr<LossSteps>* out) {
  auto steps = std::make_unique<CudaLossSteps>(site, context);
  CLIPCID_TRY(steps->begin());
  *out = std::move(steps);
  return {};
}

}  // namespace clipcid::cuda

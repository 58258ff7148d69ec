// The steps of the loss on the host's memory, over a back end's primitives.
#include <algorithm>
#include <cstring>
#include <deque>
#include <numeric>

#include "clipcid/canonical.h"
#include "core/loss_steps.h"
#include "core/read_rows.h"

namespace clipcid {
namespace {

double inOrder(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// What the pass over the centres doesn't know: that the labels' weights are 1 less, in the gradient of the unit centres
// which is where that of the raw ones will be.
void finishCentres(const Context& context, const LossArgs& args, const UnitView& s,
                   const SoftmaxSide& centres, float* gradients) {
  const int64_t dim = s.dim;
  if (args.ceWeight > 0) {
    const auto weight = static_cast<float>(args.ceWeight);
    for (int64_t i = 0; i < s.rows; ++i) {
      const float* row = s.row(i);
      float* target = gradients + args.labels[i] * dim;
      for (int64_t k = 0; k < dim; ++k) target[k] -= weight * row[k];
    }
  }
  const double factor = 1 / (args.temperature * static_cast<double>(s.rows));
  throughNormalise(context, centres, dim, static_cast<float>(factor), gradients);
}

class HostSteps final : public LossSteps {
 public:
  HostSteps(Backend& backend, const Context& context) : backend_(backend), context_(context) {}

  const Backend* owner() const override { return &backend_; }

  Status bring(const LossMatrix& matrix, int64_t, int64_t, const float** out) override {
    *out = matrix.device != nullptr ? hostView(*matrix.device).floats() : matrix.data;
    return {};
  }

  Status room(int64_t rows, int64_t dim, float** out) override {
    rooms_.emplace_back(rows * dim);
    *out = rooms_.back().get();
    return {};
  }

  Status place(const LossGradient& gradient, int64_t, int64_t, float** out) override {
    *out =
        gradient.device != nullptr ? const_cast<float*>(hostView(*gradient.device).floats()) : gradient.data;
    return {};
  }

  Status clear(float* matrix, int64_t rows, int64_t dim) override {
    std::memset(matrix, 0, static_cast<size_t>(rows * dim) * sizeof(float));
    return {};
  }

  Status normalise(const std::string& name, const float* raw, int64_t rows, int64_t dim,
                   UnitView* out) override {
    units_.emplace_back();
    CLIPCID_TRY(normaliseRows(backend_, context_, name, raw, rows, dim, &units_.back()));
    *out = units_.back().view();
    return {};
  }

  Status throughNormalise(const UnitView& unit, const float* gradient, bool add, float* out) override {
    clipcid::throughNormalise(context_, unit, gradient, add, out);
    return {};
  }

  Status multiply(const MatmulArgs& given) override {
    MatmulArgs product = given;
    product.strideA = product.transposeA ? product.m : product.k;
    product.strideB = product.transposeB ? product.k : product.n;
    product.strideC = product.n;
    return backend_.matmul(context_, product);
  }

  Status contrast(const ContrastArgs& args) override { return backend_.contrast(context_, args); }

  Status cluster(const LossArgs& args, const UnitView& s, const float* teacher, float* ds,
                 LossResult* result) override;

  Status finish() override { return {}; }

 private:
  Backend& backend_;
  const Context& context_;
  std::deque<AlignedArray<float>> rooms_;
  std::deque<UnitRows> units_;
};

Status HostSteps::cluster(const LossArgs& args, const UnitView& s, const float* teacher, float* ds,
                          LossResult* result) {
  const int64_t batch = s.rows;
  const int64_t dim = s.dim;
  const bool ce = args.ceWeight > 0, kl = args.klWeight > 0;
  const bool cached = kl && args.softCentroids != nullptr;
  // The centres are never copied as a whole: a pass normalises them as it goes by.
  SoftmaxSide centres;
  CLIPCID_TRY(bring(args.centroids, args.clusters, dim, &centres.data));
  centres.count = args.sample != nullptr ? args.sampleCount : args.clusters;
  centres.indices = args.sample;
  std::vector<double> norms(static_cast<size_t>(centres.count));
  centres.measured = norms.data();

  std::vector<int32_t> targets;
  if (ce) CLIPCID_TRY(targetsOf(args, &targets));
  float* gradients = nullptr;
  if (args.learned) CLIPCID_TRY(place(result->centroids, args.clusters, dim, &gradients));
  if (args.learned && args.sample != nullptr) CLIPCID_TRY(clear(gradients, args.clusters, dim));

  std::vector<double> lse(static_cast<size_t>(batch)), targetLogit(ce ? lse.size() : 0),
      divergences(kl ? lse.size() : 0);
  AlignedArray<float> sums(batch * dim);
  DistilArgs pass;
  pass.student = s.unit;
  pass.rows = batch;
  pass.dim = dim;
  pass.keys = centres;
  pass.scale = 1 / args.temperature;
  pass.lse = lse.data();
  if (ce) {
    pass.targets = targets.data();
    pass.targetLogit = targetLogit.data();
  }
  pass.studentWeight = args.ceWeight + args.klWeight;
  if (kl && !cached) {
    pass.teacher = teacher;
    pass.teacherScale = 1 / args.teacherTemperature;
    pass.teacherWeight = args.klWeight;
    pass.divergence = divergences.data();
  }
  pass.sums = sums.get();
  pass.keySums = gradients;
  CLIPCID_TRY(backend_.distil(context_, pass));
  CLIPCID_TRY(checkNorms("centroids", norms, args.sample));
  centres.norms = norms.data();
  centres.measured = nullptr;

  // d / ds_i = ((ce + kl) E_Q[c] - ce c_target - kl o_i) / (B temperature)
  const double factor = 1 / (args.temperature * static_cast<double>(batch));
  forRows(context_, batch, [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    float* gradient = ds + i * dim;
    const float* sum = sums.get() + i * dim;
    for (int64_t k = 0; k < dim; ++k) gradient[k] += static_cast<float>(factor) * sum[k];
    if (ce) {
      const float* centre = centres.data + args.labels[i] * dim;
      const double inverse = 1 / norms[static_cast<size_t>(targets[at])];
      const auto weight = static_cast<float>(args.ceWeight * factor * inverse);
      for (int64_t k = 0; k < dim; ++k) gradient[k] -= weight * centre[k];
    }
    if (!cached) return;
    const float* o = args.softCentroids + i * dim;
    const auto ofTeacher = static_cast<float>(args.klWeight * factor);
    for (int64_t k = 0; k < dim; ++k) gradient[k] -= ofTeacher * o[k];
    divergences[at] =
        lse[at] - canonicalDot(s.row(i), o, dim) / args.temperature - static_cast<double>(args.entropies[i]);
  });
  if (ce) result->clusterCe = (inOrder(lse) - inOrder(targetLogit)) / static_cast<double>(batch);
  if (kl) result->clusterKl = inOrder(divergences) / static_cast<double>(batch);
  if (args.learned) finishCentres(context_, args, s, centres, gradients);
  return {};
}

}  // namespace

// Labels as positions in the sample.
Status targetsOf(const LossArgs& args, std::vector<int32_t>* targets) {
  targets->assign(args.labels, args.labels + args.batch);
  if (args.sample == nullptr) return {};
  for (int32_t& target : *targets) {
    const int32_t* end = args.sample + args.sampleCount;
    const int32_t* found = std::lower_bound(args.sample, end, target);
    if (found == end || *found != target) {
      return {Code::kInvalidArgument,
              "Centre " + std::to_string(target) + " is a label but not in the sample"};
    }
    target = static_cast<int32_t>(found - args.sample);
  }
  return {};
}

std::unique_ptr<LossSteps> hostLossSteps(Backend& backend, const Context& context) {
  return std::make_unique<HostSteps>(backend, context);
}

Status Backend::lossSteps(const Context& context, std::unique_ptr<LossSteps>* out) {
  *out = hostLossSteps(*this, context);
  return {};
}

}  // namespace clipcid

#include "core/loss_terms.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "clipcid/canonical.h"

namespace clipcid {
namespace {

double inOrder(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

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

// The unit centres of the labels, [B, D], of centres that are on a device.
Status centresOfLabels(Backend& backend, const Context& context, const LossArgs& args,
                       AlignedArray<float>* out) {
  // Not owned: the caller's matrix outlives the call.
  const std::shared_ptr<DeviceMatrix> matrix(std::shared_ptr<void>(),
                                             const_cast<DeviceMatrix*>(args.centroidsOnDevice));
  const std::vector<int64_t> indices(args.labels, args.labels + args.batch);
  std::unique_ptr<Prepared> centres;
  CLIPCID_TRY(backend.prepare(context, {.rows = Rows(matrix), .unit = true, .squares = false}, &centres));
  *out = AlignedArray<float>(args.batch * args.teacherDim);
  return backend.gather(
      context, {.rows = centres.get(), .indices = indices.data(), .count = args.batch, .out = out->get()});
}

// What the pass over the centres doesn't know: that the labels' weights are 1 less, in the gradient of the unit centres
// which is where that of the raw ones will be.
void finishCentres(const Context& context, const LossArgs& args, const UnitRows& s,
                   const SoftmaxSide& centres, LossResult* result) {
  const int64_t dim = s.dim;
  if (args.ceWeight > 0) {
    const auto weight = static_cast<float>(args.ceWeight);
    for (int64_t i = 0; i < s.rows; ++i) {
      const float* row = s.row(i);
      float* target = result->centroids + args.labels[i] * dim;
      for (int64_t k = 0; k < dim; ++k) target[k] -= weight * row[k];
    }
  }
  const double factor = 1 / (args.temperature * static_cast<double>(s.rows));
  throughNormalise(context, centres, dim, static_cast<float>(factor), result->centroids);
}

}  // namespace

Status clusterTerms(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& s,
                    const UnitRows* t, float* ds, LossResult* result) {
  const int64_t batch = s.rows;
  const int64_t dim = s.dim;
  const bool ce = args.ceWeight > 0, kl = args.klWeight > 0;
  const bool cached = kl && args.softCentroids != nullptr;
  // The centres are never copied as a whole: a pass normalises them as it goes by.
  SoftmaxSide centres;
  centres.data = args.centroids;
  centres.device = args.centroidsOnDevice;
  centres.count = args.sample != nullptr ? args.sampleCount : args.clusters;
  centres.indices = args.sample;
  std::vector<double> norms(static_cast<size_t>(centres.count));
  centres.measured = norms.data();

  std::vector<int32_t> targets;
  if (ce) CLIPCID_TRY(targetsOf(args, &targets));
  if (args.learned && args.sample != nullptr)
    std::memset(result->centroids, 0, static_cast<size_t>(args.clusters * dim) * sizeof(float));

  std::vector<double> lse(static_cast<size_t>(batch)), targetLogit(ce ? lse.size() : 0),
      divergences(kl ? lse.size() : 0);
  AlignedArray<float> sums(batch * dim);
  DistilArgs pass;
  pass.student = s.data();
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
    pass.teacher = t->data();
    pass.teacherScale = 1 / args.teacherTemperature;
    pass.teacherWeight = args.klWeight;
    pass.divergence = divergences.data();
  }
  pass.sums = sums.get();
  if (args.learned) pass.keySums = result->centroids;
  CLIPCID_TRY(backend.distil(context, pass));
  CLIPCID_TRY(checkNorms("centroids", norms, args.sample));
  centres.norms = norms.data();
  centres.measured = nullptr;
  AlignedArray<float> ofLabels;
  if (ce && args.centroids == nullptr) CLIPCID_TRY(centresOfLabels(backend, context, args, &ofLabels));

  // d / ds_i = ((ce + kl) E_Q[c] - ce c_target - kl o_i) / (B temperature)
  const double factor = 1 / (args.temperature * static_cast<double>(batch));
  forRows(context, batch, [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    float* gradient = ds + i * dim;
    const float* sum = sums.get() + i * dim;
    for (int64_t k = 0; k < dim; ++k) gradient[k] += static_cast<float>(factor) * sum[k];
    if (ce) {
      const bool own = ofLabels.empty();
      const float* centre = own ? args.centroids + args.labels[i] * dim : ofLabels.get() + i * dim;
      const double inverse = own ? 1 / norms[static_cast<size_t>(targets[at])] : 1;
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
  if (args.learned) finishCentres(context, args, s, centres, result);
  return {};
}

}  // namespace clipcid

#include "core/loss_terms.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "clipcid/canonical.h"

namespace clipcid {
namespace {

double inOrder(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

Status contrastTerm(Backend& backend, const Context& context, const ContrastArgs& args, double* value,
                    double* logScaleGradient) {
  const int64_t batch = args.x->rows;
  const int64_t dim = args.x->dim;
  const auto count = static_cast<double>(batch);
  const double scale = std::exp(args.logScale);
  std::vector<int32_t> diagonal(static_cast<size_t>(batch));
  std::iota(diagonal.begin(), diagonal.end(), 0);
  std::vector<double> rowLse(diagonal.size()), columnLse, targetLogit(diagonal.size());
  FloatBuffer values(batch * dim);

  SoftmaxArgs forward;
  SoftmaxArgs::Queries queries;
  queries.rows = args.x->side();
  queries.scale = scale;
  queries.targets = diagonal.data();
  queries.lse = rowLse.data();
  queries.targetLogit = targetLogit.data();
  forward.keys = args.y->side();
  forward.dim = dim;
  if (args.columns) {
    columnLse.resize(diagonal.size());
    forward.columnLse = columnLse.data();
  } else {
    queries.values = values.get();
  }
  forward.queries = {queries};
  CLIPCID_TRY(backend.softmax(context, forward));
  const double byRow = inOrder(rowLse) - inOrder(targetLogit);

  if (!args.columns) {
    // d loss / dx_i = scale / B (sum_j p_ij y_j - y_i): the expectation of the forward pass is all that is
    // needed.
    const double factor = args.weight * scale / count;
    std::vector<double> along(diagonal.size());
    forRows(context, batch, [&](int64_t i) {
      float* row = values.get() + i * dim;
      const float* y = args.y->row(i);
      float* dx = args.dx + i * dim;
      for (int64_t k = 0; k < dim; ++k) row[k] -= y[k];
      along[static_cast<size_t>(i)] = canonicalDot(args.x->row(i), row, dim);
      for (int64_t k = 0; k < dim; ++k) dx[k] += static_cast<float>(factor) * row[k];
    });
    *logScaleGradient = factor * inOrder(along);
    *value = byRow / count;
    return {};
  }

  *value = (byRow + inOrder(columnLse) - inOrder(targetLogit)) / (2 * count);
  const double weight = args.weight / count;
  SoftmaxGradientArgs backward;
  backward.queries = args.x->side();
  backward.keys = args.y->side();
  backward.dim = dim;
  backward.scale = scale;
  backward.targets = diagonal.data();
  backward.rowLse = rowLse.data();
  backward.columnLse = columnLse.data();
  backward.rowWeight = backward.columnWeight = 0.5;
  backward.sums = values.get();
  backward.logitGradient = logScaleGradient;
  CLIPCID_TRY(backend.softmaxGradient(context, backward));
  *logScaleGradient *= weight;
  addScaled(context, values.get(), static_cast<float>(weight * scale), batch * dim, args.dx);
  if (args.dy == nullptr) return {};

  std::swap(backward.queries, backward.keys);
  std::swap(backward.rowLse, backward.columnLse);
  backward.mirrored = true;
  backward.logitGradient = nullptr;
  CLIPCID_TRY(backend.softmaxGradient(context, backward));
  addScaled(context, values.get(), static_cast<float>(weight * scale), batch * dim, args.dy);
  return {};
}

namespace {

// What one pass over the centres says of each row.
struct OverCentres {
  std::vector<double> lse;
  std::vector<double> targetLogit;
  FloatBuffer expectation;  // [B, D]

  SoftmaxArgs::Queries queries(const UnitRows& rows, double temperature, const int32_t* targets) {
    lse.resize(static_cast<size_t>(rows.rows));
    expectation = FloatBuffer(rows.rows * rows.dim);
    SoftmaxArgs::Queries set;
    set.rows = rows.side();
    set.scale = 1 / temperature;
    set.lse = lse.data();
    set.values = expectation.get();
    if (targets != nullptr) {
      targetLogit.resize(lse.size());
      set.targets = targets;
      set.targetLogit = targetLogit.data();
    }
    return set;
  }
};

// The gradient of the unit centres: sum_i dz_ij s_i / temperature with dz_ij = ((ce + kl) Q_ij - kl P_ij - ce
// [j = target(i)]) / B. It is summed up where the gradient of the raw centres will be.
Status centreGradient(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& s,
                      const UnitRows* t, const SoftmaxSide& centres, const OverCentres& student,
                      const OverCentres& teacher, LossResult* result) {
  const int64_t dim = s.dim;
  if (args.sample != nullptr) {
    std::memset(result->centroids, 0, static_cast<size_t>(args.clusters * dim) * sizeof(float));
  }
  SoftmaxGradientArgs backward;
  backward.queries = centres;
  backward.keys = s.side();
  backward.dim = dim;
  backward.scale = 1 / args.temperature;
  backward.mirrored = true;
  backward.columnLse = student.lse.data();
  backward.columnWeight = args.ceWeight + args.klWeight;
  backward.sums = result->centroids;
  CLIPCID_TRY(backend.softmaxGradient(context, backward));
  if (args.klWeight > 0) {
    backward.keys = t->side();
    backward.values = s.side();
    backward.scale = 1 / args.teacherTemperature;
    backward.columnLse = teacher.lse.data();
    backward.columnWeight = -args.klWeight;
    backward.add = true;
    CLIPCID_TRY(backend.softmaxGradient(context, backward));
  }
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
  return {};
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

}  // namespace

Status clusterTerms(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& s,
                    const UnitRows* t, float* ds, LossResult* result) {
  const int64_t batch = s.rows;
  const int64_t dim = s.dim;
  const bool ce = args.ceWeight > 0, kl = args.klWeight > 0;
  // The centres are never copied: a pass normalises them as it goes by.
  SoftmaxSide centres;
  centres.data = args.centroids;
  centres.count = args.sample != nullptr ? args.sampleCount : args.clusters;
  centres.indices = args.sample;
  std::vector<double> norms(static_cast<size_t>(centres.count));
  centres.measured = norms.data();

  std::vector<int32_t> targets;
  if (ce) CLIPCID_TRY(targetsOf(args, &targets));

  // Student and teacher share the pass.
  OverCentres student, teacher;
  SoftmaxArgs pass;
  pass.keys = centres;
  pass.dim = dim;
  pass.queries.push_back(student.queries(s, args.temperature, ce ? targets.data() : nullptr));
  const bool ownPass = kl && args.softCentroids == nullptr;
  if (ownPass) pass.queries.push_back(teacher.queries(*t, args.teacherTemperature, nullptr));
  CLIPCID_TRY(backend.softmax(context, pass));
  CLIPCID_TRY(checkNorms("centroids", norms, args.sample));
  centres.norms = norms.data();
  centres.measured = nullptr;

  // d / ds_i = ((ce + kl) E_Q[c] - ce c_target - kl o_i) / (B temperature)
  const double factor = 1 / (args.temperature * static_cast<double>(batch));
  const auto ofStudent = static_cast<float>((args.ceWeight + args.klWeight) * factor);
  const auto ofTeacher = static_cast<float>(args.klWeight * factor);
  const float* soft = ownPass ? teacher.expectation.get() : args.softCentroids;
  std::vector<double> divergences(kl ? static_cast<size_t>(batch) : 0);
  forRows(context, batch, [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    float* gradient = ds + i * dim;
    const float* expectation = student.expectation.get() + i * dim;
    for (int64_t k = 0; k < dim; ++k) gradient[k] += ofStudent * expectation[k];
    if (ce) {
      const float* centre = args.centroids + args.labels[i] * dim;
      const double inverse = 1 / norms[static_cast<size_t>(targets[at])];
      const auto weight = static_cast<float>(args.ceWeight * factor * inverse);
      for (int64_t k = 0; k < dim; ++k) gradient[k] -= weight * centre[k];
    }
    if (!kl) return;
    const float* o = soft + i * dim;
    for (int64_t k = 0; k < dim; ++k) gradient[k] -= ofTeacher * o[k];
    const double entropy = ownPass
                               ? teacher.lse[at] - canonicalDot(t->row(i), o, dim) / args.teacherTemperature
                               : static_cast<double>(args.entropies[i]);
    divergences[at] = student.lse[at] - canonicalDot(s.row(i), o, dim) / args.temperature - entropy;
  });
  if (ce) {
    result->clusterCe = (inOrder(student.lse) - inOrder(student.targetLogit)) / static_cast<double>(batch);
  }
  if (kl) result->clusterKl = inOrder(divergences) / static_cast<double>(batch);
  if (!args.learned) return {};
  return centreGradient(backend, context, args, s, t, centres, student, teacher, result);
}

}  // namespace clipcid

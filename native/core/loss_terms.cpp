#include "core/loss_terms.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "clipcid/canonical.h"

namespace clipcid {

Status contrastTerm(Backend& backend, const Context& context, const ContrastArgs& args, double* value,
                    double* logScaleGradient) {
  const int64_t batch = args.x->rows;
  const int64_t dim = args.x->dim;
  const double scale = std::exp(args.logScale);
  std::vector<int32_t> diagonal(static_cast<size_t>(batch));
  std::iota(diagonal.begin(), diagonal.end(), 0);
  std::vector<float> rowLse(static_cast<size_t>(batch)), targetLogit(static_cast<size_t>(batch));
  FloatBuffer values(batch * dim);

  SoftmaxLossArgs forward;
  forward.q = args.x->data();
  forward.k = args.y->data();
  forward.queries = forward.keys = batch;
  forward.dim = dim;
  forward.scale = scale;
  forward.targets = diagonal.data();
  forward.lse = rowLse.data();
  forward.targetLogit = targetLogit.data();
  if (!args.columns) forward.values = values.get();
  CLIPCID_TRY(backend.softmaxLoss(context, forward));

  double sum = 0;
  for (int64_t i = 0; i < batch; ++i)
    sum += static_cast<double>(rowLse[i]) - static_cast<double>(targetLogit[i]);

  if (!args.columns) {
    // d loss / dx_i = scale / B (sum_j p_ij y_j - y_i): the expectation of the forward pass is all that is
    // needed.
    addScaled(context, args.y->data(), -1, batch * dim, values.get());
    double along = 0;
    for (int64_t i = 0; i < batch; ++i) along += canonicalDot(args.x->row(i), values.get() + i * dim, dim);
    const double factor = args.weight * scale / static_cast<double>(batch);
    addScaled(context, values.get(), static_cast<float>(factor), batch * dim, args.dx);
    *logScaleGradient = factor * along;
    *value = sum / static_cast<double>(batch);
    return {};
  }

  std::vector<float> columnLse(static_cast<size_t>(batch));
  SoftmaxLossArgs columns = forward;
  columns.q = forward.k;
  columns.k = forward.q;
  columns.targets = nullptr;
  columns.targetLogit = nullptr;
  columns.lse = columnLse.data();
  CLIPCID_TRY(backend.softmaxLoss(context, columns));
  for (int64_t i = 0; i < batch; ++i)
    sum += static_cast<double>(columnLse[i]) - static_cast<double>(targetLogit[i]);
  *value = sum / (2 * static_cast<double>(batch));

  SoftmaxLossArgs backward;
  backward.q = args.x->data();
  backward.k = args.y->data();
  backward.queries = backward.keys = batch;
  backward.dim = dim;
  backward.scale = scale;
  backward.targets = diagonal.data();
  backward.rowLse = rowLse.data();
  backward.columnLse = columnLse.data();
  backward.rowWeight = backward.columnWeight =
      static_cast<float>(args.weight / (2 * static_cast<double>(batch)));
  backward.values = values.get();
  backward.logitGradient = logScaleGradient;
  CLIPCID_TRY(backend.softmaxLoss(context, backward));
  addScaled(context, values.get(), static_cast<float>(scale), batch * dim, args.dx);
  if (args.dy == nullptr) return {};

  std::swap(backward.q, backward.k);
  std::swap(backward.rowLse, backward.columnLse);
  backward.logitGradient = nullptr;
  CLIPCID_TRY(backend.softmaxLoss(context, backward));
  addScaled(context, values.get(), static_cast<float>(scale), batch * dim, args.dy);
  return {};
}

namespace {

// What one pass over the centres says of each row.
struct Softmax {
  std::vector<float> lse;
  std::vector<float> targetLogit;
  FloatBuffer expectation;  // [B, D]
};

Status overCentres(Backend& backend, const Context& context, const UnitRows& rows, const UnitRows& centres,
                   double temperature, const int32_t* targets, Softmax* out) {
  out->lse.resize(static_cast<size_t>(rows.rows));
  out->expectation = FloatBuffer(rows.rows * rows.dim);
  SoftmaxLossArgs args;
  args.q = rows.data();
  args.k = centres.data();
  args.queries = rows.rows;
  args.keys = centres.rows;
  args.dim = rows.dim;
  args.scale = 1 / temperature;
  args.lse = out->lse.data();
  args.values = out->expectation.get();
  if (targets != nullptr) {
    out->targetLogit.resize(static_cast<size_t>(rows.rows));
    args.targets = targets;
    args.targetLogit = out->targetLogit.data();
  }
  return backend.softmaxLoss(context, args);
}

// The gradient of the unit centres: sum_i dz_ij s_i / temperature with dz_ij = ((ce + kl) Q_ij - kl P_ij - ce
// [j = target(i)]) / B.
Status centreGradient(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& s,
                      const UnitRows* t, const UnitRows& centres, const Softmax& student,
                      const Softmax& teacher, const int32_t* targets, LossResult* result) {
  const int64_t size = centres.rows * centres.dim;
  const auto batch = static_cast<double>(s.rows);
  FloatBuffer gradient(size);
  SoftmaxLossArgs backward;
  backward.q = centres.data();
  backward.k = s.data();
  backward.queries = centres.rows;
  backward.keys = s.rows;
  backward.dim = centres.dim;
  backward.scale = 1 / args.temperature;
  backward.columnLse = student.lse.data();
  backward.columnWeight = static_cast<float>((args.ceWeight + args.klWeight) / batch);
  backward.values = gradient.get();
  CLIPCID_TRY(backend.softmaxLoss(context, backward));
  if (args.klWeight > 0) {
    FloatBuffer ofTeacher(size);
    backward.k = t->data();
    backward.v = s.data();
    backward.scale = 1 / args.teacherTemperature;
    backward.columnLse = teacher.lse.data();
    backward.columnWeight = static_cast<float>(-args.klWeight / batch);
    backward.values = ofTeacher.get();
    CLIPCID_TRY(backend.softmaxLoss(context, backward));
    addScaled(context, ofTeacher.get(), 1, size, gradient.get());
  }
  if (args.ceWeight > 0) {
    const auto weight = static_cast<float>(args.ceWeight / batch);
    for (int64_t i = 0; i < s.rows; ++i) {
      const float* row = s.row(i);
      float* target = gradient.get() + targets[i] * s.dim;
      for (int64_t k = 0; k < s.dim; ++k) target[k] -= weight * row[k];
    }
  }
  std::memset(result->centroids, 0, static_cast<size_t>(args.clusters * args.teacherDim) * sizeof(float));
  throughNormalise(context, centres, gradient.get(), static_cast<float>(1 / args.temperature), false,
                   result->centroids, args.sample);
  return {};
}

}  // namespace

Status clusterTerms(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& s,
                    const UnitRows* t, float* ds, LossResult* result) {
  const int64_t batch = s.rows;
  const int64_t dim = s.dim;
  const int64_t count = args.sample != nullptr ? args.sampleCount : args.clusters;
  UnitRows centres;
  CLIPCID_TRY(normaliseRows(context, "centroids", args.centroids, count, dim, args.sample, &centres));

  // Labels as positions in the sample.
  std::vector<int32_t> targets;
  if (args.ceWeight > 0) {
    targets.assign(args.labels, args.labels + batch);
    if (args.sample != nullptr) {
      for (int32_t& target : targets) {
        const int32_t* end = args.sample + count;
        const int32_t* found = std::lower_bound(args.sample, end, target);
        if (found == end || *found != target) {
          return {Code::kInvalidArgument,
                  "Centre " + std::to_string(target) + " is a label but not in the sample"};
        }
        target = static_cast<int32_t>(found - args.sample);
      }
    }
  }
  const int32_t* target = targets.empty() ? nullptr : targets.data();

  Softmax student;
  CLIPCID_TRY(overCentres(backend, context, s, centres, args.temperature, target, &student));
  // d / ds_i = ((ce + kl) E_Q[c] - ce c_target - kl o_i) / (B temperature)
  const double factor = 1 / (args.temperature * static_cast<double>(batch));
  addScaled(context, student.expectation.get(), static_cast<float>((args.ceWeight + args.klWeight) * factor),
            batch * dim, ds);

  if (args.ceWeight > 0) {
    const auto weight = static_cast<float>(args.ceWeight * factor);
    double sum = 0;
    for (int64_t i = 0; i < batch; ++i) {
      sum += static_cast<double>(student.lse[i]) - static_cast<double>(student.targetLogit[i]);
      const float* centre = centres.row(targets[i]);
      for (int64_t k = 0; k < dim; ++k) ds[i * dim + k] -= weight * centre[k];
    }
    result->clusterCe = sum / static_cast<double>(batch);
  }

  Softmax teacher;
  if (args.klWeight > 0) {
    const float* soft = args.softCentroids;
    if (soft == nullptr) {
      CLIPCID_TRY(overCentres(backend, context, *t, centres, args.teacherTemperature, nullptr, &teacher));
      soft = teacher.expectation.get();
    }
    double sum = 0;
    for (int64_t i = 0; i < batch; ++i) {
      const float* o = soft + i * dim;
      const double entropy = args.softCentroids != nullptr
                                 ? static_cast<double>(args.entropies[i])
                                 : static_cast<double>(teacher.lse[i]) -
                                       canonicalDot(t->row(i), o, dim) / args.teacherTemperature;
      sum +=
          static_cast<double>(student.lse[i]) - canonicalDot(s.row(i), o, dim) / args.temperature - entropy;
    }
    result->clusterKl = sum / static_cast<double>(batch);
    addScaled(context, soft, static_cast<float>(-args.klWeight * factor), batch * dim, ds);
  }
  if (!args.learned) return {};
  return centreGradient(backend, context, args, s, t, centres, student, teacher, target, result);
}

}  // namespace clipcid

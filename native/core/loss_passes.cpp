// The terms of the loss, of passes of the two softmax primitives: what back ends do that have nothing better.
//
// contrast: rows' and columns' log-sum-exps, then a pass for each gradient, 5 products of both operands.
// distil: one pass over the keys for both softmaxes, their expectations as values, as in attention: with E_P[k] the
// divergence is lse_i - z_i . E_P[k] - H_i, H_i being P's entropy. 2 products for each softmax, and as many again for the
// gradient of the keys.
#include <cmath>
#include <cstring>
#include <numeric>

#include "clipcid/canonical.h"
#include "core/loss_rows.h"

namespace clipcid {
namespace {

double inOrder(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

SoftmaxSide sideOf(const float* rows, int64_t count) { return {rows, count, nullptr, nullptr, nullptr}; }

// Both directions are wanted: the gradients are weighted sums of the other side's rows.
Status contrastGradients(Backend& backend, const Context& context, const ContrastArgs& args,
                         const std::vector<int32_t>& diagonal, const std::vector<double>& rowLse,
                         const std::vector<double>& columnLse, float* values) {
  const double weight = args.weight / static_cast<double>(args.rows);
  SoftmaxGradientArgs backward;
  backward.queries = sideOf(args.x, args.rows);
  backward.keys = sideOf(args.y, args.rows);
  backward.dim = args.dim;
  backward.scale = args.scale;
  backward.targets = diagonal.data();
  backward.rowLse = rowLse.data();
  backward.columnLse = columnLse.data();
  backward.rowWeight = backward.columnWeight = 0.5;
  backward.sums = values;
  backward.logitGradient = args.logScaleGradient;
  CLIPCID_TRY(backend.softmaxGradient(context, backward));
  *args.logScaleGradient *= weight;
  addScaled(context, values, static_cast<float>(weight * args.scale), args.rows * args.dim, args.dx);
  if (args.dy == nullptr) return {};
  std::swap(backward.queries, backward.keys);
  std::swap(backward.rowLse, backward.columnLse);
  backward.mirrored = true;
  backward.logitGradient = nullptr;
  CLIPCID_TRY(backend.softmaxGradient(context, backward));
  addScaled(context, values, static_cast<float>(weight * args.scale), args.rows * args.dim, args.dy);
  return {};
}

}  // namespace

Status Backend::contrast(const Context& context, const ContrastArgs& args) {
  const auto count = static_cast<double>(args.rows);
  std::vector<int32_t> diagonal(static_cast<size_t>(args.rows));
  std::iota(diagonal.begin(), diagonal.end(), 0);
  std::vector<double> rowLse(diagonal.size()), columnLse, targetLogit(diagonal.size());
  AlignedArray<float> values(args.rows * args.dim);
  SoftmaxArgs forward;
  SoftmaxArgs::Queries queries;
  queries.rows = sideOf(args.x, args.rows);
  queries.scale = args.scale;
  queries.targets = diagonal.data();
  queries.lse = rowLse.data();
  queries.targetLogit = targetLogit.data();
  forward.keys = sideOf(args.y, args.rows);
  forward.dim = args.dim;
  if (args.columns) {
    columnLse.resize(diagonal.size());
    forward.columnLse = columnLse.data();
  } else {
    queries.values = values.get();
  }
  forward.queries = {queries};
  CLIPCID_TRY(softmax(context, forward));
  const double byRow = inOrder(rowLse) - inOrder(targetLogit);
  if (args.columns) {
    *args.value = (byRow + inOrder(columnLse) - inOrder(targetLogit)) / (2 * count);
    return contrastGradients(*this, context, args, diagonal, rowLse, columnLse, values.get());
  }
  // d loss / dx_i = scale / B (sum_j p_ij y_j - y_i): the expectation of the forward pass is all that is needed.
  const double factor = args.weight * args.scale / count;
  std::vector<double> along(diagonal.size());
  forRows(context, args.rows, [&](int64_t i) {
    float* row = values.get() + i * args.dim;
    const float* y = args.y + i * args.dim;
    float* dx = args.dx + i * args.dim;
    for (int64_t k = 0; k < args.dim; ++k) row[k] -= y[k];
    along[static_cast<size_t>(i)] = canonicalDot(args.x + i * args.dim, row, args.dim);
    for (int64_t k = 0; k < args.dim; ++k) dx[k] += static_cast<float>(factor) * row[k];
  });
  *args.logScaleGradient = factor * inOrder(along);
  *args.value = byRow / count;
  return {};
}

Status Backend::distil(const Context& context, const DistilArgs& args) {
  const int64_t dim = args.dim;
  const bool taught = args.teacher != nullptr;
  AlignedArray<float> expectation(taught ? args.rows * dim : 0);
  std::vector<double> teacherLse(taught ? static_cast<size_t>(args.rows) : 0);
  SoftmaxArgs pass;
  pass.keys = args.keys;
  pass.dim = dim;
  SoftmaxArgs::Queries set;
  set.rows = sideOf(args.student, args.rows);
  set.scale = args.scale;
  set.targets = args.targets;
  set.lse = args.lse;
  set.targetLogit = args.targetLogit;
  set.values = args.sums;
  pass.queries.push_back(set);
  if (taught) {
    set = {};
    set.rows = sideOf(args.teacher, args.rows);
    set.scale = args.teacherScale;
    set.lse = teacherLse.data();
    set.values = expectation.get();
    pass.queries.push_back(set);
  }
  CLIPCID_TRY(softmax(context, pass));
  forRows(context, args.rows, [&](int64_t i) {
    float* sums = args.sums + i * dim;
    const auto ofStudent = static_cast<float>(args.studentWeight);
    for (int64_t k = 0; k < dim; ++k) sums[k] *= ofStudent;
    if (!taught) return;
    const float* o = expectation.get() + i * dim;
    const auto ofTeacher = static_cast<float>(args.teacherWeight);
    for (int64_t k = 0; k < dim; ++k) sums[k] -= ofTeacher * o[k];
    if (args.divergence == nullptr) return;
    const double entropy =
        teacherLse[static_cast<size_t>(i)] - canonicalDot(args.teacher + i * dim, o, dim) * args.teacherScale;
    args.divergence[i] = args.lse[i] - canonicalDot(args.student + i * dim, o, dim) * args.scale - entropy;
  });
  if (args.keySums == nullptr) return {};

  SoftmaxGradientArgs backward;
  backward.queries = args.keys;
  if (args.keys.measured != nullptr) {
    backward.queries.norms = args.keys.measured;
    backward.queries.measured = nullptr;
  }
  backward.keys = sideOf(args.student, args.rows);
  backward.dim = dim;
  backward.scale = args.scale;
  backward.mirrored = true;
  backward.columnLse = args.lse;
  backward.columnWeight = args.studentWeight;
  backward.sums = args.keySums;
  CLIPCID_TRY(softmaxGradient(context, backward));
  if (!taught) return {};
  backward.keys = sideOf(args.teacher, args.rows);
  backward.values = sideOf(args.student, args.rows);
  backward.scale = args.teacherScale;
  backward.columnLse = teacherLse.data();
  backward.columnWeight = -args.teacherWeight;
  backward.add = true;
  return softmaxGradient(context, backward);
}

}  // namespace clipcid

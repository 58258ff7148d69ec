// The softmax primitives, and the terms of the loss, for rows of the host: brought to the device once a call, and the results back.
#include "cuda/softmax_loss.h"

#include <cmath>

#include "cuda/loss_passes.h"

namespace clipcid::cuda {
namespace {

using Sums = SoftmaxSweep::Sums;

// Log-sum-exps of the device as what the caller wants, in the natural unit.
struct HostSums {
  std::vector<float> maxima;
  std::vector<double> sums;

  Status download(SoftmaxSweep& sweep, const Sums& from, int64_t count) {
    CLIPCID_TRY(sweep.download(from.maxima.get(), count, &maxima));
    return sweep.download(from.sums.get(), count, &sums);
  }
  void put(double* lse) const {
    for (size_t i = 0; i < maxima.size(); ++i)
      lse[i] = (static_cast<double>(maxima[i]) + std::log2(sums[i])) * kLn2;
  }
};

Status softmaxOfSet(SoftmaxSweep& sweep, const SoftmaxArgs& args, const SoftmaxArgs::Queries& set,
                    const SoftmaxSweep::Side& keys) {
  SoftmaxSweep::Side queries;
  PassRows rows;
  CLIPCID_TRY(passRows(set.rows, &rows));
  CLIPCID_TRY(sweep.bring(rows, {.rows = true}, &queries));
  Sums byQuery, byKey;
  CLIPCID_TRY(byQuery.allocate(queries.count, sweep.stream()));
  if (args.columnLse != nullptr) CLIPCID_TRY(byKey.allocate(keys.count, sweep.stream()));
  Buffer<int32_t> targets;
  Buffer<float> targetLogits, values;
  const bool targeted = set.targets != nullptr && set.targetLogit != nullptr;
  if (targeted) {
    CLIPCID_TRY(targets.allocate(queries.count, sweep.stream()));
    CLIPCID_TRY(copyToDevice(targets.get(), set.targets, targets.bytes(), sweep.stream()));
    CLIPCID_TRY(targetLogits.allocate(queries.count, sweep.stream()));
  }
  const bool valued = set.values != nullptr;
  if (valued) CLIPCID_TRY(values.allocate(queries.count * sweep.outStride(), sweep.stream()));
  SoftmaxSweep::LogitsOf logits;
  logits.queries = &queries;
  logits.keys = &keys;
  logits.scale = set.scale;
  logits.stored = valued;
  logits.byQuery = &byQuery;
  logits.queryWeight = 1;
  if (args.columnLse != nullptr) logits.byKey = &byKey;
  logits.keyWeight = 1;
  if (targeted) {
    logits.targets = targets.get();
    logits.targetLogits = targetLogits.get();
  }
  SoftmaxSweep::Weights weights;
  weights.params.first.maxima = byQuery.maxima.get();
  weights.params.first.factors = byQuery.factors.get();
  CLIPCID_TRY(sweep.eachStrip(queries.count, [&](int64_t begin, int64_t count) -> Status {
    CLIPCID_TRY(sweep.logits(0, begin, count, logits));
    if (!valued) return {};
    CLIPCID_TRY(sweep.weigh(begin, count, keys, weights));
    return sweep.sumOverKeys(begin, count, keys, 1, false, values.get());
  }));
  HostSums ofQueries, ofKeys;
  std::vector<float> found;
  CLIPCID_TRY(ofQueries.download(sweep, byQuery, queries.count));
  if (args.columnLse != nullptr) CLIPCID_TRY(ofKeys.download(sweep, byKey, keys.count));
  if (targeted) CLIPCID_TRY(sweep.download(targetLogits.get(), queries.count, &found));
  if (valued) CLIPCID_TRY(sweep.downloadRows(values.get(), queries.count, nullptr, false, set.values));
  CLIPCID_TRY(sweep.finish());
  ofQueries.put(set.lse);
  if (args.columnLse != nullptr) ofKeys.put(args.columnLse);
  for (size_t i = 0; i < found.size(); ++i) set.targetLogit[i] = static_cast<double>(found[i]) * kLn2;
  return {};
}

// Log-sum-exps of the host as what exponentials are taken over; what their rounding to float32 took is in the factors.
Status bringLse(SoftmaxSweep& sweep, const double* lse, int64_t count, double weight, Sums* out) {
  std::vector<float> maxima, factors;
  for (int64_t i = 0; i < count; ++i) {
    const double exact = lse[i] * kLog2e;
    const auto rounded = static_cast<float>(exact);
    // From here on float32 has the largest logit and nothing else, and float64's own rounding would be all there is.
    const double taken = std::fabs(exact) < 0x1p24 ? static_cast<double>(rounded) - exact : 0;
    maxima.push_back(rounded);
    factors.push_back(static_cast<float>(weight * std::exp2(taken)));
  }
  CLIPCID_TRY(bringValues(maxima, sweep.stream(), &out->maxima));
  CLIPCID_TRY(bringValues(factors, sweep.stream(), &out->factors));
  // The vectors end here.
  return synchronise(sweep.stream());
}

}  // namespace

Status softmaxOver(Device& device, const Context& context, const SoftmaxArgs& args) {
  const auto invalid = [](const char* message) { return Status(Code::kInvalidArgument, message); };
  if (args.keys.count < 1 || args.dim < 1 || args.queries.empty())
    return invalid("A softmax over no keys, of no width or of no queries");
  const bool valued = args.queries[0].values != nullptr;
  for (const SoftmaxArgs::Queries& set : args.queries) {
    if (set.lse == nullptr || (set.values != nullptr) != valued)
      return invalid("A softmax without an output");
  }
  if (args.columnLse != nullptr && (args.queries.size() > 1 || valued || args.queries[0].rows.count < 1))
    return invalid("Softmaxes over the queries are of one set of them and without values");
  SoftmaxShape shape;
  for (const SoftmaxArgs::Queries& set : args.queries)
    shape.queries = std::max(shape.queries, set.rows.count);
  shape.keys = args.keys.count;
  shape.dim = args.dim;
  shape.sums = valued;
  shape.byKey = args.columnLse != nullptr;
  shape.keyTransposes = valued ? 1 : 0;
  Session session(&device);
  CLIPCID_TRY(session.begin());
  SoftmaxSweep sweep({device, context, session.stream()}, shape);
  CLIPCID_TRY(sweep.begin());
  SoftmaxSweep::Side keys;
  PassRows rows;
  CLIPCID_TRY(passRows(args.keys, &rows));
  CLIPCID_TRY(sweep.bring(rows, {.rows = true, .columns = valued, .depth = sweep.chunkKeys()}, &keys));
  for (const SoftmaxArgs::Queries& set : args.queries) CLIPCID_TRY(softmaxOfSet(sweep, args, set, keys));
  return {};
}

Status softmaxGradientOver(Device& device, const Context& context, const SoftmaxGradientArgs& args) {
  const bool ownValues = args.values.data != nullptr;
  if (args.queries.count < 0 || args.keys.count < 1 || args.dim < 1 || args.sums == nullptr ||
      (ownValues && args.values.count != args.keys.count)) {
    return {Code::kInvalidArgument, "A softmax's gradient over no keys, of no width or without an output"};
  }
  const int64_t count = args.queries.count;
  if (args.logitGradient != nullptr) *args.logitGradient = 0;
  if (count == 0) return {};
  SoftmaxShape shape;
  shape.queries = count;
  shape.keys = args.keys.count;
  shape.dim = args.dim;
  shape.sums = true;
  shape.keyTransposes = 1;
  Session session(&device);
  CLIPCID_TRY(session.begin());
  SoftmaxSweep sweep({device, context, session.stream()}, shape);
  CLIPCID_TRY(sweep.begin());
  SoftmaxSweep::Side queries, keys, values;
  const auto bring = [&](const SoftmaxSide& side, bool asRows, bool asColumns,
                         SoftmaxSweep::Side* out) -> Status {
    PassRows rows;
    CLIPCID_TRY(passRows(side, &rows));
    return sweep.bring(rows, {.rows = asRows, .columns = asColumns, .depth = sweep.chunkKeys()}, out);
  };
  CLIPCID_TRY(bring(args.queries, true, false, &queries));
  CLIPCID_TRY(bring(args.keys, true, !ownValues, &keys));
  if (ownValues) CLIPCID_TRY(bring(args.values, false, true, &values));
  Sums byQuery, byKey;
  SoftmaxSweep::Weights weights;
  weights.most = 0;
  if (args.rowLse != nullptr && args.rowWeight != 0) {
    CLIPCID_TRY(bringLse(sweep, args.rowLse, count, args.rowWeight, &byQuery));
    weights.params.first.maxima = byQuery.maxima.get();
    weights.params.first.factors = byQuery.factors.get();
    weights.most += std::fabs(args.rowWeight);
  }
  if (args.columnLse != nullptr && args.columnWeight != 0) {
    CLIPCID_TRY(bringLse(sweep, args.columnLse, args.keys.count, args.columnWeight, &byKey));
    weights.params.keyMaxima = byKey.maxima.get();
    weights.params.keyFactors = byKey.factors.get();
    weights.most += std::fabs(args.columnWeight);
  }
  Buffer<int32_t> targets;
  if (args.targets != nullptr) {
    CLIPCID_TRY(targets.allocate(count, sweep.stream()));
    CLIPCID_TRY(copyToDevice(targets.get(), args.targets, targets.bytes(), sweep.stream()));
    weights.params.targets = targets.get();
    weights.params.targetWeight = static_cast<float>((args.rowLse != nullptr ? args.rowWeight : 0) +
                                                     (args.columnLse != nullptr ? args.columnWeight : 0));
  }
  Buffer<double> along;
  if (args.logitGradient != nullptr) {
    CLIPCID_TRY(along.allocate(count, sweep.stream()));
    weights.querySums = along.get();
  }
  Buffer<float> sums;
  CLIPCID_TRY(sums.allocate(count * sweep.outStride(), sweep.stream()));
  SoftmaxSweep::LogitsOf logits;
  logits.queries = &queries;
  logits.keys = &keys;
  logits.scale = args.scale;
  logits.stored = true;
  CLIPCID_TRY(sweep.eachStrip(count, [&](int64_t begin, int64_t strip) -> Status {
    CLIPCID_TRY(sweep.logits(0, begin, strip, logits));
    CLIPCID_TRY(sweep.weigh(begin, strip, keys, weights));
    return sweep.sumOverKeys(begin, strip, ownValues ? values : keys, 1, false, sums.get());
  }));
  std::vector<double> gradients;
  if (args.logitGradient != nullptr) CLIPCID_TRY(sweep.download(along.get(), count, &gradients));
  CLIPCID_TRY(sweep.downloadRows(sums.get(), count, args.queries.indices, args.add, args.sums));
  CLIPCID_TRY(sweep.finish());
  for (const double gradient : gradients) *args.logitGradient += gradient * kLn2;
  return {};
}

namespace {

// Dense rows of the host, dim wide, as the passes take them.
Status bringRows(const PassSite& site, const float* from, int64_t count, int64_t dim, Buffer<float>* out) {
  CLIPCID_TRY(out->allocate(count * deviceStride(Dtype::kFloat32, dim), site.stream));
  Uploader uploader(site.context, site.device);
  return uploader.rows(HostRows(Rows(floatView(from, count, dim))), 0, count,
                       reinterpret_cast<char*>(out->get()), site.stream);
}

Status bringRows(const PassSite& site, const Buffer<float>& rows, int64_t count, int64_t dim, float* out) {
  const auto bytes = static_cast<size_t>(dim) * sizeof(float);
  return copyRowsToHost(out, bytes, rows.get(),
                        static_cast<size_t>(deviceStride(Dtype::kFloat32, dim)) * sizeof(float), bytes,
                        static_cast<size_t>(count), site.stream);
}

}  // namespace

Status contrastOf(Device& device, const Context& context, const ContrastArgs& args) {
  if (args.rows < 1 || args.dim < 1) return {Code::kInvalidArgument, "A contrast of no rows or of no width"};
  Session session(&device);
  CLIPCID_TRY(session.begin());
  const PassSite site = {device, context, session.stream()};
  ContrastPass pass;
  Buffer<float> x, y, dx, dy;
  Buffer<double> terms;
  CLIPCID_TRY(bringRows(site, args.x, args.rows, args.dim, &x));
  CLIPCID_TRY(bringRows(site, args.y, args.rows, args.dim, &y));
  CLIPCID_TRY(bringRows(site, args.dx, args.rows, args.dim, &dx));
  if (args.dy != nullptr) CLIPCID_TRY(bringRows(site, args.dy, args.rows, args.dim, &dy));
  CLIPCID_TRY(terms.allocate(2, site.stream));
  pass.x = x.get();
  pass.y = y.get();
  pass.rows = args.rows;
  pass.dim = args.dim;
  pass.scale = args.scale;
  pass.weight = args.weight;
  pass.columns = args.columns;
  pass.dx = dx.get();
  pass.dy = dy.get();
  pass.terms = terms.get();
  CLIPCID_TRY(contrast(site, pass));
  CLIPCID_TRY(bringRows(site, dx, args.rows, args.dim, args.dx));
  if (args.dy != nullptr) CLIPCID_TRY(bringRows(site, dy, args.rows, args.dim, args.dy));
  double found[2] = {};
  CLIPCID_TRY(copyToHost(found, terms.get(), sizeof found, site.stream));
  CLIPCID_TRY(session.synchronise());
  *args.value = found[0];
  *args.logScaleGradient = found[1];
  return {};
}

Status distilOf(Device& device, const Context& context, const DistilArgs& args) {
  if (args.rows < 1 || args.dim < 1 || args.keys.count < 1)
    return {Code::kInvalidArgument, "A distillation of no rows, over no keys or of no width"};
  Session session(&device);
  CLIPCID_TRY(session.begin());
  const PassSite site = {device, context, session.stream()};
  const bool targeted = args.targets != nullptr && args.targetLogit != nullptr;
  const bool diverges = args.teacher != nullptr && args.divergence != nullptr;
  Buffer<float> student, teacher, sums;
  Buffer<int32_t> targets;
  Buffer<double> lse, targetLogit, divergence;
  DistilPass pass;
  CLIPCID_TRY(passRows(args.keys, &pass.keys));
  CLIPCID_TRY(bringRows(site, args.student, args.rows, args.dim, &student));
  if (args.teacher != nullptr) CLIPCID_TRY(bringRows(site, args.teacher, args.rows, args.dim, &teacher));
  if (targeted) {
    CLIPCID_TRY(targets.allocate(args.rows, site.stream));
    CLIPCID_TRY(copyToDevice(targets.get(), args.targets, targets.bytes(), site.stream));
    CLIPCID_TRY(targetLogit.allocate(args.rows, site.stream));
  }
  if (diverges) CLIPCID_TRY(divergence.allocate(args.rows, site.stream));
  CLIPCID_TRY(lse.allocate(args.rows, site.stream));
  CLIPCID_TRY(sums.allocate(student.count(), site.stream));
  pass.student = student.get();
  pass.teacher = teacher.get();
  pass.rows = args.rows;
  pass.dim = args.dim;
  pass.scale = args.scale;
  pass.teacherScale = args.teacherScale;
  pass.targets = targets.get();
  pass.studentWeight = args.studentWeight;
  pass.teacherWeight = args.teacherWeight;
  pass.lse = lse.get();
  pass.targetLogit = targetLogit.get();
  pass.divergence = divergence.get();
  pass.sums = sums.get();
  if (args.keySums != nullptr) {
    pass.keySums = [&](SoftmaxSweep& sweep, const SoftmaxSweep::Side& keys, float* from) -> Status {
      const bool listed = args.keys.indices != nullptr;
      return sweep.downloadRows(from, keys.count, listed ? args.keys.indices + keys.first : nullptr, false,
                                listed ? args.keySums : args.keySums + keys.first * args.dim);
    };
  }
  CLIPCID_TRY(distil(site, pass));
  CLIPCID_TRY(bringRows(site, sums, args.rows, args.dim, args.sums));
  CLIPCID_TRY(copyToHost(args.lse, lse.get(), lse.bytes(), site.stream));
  if (targeted)
    CLIPCID_TRY(copyToHost(args.targetLogit, targetLogit.get(), targetLogit.bytes(), site.stream));
  if (diverges) CLIPCID_TRY(copyToHost(args.divergence, divergence.get(), divergence.bytes(), site.stream));
  return session.synchronise();
}

}  // namespace clipcid::cuda

// The terms of the loss on a GPU, each row brought to it once (ContrastArgs, DistilArgs).
//
// contrast: strips of z = x y^T give the log-sum-exps by row and by column, then the weights of both gradients, dx = g y and
// dy = g^T x: 3 products where all rows fit one strip, otherwise 4, since a column's log-sum-exp is not known before the
// last strip; without columns 2.
// distil: for each strip the logits of the student and of its teacher, the weights g = u Q - v P of both, their sums over the
// keys, and where the keys learn, over the queries: 3 or 4 products, and one less without a teacher. As many as the CPU makes.
#include <cmath>

#include "cuda/softmax_loss.h"
#include "cuda/softmax_sweep.h"

namespace clipcid::cuda {
namespace {

constexpr double kLn2 = 0.69314718055994531;

using Sums = SoftmaxSweep::Sums;
using Side = SoftmaxSweep::Side;

SoftmaxSide sideOf(const float* rows, int64_t count) { return {rows, count, nullptr, nullptr, nullptr}; }

class Contrast {
 public:
  Contrast(Device& device, const Context& context, const ContrastArgs& args)
      : args_(args), sweep_(device, context, shapeOf(args)) {}

  Status run() {
    CLIPCID_TRY(sweep_.begin());
    CLIPCID_TRY(bring());
    LogitsOf logits = {.queries = &x_, .keys = &y_, .scale = args_.scale};
    LogitsOf again = logits;
    again.stored = true;
    // The gradients' weights are known, and their logits there, at the end of the first sweep over the strips.
    const bool once = !args_.columns || sweep_.strips() == 1;
    logits.stored = once;
    logits.byQuery = &byRow_;
    logits.queryWeight = args_.columns ? 0.5 : 1;
    if (args_.columns) logits.byKey = &byColumn_;
    logits.keyWeight = 0.5;
    logits.targets = diagonal_.get();
    logits.targetLogits = targetLogits_.get();
    CLIPCID_TRY(sweep_.eachStrip(args_.rows, [&](int64_t begin, int64_t count) -> Status {
      CLIPCID_TRY(sweep_.logits(0, begin, count, logits));
      return once ? gradients(begin, count) : Status();
    }));
    if (!once) {
      CLIPCID_TRY(sweep_.eachStrip(args_.rows, [&](int64_t begin, int64_t count) -> Status {
        CLIPCID_TRY(sweep_.logits(0, begin, count, again));
        return gradients(begin, count);
      }));
    }
    return results();
  }

 private:
  using LogitsOf = SoftmaxSweep::LogitsOf;

  static SoftmaxShape shapeOf(const ContrastArgs& args) {
    SoftmaxShape shape;
    shape.queries = shape.keys = args.rows;
    shape.dim = args.dim;
    shape.sums = true;
    shape.keySums = args.dy != nullptr;
    shape.byKey = args.columns;
    shape.keyTransposes = 1;
    shape.queryTransposes = shape.keySums ? 1 : 0;
    return shape;
  }

  Status bring() {
    const Stream stream = sweep_.stream();
    CLIPCID_TRY(sweep_.bring(sideOf(args_.x, args_.rows),
                             {.rows = true, .columns = args_.dy != nullptr, .unit = true}, &x_));
    CLIPCID_TRY(sweep_.bring(sideOf(args_.y, args_.rows),
                             {.rows = true, .columns = true, .depth = sweep_.keyDepth(), .unit = true}, &y_));
    targets_.resize(static_cast<size_t>(args_.rows));
    for (size_t i = 0; i < targets_.size(); ++i) targets_[i] = static_cast<int32_t>(i);
    CLIPCID_TRY(bringValues(targets_, stream, &diagonal_));
    CLIPCID_TRY(targetLogits_.allocate(args_.rows, stream));
    CLIPCID_TRY(along_.allocate(args_.rows, stream));
    CLIPCID_TRY(byRow_.allocate(args_.rows, stream));
    if (args_.columns) CLIPCID_TRY(byColumn_.allocate(args_.rows, stream));
    CLIPCID_TRY(dx_.allocate(args_.rows * sweep_.outStride(), stream));
    if (args_.dy != nullptr) CLIPCID_TRY(dy_.allocate(args_.rows * sweep_.outStride(), stream));
    return {};
  }

  Status gradients(int64_t begin, int64_t count) {
    SoftmaxSweep::Weights weights;
    weights.params.first.maxima = byRow_.maxima.get();
    weights.params.first.factors = byRow_.factors.get();
    if (args_.columns) {
      weights.params.keyMaxima = byColumn_.maxima.get();
      weights.params.keyFactors = byColumn_.factors.get();
    }
    weights.params.targets = diagonal_.get();
    weights.params.targetWeight = 1;
    weights.querySums = along_.get();
    CLIPCID_TRY(sweep_.weigh(begin, count, weights));
    const double factor = args_.weight * args_.scale / static_cast<double>(args_.rows);
    CLIPCID_TRY(sweep_.sumOverKeys(begin, count, y_, factor, dx_.get()));
    return args_.dy != nullptr ? sweep_.sumOverQueries(begin, count, x_, factor, dy_.get()) : Status();
  }

  Status results() {
    std::vector<float> rowMaxima, columnMaxima, targetLogits;
    std::vector<double> rowSums, columnSums, along;
    CLIPCID_TRY(sweep_.download(byRow_.maxima.get(), args_.rows, &rowMaxima));
    CLIPCID_TRY(sweep_.download(byRow_.sums.get(), args_.rows, &rowSums));
    CLIPCID_TRY(sweep_.download(targetLogits_.get(), args_.rows, &targetLogits));
    CLIPCID_TRY(sweep_.download(along_.get(), args_.rows, &along));
    if (args_.columns) {
      CLIPCID_TRY(sweep_.download(byColumn_.maxima.get(), args_.rows, &columnMaxima));
      CLIPCID_TRY(sweep_.download(byColumn_.sums.get(), args_.rows, &columnSums));
    }
    CLIPCID_TRY(sweep_.downloadRows(dx_.get(), args_.rows, nullptr, true, args_.dx));
    if (args_.dy != nullptr) CLIPCID_TRY(sweep_.downloadRows(dy_.get(), args_.rows, nullptr, true, args_.dy));
    CLIPCID_TRY(sweep_.finish());
    double value = 0, gradient = 0;
    for (size_t i = 0; i < along.size(); ++i) {
      const auto target = static_cast<double>(targetLogits[i]);
      // The largest logit and the target's are close where they are large: first their difference.
      double own = static_cast<double>(rowMaxima[i]) - target + std::log2(rowSums[i]);
      if (args_.columns)
        own = (own + (static_cast<double>(columnMaxima[i]) - target) + std::log2(columnSums[i])) / 2;
      value += own;
      gradient += along[i];
    }
    const auto count = static_cast<double>(args_.rows);
    *args_.value = value * kLn2 / count;
    *args_.logScaleGradient = gradient * kLn2 * args_.weight / count;
    return {};
  }

  const ContrastArgs& args_;
  SoftmaxSweep sweep_;
  Side x_, y_;
  std::vector<int32_t> targets_;
  Buffer<int32_t> diagonal_;
  Buffer<float> targetLogits_, dx_, dy_;
  Buffer<double> along_;
  Sums byRow_, byColumn_;
};

class Distil {
 public:
  Distil(Device& device, const Context& context, const DistilArgs& args)
      : args_(args), taught_(args.teacher != nullptr), sweep_(device, context, shapeOf(args)) {}

  Status run() {
    CLIPCID_TRY(sweep_.begin());
    CLIPCID_TRY(bring());
    CLIPCID_TRY(
        sweep_.eachStrip(args_.rows, [&](int64_t begin, int64_t count) { return strip(begin, count); }));
    return results();
  }

 private:
  static SoftmaxShape shapeOf(const DistilArgs& args) {
    const bool keySums = args.keySums != nullptr;
    SoftmaxShape shape;
    shape.queries = args.rows;
    shape.keys = args.keys.count;
    shape.dim = args.dim;
    shape.sides = args.teacher != nullptr ? 2 : 1;
    shape.sums = true;
    shape.keySums = keySums;
    shape.queryMatrices = shape.sides;
    shape.keyTransposes = 1;
    shape.queryTransposes = keySums ? 1 : 0;
    return shape;
  }

  Status bring() {
    const Stream stream = sweep_.stream();
    CLIPCID_TRY(
        sweep_.bring(args_.keys, {.rows = true, .columns = true, .depth = sweep_.keyDepth()}, &keys_));
    CLIPCID_TRY(sweep_.bring(sideOf(args_.student, args_.rows),
                             {.rows = true, .columns = args_.keySums != nullptr, .unit = true}, &student_));
    CLIPCID_TRY(ofStudent_.allocate(args_.rows, stream));
    if (taught_) {
      CLIPCID_TRY(sweep_.bring(sideOf(args_.teacher, args_.rows), {.rows = true, .unit = true}, &teacher_));
      CLIPCID_TRY(ofTeacher_.allocate(args_.rows, stream));
    }
    if (diverges()) CLIPCID_TRY(divergences_.allocate(args_.rows, stream));
    if (targeted()) {
      CLIPCID_TRY(targets_.allocate(args_.rows, stream));
      CLIPCID_TRY(copyToDevice(targets_.get(), args_.targets, targets_.bytes(), stream));
      CLIPCID_TRY(targetLogits_.allocate(args_.rows, stream));
    }
    CLIPCID_TRY(sums_.allocate(args_.rows * sweep_.outStride(), stream));
    if (args_.keySums != nullptr)
      CLIPCID_TRY(keySums_.allocate(args_.keys.count * sweep_.outStride(), stream));
    return {};
  }

  Status strip(int64_t begin, int64_t count) {
    SoftmaxSweep::LogitsOf logits = {
        .queries = &student_, .keys = &keys_, .scale = args_.scale, .stored = true, .byQuery = &ofStudent_};
    logits.queryWeight = args_.studentWeight;
    if (targeted()) {
      logits.targets = targets_.get();
      logits.targetLogits = targetLogits_.get();
    }
    CLIPCID_TRY(sweep_.logits(0, begin, count, logits));
    SoftmaxSweep::Weights weights;
    weights.most = std::fabs(args_.studentWeight) + std::fabs(args_.teacherWeight);
    weights.params.first.maxima = ofStudent_.maxima.get();
    weights.params.first.factors = ofStudent_.factors.get();
    if (taught_) {
      CLIPCID_TRY(sweep_.logits(1, begin, count,
                                {.queries = &teacher_,
                                 .keys = &keys_,
                                 .scale = args_.teacherScale,
                                 .stored = true,
                                 .byQuery = &ofTeacher_,
                                 .queryWeight = args_.teacherWeight}));
      weights.params.second.maxima = ofTeacher_.maxima.get();
      weights.params.second.factors = ofTeacher_.factors.get();
      if (diverges()) weights.querySums = divergences_.get();
    }
    CLIPCID_TRY(sweep_.weigh(begin, count, weights));
    CLIPCID_TRY(sweep_.sumOverKeys(begin, count, keys_, 1, sums_.get()));
    if (args_.keySums == nullptr) return {};
    return sweep_.sumOverQueries(begin, count, student_, 1, keySums_.get());
  }

  Status results() {
    std::vector<float> studentMaxima, targetLogits;
    std::vector<double> studentSums, teacherSums, divergences;
    CLIPCID_TRY(sweep_.download(ofStudent_.maxima.get(), args_.rows, &studentMaxima));
    CLIPCID_TRY(sweep_.download(ofStudent_.sums.get(), args_.rows, &studentSums));
    if (diverges()) {
      CLIPCID_TRY(sweep_.download(ofTeacher_.sums.get(), args_.rows, &teacherSums));
      CLIPCID_TRY(sweep_.download(divergences_.get(), args_.rows, &divergences));
    }
    if (targeted()) CLIPCID_TRY(sweep_.download(targetLogits_.get(), args_.rows, &targetLogits));
    CLIPCID_TRY(sweep_.downloadRows(sums_.get(), args_.rows, nullptr, false, args_.sums));
    if (args_.keySums != nullptr)
      CLIPCID_TRY(
          sweep_.downloadRows(keySums_.get(), args_.keys.count, args_.keys.indices, false, args_.keySums));
    CLIPCID_TRY(sweep_.finish());
    for (size_t i = 0; i < studentSums.size(); ++i) {
      const double logSum = std::log2(studentSums[i]);
      args_.lse[i] = (static_cast<double>(studentMaxima[i]) + logSum) * kLn2;
      if (targeted()) args_.targetLogit[i] = static_cast<double>(targetLogits[i]) * kLn2;
      // sum P (log P - log Q), both over their largest logits
      if (diverges())
        args_.divergence[i] = (divergences[i] / teacherSums[i] + logSum - std::log2(teacherSums[i])) * kLn2;
    }
    return {};
  }

  bool targeted() const { return args_.targets != nullptr && args_.targetLogit != nullptr; }
  bool diverges() const { return taught_ && args_.divergence != nullptr; }

  const DistilArgs& args_;
  const bool taught_;
  SoftmaxSweep sweep_;
  Side student_, teacher_, keys_;
  Sums ofStudent_, ofTeacher_;
  Buffer<int32_t> targets_;
  Buffer<float> targetLogits_, sums_, keySums_;
  Buffer<double> divergences_;
};

}  // namespace

Status contrastOf(Device& device, const Context& context, const ContrastArgs& args) {
  if (args.rows < 1 || args.dim < 1) return {Code::kInvalidArgument, "A contrast of no rows or of no width"};
  return Contrast(device, context, args).run();
}

Status distilOf(Device& device, const Context& context, const DistilArgs& args) {
  if (args.rows < 1 || args.dim < 1 || args.keys.count < 1)
    return {Code::kInvalidArgument, "A distillation of no rows, over no keys or of no width"};
  return Distil(device, context, args).run();
}

}  // namespace clipcid::cuda

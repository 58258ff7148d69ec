// The terms of the loss on a GPU (ContrastArgs, DistilArgs).
//
// contrast: strips of z = x y^T give the log-sum-exps by row and by column, then the weights of both gradients, dx = g y and
// dy = g^T x: 3 products where all rows fit one strip, otherwise 4, since a column's log-sum-exp is not known before the
// last strip; without columns 2.
// distil: for each strip the logits of the student and of its teacher, the weights g = u Q - v P of both, their sums over the
// keys, and where the keys learn, over the queries: 3 or 4 products, and one less without a teacher. As many as the CPU makes. Keys
// that do not fit come in chunks, twice: for the log-sum-exps and for the rest; that is as many logits once more.
#include "cuda/loss_passes.h"

#include <cmath>

namespace clipcid::cuda {
namespace {

using Sums = SoftmaxSweep::Sums;
using Side = SoftmaxSweep::Side;
using LogitsOf = SoftmaxSweep::LogitsOf;

PassRows unitRows(const float* rows, int64_t count) {
  PassRows out;
  out.resident = rows;
  out.count = count;
  out.unit = true;
  return out;
}

SoftmaxShape shapeOf(const ContrastPass& pass) {
  SoftmaxShape shape;
  shape.queries = shape.keys = pass.rows;
  shape.dim = pass.dim;
  shape.sums = true;
  shape.keySums = pass.dy != nullptr;
  shape.byKey = pass.columns;
  shape.keyTransposes = 1;
  shape.queryTransposes = shape.keySums ? 1 : 0;
  return shape;
}

class Contrast {
 public:
  Contrast(const PassSite& site, const ContrastPass& pass) : pass_(pass), sweep_(site, shapeOf(pass)) {}

  Status run() {
    CLIPCID_TRY(sweep_.begin());
    CLIPCID_TRY(bring());
    LogitsOf logits = {.queries = &x_, .keys = &y_, .scale = pass_.scale};
    LogitsOf again = logits;
    again.stored = true;
    // The gradients' weights are known, and their logits there, at the end of the first sweep over the strips.
    const bool once = !pass_.columns || sweep_.strips() == 1;
    logits.stored = once;
    logits.byQuery = &byRow_;
    logits.queryWeight = pass_.columns ? 0.5 : 1;
    if (pass_.columns) logits.byKey = &byColumn_;
    logits.keyWeight = 0.5;
    logits.targets = diagonal_.get();
    logits.targetLogits = targetLogits_.get();
    CLIPCID_TRY(sweep_.eachStrip(pass_.rows, [&](int64_t begin, int64_t count) -> Status {
      CLIPCID_TRY(sweep_.logits(0, begin, count, logits));
      return once ? gradients(begin, count) : Status();
    }));
    if (!once) {
      CLIPCID_TRY(sweep_.eachStrip(pass_.rows, [&](int64_t begin, int64_t count) -> Status {
        CLIPCID_TRY(sweep_.logits(0, begin, count, again));
        return gradients(begin, count);
      }));
    }
    return results();
  }

 private:
  Status bring() {
    const Stream stream = sweep_.stream();
    CLIPCID_TRY(
        sweep_.bring(unitRows(pass_.x, pass_.rows), {.rows = true, .columns = pass_.dy != nullptr}, &x_));
    CLIPCID_TRY(sweep_.bring(unitRows(pass_.y, pass_.rows),
                             {.rows = true, .columns = true, .depth = sweep_.chunkKeys()}, &y_));
    CLIPCID_TRY(diagonal_.allocate(pass_.rows, stream));
    CLIPCID_TRY(countUp(sweep_.device(), stream, pass_.rows, diagonal_.get()));
    CLIPCID_TRY(targetLogits_.allocate(pass_.rows, stream));
    CLIPCID_TRY(along_.allocate(pass_.rows, stream));
    CLIPCID_TRY(byRow_.allocate(pass_.rows, stream));
    if (pass_.columns) CLIPCID_TRY(byColumn_.allocate(pass_.rows, stream));
    if (pass_.dy != nullptr) CLIPCID_TRY(dy_.allocate(pass_.rows * sweep_.outStride(), stream));
    return {};
  }

  Status gradients(int64_t begin, int64_t count) {
    SoftmaxSweep::Weights weights;
    weights.params.first.maxima = byRow_.maxima.get();
    weights.params.first.factors = byRow_.factors.get();
    if (pass_.columns) {
      weights.params.keyMaxima = byColumn_.maxima.get();
      weights.params.keyFactors = byColumn_.factors.get();
    }
    weights.params.targets = diagonal_.get();
    weights.params.targetWeight = 1;
    weights.querySums = along_.get();
    CLIPCID_TRY(sweep_.weigh(begin, count, y_, weights));
    const double factor = pass_.weight * pass_.scale / static_cast<double>(pass_.rows);
    CLIPCID_TRY(sweep_.sumOverKeys(begin, count, y_, factor, true, pass_.dx));
    if (pass_.dy == nullptr) return {};
    return sweep_.sumOverQueries(begin, count, y_, x_, factor, dy_.get());
  }

  Status results() {
    const Stream stream = sweep_.stream();
    if (pass_.dy != nullptr)
      CLIPCID_TRY(addFloats(sweep_.device(), stream, dy_.get(), pass_.rows * sweep_.outStride(), pass_.dy));
    ContrastTermsArgs terms;
    terms.count = pass_.rows;
    terms.maxima = byRow_.maxima.get();
    terms.sums = byRow_.sums.get();
    if (pass_.columns) {
      terms.columnMaxima = byColumn_.maxima.get();
      terms.columnSums = byColumn_.sums.get();
    }
    terms.targetLogits = targetLogits_.get();
    terms.along = along_.get();
    terms.weight = pass_.weight;
    terms.terms = pass_.terms;
    return contrastTerms(stream, terms);
  }

  const ContrastPass& pass_;
  SoftmaxSweep sweep_;
  Side x_, y_;
  Buffer<int32_t> diagonal_;
  Buffer<float> targetLogits_, dy_;
  Buffer<double> along_;
  Sums byRow_, byColumn_;
};

SoftmaxShape shapeOf(const DistilPass& pass) {
  SoftmaxShape shape;
  shape.queries = pass.rows;
  shape.keys = pass.keys.count;
  shape.dim = pass.dim;
  shape.sides = pass.teacher != nullptr ? 2 : 1;
  shape.sums = true;
  shape.keySums = pass.keySums != nullptr;
  shape.chunked = true;
  shape.queryMatrices = shape.sides;
  shape.keyTransposes = 1;
  shape.queryTransposes = shape.keySums ? 1 : 0;
  return shape;
}

class Distil {
 public:
  Distil(const PassSite& site, const DistilPass& pass)
      : pass_(pass), taught_(pass.teacher != nullptr), sweep_(site, shapeOf(pass)) {}

  Status run() {
    CLIPCID_TRY(sweep_.begin());
    CLIPCID_TRY(bring());
    const bool once = sweep_.chunkKeys() >= pass_.keys.count;
    if (!once) {
      CLIPCID_TRY(eachChunk({.rows = true}, true,
                            [&](int64_t begin, int64_t count) { return logits(begin, count, false, true); }));
    }
    const SoftmaxSweep::Wanted both = {.rows = true, .columns = true, .depth = sweep_.chunkKeys()};
    CLIPCID_TRY(eachChunk(both, once, [&](int64_t begin, int64_t count) -> Status {
      CLIPCID_TRY(logits(begin, count, true, once));
      return weigh(begin, count);
    }));
    return results();
  }

 private:
  Status bring() {
    const Stream stream = sweep_.stream();
    CLIPCID_TRY(sweep_.bring(unitRows(pass_.student, pass_.rows),
                             {.rows = true, .columns = pass_.keySums != nullptr}, &student_));
    CLIPCID_TRY(ofStudent_.allocate(pass_.rows, stream));
    if (taught_) {
      CLIPCID_TRY(sweep_.bring(unitRows(pass_.teacher, pass_.rows), {.rows = true}, &teacher_));
      CLIPCID_TRY(ofTeacher_.allocate(pass_.rows, stream));
    }
    if (diverges()) CLIPCID_TRY(along_.allocate(pass_.rows, stream));
    if (targeted()) CLIPCID_TRY(targetLogits_.allocate(pass_.rows, stream));
    if (pass_.keySums != nullptr) {
      const int64_t most = std::min(sweep_.chunkKeys(), pass_.keys.count);
      CLIPCID_TRY(keySums_.allocate(most * sweep_.outStride(), stream));
    }
    return sweep_.prepare(pass_.keys, &keys_);
  }

  // All strips of the rows with one chunk of the keys after the other.
  Status eachChunk(const SoftmaxSweep::Wanted& wanted, bool first,
                   const std::function<Status(int64_t begin, int64_t count)>& strip) {
    for (int64_t key = 0; key < pass_.keys.count; key += sweep_.chunkKeys()) {
      const int64_t count = std::min(sweep_.chunkKeys(), pass_.keys.count - key);
      CLIPCID_TRY(sweep_.bringPart(pass_.keys, key, count, wanted, first, &keys_));
      if (first && pass_.fault != nullptr)
        CLIPCID_TRY(
            checkNorms(sweep_.device(), sweep_.stream(), keys_.norms.get() + key, count, key, pass_.fault));
      CLIPCID_TRY(sweep_.eachStrip(pass_.rows, strip));
      if (wanted.columns && pass_.keySums != nullptr)
        CLIPCID_TRY(pass_.keySums(sweep_, keys_, keySums_.get()));
    }
    return {};
  }

  // Of both sides; their log-sum-exps are `summed` over the keys so far.
  Status logits(int64_t begin, int64_t count, bool stored, bool summed) {
    LogitsOf ofStudent = {.queries = &student_, .keys = &keys_, .scale = pass_.scale, .stored = stored};
    if (summed) {
      ofStudent.byQuery = &ofStudent_;
      ofStudent.queryWeight = pass_.studentWeight;
      if (targeted()) {
        ofStudent.targets = pass_.targets;
        ofStudent.targetLogits = targetLogits_.get();
      }
    }
    CLIPCID_TRY(sweep_.logits(0, begin, count, ofStudent));
    if (!taught_) return {};
    LogitsOf ofTeacher = {
        .queries = &teacher_, .keys = &keys_, .scale = pass_.teacherScale, .stored = stored};
    if (summed) {
      ofTeacher.byQuery = &ofTeacher_;
      ofTeacher.queryWeight = pass_.teacherWeight;
    }
    return sweep_.logits(1, begin, count, ofTeacher);
  }

  Status weigh(int64_t begin, int64_t count) {
    SoftmaxSweep::Weights weights;
    weights.most =
        std::fabs(pass_.studentWeight) + std::fabs(pass_.teacherWeight) + std::fabs(pass_.targetWeight);
    weights.params.first.maxima = ofStudent_.maxima.get();
    weights.params.first.factors = ofStudent_.factors.get();
    if (pass_.targetWeight != 0) {
      weights.params.targets = pass_.targets;
      weights.params.targetWeight = static_cast<float>(pass_.targetWeight);
    }
    if (taught_) {
      weights.params.second.maxima = ofTeacher_.maxima.get();
      weights.params.second.factors = ofTeacher_.factors.get();
      if (diverges()) weights.querySums = along_.get();
    }
    CLIPCID_TRY(sweep_.weigh(begin, count, keys_, weights));
    CLIPCID_TRY(sweep_.sumOverKeys(begin, count, keys_, 1, false, pass_.sums));
    if (pass_.keySums == nullptr) return {};
    return sweep_.sumOverQueries(begin, count, keys_, student_, 1, keySums_.get());
  }

  Status results() {
    RowTermsArgs terms;
    terms.count = pass_.rows;
    terms.maxima = ofStudent_.maxima.get();
    terms.sums = ofStudent_.sums.get();
    terms.lse = pass_.lse;
    if (targeted()) {
      terms.targetLogits = targetLogits_.get();
      terms.targetLogit = pass_.targetLogit;
    }
    if (diverges()) {
      terms.teacherSums = ofTeacher_.sums.get();
      terms.along = along_.get();
      terms.divergence = pass_.divergence;
    }
    CLIPCID_TRY(rowTerms(sweep_.device(), sweep_.stream(), terms));
    return pass_.keys.measured != nullptr ? sweep_.finish() : Status();
  }

  bool targeted() const { return pass_.targets != nullptr && pass_.targetLogit != nullptr; }
  bool diverges() const { return taught_ && pass_.divergence != nullptr; }

  const DistilPass& pass_;
  const bool taught_;
  SoftmaxSweep sweep_;
  Side student_, teacher_, keys_;
  Sums ofStudent_, ofTeacher_;
  Buffer<float> targetLogits_, keySums_;
  Buffer<double> along_;
};

}  // namespace

Status contrast(const PassSite& site, const ContrastPass& pass) { return Contrast(site, pass).run(); }

Status distil(const PassSite& site, const DistilPass& pass) { return Distil(site, pass).run(); }

}  // namespace clipcid::cuda

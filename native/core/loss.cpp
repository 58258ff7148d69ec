#include "core/loss.h"

#include <cmath>
#include <new>
#include <utility>

#include "core/loss_steps.h"

namespace clipcid {
namespace {

Status invalid(const char* message) { return {Code::kInvalidArgument, message}; }

// Whether a matrix on a device is the back end's, and of this shape.
bool fits(const DeviceMatrix* matrix, const Backend* owner, int64_t rows, int64_t dim) {
  return matrix == nullptr || (matrix->owner == owner && matrix->dtype == Dtype::kFloat32 &&
                               matrix->rows == rows && matrix->dim == dim);
}

Status validateDevice(const Backend* owner, const LossArgs& args, const LossResult& result) {
  bool all = true;
  const auto check = [&](const DeviceMatrix* matrix, int64_t rows, int64_t dim) {
    all = all && fits(matrix, owner, rows, dim);
  };
  for (const LossMatrix* matrix : {&args.image, &args.text}) check(matrix->device, args.batch, args.dim);
  for (const LossGradient* matrix : {&result.image, &result.text})
    check(matrix->device, args.batch, args.dim);
  for (const LossMatrix* matrix : {&args.teacherImage, &args.teacherText})
    check(matrix->device, args.batch, args.teacherDim);
  for (const LossMatrix* matrix : {&args.imageProjection, &args.textProjection})
    check(matrix->device, args.dim, args.teacherDim);
  for (const LossGradient* matrix : {&result.imageProjection, &result.textProjection})
    check(matrix->device, args.dim, args.teacherDim);
  check(args.centroids.device, args.clusters, args.teacherDim);
  check(result.centroids.device, args.clusters, args.teacherDim);
  return all ? Status() : invalid("A matrix on a device is another's, or of another shape or type");
}

Status validate(const LossArgs& args, const LossResult& result) {
  if (args.batch < 1 || args.dim < 1) return invalid("The batch is empty");
  if (args.batch > INT32_MAX || args.clusters > INT32_MAX) return invalid("More than 2^31 - 1 rows");
  if (!args.image || !args.text || !result.image || !result.text) return invalid("A matrix is missing");
  if (!std::isfinite(std::exp(args.clipLogScale)) || !std::isfinite(std::exp(args.instanceLogScale))) {
    return invalid("A log scale is too large");
  }
  if (!args.useCluster() && !args.useInstance()) return {};

  if (args.teacherDim < 1) return invalid("The teacher's width is missing");
  if (!args.imageProjection && args.dim != args.teacherDim)
    return invalid("Widths differ without an image projection");
  if (args.imageProjection && !result.imageProjection) return invalid("A matrix is missing");
  if (args.useInstance()) {
    if (!args.teacherImage || !args.teacherText)
      return invalid("The instance term needs the teacher's image and text");
    if (!args.textProjection && args.dim != args.teacherDim)
      return invalid("Widths differ without a text projection");
    if (args.textProjection && !result.textProjection) return invalid("A matrix is missing");
  }
  if (!args.useCluster()) return {};

  if (!args.centroids || args.clusters < 1) return invalid("The centres are missing");
  if (!(args.temperature > 0) || !(args.teacherTemperature > 0))
    return invalid("A temperature isn't above 0");
  if (args.learned && !result.centroids) return invalid("A matrix is missing");
  if (args.klWeight > 0) {
    if (!args.softCentroids && !args.teacherImage) return invalid("The KL term needs the teacher's image");
    if (args.softCentroids && (!args.entropies || args.sample || args.learned)) {
      return invalid("Soft centroids come with entropies, and are of all centres, which are not learned");
    }
  }
  if (args.ceWeight > 0) {
    if (!args.labels) return invalid("The labels are missing");
    for (int64_t i = 0; i < args.batch; ++i) {
      if (args.labels[i] < 0 || args.labels[i] >= args.clusters) return invalid("A label is not a centre");
    }
  }
  if (args.sample) {
    if (args.sampleCount < 1) return invalid("The sample is empty");
    for (int64_t j = 0; j < args.sampleCount; ++j) {
      if (args.sample[j] <= (j == 0 ? -1 : args.sample[j - 1])) return invalid("The sample does not ascend");
    }
    if (args.sample[args.sampleCount - 1] >= args.clusters) return invalid("The sample names no centre");
  }
  return {};
}

// One modality of the student in the teacher's space.
struct Projected {
  const float* raw = nullptr;         // [B, Ds]
  const float* projection = nullptr;  // [Ds, Dt], or null
  UnitView unit;                      // [B, Dt]
  float* gradient = nullptr;          // [B, Dt] of the unit rows
};

class Loss {
 public:
  Loss(LossSteps& steps, const LossArgs& args, LossResult* result)
      : steps_(steps), args_(args), result_(*result) {}

  Status run() {
    const int64_t batch = args_.batch, dim = args_.dim;
    for (auto [matrix, raw] : {std::pair{&args_.image, &image_}, {&args_.text, &text_}})
      CLIPCID_TRY(steps_.bring(*matrix, batch, dim, raw));
    CLIPCID_TRY(steps_.place(result_.image, batch, dim, &dImage_));
    CLIPCID_TRY(steps_.place(result_.text, batch, dim, &dText_));
    // Raw rows are checked whether or not a term needs them as they are, so that a fault is named where it
    // is.
    CLIPCID_TRY(steps_.normalise("image", image_, batch, dim, &unitImage_));
    CLIPCID_TRY(steps_.normalise("text", text_, batch, dim, &unitText_));
    CLIPCID_TRY(clip());
    if (args_.useCluster() || args_.useInstance()) CLIPCID_TRY(distil());
    CLIPCID_TRY(steps_.finish());
    for (const Contrasted& term : instance_) {
      result_.instance += term.value / static_cast<double>(instance_.size());
      result_.instanceLogScale += term.logScaleGradient;
    }
    result_.total = args_.clipWeight * result_.clip + args_.ceWeight * result_.clusterCe +
                    args_.klWeight * result_.clusterKl + args_.instanceWeight * result_.instance;
    if (!std::isfinite(result_.total)) return {Code::kInvalidData, "The loss is not finite"};
    return {};
  }

 private:
  struct Contrasted {
    const Projected* student;
    const UnitView* teacher;
    bool columns;
    double value = 0, logScaleGradient = 0;
  };

  // Writes the gradients of both raw rows.
  Status clip() {
    CLIPCID_TRY(steps_.clear(dImage_, args_.batch, args_.dim));
    CLIPCID_TRY(steps_.clear(dText_, args_.batch, args_.dim));
    if (args_.clipWeight == 0) return {};
    ContrastArgs term;
    term.x = unitImage_.unit;
    term.y = unitText_.unit;
    term.rows = args_.batch;
    term.dim = args_.dim;
    term.scale = std::exp(args_.clipLogScale);
    term.weight = args_.clipWeight;
    term.dx = dImage_;
    term.dy = dText_;
    term.value = &result_.clip;
    term.logScaleGradient = &result_.clipLogScale;
    CLIPCID_TRY(steps_.contrast(term));
    CLIPCID_TRY(steps_.throughNormalise(unitImage_, dImage_, false, dImage_));
    return steps_.throughNormalise(unitText_, dText_, false, dText_);
  }

  Status distil() {
    const int64_t batch = args_.batch, dim = args_.teacherDim;
    Projected image, text;
    UnitView teacherImage, teacherText;
    CLIPCID_TRY(project("image", image_, unitImage_, args_.imageProjection, &image));
    const bool ownPass = args_.klWeight > 0 && args_.softCentroids == nullptr;
    const float* raw = nullptr;
    if (ownPass || args_.useInstance()) {
      CLIPCID_TRY(steps_.bring(args_.teacherImage, batch, dim, &raw));
      CLIPCID_TRY(steps_.normalise("teacherImage", raw, batch, dim, &teacherImage));
    }
    if (args_.useInstance()) {
      CLIPCID_TRY(project("text", text_, unitText_, args_.textProjection, &text));
      CLIPCID_TRY(steps_.bring(args_.teacherText, batch, dim, &raw));
      CLIPCID_TRY(steps_.normalise("teacherText", raw, batch, dim, &teacherText));
      CLIPCID_TRY(instance(image, text, teacherImage, teacherText));
      CLIPCID_TRY(projectBack(text, dText_, result_.textProjection));
    } else if (args_.textProjection && result_.textProjection) {
      float* gradient = nullptr;
      CLIPCID_TRY(steps_.place(result_.textProjection, args_.dim, dim, &gradient));
      CLIPCID_TRY(steps_.clear(gradient, args_.dim, dim));
    }
    if (args_.useCluster())
      CLIPCID_TRY(steps_.cluster(args_, image.unit, teacherImage.unit, image.gradient, &result_));
    return projectBack(image, dImage_, result_.imageProjection);
  }

  // `raw` as it is, normalised, is `unit`.
  Status project(const std::string& name, const float* raw, const UnitView& unit,
                 const LossMatrix& projection, Projected* out) {
    const int64_t batch = args_.batch, dim = args_.teacherDim;
    out->raw = raw;
    out->unit = unit;
    CLIPCID_TRY(steps_.room(batch, dim, &out->gradient));
    if (projection) {
      CLIPCID_TRY(steps_.bring(projection, args_.dim, dim, &out->projection));
      MatmulArgs product;
      product.a = raw;
      product.b = out->projection;
      product.c = out->gradient;
      product.m = batch;
      product.n = dim;
      product.k = args_.dim;
      CLIPCID_TRY(steps_.multiply(product));
      CLIPCID_TRY(steps_.normalise(name + " after its projection", out->gradient, batch, dim, &out->unit));
    }
    return steps_.clear(out->gradient, batch, dim);
  }

  // Adds the gradient of the raw rows and writes that of the projection.
  Status projectBack(const Projected& projected, float* out, const LossGradient& ofProjection) {
    float* gradient = projected.gradient;
    if (projected.projection == nullptr) return steps_.throughNormalise(projected.unit, gradient, true, out);
    CLIPCID_TRY(steps_.throughNormalise(projected.unit, gradient, false, gradient));
    MatmulArgs rows;  // out += gradient projection^T
    rows.a = gradient;
    rows.b = projected.projection;
    rows.c = out;
    rows.m = args_.batch;
    rows.n = args_.dim;
    rows.k = args_.teacherDim;
    rows.transposeB = true;
    rows.beta = 1;
    CLIPCID_TRY(steps_.multiply(rows));
    MatmulArgs weights;  // raw^T gradient
    weights.a = projected.raw;
    weights.b = gradient;
    CLIPCID_TRY(steps_.place(ofProjection, args_.dim, args_.teacherDim, &weights.c));
    weights.m = args_.dim;
    weights.n = args_.teacherDim;
    weights.k = args_.batch;
    weights.transposeA = true;
    return steps_.multiply(weights);
  }

  Status instance(const Projected& image, const Projected& text, const UnitView& teacherImage,
                  const UnitView& teacherText) {
    if (args_.pairing != Pairing::kCross) {
      instance_.push_back({&image, &teacherImage, true});
      instance_.push_back({&text, &teacherText, true});
    }
    if (args_.pairing != Pairing::kSame) {
      instance_.push_back({&image, &teacherText, false});
      instance_.push_back({&text, &teacherImage, false});
    }
    for (Contrasted& pair : instance_) {
      ContrastArgs term;
      term.x = pair.student->unit.unit;
      term.y = pair.teacher->unit;
      term.rows = args_.batch;
      term.dim = args_.teacherDim;
      term.scale = std::exp(args_.instanceLogScale);
      term.weight = args_.instanceWeight / static_cast<double>(instance_.size());
      term.columns = pair.columns;
      term.dx = pair.student->gradient;
      term.value = &pair.value;
      term.logScaleGradient = &pair.logScaleGradient;
      CLIPCID_TRY(steps_.contrast(term));
    }
    return {};
  }

  LossSteps& steps_;
  const LossArgs& args_;
  LossResult& result_;
  const float *image_ = nullptr, *text_ = nullptr;  // [B, Ds] raw
  float *dImage_ = nullptr, *dText_ = nullptr;      // [B, Ds]
  UnitView unitImage_, unitText_;
  std::vector<Contrasted> instance_;
};

}  // namespace

Status clusterInstanceLoss(LossSteps& steps, const LossArgs& args, LossResult* result) {
  CLIPCID_TRY(validate(args, *result));
  CLIPCID_TRY(validateDevice(steps.owner(), args, *result));
  result->clip = result->clusterCe = result->clusterKl = result->instance = 0;
  result->clipLogScale = result->instanceLogScale = 0;
  try {
    return Loss(steps, args, result).run();
  } catch (const std::bad_alloc&) {
    return {Code::kOutOfMemory, "Out of memory in the loss of " + std::to_string(args.batch) + " rows"};
  }
}

Status clusterInstanceLoss(Backend& backend, const Context& context, const LossArgs& args,
                           LossResult* result) {
  std::unique_ptr<LossSteps> steps;
  CLIPCID_TRY(backend.lossSteps(context, &steps));
  return clusterInstanceLoss(*steps, args, result);
}

}  // namespace clipcid

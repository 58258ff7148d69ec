#include "core/loss.h"

#include <cmath>
#include <cstring>
#include <new>

#include "core/loss_terms.h"
#include "core/read_rows.h"

namespace clipcid {
namespace {

Status validate(const Backend& backend, const LossArgs& args, const LossResult& result) {
  const auto invalid = [](const char* message) { return Status(Code::kInvalidArgument, message); };
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

  const DeviceMatrix* onDevice = args.centroidsOnDevice;
  if ((args.centroids == nullptr) == (onDevice == nullptr) || args.clusters < 1)
    return invalid("The centres are missing");
  if (onDevice != nullptr && (onDevice->owner != &backend || onDevice->dtype != Dtype::kFloat32 ||
                              onDevice->rows != args.clusters || onDevice->dim != args.teacherDim))
    return invalid("The centres on the device are another's, or of another shape or type");
  if (onDevice != nullptr && args.learned) return invalid("Centres that are learned are in memory");
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
  const UnitRows* unit = nullptr;
  UnitRows own;                  // what `unit` is when there is a projection
  AlignedArray<float> gradient;  // [B, Dt] of the unit rows
};

// `raw` as it is, normalised, is `unit`.
Status project(Backend& backend, const Context& context, const LossArgs& args, const std::string& name,
               const float* raw, const UnitRows& unit, const float* projection, Projected* out) {
  const int64_t size = args.batch * args.teacherDim;
  out->gradient = AlignedArray<float>(size);
  out->unit = &unit;
  if (projection != nullptr) {
    MatmulArgs product;
    product.a = raw;
    product.b = projection;
    product.c = out->gradient.get();
    product.m = args.batch;
    product.n = product.strideB = product.strideC = args.teacherDim;
    product.k = product.strideA = args.dim;
    CLIPCID_TRY(backend.matmul(context, product));
    CLIPCID_TRY(normaliseRows(backend, context, name + " after its projection", out->gradient.get(),
                              args.batch, args.teacherDim, &out->own));
    out->unit = &out->own;
  }
  std::memset(out->gradient.get(), 0, static_cast<size_t>(size) * sizeof(float));
  return {};
}

// Adds the gradient of the raw rows and writes that of the projection.
Status projectBack(Backend& backend, const Context& context, const LossArgs& args, const float* raw,
                   const float* projection, const Projected& projected, float* out,
                   float* projectionGradient) {
  float* gradient = projected.gradient.get();
  if (projection == nullptr) {
    throughNormalise(context, *projected.unit, gradient, 1, true, out);
    return {};
  }
  throughNormalise(context, *projected.unit, gradient, 1, false, gradient);
  MatmulArgs rows;  // out += gradient projection^T
  rows.a = gradient;
  rows.b = projection;
  rows.c = out;
  rows.m = args.batch;
  rows.n = rows.strideC = args.dim;
  rows.k = rows.strideA = rows.strideB = args.teacherDim;
  rows.transposeB = true;
  rows.beta = 1;
  CLIPCID_TRY(backend.matmul(context, rows));
  MatmulArgs weights;  // raw^T gradient
  weights.a = raw;
  weights.b = gradient;
  weights.c = projectionGradient;
  weights.m = weights.strideA = args.dim;
  weights.n = weights.strideB = weights.strideC = args.teacherDim;
  weights.k = args.batch;
  weights.transposeA = true;
  return backend.matmul(context, weights);
}

// Writes the gradients of both raw rows.
Status clipTerm(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& image,
                const UnitRows& text, LossResult* result) {
  const auto bytes = static_cast<size_t>(args.batch * args.dim) * sizeof(float);
  std::memset(result->image, 0, bytes);
  std::memset(result->text, 0, bytes);
  if (args.clipWeight == 0) return {};
  ContrastArgs term;
  term.x = image.data();
  term.y = text.data();
  term.rows = args.batch;
  term.dim = args.dim;
  term.scale = std::exp(args.clipLogScale);
  term.weight = args.clipWeight;
  term.dx = result->image;
  term.dy = result->text;
  term.value = &result->clip;
  term.logScaleGradient = &result->clipLogScale;
  CLIPCID_TRY(backend.contrast(context, term));
  throughNormalise(context, image, result->image, 1, false, result->image);
  throughNormalise(context, text, result->text, 1, false, result->text);
  return {};
}

Status instanceTerm(Backend& backend, const Context& context, const LossArgs& args, const Projected& image,
                    const Projected& text, const UnitRows& teacherImage, const UnitRows& teacherText,
                    LossResult* result) {
  struct Pair {
    const Projected* student;
    const UnitRows* teacher;
    bool columns;
  };
  std::vector<Pair> pairs;
  if (args.pairing != Pairing::kCross) {
    pairs.push_back({&image, &teacherImage, true});
    pairs.push_back({&text, &teacherText, true});
  }
  if (args.pairing != Pairing::kSame) {
    pairs.push_back({&image, &teacherText, false});
    pairs.push_back({&text, &teacherImage, false});
  }
  const auto count = static_cast<double>(pairs.size());
  for (const Pair& pair : pairs) {
    double value = 0, scaleGradient = 0;
    ContrastArgs term;
    term.x = pair.student->unit->data();
    term.y = pair.teacher->data();
    term.rows = args.batch;
    term.dim = args.teacherDim;
    term.scale = std::exp(args.instanceLogScale);
    term.weight = args.instanceWeight / count;
    term.columns = pair.columns;
    term.dx = pair.student->gradient.get();
    term.value = &value;
    term.logScaleGradient = &scaleGradient;
    CLIPCID_TRY(backend.contrast(context, term));
    result->instance += value / count;
    result->instanceLogScale += scaleGradient;
  }
  return {};
}

Status distil(Backend& backend, const Context& context, const LossArgs& args, const UnitRows& unitImage,
              const UnitRows& unitText, LossResult* result) {
  Projected image, text;
  UnitRows teacherImage, teacherText;
  CLIPCID_TRY(project(backend, context, args, "image", args.image, unitImage, args.imageProjection, &image));
  const bool ownPass = args.klWeight > 0 && args.softCentroids == nullptr;
  if (ownPass || args.useInstance()) {
    CLIPCID_TRY(normaliseRows(backend, context, "teacherImage", args.teacherImage, args.batch,
                              args.teacherDim, &teacherImage));
  }
  if (args.useInstance()) {
    CLIPCID_TRY(project(backend, context, args, "text", args.text, unitText, args.textProjection, &text));
    CLIPCID_TRY(normaliseRows(backend, context, "teacherText", args.teacherText, args.batch, args.teacherDim,
                              &teacherText));
    CLIPCID_TRY(instanceTerm(backend, context, args, image, text, teacherImage, teacherText, result));
    CLIPCID_TRY(projectBack(backend, context, args, args.text, args.textProjection, text, result->text,
                            result->textProjection));
  } else if (args.textProjection != nullptr && result->textProjection != nullptr) {
    const auto size = static_cast<size_t>(args.dim * args.teacherDim);
    std::memset(result->textProjection, 0, size * sizeof(float));
  }
  if (args.useCluster()) {
    CLIPCID_TRY(clusterTerms(backend, context, args, *image.unit, ownPass ? &teacherImage : nullptr,
                             image.gradient.get(), result));
  }
  return projectBack(backend, context, args, args.image, args.imageProjection, image, result->image,
                     result->imageProjection);
}

}  // namespace

Status clusterInstanceLoss(Backend& backend, const Context& context, const LossArgs& given,
                           LossResult* result) {
  LossArgs args = given;
  CLIPCID_TRY(validate(backend, args, *result));
  if (args.centroidsOnDevice != nullptr && &backend == &cpuBackend()) {
    args.centroids = hostView(*args.centroidsOnDevice).floats();
    args.centroidsOnDevice = nullptr;
  }
  result->clip = result->clusterCe = result->clusterKl = result->instance = 0;
  result->clipLogScale = result->instanceLogScale = 0;
  try {
    // Raw rows are checked whether or not a term needs them as they are, so that a fault is named where it
    // is.
    UnitRows image, text;
    CLIPCID_TRY(normaliseRows(backend, context, "image", args.image, args.batch, args.dim, &image));
    CLIPCID_TRY(normaliseRows(backend, context, "text", args.text, args.batch, args.dim, &text));
    CLIPCID_TRY(clipTerm(backend, context, args, image, text, result));
    if (args.useCluster() || args.useInstance())
      CLIPCID_TRY(distil(backend, context, args, image, text, result));
  } catch (const std::bad_alloc&) {
    return {Code::kOutOfMemory, "Out of memory in the loss of " + std::to_string(args.batch) + " rows"};
  }
  result->total = args.clipWeight * result->clip + args.ceWeight * result->clusterCe +
                  args.klWeight * result->clusterKl + args.instanceWeight * result->instance;
  if (!std::isfinite(result->total)) return {Code::kInvalidData, "The loss is not finite"};
  return {};
}

}  // namespace clipcid

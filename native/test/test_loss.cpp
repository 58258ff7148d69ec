// The softmax primitive against its equations in float64, the loss against its own directional derivative,
// and AdamW's rejection, over sizes round the tiles' edges. A plain program, so that it runs under valgrind
// and the sanitizers; prints what fails.
#include <cmath>
#include <limits>
#include <random>

#include "check.h"
#include "core/loss.h"

using namespace clipcid;
using clipcid::test::contextOf;

namespace {

std::vector<float> draw(std::mt19937& random, int64_t count) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(random);
  return values;
}

void primitive(int64_t queries, int64_t keys, int64_t dim, int threads) {
  std::mt19937 random(1);
  const std::vector<float> q = draw(random, queries * dim), k = draw(random, keys * dim),
                           v = draw(random, keys * dim);
  const std::vector<float> columnLse = draw(random, keys);
  std::vector<int32_t> targets;
  for (int64_t i = 0; i < queries; ++i) targets.push_back(static_cast<int32_t>((i * 7) % keys));
  std::vector<float> lse(queries), logit(queries), values(queries * dim), weighted(queries * dim);
  double gradient = 0;
  SoftmaxLossArgs args;
  args.q = q.data();
  args.k = k.data();
  args.queries = queries;
  args.keys = keys;
  args.dim = dim;
  args.scale = 0.5;
  args.targets = targets.data();
  args.lse = lse.data();
  args.targetLogit = logit.data();
  args.values = values.data();
  CHECK_OK(cpuBackend().softmaxLoss(contextOf(threads), args));
  args.v = v.data();
  args.values = weighted.data();
  args.rowLse = lse.data();
  args.columnLse = columnLse.data();
  args.rowWeight = 0.25f;
  args.columnWeight = 0.125f;
  args.logitGradient = &gradient;
  CHECK_OK(cpuBackend().softmaxLoss(contextOf(threads), args));

  double errorLse = 0, errorValues = 0, errorWeighted = 0, expectedGradient = 0, size = 0;
  std::vector<double> z(keys), sums(dim), weights(dim);
  for (int64_t i = 0; i < queries; ++i) {
    double total = 0;
    for (int64_t j = 0; j < keys; ++j) {
      z[j] = 0;
      for (int64_t d = 0; d < dim; ++d)
        z[j] += 0.5 * static_cast<double>(q[i * dim + d]) * static_cast<double>(k[j * dim + d]);
      total += std::exp(z[j]);
    }
    const double expected = std::log(total);
    errorLse = std::fmax(errorLse, std::fabs(expected - static_cast<double>(lse[i])));
    errorLse = std::fmax(errorLse, std::fabs(z[targets[i]] - static_cast<double>(logit[i])));
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(weights.begin(), weights.end(), 0.0);
    for (int64_t j = 0; j < keys; ++j) {
      const double hit = j == targets[i] ? 1 : 0;
      const double g = 0.25 * (std::exp(z[j] - expected) - hit) +
                       0.125 * (std::exp(z[j] - static_cast<double>(columnLse[j])) - hit);
      expectedGradient += g * z[j];
      size += std::fabs(g * z[j]);
      for (int64_t d = 0; d < dim; ++d) {
        sums[d] += std::exp(z[j] - expected) * static_cast<double>(k[j * dim + d]);
        weights[d] += g * static_cast<double>(v[j * dim + d]);
      }
    }
    for (int64_t d = 0; d < dim; ++d) {
      errorValues = std::fmax(errorValues, std::fabs(sums[d] - static_cast<double>(values[i * dim + d])));
      errorWeighted =
          std::fmax(errorWeighted, std::fabs(weights[d] - static_cast<double>(weighted[i * dim + d])) /
                                       (1 + static_cast<double>(keys)));
    }
  }
  CHECK(errorLse < 1e-5);
  CHECK(errorValues < 1e-5);
  CHECK(errorWeighted < 1e-5);
  CHECK(std::fabs(gradient - expectedGradient) < 1e-5 * (1 + size));
}

void loss(int64_t batch, int64_t dim, int64_t teacherDim, int64_t clusters, bool sampled, Pairing pairing,
          int threads) {
  std::mt19937 random(2);
  std::vector<float> image = draw(random, batch * dim);
  const std::vector<float> text = draw(random, batch * dim);
  const std::vector<float> teacherImage = draw(random, batch * teacherDim),
                           teacherText = draw(random, batch * teacherDim);
  const std::vector<float> first = draw(random, dim * teacherDim), second = draw(random, dim * teacherDim);
  const std::vector<float> centroids = draw(random, clusters * teacherDim);
  std::vector<int32_t> labels, sample;
  for (int64_t j = 0; j < clusters; j += 2) sample.push_back(static_cast<int32_t>(j));
  for (int64_t i = 0; i < batch; ++i) labels.push_back(sample[static_cast<size_t>(i) % sample.size()]);

  LossArgs args;
  args.batch = batch;
  args.dim = dim;
  args.image = image.data();
  args.text = text.data();
  args.clipWeight = 0.5;
  args.clipLogScale = 1;
  args.teacherDim = teacherDim;
  args.teacherImage = teacherImage.data();
  args.teacherText = teacherText.data();
  args.imageProjection = first.data();
  args.textProjection = second.data();
  args.ceWeight = 0.75;
  args.klWeight = 1.25;
  args.temperature = 0.25;
  args.teacherTemperature = 0.5;
  args.centroids = centroids.data();
  args.clusters = clusters;
  args.labels = labels.data();
  if (sampled) {
    args.sample = sample.data();
    args.sampleCount = static_cast<int64_t>(sample.size());
  }
  args.learned = true;
  args.instanceWeight = 1;
  args.instanceLogScale = 1.5;
  args.pairing = pairing;

  std::vector<float> ofImage(batch * dim), ofText(batch * dim), ofFirst(dim * teacherDim),
      ofSecond(dim * teacherDim), ofCentroids(clusters * teacherDim);
  LossResult result;
  result.image = ofImage.data();
  result.text = ofText.data();
  result.imageProjection = ofFirst.data();
  result.textProjection = ofSecond.data();
  result.centroids = ofCentroids.data();
  const Context context = contextOf(threads);
  CHECK_OK(clusterInstanceLoss(cpuBackend(), context, args, &result));

  // Along a direction of the image embeddings, with a step that float32 can tell apart.
  const std::vector<float> direction = draw(random, batch * dim);
  double slope = 0;
  for (int64_t i = 0; i < batch * dim; ++i)
    slope += static_cast<double>(ofImage[i]) * static_cast<double>(direction[i]);
  constexpr float kStep = 1.0f / 256;
  const auto total = [&](float step) {
    std::vector<float> moved = image;
    for (int64_t i = 0; i < batch * dim; ++i) moved[i] += step * direction[i];
    args.image = moved.data();
    std::vector<float> a(batch * dim), b(batch * dim);
    LossResult other = result;
    other.image = a.data();
    other.text = b.data();
    CHECK_OK(clusterInstanceLoss(cpuBackend(), context, args, &other));
    return other.total;
  };
  const double measured = (total(kStep) - total(-kStep)) / (2 * static_cast<double>(kStep));
  CHECK(std::fabs(measured - slope) < 2e-2 * (1 + std::fabs(slope)));

  image[static_cast<size_t>(batch * dim - 1)] = std::numeric_limits<float>::quiet_NaN();
  args.image = image.data();
  const Status status = clusterInstanceLoss(cpuBackend(), context, args, &result);
  CHECK(status.code == Code::kInvalidData);
}

void adamw(int threads) {
  constexpr int64_t kLength = 40'000;
  std::mt19937 random(3);
  std::vector<float> parameters = draw(random, kLength), gradients = draw(random, kLength);
  std::vector<float> first(kLength), second(kLength), ema = parameters;
  double norm = 0;
  AdamwArgs args;
  args.parameters = parameters.data();
  args.gradients = gradients.data();
  args.first = first.data();
  args.second = second.data();
  args.ema = ema.data();
  args.length = kLength;
  args.rate = 0.01;
  args.groups = {{17'001, 1, 1}, {0, 1, 1}, {22'999, 0.5, 0}};
  args.gradientNorm = &norm;
  CHECK_OK(cpuBackend().adamw(contextOf(threads), args));
  CHECK(norm > 0);
  args.groups.back().length += 1;
  // Groups beyond the buffers' end.
  CHECK(cpuBackend().adamw(contextOf(threads), args).code == Code::kInvalidArgument);
}

}  // namespace

int main() {
  for (const int threads : {1, 3}) {
    primitive(1, 1, 1, threads);
    primitive(13, 33, 31, threads);
    primitive(12, 256, 32, threads);
    primitive(29, 517, 70, threads);
    loss(1, 1, 1, 1, false, Pairing::kBoth, threads);
    loss(13, 7, 9, 300, true, Pairing::kSame, threads);
    loss(25, 33, 20, 40, false, Pairing::kCross, threads);
    adamw(threads);
  }
  return test::report("loss");
}

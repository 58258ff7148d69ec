// Checks of the softmax primitives and of the loss for any back end: against their equations in float64, and of the loss against
// its own directional derivative. The bounds are the same for all of them.
#pragma once

#include <cmath>
#include <limits>
#include <random>

#include "check.h"
#include "core/loss.h"

namespace clipcid::test {

inline std::vector<float> draw(std::mt19937& random, int64_t count) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(random);
  return values;
}

// Largest error, and largest error over the sum of the absolute summands where these may cancel.
struct Errors {
  double most = 0;
  void take(double actual, double expected, double summands = 0) {
    most = std::fmax(most, std::fabs(actual - expected) / (1 + summands));
  }
};

inline std::vector<double> logits(const std::vector<float>& q, const std::vector<float>& k, int64_t dim,
                                  double scale) {
  const auto queries = static_cast<int64_t>(q.size()) / dim, keys = static_cast<int64_t>(k.size()) / dim;
  std::vector<double> z(static_cast<size_t>(queries * keys));
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t d = 0; d < dim; ++d)
        z[i * keys + j] += scale * static_cast<double>(q[i * dim + d]) * static_cast<double>(k[j * dim + d]);
    }
  }
  return z;
}

// Log-sum-exp of `count` logits, `stride` apart.
inline double lseOf(const double* z, int64_t count, int64_t stride) {
  double most = -INFINITY, sum = 0;
  for (int64_t i = 0; i < count; ++i) most = std::fmax(most, z[i * stride]);
  for (int64_t i = 0; i < count; ++i) sum += std::exp(z[i * stride] - most);
  return most + std::log(sum);
}

// Both softmax primitives against their equations, and against themselves with one thread.
inline void primitive(Backend& backend, int64_t queries, int64_t keys, int64_t dim, double scale,
                      int threads) {
  std::mt19937 random(1);
  const std::vector<float> q = draw(random, queries * dim), k = draw(random, keys * dim),
                           v = draw(random, keys * dim);
  std::vector<int32_t> targets, backwards;
  for (int64_t i = 0; i < queries; ++i) targets.push_back(static_cast<int32_t>((i * 7) % keys));
  // The second set reads the rows from the last to the first, and each over a norm of 2.
  for (int64_t i = 0; i < queries; ++i) backwards.push_back(static_cast<int32_t>(queries - 1 - i));
  const std::vector<double> norms(static_cast<size_t>(std::max(queries, keys)), 2.0);
  std::vector<double> lse(queries), logit(queries), second(queries), columnLse(keys), again(queries);
  std::vector<float> values(queries * dim), secondValues(queries * dim);

  SoftmaxArgs forward;
  forward.keys = {k.data(), keys, nullptr, nullptr, nullptr};
  forward.dim = dim;
  SoftmaxArgs::Queries set;
  set.rows = {q.data(), queries, nullptr, nullptr, nullptr};
  set.scale = scale;
  set.targets = targets.data();
  set.lse = lse.data();
  set.targetLogit = logit.data();
  set.values = values.data();
  SoftmaxArgs::Queries other = set;
  other.rows = {q.data(), queries, backwards.data(), norms.data(), nullptr};
  other.scale = 2 * scale;
  other.targets = nullptr;
  other.lse = second.data();
  other.values = secondValues.data();
  forward.queries = {set, other};
  CHECK_OK(backend.softmax(contextOf(threads), forward));
  for (int64_t i = 0; i < queries; ++i) CHECK(second[queries - 1 - i] == lse[i]);
  for (int64_t i = 0; i < queries * dim; ++i)
    CHECK(secondValues[(queries - 1 - i / dim) * dim + i % dim] == values[i]);

  set.lse = again.data();
  set.values = nullptr;
  forward.queries = {set};
  forward.columnLse = columnLse.data();
  CHECK_OK(backend.softmax(contextOf(threads), forward));
  CHECK(again == lse);

  SoftmaxGradientArgs backward;
  backward.queries = {q.data(), queries, nullptr, nullptr, nullptr};
  backward.keys = {k.data(), keys, nullptr, nullptr, nullptr};
  backward.values = {v.data(), keys, nullptr, nullptr, nullptr};
  backward.dim = dim;
  backward.scale = scale;
  backward.targets = targets.data();
  backward.rowLse = lse.data();
  backward.columnLse = columnLse.data();
  backward.rowWeight = 0.25;
  backward.columnWeight = 0.125;
  std::vector<float> sums(queries * dim), mirrored(keys * dim), twice;
  double gradient = 0, gradientAgain = 0;
  backward.sums = sums.data();
  backward.logitGradient = &gradient;
  CHECK_OK(backend.softmaxGradient(contextOf(threads), backward));
  twice = sums;
  backward.sums = twice.data();
  backward.logitGradient = &gradientAgain;
  backward.add = true;
  CHECK_OK(backend.softmaxGradient(contextOf(1), backward));
  CHECK(gradientAgain == gradient);
  for (int64_t i = 0; i < queries * dim; ++i) CHECK(twice[i] == 2 * sums[i]);
  SoftmaxGradientArgs back;
  back.queries = {k.data(), keys, nullptr, nullptr, nullptr};
  back.keys = {q.data(), queries, nullptr, nullptr, nullptr};
  back.dim = dim;
  back.scale = scale;
  back.mirrored = true;
  back.columnLse = lse.data();
  back.columnWeight = 1;
  back.sums = mirrored.data();
  CHECK_OK(backend.softmaxGradient(contextOf(threads), back));

  const std::vector<double> z = logits(q, k, dim, scale);
  Errors lseErrors, valueErrors, sumErrors, mirroredErrors;
  double expectedGradient = 0, size = 0;
  std::vector<double> expectedMirrored(static_cast<size_t>(keys * dim));
  for (int64_t j = 0; j < keys; ++j) lseErrors.take(columnLse[j], lseOf(&z[j], queries, keys));
  for (int64_t i = 0; i < queries; ++i) {
    const double* row = &z[i * keys];
    const double total = lseOf(row, keys, 1);
    lseErrors.take(lse[i], total);
    lseErrors.take(logit[i], row[targets[i]]);
    std::vector<double> expectation(dim), weighted(dim);
    for (int64_t j = 0; j < keys; ++j) {
      const double hit = j == targets[i] ? 1 : 0;
      const double p = std::exp(row[j] - total);
      const double g = 0.25 * (p - hit) + 0.125 * (std::exp(row[j] - columnLse[j]) - hit);
      expectedGradient += g * row[j];
      size += std::fabs(g * row[j]);
      for (int64_t d = 0; d < dim; ++d) {
        expectation[d] += p * static_cast<double>(k[j * dim + d]);
        weighted[d] += g * static_cast<double>(v[j * dim + d]);
        expectedMirrored[j * dim + d] += p * static_cast<double>(q[i * dim + d]);
      }
    }
    for (int64_t d = 0; d < dim; ++d) {
      valueErrors.take(static_cast<double>(values[i * dim + d]), expectation[d]);
      sumErrors.take(static_cast<double>(sums[i * dim + d]), weighted[d]);
    }
  }
  for (int64_t i = 0; i < keys * dim; ++i)
    mirroredErrors.take(static_cast<double>(mirrored[i]), expectedMirrored[i]);
  // The roundings of a logit's summands, each up to 2^-16 of it, are as good as independent, and move exponentials as
  // much as they move the logit.
  const double bound = 4e-6 * (2 + scale * std::sqrt(static_cast<double>(dim)));
  CHECK(lseErrors.most < bound);
  CHECK(valueErrors.most < bound);
  CHECK(sumErrors.most < bound);
  CHECK(mirroredErrors.most < bound * (1 + static_cast<double>(queries) / static_cast<double>(keys)));
  CHECK(std::fabs(gradient - expectedGradient) < bound * (1 + size));
}

inline std::vector<float> drawUnit(std::mt19937& random, int64_t rows, int64_t dim) {
  std::vector<float> values = draw(random, rows * dim);
  for (int64_t i = 0; i < rows; ++i) {
    float* row = values.data() + i * dim;
    canonicalRow(row, dim, std::sqrt(canonicalDot(row, row, dim)), row);
  }
  return values;
}

// The CPU's own contrast against what the passes of the softmax primitives make of it, whole and in strips.
inline void contrast(Backend& backend, int64_t rows, int64_t dim, double scale, bool columns, bool both,
                     int threads) {
  std::mt19937 random(5);
  const std::vector<float> x = drawUnit(random, rows, dim), y = drawUnit(random, rows, dim);
  struct Result {
    std::vector<float> dx, dy;
    double value = 0, logScaleGradient = 0;
  };
  const auto run = [&](const Context& context, bool byPasses) {
    Result result;
    result.dx.assign(x.size(), 0.25f);
    result.dy.assign(x.size(), -0.5f);
    ContrastArgs args;
    args.x = x.data();
    args.y = y.data();
    args.rows = rows;
    args.dim = dim;
    args.scale = scale;
    args.columns = columns;
    args.weight = 0.75;
    args.dx = result.dx.data();
    if (both) args.dy = result.dy.data();
    args.value = &result.value;
    args.logScaleGradient = &result.logScaleGradient;
    if (byPasses) {
      CHECK_OK(backend.Backend::contrast(context, args));
    } else {
      CHECK_OK(backend.contrast(context, args));
    }
    return result;
  };
  const Result expected = run(contextOf(1), true), one = run(contextOf(1), false),
               several = run(contextOf(threads), false);
  CHECK(one.dx == several.dx && one.dy == several.dy && one.value == several.value &&
        one.logScaleGradient == several.logScaleGradient);
  Context tight = contextOf(threads);
  tight.maxMemory = 1;
  const double bound = 4e-6 * (2 + scale * std::sqrt(static_cast<double>(dim)));
  for (const Result& actual : {one, run(tight, false)}) {
    Errors values, gradients;
    values.take(actual.value, expected.value);
    values.take(actual.logScaleGradient, expected.logScaleGradient);
    for (size_t i = 0; i < x.size(); ++i) {
      gradients.take(static_cast<double>(actual.dx[i]), static_cast<double>(expected.dx[i]));
      gradients.take(static_cast<double>(actual.dy[i]), static_cast<double>(expected.dy[i]));
    }
    CHECK(values.most < bound);
    CHECK(gradients.most < bound * scale);
    // Beside what bounds a row's gradient, without which products that add nothing would pass.
    CHECK(gradients.most < 1e-4 * (0.75 * scale / static_cast<double>(rows)) + 1e-7);
  }
}

// Both softmaxes over keys against float64: keys over their norms, by index or not, wild norms among them, with and
// without a teacher and the keys' sums, and the same for several threads.
struct DistilShape {
  int64_t rows, keys, dim;
  double scale;
  bool taught, sampled, keySums, wild;
};

inline void distil(Backend& backend, const DistilShape& shape, int threads) {
  const auto [rows, keys, dim, scale, taught, sampled, withKeySums, wild] = shape;
  std::mt19937 random(6);
  const int64_t stored = sampled ? 2 * keys : keys;
  const std::vector<float> student = drawUnit(random, rows, dim), teacher = drawUnit(random, rows, dim);
  std::vector<float> raw = draw(random, stored * dim);
  if (wild) {
    for (int64_t d = 0; d < dim; ++d) {
      raw[d] *= 1e-30f;
      raw[(stored - 1) * dim + d] *= 1e30f;
    }
  }
  std::vector<int32_t> indices, targets;
  for (int64_t j = 0; j < keys; ++j) indices.push_back(static_cast<int32_t>(sampled ? 2 * j + j % 2 : j));
  for (int64_t i = 0; i < rows; ++i) targets.push_back(static_cast<int32_t>((i * 11) % keys));
  const double teacherScale = 1.5 * scale, studentWeight = 0.75, teacherWeight = taught ? 1.25 : 0;
  struct Result {
    std::vector<double> lse, targetLogit, divergence, norms;
    std::vector<float> sums, keySums;
  };
  const auto run = [&](const Context& context, bool byPasses) {
    Result result;
    for (std::vector<double>* values : {&result.lse, &result.targetLogit, &result.divergence})
      values->resize(static_cast<size_t>(rows));
    result.norms.resize(static_cast<size_t>(keys));
    result.sums.resize(static_cast<size_t>(rows * dim));
    result.keySums.assign(static_cast<size_t>(stored * dim), -3.0f);
    DistilArgs args;
    args.student = student.data();
    args.rows = rows;
    args.dim = dim;
    args.keys.data = raw.data();
    args.keys.count = keys;
    if (sampled) args.keys.indices = indices.data();
    args.keys.measured = result.norms.data();
    args.scale = scale;
    args.teacherScale = teacherScale;
    args.targets = targets.data();
    args.lse = result.lse.data();
    args.targetLogit = result.targetLogit.data();
    if (taught) {
      args.teacher = teacher.data();
      args.divergence = result.divergence.data();
    }
    args.studentWeight = studentWeight;
    args.teacherWeight = teacherWeight;
    args.sums = result.sums.data();
    if (withKeySums) args.keySums = result.keySums.data();
    if (byPasses) {
      CHECK_OK(backend.Backend::distil(context, args));
    } else {
      CHECK_OK(backend.distil(context, args));
    }
    return result;
  };
  const Result one = run(contextOf(1), false), several = run(contextOf(threads), false);
  CHECK(one.lse == several.lse && one.targetLogit == several.targetLogit &&
        one.divergence == several.divergence && one.norms == several.norms && one.sums == several.sums &&
        one.keySums == several.keySums);

  // Every row by itself in float64.
  std::vector<double> unit(static_cast<size_t>(keys * dim));
  for (int64_t j = 0; j < keys; ++j) {
    const float* row = raw.data() + indices[static_cast<size_t>(j)] * dim;
    const double norm = std::sqrt(canonicalDot(row, row, dim));
    CHECK(one.norms[static_cast<size_t>(j)] == norm);
    for (int64_t d = 0; d < dim; ++d)
      unit[static_cast<size_t>(j * dim + d)] = static_cast<double>(row[d]) / norm;
  }
  const auto logitsOf = [&](const std::vector<float>& of, int64_t i, double by) {
    std::vector<double> z(static_cast<size_t>(keys));
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t d = 0; d < dim; ++d)
        z[static_cast<size_t>(j)] += by * static_cast<double>(of[static_cast<size_t>(i * dim + d)]) *
                                     unit[static_cast<size_t>(j * dim + d)];
    }
    return z;
  };
  const double bound = 4e-6 * (2 + scale);
  std::vector<double> keySums(static_cast<size_t>(keys * dim));
  Context tight = contextOf(threads);
  tight.maxMemory = 1;
  for (const Result& actual : {one, run(tight, false), run(contextOf(threads), true)}) {
    Errors errors, sumErrors, keyErrors;
    std::fill(keySums.begin(), keySums.end(), 0.0);
    for (int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<size_t>(i);
      const std::vector<double> z = logitsOf(student, i, scale), y = logitsOf(teacher, i, teacherScale);
      const double lse = lseOf(z.data(), keys, 1), teacherLse = lseOf(y.data(), keys, 1);
      errors.take(actual.lse[at], lse);
      errors.take(actual.targetLogit[at], z[static_cast<size_t>(targets[at])]);
      double divergence = 0;
      std::vector<double> sums(static_cast<size_t>(dim));
      for (int64_t j = 0; j < keys; ++j) {
        const auto key = static_cast<size_t>(j);
        const double q = std::exp(z[key] - lse), p = std::exp(y[key] - teacherLse);
        divergence += p * (y[key] - teacherLse - z[key] + lse);
        const double g = studentWeight * q - teacherWeight * p;
        for (int64_t d = 0; d < dim; ++d) {
          sums[static_cast<size_t>(d)] += g * unit[static_cast<size_t>(j * dim + d)];
          keySums[static_cast<size_t>(j * dim + d)] +=
              g * static_cast<double>(student[static_cast<size_t>(i * dim + d)]);
        }
      }
      if (taught) errors.take(actual.divergence[at], divergence);
      for (int64_t d = 0; d < dim; ++d)
        sumErrors.take(static_cast<double>(actual.sums[static_cast<size_t>(i * dim + d)]),
                       sums[static_cast<size_t>(d)]);
    }
    CHECK(errors.most < bound);
    CHECK(sumErrors.most < bound);
    std::vector<bool> named(static_cast<size_t>(stored));
    for (int64_t j = 0; j < keys && withKeySums; ++j) {
      named[static_cast<size_t>(indices[static_cast<size_t>(j)])] = true;
      const float* row = actual.keySums.data() + indices[static_cast<size_t>(j)] * dim;
      for (int64_t d = 0; d < dim; ++d)
        keyErrors.take(static_cast<double>(row[d]), keySums[static_cast<size_t>(j * dim + d)]);
    }
    CHECK(keyErrors.most < bound);
    for (int64_t j = 0; j < stored; ++j) {
      for (int64_t d = 0; d < dim && !named[static_cast<size_t>(j)]; ++d)
        CHECK(actual.keySums[static_cast<size_t>(j * dim + d)] == -3.0f);
    }
  }
}

inline void loss(Backend& backend, int64_t batch, int64_t dim, int64_t teacherDim, int64_t clusters,
                 bool sampled, Pairing pairing, int threads) {
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
  CHECK_OK(clusterInstanceLoss(backend, context, args, &result));

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
    CHECK_OK(clusterInstanceLoss(backend, context, args, &other));
    return other.total;
  };
  const double measured = (total(kStep) - total(-kStep)) / (2 * static_cast<double>(kStep));
  CHECK(std::fabs(measured - slope) < 2e-2 * (1 + std::fabs(slope)));

  image[static_cast<size_t>(batch * dim - 1)] = std::numeric_limits<float>::quiet_NaN();
  args.image = image.data();
  const Status status = clusterInstanceLoss(backend, context, args, &result);
  CHECK(status.code == Code::kInvalidData);
}

}  // namespace clipcid::test

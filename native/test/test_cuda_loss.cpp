// The loss of the GPU's back end on the emulated device: halves and products of them, strips and parts of sums, the softmax
// primitives against float64 with the bounds that the CPU's are held to, and the whole loss against the CPU's. The bits do not
// depend on when and in which order anything runs.
#include <algorithm>
#include <random>

#include "cuda/halves.cuh"
#include "cuda/mainloops.h"
#include "cuda/memory.h"
#include "cuda/softmax_sweep.h"
#include "emulated.h"
#include "emulator/queue.h"
#include "loss_checks.h"

using namespace clipcid;
using namespace clipcid::test;
using cuda::softmaxLimits;

namespace {

// Limits as long as the object lives.
class Limited {
 public:
  explicit Limited(const cuda::SoftmaxLimits& limits) : before_(softmaxLimits()) { softmaxLimits() = limits; }
  ~Limited() { softmaxLimits() = before_; }

 private:
  const cuda::SoftmaxLimits before_;
};

double halfOf(const cuda::Words4& words, int at) {
  const uint32_t all[4] = {words.x, words.y, words.z, words.w};
  return static_cast<double>(cuda::widenHalf(static_cast<uint16_t>(all[at / 2] >> 16 * (at % 2))));
}

// An element is within 2^-22 of itself, and within 2^-39 of the largest: half the last place of what 2^14 to 2^15 stands for.
void halves() {
  for (const double largest : {1e-30, 0.3, 1.0, 7.0, 3e30}) {
    const float scale = cuda::halvesScale(largest);
    CHECK(std::exp2(std::round(std::log2(scale))) == static_cast<double>(scale));
    CHECK(largest * static_cast<double>(scale) >= 0x1p14 && largest * static_cast<double>(scale) < 0x1p15);
  }
  CHECK(cuda::halvesScale(0) == 1 && cuda::halvesScale(INFINITY) == 1);
  std::mt19937 random(9);
  std::uniform_real_distribution<double> size(-40, 0), sign(-1, 1);
  const double scale = static_cast<double>(cuda::halvesScale(1));
  for (int turn = 0; turn < 20000; ++turn) {
    float x[8];
    for (float& value : x) value = static_cast<float>(std::exp2(size(random)) * sign(random) * scale);
    const auto element = [&](int k) { return x[k]; };
    const cuda::Words4 high = cuda::eightHalves(false, element), low = cuda::eightHalves(true, element);
    for (int k = 0; k < 8; ++k) {
      const auto exact = static_cast<double>(x[k]);
      const double off = std::fabs(exact - halfOf(high, k) - halfOf(low, k));
      CHECK(off <= std::fmax(0x1p-22 * std::fabs(exact), 0x1p-25));
    }
  }
}

// Plans of calls that no test could run: what is cut up covers everything, fits the budget, and does not grow with queries times
// keys.
void plans() {
  constexpr int64_t kGigabyte = int64_t{1} << 30;
  for (const int64_t queries : {1, 63, 64, 1024, 32'768, 1'000'000}) {
    for (const int64_t keys : {1, 65, 20'000, 1'000'000, 50'000'000}) {
      for (const int64_t dim : {1, 64, 512, 1024}) {
        for (const int64_t budget : {kGigabyte / 64, kGigabyte, 80 * kGigabyte, 1000 * kGigabyte}) {
          for (const int what : {0, 1, 2}) {
            const bool all = what > 0;
            cuda::SoftmaxShape shape;
            shape.queries = queries;
            shape.keys = keys;
            shape.dim = dim;
            shape.sides = all ? 2 : 1;
            shape.sums = true;
            shape.keySums = shape.byKey = all;
            shape.chunked = what == 2;
            shape.queryMatrices = shape.sides;
            shape.keyTransposes = 1;
            shape.queryTransposes = all ? 1 : 0;
            cuda::SoftmaxPlan plan;
            const Status status = cuda::planSoftmax(shape, 132, budget, 0, &plan);
            const int64_t resident = shape.chunked ? std::min<int64_t>(keys, 2112) : keys;
            if (!status.ok()) {
              CHECK(status.code == Code::kOutOfMemory &&
                    8 * (queries + resident) * (dim + 64) * 4 + 8 * keys > budget / 4);
              continue;
            }
            CHECK(plan.bytes <= budget);
            CHECK(plan.stripRows >= 64 && plan.stripRows % 64 == 0 && plan.stripRows < queries + 64);
            CHECK(plan.partKeys % cuda::kHalvesDepth == 0 && plan.chunkKeys % plan.partKeys == 0);
            CHECK(plan.partKeys <= 2112 || plan.partKeys < keys / 15);
            CHECK(plan.chunkKeys < keys + plan.partKeys);
            CHECK(shape.chunked || plan.chunkKeys >= keys);
            CHECK(plan.partsAtOnce >= 1 && plan.partsAtOnce * plan.partKeys <= plan.chunkKeys);
            // What is added up at a time, which is seen in the bits, is the same whatever room there is.
            cuda::SoftmaxPlan other;
            CHECK_OK(cuda::planSoftmax(shape, 7, 2 * budget, 0, &other));
            CHECK(other.partKeys == plan.partKeys);
            // 64 rows of a strip there must be.
            const double linear = 4.0 * static_cast<double>(queries + keys) * static_cast<double>(dim + 64);
            CHECK(static_cast<double>(plan.bytes) < 8 * linear + 0.4e9 + 1400.0 * static_cast<double>(keys));
            // Logits of a strip are counted by the launches in 32 bits.
            CHECK((plan.stripRows + 127) / 128 * ((plan.chunkKeys + 127) / 128) < INT32_MAX);
          }
        }
      }
    }
  }
}

// Logits of hostile rows: very different sizes, products that cancel, sums of one sign, which tensor cores cut off on the same side
// each time.
void products(int64_t dim) {
  const int64_t queries = 5, keys = 140;
  std::mt19937 random(11);
  std::vector<float> q = draw(random, queries * dim), k = draw(random, keys * dim);
  for (int64_t d = 0; d < dim; ++d) {
    q[d] = std::fabs(q[d]);
    k[d] = std::fabs(k[d]);
    if (d % 2 == 1) q[dim + d] = -q[dim + d - 1];
    if (d % 2 == 1) k[dim + d] = k[dim + d - 1];
    q[2 * dim + d] *= 1e-6f;
  }
  std::vector<int32_t> targets(static_cast<size_t>(queries));
  std::vector<double> lse(static_cast<size_t>(queries)), found(static_cast<size_t>(queries));
  double worst = 0;
  for (int64_t j = 0; j < keys; j += 7) {
    std::fill(targets.begin(), targets.end(), static_cast<int32_t>(j));
    SoftmaxArgs args;
    SoftmaxArgs::Queries set;
    set.rows = {q.data(), queries, nullptr, nullptr, nullptr};
    set.targets = targets.data();
    set.lse = lse.data();
    set.targetLogit = found.data();
    args.queries = {set};
    args.keys = {k.data(), keys, nullptr, nullptr, nullptr};
    args.dim = dim;
    CHECK_OK(emulatedBackend().softmax(contextOf(1), args));
    for (int64_t i = 0; i < queries; ++i) {
      double sum = 0, summands = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const double term = static_cast<double>(q[i * dim + d]) * static_cast<double>(k[j * dim + d]);
        sum += term;
        summands += std::fabs(term);
      }
      worst = std::fmax(worst, std::fabs(found[static_cast<size_t>(i)] - sum) / (summands + 0x1p-30));
    }
  }
  // What is left out is below 2^-20.4 of the summands, and few elements are added up with truncation.
  CHECK(worst <= 0x1p-19);
}

// Sizes round the edges of tiles, warps' parts of them, and strips.
void primitives(Backend& backend) {
  primitive(backend, 1, 1, 1, 0.5, 1);
  primitive(backend, 33, 65, 17, 10, 2);
  primitive(backend, 129, 131, 65, 0.5, 1);
  contrast(backend, 1, 1, 5, true, true, 2);
  contrast(backend, 65, 20, 14, true, true, 2);
  contrast(backend, 130, 33, 100, true, false, 2);
  contrast(backend, 64, 64, 1, false, false, 2);
  distil(backend, {1, 1, 1, 20, true, false, true, false}, 2);
  distil(backend, {13, 33, 31, 20, true, false, false, false}, 2);
  distil(backend, {70, 129, 20, 10, false, true, true, false}, 2);
  distil(backend, {130, 257, 33, 50, true, false, true, true}, 2);
  distil(backend, {5, 60, 260, 20, true, true, true, false}, 2);
  loss(backend, 1, 1, 1, 1, false, Pairing::kBoth, 2);
  loss(backend, 13, 7, 9, 150, true, Pairing::kSame, 2);
}

struct Outcome {
  std::vector<double> numbers;
  std::vector<float> image, text, imageProjection, textProjection, centroids;

  bool operator==(const Outcome&) const = default;
};

struct LossCase {
  int64_t batch, dim, teacherDim, clusters;
  bool projected, sampled, cached, learned;
  double temperature, logScale;
  Pairing pairing;
};

// The loss on a device; `resident`: of matrices that are there, which get their gradients there.
Outcome lossOf(Backend& backend, const LossCase& what, int64_t maxDeviceMemory = 0, bool resident = false) {
  const auto [batch, dim, teacherDim, clusters, projected, sampled, cached, learned, temperature, logScale,
              pairing] = what;
  std::mt19937 random(12);
  const std::vector<float> image = draw(random, batch * dim), centroids = draw(random, clusters * teacherDim),
                           first = draw(random, dim * teacherDim), second = draw(random, dim * teacherDim),
                           entropies = draw(random, batch);
  std::vector<float> text = draw(random, batch * dim), teacherImage = draw(random, batch * teacherDim),
                     teacherText = draw(random, batch * teacherDim);
  for (size_t at = 0; at < text.size(); ++at) text[at] += image[at];
  std::vector<int32_t> labels, sample;
  for (int64_t j = 0; j < clusters; j += 3) sample.push_back(static_cast<int32_t>(j));
  for (int64_t i = 0; i < batch; ++i) labels.push_back(sample[static_cast<size_t>(i * 5) % sample.size()]);
  for (int64_t i = 0; i < batch; ++i) {
    for (int64_t k = 0; k < teacherDim; ++k) {
      float& value = teacherImage[i * teacherDim + k];
      value += centroids[labels[static_cast<size_t>(i)] * teacherDim + k];
      teacherText[i * teacherDim + k] += value;
    }
  }
  LossArgs args;
  args.batch = batch;
  args.dim = dim;
  args.image = image.data();
  args.text = text.data();
  args.clipWeight = 0.7;
  args.clipLogScale = logScale;
  args.teacherDim = teacherDim;
  args.teacherImage = teacherImage.data();
  args.teacherText = teacherText.data();
  if (projected) {
    args.imageProjection = first.data();
    args.textProjection = second.data();
  }
  args.ceWeight = 0.9;
  args.klWeight = 1.3;
  args.temperature = temperature;
  args.teacherTemperature = temperature * 0.8;
  args.centroids = centroids.data();
  args.clusters = clusters;
  args.labels = labels.data();
  if (sampled) {
    args.sample = sample.data();
    args.sampleCount = static_cast<int64_t>(sample.size());
  }
  if (cached) {
    args.softCentroids = teacherImage.data();
    args.entropies = entropies.data();
  }
  args.learned = learned;
  args.instanceWeight = 1.1;
  args.instanceLogScale = logScale;
  args.pairing = pairing;
  Outcome out;
  const auto room = [](std::vector<float>* values, int64_t count) {
    values->assign(static_cast<size_t>(count), 7.0f);
    return values->data();
  };
  LossResult result;
  result.image = room(&out.image, batch * dim);
  result.text = room(&out.text, batch * dim);
  result.imageProjection = room(&out.imageProjection, dim * teacherDim);
  result.textProjection = room(&out.textProjection, dim * teacherDim);
  result.centroids = room(&out.centroids, clusters * teacherDim);
  Context context = contextOf(2);
  context.maxDeviceMemory = maxDeviceMemory;
  std::vector<std::shared_ptr<DeviceMatrix>> matrices;
  const auto put = [&](const float* data, int64_t rows, int64_t width) {
    matrices.emplace_back();
    CHECK_OK(backend.upload(context, Rows(floatView(data, rows, width)), &matrices.back()));
    return matrices.back().get();
  };
  struct Placed {
    LossGradient* gradient;
    std::vector<float>* values;
    int64_t rows, width;
  };
  std::vector<Placed> placed;
  if (resident) {
    args.image = put(image.data(), batch, dim);
    args.text = put(text.data(), batch, dim);
    args.teacherText = put(teacherText.data(), batch, teacherDim);
    args.centroids = put(centroids.data(), clusters, teacherDim);
    placed = {{&result.image, &out.image, batch, dim}, {&result.text, &out.text, batch, dim}};
    if (learned) placed.push_back({&result.centroids, &out.centroids, clusters, teacherDim});
    if (projected) {
      args.imageProjection = put(first.data(), dim, teacherDim);
      placed.push_back({&result.imageProjection, &out.imageProjection, dim, teacherDim});
    }
    for (const Placed& one : placed) *one.gradient = put(one.values->data(), one.rows, one.width);
  }
  CHECK_OK(clusterInstanceLoss(backend, context, args, &result));
  for (const Placed& one : placed)
    CHECK_OK(backend.download(context, *one.gradient->device, one.values->data()));
  out.numbers = {result.total,    result.clip,         result.clusterCe,       result.clusterKl,
                 result.instance, result.clipLogScale, result.instanceLogScale};
  return out;
}

void close(const std::vector<float>& found, const std::vector<float>& wanted, double summand) {
  double off = 0, size = summand;
  for (size_t at = 0; at < wanted.size(); ++at) {
    off = std::fmax(off, std::fabs(static_cast<double>(found[at]) - static_cast<double>(wanted[at])));
    size = std::fmax(size, std::fabs(static_cast<double>(wanted[at])));
  }
  CHECK(off <= 2e-5 * size);
}

// The bounds of the conformance suite.
void losses(const LossCase& what) {
  const Outcome wanted = lossOf(cpuBackend(), what), found = lossOf(emulatedBackend(), what);
  const double summand = 1 / (what.temperature * static_cast<double>(what.batch));
  const double scale = std::fmax(1.0, std::fmax(std::exp(what.logScale) / 20, 0.05 / what.temperature));
  for (size_t at = 0; at < wanted.numbers.size(); ++at)
    CHECK(std::fabs(found.numbers[at] - wanted.numbers[at]) <=
          scale * (2e-5 + 1.2e-4 / std::sqrt(static_cast<double>(what.batch))));
  close(found.image, wanted.image, summand);
  close(found.text, wanted.text, summand);
  close(found.imageProjection, wanted.imageProjection, summand);
  close(found.textProjection, wanted.textProjection, summand);
  close(found.centroids, wanted.centroids, summand);
}

const LossCase kPlain = {40, 24, 36, 150, true, false, false, true, 0.1, 2, Pairing::kBoth};

// Whatever runs when, and however many queries and keys go by at a time.
void sameBits() {
  std::vector<Outcome> outcomes;
  inAllWays(
      [&] {
        for (const int64_t stripBytes : {int64_t{1}, int64_t{1} << 28}) {
          const Limited limited({.stripBytes = stripBytes, .pieceBytes = 1, .parts = 2});
          outcomes.push_back(lossOf(emulatedBackend(), kPlain));
        }
      },
      {0, 5});
  for (const Outcome& outcome : outcomes) CHECK(outcome == outcomes[0]);
}

// Centres in chunks, on a device that has no more memory than they are given: learned or not, of a sample or all, with the teacher's
// pass or without.
void chunks() {
  struct Tight {
    LossCase what;
    std::vector<int64_t> kilobytes;
  };
  const Tight cases[] = {
      {{140, 24, 36, 3000, true, false, false, true, 0.1, 2, Pairing::kSame}, {4000, 3000, 2300}},
      {{40, 33, 33, 9000, false, true, false, true, 0.05, 3, Pairing::kSame}, {3000, 2000, 1700}},
      {{40, 33, 33, 3000, false, false, true, false, 0.05, 3, Pairing::kCross}, {2000, 1500, 1200}}};
  for (const auto& [what, kilobytes] : cases) {
    const Outcome whole = lossOf(emulatedBackend(), what);
    const int64_t keys = what.sampled ? what.clusters / 3 : what.clusters;
    cuda::SoftmaxShape shape;
    shape.queries = what.batch;
    shape.keys = keys;
    shape.dim = what.teacherDim;
    shape.sides = shape.queryMatrices = what.cached ? 1 : 2;
    shape.sums = shape.chunked = true;
    shape.keySums = what.learned;
    shape.keyTransposes = 1;
    shape.queryTransposes = what.learned ? 1 : 0;
    int runs = 0;
    for (const int64_t each : kilobytes) {
      const int64_t memory = 1000 * each;
      cuda::SoftmaxPlan plan;
      CHECK_OK(cuda::planSoftmax(shape, 3, memory, 0, &plan));
      runs += plan.chunkKeys < keys ? 1 : 0;
      const emulator::Options before = emulator::options();
      emulator::options().devices[0].memory = static_cast<size_t>(memory);
      CHECK(lossOf(emulatedBackend(), what, memory) == whole);
      emulator::options() = before;
    }
    CHECK(runs > 1);
  }
  // Of the primitive, against float64.
  const emulator::Options before = emulator::options();
  emulator::options().devices[0].memory = size_t{2} << 20;
  distil(emulatedBackend(), {70, 1500, 33, 50, true, false, true, true}, 2);
  distil(emulatedBackend(), {70, 1500, 33, 20, false, true, true, false}, 2);
  emulator::options() = before;
}

// Matrices that are on the device take no part of the way to the host and back; the bits are the same.
void resident() {
  for (const bool projected : {false, true}) {
    for (const bool sampled : {false, true}) {
      const LossCase what = {20,  21, projected ? 34 : 21, 90, projected, sampled, false, true,
                             0.1, 2,  Pairing::kBoth};
      for (Backend* backend : {&cpuBackend(), &emulatedBackend()})
        CHECK(lossOf(*backend, what) == lossOf(*backend, what, 0, true));
    }
  }
  const LossCase cached = {20, 24, 24, 90, false, false, true, false, 0.1, 2, Pairing::kSame};
  CHECK(lossOf(emulatedBackend(), cached) == lossOf(emulatedBackend(), cached, 0, true));
}

// Rows that cannot be normalised are told of by the first of them, in the order in which the CPU looks at them.
void faults() {
  constexpr int64_t kBatch = 6, kDim = 5, kClusters = 9;
  struct Broken {
    int matrix;
    int64_t row;
    float value;
    const char* message;
  };
  for (const auto& [matrix, row, value, message] :
       {Broken{0, 3, 0, "Row 3 of image is"}, Broken{1, 5, INFINITY, "Row 5 of text is"},
        Broken{2, 1, NAN, "Row 1 of teacherImage is"}, Broken{3, 8, 0, "Row 8 of centroids is"}}) {
    std::mt19937 random(13);
    std::vector<float> rows[4];
    for (std::vector<float>& one : rows) one = draw(random, kClusters * kDim);
    // Two of them, and one in a matrix that is looked at later.
    for (const int64_t at : {row, int64_t{kClusters} - 1})
      std::fill_n(rows[matrix].begin() + at * kDim, kDim, value);
    std::fill_n(rows[3].begin() + 8 * kDim, kDim, 0.0f);
    std::vector<int32_t> labels(kBatch), sample = {0, 2, 5, 8};
    std::vector<float> dImage(kBatch * kDim), dText(kBatch * kDim);
    LossArgs args;
    args.batch = kBatch;
    args.dim = args.teacherDim = kDim;
    args.image = rows[0].data();
    args.text = rows[1].data();
    args.teacherImage = rows[2].data();
    args.centroids = rows[3].data();
    args.clusters = kClusters;
    args.labels = labels.data();
    args.sample = sample.data();
    args.sampleCount = 4;
    args.clipWeight = args.ceWeight = args.klWeight = 1;
    LossResult result;
    result.image = dImage.data();
    result.text = dText.data();
    for (Backend* backend : {&cpuBackend(), &emulatedBackend()}) {
      const Status status = clusterInstanceLoss(*backend, contextOf(2), args, &result);
      CHECK(status.code == Code::kInvalidData && status.message.find(message) == 0);
    }
  }
}

// The mainloop of 9.0 makes the same products as that of 8.0: on the emulated device all bits are the same.
void hopper() {
  Backend& backend = emulatedBackend(1);
  Status status;
  CHECK(cuda::mainloopOf(*cuda::Device::get(1, &status)) == cuda::Mainloop::kSm90);
  const cuda::Mainloop before = cuda::mostMainloop();
  for (const int64_t parts : {0, 3}) {
    const Limited limited({.stripBytes = parts == 0 ? int64_t{1} << 28 : 1, .parts = parts});
    Outcome outcomes[2];
    for (const cuda::Mainloop most : {cuda::Mainloop::kSm80, cuda::Mainloop::kSm90}) {
      cuda::mostMainloop() = most;
      const size_t maps = emulator::tensorMaps();
      outcomes[most == cuda::Mainloop::kSm90] = lossOf(backend, kPlain);
      CHECK((emulator::tensorMaps() > maps) == (most == cuda::Mainloop::kSm90));
    }
    CHECK(outcomes[0] == outcomes[1]);
  }
  primitive(backend, 129, 131, 65, 0.5, 1);
  distil(backend, {130, 257, 33, 50, true, false, true, true}, 2);
  {
    // Sums over queries whose strip begins behind the first.
    const Limited limited({.stripBytes = 1});
    distil(backend, {200, 131, 40, 30, true, false, true, false}, 2);
    contrast(backend, 200, 33, 10, true, true, 2);
  }
  cuda::mostMainloop() = before;
}

// Too little memory is told before work starts, with what is needed; an abort ends it.
void troubles() {
  const auto run = [](const Context& context) {
    const std::vector<float> rows(static_cast<size_t>(200 * 40), 0.1f);
    std::vector<float> dx(rows.size());
    double value = 0, gradient = 0;
    ContrastArgs args;
    args.x = args.y = rows.data();
    args.rows = 200;
    args.dim = 40;
    args.dx = dx.data();
    args.value = &value;
    args.logScaleGradient = &gradient;
    return emulatedBackend().contrast(context, args);
  };
  Context context = contextOf(2);
  context.maxDeviceMemory = 100'000;
  const Status full = run(context);
  CHECK(full.code == Code::kOutOfMemory &&
        full.message.find("200 rows over 200 keys of width 40") != std::string::npos &&
        full.message.find("maxDeviceMemory") != std::string::npos);
  context.maxDeviceMemory = 0;
  int32_t cancel = 1;
  context.cancel = &cancel;
  CHECK(run(context).code == Code::kAborted);
  cancel = 0;
  CHECK_OK(run(context));
  const emulator::Options before = emulator::options();
  emulator::options().devices[0].memory = 100 << 10;
  CHECK(run(contextOf(1)).code == Code::kOutOfMemory);
  emulator::options() = before;
  CHECK(emulator::bytesInUse(0) == 0);
  SoftmaxArgs nothing;
  CHECK(emulatedBackend().softmax(contextOf(1), nothing).code == Code::kInvalidArgument);
  SoftmaxGradientArgs gradient;
  CHECK(emulatedBackend().softmaxGradient(contextOf(1), gradient).code == Code::kInvalidArgument);
  CHECK(emulatedBackend().contrast(contextOf(1), {}).code == Code::kInvalidArgument);
  CHECK(emulatedBackend().distil(contextOf(1), {}).code == Code::kInvalidArgument);
}

}  // namespace

int main() {
  const emulator::Options before = emulator::options();
  emulator::options().devices = {emulator::deviceOf(80), emulator::deviceOf(90)};
  halves();
  plans();
  for (const Rounding rounding : {Rounding::kExact, Rounding::kTruncated}) {
    emulator::options().rounding = rounding;
    for (const int64_t dim : {1, 15, 64, 200, 1000}) products(dim);
    primitives(emulatedBackend());
  }
  {
    // Strips of 64 rows, sums in parts, rows in pieces.
    const Limited limited({.stripBytes = 1, .pieceBytes = 1, .parts = 3});
    primitives(emulatedBackend());
    losses(kPlain);
  }
  losses(kPlain);
  losses({150, 33, 33, 300, false, true, false, true, 0.05, 3, Pairing::kSame});
  losses({30, 20, 20, 200, false, false, true, false, 0.02, 4.6, Pairing::kCross});
  losses({3, 700, 700, 5, false, false, false, true, 0.1, 2, Pairing::kSame});
  sameBits();
  chunks();
  resident();
  faults();
  hopper();
  troubles();
  emulator::options() = before;
  return report("cuda loss");
}

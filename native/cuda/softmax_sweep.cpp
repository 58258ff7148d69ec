#include "cuda/softmax_sweep.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cuda/rows.h"

namespace clipcid::cuda {
namespace {

constexpr double kLog2e = 1.4426950408889634;
int64_t divideUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t roundUp(int64_t value, int64_t unit) { return divideUp(value, unit) * unit; }

// Largest |element| of rows as compared, that the host has.
double largestOf(const Context& context, const SoftmaxSide& side, int64_t dim) {
  constexpr int64_t kRows = 64;
  const int64_t tasks = divideUp(side.count, kRows);
  std::vector<double> most(static_cast<size_t>(tasks));
  parallelFor(context.threads, tasks, [&](int64_t task, int) {
    double& largest = most[static_cast<size_t>(task)];
    const int64_t end = std::min(side.count, (task + 1) * kRows);
    for (int64_t i = task * kRows; i < end; ++i) {
      const float* row = side.data + (side.indices != nullptr ? side.indices[i] : i) * dim;
      float ofRow = 0;
      for (int64_t k = 0; k < dim; ++k) ofRow = std::max(ofRow, std::fabs(row[k]));
      const double norm = side.norms != nullptr ? side.norms[i] : 1;
      largest = std::max(largest, static_cast<double>(ofRow) / norm);
    }
  });
  return most.empty() ? 0 : *std::max_element(most.begin(), most.end());
}

// Both are powers of two.
float unscaleOf(float a, float b) {
  return static_cast<float>(1 / (static_cast<double>(a) * static_cast<double>(b)));
}

}  // namespace

Status SoftmaxSweep::begin() {
  CLIPCID_TRY(session_.begin());
  int64_t budget = 0;
  CLIPCID_TRY(deviceBudget(context_, &budget));
  CLIPCID_TRY(planSoftmax(shape_, device_.properties.multiprocessors, budget, &plan_));
  for (OwnedEvent& event : done_) CLIPCID_TRY(event.create());
  return {};
}

// Rows [begin, begin + count) of a side as they are, outStride() apart: of pieces of at most `most`.
Status SoftmaxSweep::bringPiece(const SoftmaxSide& side, int64_t begin, int64_t count, int64_t most,
                                const float** out) {
  const int64_t stride = outStride();
  const float* resident = nullptr;
  if (side.device != nullptr) {
    const auto& matrix = static_cast<const CudaMatrix&>(*side.device);
    if (matrix.dtype != Dtype::kFloat32 || matrix.stride != stride)
      return {Code::kInternal, "Rows on the device are of another type or width"};
    resident = reinterpret_cast<const float*>(matrix.data.get());
    if (side.indices == nullptr) {
      *out = resident + begin * stride;
      return {};
    }
  }
  CLIPCID_TRY(piece_.atLeast(most * stride, stream()));
  *out = piece_.get();
  if (resident != nullptr) {
    CLIPCID_TRY(indices_.atLeast(most, stream()));
    CLIPCID_TRY(copyToDevice(indices_.get(), side.indices + begin, static_cast<size_t>(count) * 4, stream()));
    return gatherFloats(device_, stream(), resident, stride, indices_.get(), count, piece_.get());
  }
  if (side.indices == nullptr) {
    const HostRows rows(Rows(floatView(side.data, side.count, shape_.dim)));
    return uploader_.rows(rows, begin, count, reinterpret_cast<char*>(piece_.get()), stream());
  }
  const auto [first, last] = std::minmax_element(side.indices + begin, side.indices + begin + count);
  const HostRows rows(Rows(floatView(side.data + *first * shape_.dim, *last - *first + 1, shape_.dim)));
  return uploader_.listed(
      rows, [&](int64_t at) { return side.indices[begin + at] - *first; }, count, piece_.get(), stream());
}

Status SoftmaxSweep::bring(const SoftmaxSide& side, const Wanted& wanted, Side* out) {
  const int64_t dim = shape_.dim, stride = outStride();
  out->count = side.count;
  // Rows of a device, which the host cannot look at, are taken over their norms.
  if (side.device != nullptr && side.measured == nullptr && side.norms == nullptr)
    return {Code::kInternal, "Rows on the device have no norms"};
  const bool unit = wanted.unit || side.measured != nullptr || side.device != nullptr;
  out->scale = halvesScale(unit ? 1 : largestOf(context_, side, dim));
  if (wanted.rows) CLIPCID_TRY(out->rows.allocate(side.count, dim, stream()));
  if (wanted.columns) {
    CLIPCID_TRY(out->columns.allocate(dim, std::max(side.count, wanted.depth), stream()));
    CLIPCID_TRY(fillBytes(out->columns.words.get(), 0, out->columns.words.bytes(), stream()));
  }
  double* norms = nullptr;
  if (side.measured != nullptr || side.norms != nullptr) {
    measured_.emplace_back();
    CLIPCID_TRY(measured_.back().first.allocate(side.count, stream()));
    norms = measured_.back().first.get();
    measured_.back().second = side.measured;
  }
  if (side.measured == nullptr && side.norms != nullptr)
    CLIPCID_TRY(copyToDevice(norms, side.norms, static_cast<size_t>(side.count) * 8, stream()));
  const int64_t most =
      std::clamp<int64_t>(softmaxLimits().pieceBytes / (4 * stride) / kHalvesDepth * kHalvesDepth,
                          kHalvesDepth, roundUp(side.count, kHalvesDepth));
  for (int64_t begin = 0; begin < side.count; begin += most) {
    const int64_t count = std::min(most, side.count - begin);
    const float* piece = nullptr;
    CLIPCID_TRY(bringPiece(side, begin, count, most, &piece));
    if (side.measured != nullptr) {
      DeviceRows view;
      view.data = piece;
      view.stride = stride;
      view.dim = dim;
      view.count = count;
      CLIPCID_TRY(normsOfRows(device_, stream(), view, norms + begin));
    }
    EncodeHalvesArgs args;
    args.data = piece;
    args.stride = stride;
    args.dim = dim;
    args.count = count;
    if (norms != nullptr) args.norms = norms + begin;
    args.scale = out->scale;
    if (wanted.rows) args.rows = {out->rows.view().row(begin), out->rows.depth};
    if (wanted.columns) args.columns = out->columns.view();
    args.from = begin;
    CLIPCID_TRY(encodeHalves(device_, stream(), args));
  }
  return {};
}

Status SoftmaxSweep::eachStrip(int64_t queries, const std::function<Status(int64_t, int64_t)>& body) {
  int turn = 0;
  bool used[2] = {false, false};
  for (int64_t begin = 0; begin < queries; begin += plan_.stripRows, turn ^= 1) {
    if (used[turn]) CLIPCID_TRY(synchronise(done_[turn].get()));
    if (context_.cancelled()) return Status::aborted();
    CLIPCID_TRY(body(begin, std::min(plan_.stripRows, queries - begin)));
    CLIPCID_TRY(record(done_[turn].get(), stream()));
    used[turn] = true;
  }
  return {};
}

Status SoftmaxSweep::Sums::allocate(int64_t count, Stream stream) {
  CLIPCID_TRY(maxima.allocate(count, stream));
  CLIPCID_TRY(factors.allocate(count, stream));
  return sums.allocate(count, stream);
}

Status SoftmaxSweep::logits(int which, int64_t begin, int64_t count, const LogitsOf& what) {
  const Side& queries = *what.queries;
  const Side& keys = *what.keys;
  LogitsParams params;
  params.unscale = unscaleOf(queries.scale, keys.scale);
  params.scale = static_cast<float>(what.scale * kLog2e);
  if (what.stored) {
    CLIPCID_TRY(logits_[which].atLeast(plan_.stripRows * plan_.keyDepth, stream()));
    params.logits = logits_[which].get();
    params.logitsStride = plan_.keyDepth;
  }
  const auto queryParts = static_cast<int32_t>(divideUp(keys.count, kPartKeys));
  const auto keyParts = static_cast<int32_t>(divideUp(count, kPartQueries));
  if (what.byQuery != nullptr) {
    CLIPCID_TRY(queryParts_.atLeast(plan_.stripRows * queryParts, stream()));
    params.queryParts = queryParts_.get();
  }
  if (what.byKey != nullptr) {
    CLIPCID_TRY(keyParts_.atLeast(divideUp(plan_.stripRows, kPartQueries) * keys.count, stream()));
    params.keyParts = keyParts_.get();
  }
  params.keys = static_cast<int32_t>(keys.count);
  if (what.targets != nullptr) {
    params.targets = what.targets + begin;
    params.targetLogits = what.targetLogits + begin;
  }
  const HalvesView strip = {queries.rows.view().row(begin), queries.rows.depth};
  CLIPCID_TRY(makeLogits(device_, stream(), strip, count, keys.rows.view(), keys.count, params));
  if (what.byQuery != nullptr)
    CLIPCID_TRY(mergeQueryParts(device_, stream(), queryParts_.get(), count, queryParts,
                                static_cast<float>(what.queryWeight), what.byQuery->at(begin)));
  if (what.byKey != nullptr)
    CLIPCID_TRY(mergeKeyParts(device_, stream(), keyParts_.get(), keyParts, keys.count, begin == 0,
                              static_cast<float>(what.keyWeight), what.byKey->at(0)));
  return {};
}

Status SoftmaxSweep::weigh(int64_t begin, int64_t count, const Weights& what) {
  WeighParams params = what.params;
  const auto shift = [begin](WeighParams::Side* side) {
    if (side->factors == nullptr) return;
    side->maxima += begin;
    side->factors += begin;
  };
  params.queries = static_cast<int32_t>(count);
  params.keys = static_cast<int32_t>(shape_.keys);
  params.stride = plan_.keyDepth;
  params.first.logits = logits_[0].get();
  if (shape_.sides > 1) params.second.logits = logits_[1].get();
  shift(&params.first);
  shift(&params.second);
  if (params.targets != nullptr) params.targets += begin;
  weightScale_ = halvesScale(what.most);
  params.scale = weightScale_;
  if (shape_.sums) params.rows = {reinterpret_cast<char*>(logits_[0].get()), plan_.keyDepth};
  if (shape_.keySums) {
    CLIPCID_TRY(weightColumns_.allocate(shape_.keys, plan_.stripRows, stream()));
    params.columns = weightColumns_.view();
  }
  const int64_t tiles = divideUp(shape_.keys, kHalvesDepth);
  if (what.querySums != nullptr) {
    CLIPCID_TRY(querySums_.atLeast(plan_.stripRows * tiles, stream()));
    params.querySums = querySums_.get();
  }
  CLIPCID_TRY(weighLogits(device_, stream(), params));
  if (what.querySums == nullptr) return {};
  return addQuerySums(device_, stream(), querySums_.get(), count, tiles, what.querySums + begin);
}

Status SoftmaxSweep::sumOverKeys(int64_t begin, int64_t count, const Side& values, double factor,
                                 float* out) {
  if (plan_.parts > 1) CLIPCID_TRY(partial_.atLeast(plan_.parts * plan_.stripRows * outStride(), stream()));
  ValueSumsArgs args;
  args.weights = {reinterpret_cast<char*>(logits_[0].get()), plan_.keyDepth};
  args.count = count;
  args.values = values.columns.view();
  args.dim = shape_.dim;
  args.depth = plan_.keyDepth;
  args.parts = plan_.parts;
  args.unscale = unscaleOf(weightScale_, values.scale);
  args.factor = static_cast<float>(factor);
  args.out = out + begin * outStride();
  args.outStride = outStride();
  args.partial = partial_.get();
  return sumValues(device_, stream(), args);
}

Status SoftmaxSweep::sumOverQueries(int64_t begin, int64_t count, const Side& values, double factor,
                                    float* out) {
  ValueSumsArgs args;
  args.weights = weightColumns_.view();
  args.count = shape_.keys;
  args.values = values.columns.view();
  args.values0 = begin;
  args.dim = shape_.dim;
  args.depth = halvesDepth(count);
  args.unscale = unscaleOf(weightScale_, values.scale);
  args.factor = static_cast<float>(factor);
  args.add = begin > 0;
  args.out = out;
  args.outStride = outStride();
  return sumValues(device_, stream(), args);
}

Status SoftmaxSweep::downloadRows(const float* from, int64_t count, const int32_t* indices, bool add,
                                  float* to) {
  const int64_t dim = shape_.dim;
  if (indices == nullptr && !add)
    return copyRowsToHost(to, static_cast<size_t>(dim) * 4, from, static_cast<size_t>(outStride()) * 4,
                          static_cast<size_t>(dim) * 4, static_cast<size_t>(count), stream());
  constexpr int64_t kRows = 32;
  std::vector<float> rows(static_cast<size_t>(count * dim));
  CLIPCID_TRY(downloadRows(from, count, nullptr, false, rows.data()));
  CLIPCID_TRY(session_.synchronise());
  parallelFor(context_.threads, divideUp(count, kRows), [&](int64_t task, int) {
    const int64_t end = std::min(count, (task + 1) * kRows);
    for (int64_t i = task * kRows; i < end; ++i) {
      const float* row = rows.data() + i * dim;
      float* target = to + (indices != nullptr ? indices[i] : i) * dim;
      for (int64_t k = 0; k < dim; ++k) target[k] = add ? target[k] + row[k] : row[k];
    }
  });
  return {};
}

Status SoftmaxSweep::finish() {
  for (const auto& [norms, to] : measured_) {
    if (to != nullptr) CLIPCID_TRY(copyToHost(to, norms.get(), norms.bytes(), stream()));
  }
  return session_.synchronise();
}

}  // namespace clipcid::cuda

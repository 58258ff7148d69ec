#include "cuda/softmax_sweep.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cuda/rows.h"

namespace clipcid::cuda {
namespace {

// Largest |element| of rows as compared, that the host has.
double largestOf(const Context& context, const PassRows& side, int64_t dim) {
  constexpr int64_t kRows = 64;
  const int64_t tasks = divideUp(side.count, kRows);
  std::vector<double> most(static_cast<size_t>(tasks));
  parallelFor(context.threads, tasks, [&](int64_t task, int) {
    double& largest = most[static_cast<size_t>(task)];
    const int64_t end = std::min(side.count, (task + 1) * kRows);
    for (int64_t i = task * kRows; i < end; ++i) {
      const float* row = side.host + (side.indices != nullptr ? side.indices[i] : i) * dim;
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

Status passRows(const SoftmaxSide& side, PassRows* out) {
  out->count = side.count;
  out->indices = side.indices;
  out->measure = side.measured != nullptr;
  out->measured = side.measured;
  if (!out->measure) out->norms = side.norms;
  out->unit = out->measure;
  out->host = side.data;
  if (side.device == nullptr) return {};
  const auto& matrix = static_cast<const CudaMatrix&>(*side.device);
  if (matrix.dtype != Dtype::kFloat32) return {Code::kInternal, "Rows on the device are not of float32"};
  // Such rows, which the host cannot look at, are taken over their norms.
  if (side.measured == nullptr && side.norms == nullptr)
    return {Code::kInternal, "Rows on the device have no norms"};
  out->unit = true;
  out->host = nullptr;
  out->resident = reinterpret_cast<const float*>(matrix.data.get());
  return {};
}

Status SoftmaxSweep::begin() {
  int64_t budget = budget_;
  if (budget == 0) CLIPCID_TRY(deviceBudget(context_, &budget));
  CLIPCID_TRY(planSoftmax(shape_, device_.properties.multiprocessors, budget, held_, &plan_));
  for (OwnedEvent& event : done_) CLIPCID_TRY(event.create());
  return {};
}

// Rows [begin, begin + count) as they are, outStride() apart: of pieces of at most `most`.
Status SoftmaxSweep::bringPiece(const PassRows& rows, int64_t begin, int64_t count, int64_t most,
                                const float** out) {
  const int64_t stride = outStride(), dim = shape_.dim;
  if (rows.resident != nullptr && rows.indices == nullptr) {
    *out = rows.resident + begin * stride;
    return {};
  }
  CLIPCID_TRY(piece_.atLeast(most * stride, stream()));
  *out = piece_.get();
  if (rows.resident != nullptr && rows.placed != nullptr)
    return gatherFloats(device_, stream(), rows.resident, stride, rows.placed + begin, count, piece_.get());
  if (rows.resident != nullptr) {
    CLIPCID_TRY(indices_.atLeast(most, stream()));
    CLIPCID_TRY(copyToDevice(indices_.get(), rows.indices + begin, static_cast<size_t>(count) * 4, stream()));
    return gatherFloats(device_, stream(), rows.resident, stride, indices_.get(), count, piece_.get());
  }
  if (rows.indices == nullptr) {
    const HostRows from(Rows(floatView(rows.host, rows.count, dim)));
    return uploader_.rows(from, begin, count, reinterpret_cast<char*>(piece_.get()), stream());
  }
  const auto [first, last] = std::minmax_element(rows.indices + begin, rows.indices + begin + count);
  const HostRows from(Rows(floatView(rows.host + *first * dim, *last - *first + 1, dim)));
  return uploader_.listed(
      from, [&](int64_t at) { return rows.indices[begin + at] - *first; }, count, piece_.get(), stream());
}

Status SoftmaxSweep::eachPiece(const PassRows& rows, int64_t first, int64_t count,
                               const std::function<Status(const float*, int64_t, int64_t)>& body) {
  const int64_t most =
      std::clamp<int64_t>(softmaxLimits().pieceBytes / (4 * outStride()) / kHalvesDepth * kHalvesDepth,
                          kHalvesDepth, roundUp(count, kHalvesDepth));
  for (int64_t begin = first; begin < first + count; begin += most) {
    const int64_t here = std::min(most, first + count - begin);
    const float* piece = nullptr;
    CLIPCID_TRY(bringPiece(rows, begin, here, most, &piece));
    CLIPCID_TRY(body(piece, begin, here));
  }
  return {};
}

Status SoftmaxSweep::prepare(const PassRows& rows, Side* out) {
  out->scale = halvesScale(rows.unit ? 1 : largestOf(context_, rows, shape_.dim));
  if (!rows.measure && rows.norms == nullptr) return {};
  CLIPCID_TRY(out->norms.allocate(rows.count, stream()));
  if (rows.measured != nullptr) measured_.emplace_back(out, rows.measured);
  return rows.measure ? Status() : copyToDevice(out->norms.get(), rows.norms, out->norms.bytes(), stream());
}

Status SoftmaxSweep::bringPart(const PassRows& rows, int64_t first, int64_t count, const Wanted& wanted,
                               bool measures, Side* out) {
  const int64_t dim = shape_.dim, stride = outStride();
  out->first = first;
  out->count = count;
  if (wanted.rows) CLIPCID_TRY(out->rows.allocate(count, dim, stream()));
  if (wanted.columns) {
    CLIPCID_TRY(out->columns.allocate(dim, std::max(count, wanted.depth), stream()));
    CLIPCID_TRY(fillBytes(out->columns.words.get(), 0, out->columns.words.bytes(), stream()));
  }
  return eachPiece(rows, first, count, [&](const float* piece, int64_t begin, int64_t here) -> Status {
    double* norms = out->norms.empty() ? nullptr : out->norms.get() + begin;
    if (rows.measure && measures) {
      DeviceRows view;
      view.data = piece;
      view.stride = stride;
      view.dim = dim;
      view.count = here;
      CLIPCID_TRY(normsOfRows(device_, stream(), view, norms));
    }
    EncodeHalvesArgs args;
    args.data = piece;
    args.stride = stride;
    args.dim = dim;
    args.count = here;
    args.norms = norms;
    args.scale = out->scale;
    if (wanted.rows) args.rows = {out->rows.view().row(begin - first), out->rows.depth};
    if (wanted.columns) args.columns = out->columns.view();
    args.from = begin - first;
    return encodeHalves(device_, stream(), args);
  });
}

Status SoftmaxSweep::bring(const PassRows& rows, const Wanted& wanted, Side* out) {
  CLIPCID_TRY(prepare(rows, out));
  return bringPart(rows, 0, rows.count, wanted, true, out);
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
  const bool first = keys.first == 0;
  LogitsParams params;
  params.unscale = unscaleOf(queries.scale, keys.scale);
  params.scale = static_cast<float>(what.scale * kLog2e);
  if (what.stored) {
    CLIPCID_TRY(logits_[which].atLeast(plan_.stripRows * plan_.chunkKeys, stream()));
    params.logits = logits_[which].get();
    params.logitsStride = plan_.chunkKeys;
  }
  const auto queryParts = static_cast<int32_t>(divideUp(keys.count, kPartKeys));
  const auto keyParts = static_cast<int32_t>(divideUp(count, kPartQueries));
  if (what.byQuery != nullptr) {
    CLIPCID_TRY(queryParts_.atLeast(plan_.stripRows * divideUp(plan_.chunkKeys, kPartKeys), stream()));
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
    params.firstKey = static_cast<int32_t>(keys.first);
  }
  const HalvesView strip = {queries.rows.view().row(begin), queries.rows.depth};
  CLIPCID_TRY(makeLogits(device_, stream(), strip, count, keys.rows.view(), keys.count, params));
  if (what.byQuery != nullptr)
    CLIPCID_TRY(mergeQueryParts(device_, stream(), queryParts_.get(), count, queryParts,
                                static_cast<int32_t>(plan_.partKeys / kPartKeys), first,
                                static_cast<float>(what.queryWeight), what.byQuery->at(begin)));
  if (what.byKey != nullptr)
    CLIPCID_TRY(mergeKeyParts(device_, stream(), keyParts_.get(), keyParts, keys.count, begin == 0,
                              static_cast<float>(what.keyWeight), what.byKey->at(0)));
  return {};
}

Status SoftmaxSweep::weigh(int64_t begin, int64_t count, const Side& keys, const Weights& what) {
  WeighParams params = what.params;
  const auto shift = [begin](WeighParams::Side* side) {
    if (side->factors == nullptr) return;
    side->maxima += begin;
    side->factors += begin;
  };
  params.queries = static_cast<int32_t>(count);
  params.keys = static_cast<int32_t>(keys.count);
  params.firstKey = static_cast<int32_t>(keys.first);
  params.stride = plan_.chunkKeys;
  params.first.logits = logits_[0].get();
  if (shape_.sides > 1) params.second.logits = logits_[1].get();
  shift(&params.first);
  shift(&params.second);
  if (params.targets != nullptr) params.targets += begin;
  weightScale_ = halvesScale(what.most);
  params.scale = weightScale_;
  if (shape_.sums) params.rows = {reinterpret_cast<char*>(logits_[0].get()), plan_.chunkKeys};
  if (shape_.keySums) {
    CLIPCID_TRY(weightColumns_.allocate(keys.count, plan_.stripRows, stream()));
    params.columns = weightColumns_.view();
  }
  const int64_t tiles = divideUp(keys.count, kHalvesDepth);
  if (what.querySums != nullptr) {
    CLIPCID_TRY(querySums_.atLeast(plan_.stripRows * (plan_.chunkKeys / kHalvesDepth), stream()));
    params.querySums = querySums_.get();
  }
  CLIPCID_TRY(weighLogits(device_, stream(), params));
  if (what.querySums == nullptr) return {};
  return addQuerySums(device_, stream(), querySums_.get(), count, tiles, plan_.partKeys / kHalvesDepth,
                      keys.first > 0, what.querySums + begin);
}

Status SoftmaxSweep::sumOverKeys(int64_t begin, int64_t count, const Side& values, double factor, bool add,
                                 float* out) {
  ValueSumsArgs args;
  args.partDepth = plan_.partKeys;
  args.parts = divideUp(values.count, plan_.partKeys);
  args.partsAtOnce = std::min(args.parts, plan_.partsAtOnce);
  if (args.partsAtOnce > 1)
    CLIPCID_TRY(partial_.atLeast(plan_.partsAtOnce * plan_.stripRows * outStride(), stream()));
  args.weights = {reinterpret_cast<char*>(logits_[0].get()), plan_.chunkKeys};
  args.count = count;
  args.values = values.columns.view();
  args.dim = shape_.dim;
  args.unscale = unscaleOf(weightScale_, values.scale);
  args.factor = static_cast<float>(factor);
  args.add = add || values.first > 0;
  args.out = out + begin * outStride();
  args.outStride = outStride();
  args.partial = partial_.get();
  return sumValues(device_, stream(), args);
}

Status SoftmaxSweep::sumOverQueries(int64_t begin, int64_t count, const Side& keys, const Side& values,
                                    double factor, float* out) {
  ValueSumsArgs args;
  args.weights = weightColumns_.view();
  args.count = keys.count;
  args.values = values.columns.view();
  args.values0 = begin;
  args.dim = shape_.dim;
  args.partDepth = halvesDepth(count);
  args.unscale = unscaleOf(weightScale_, values.scale);
  args.factor = begin + count < values.count ? 1 : static_cast<float>(factor);
  args.goOn = begin > 0;
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
  CLIPCID_TRY(synchronise(stream()));
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
  for (const auto& [side, to] : measured_)
    CLIPCID_TRY(copyToHost(to, side->norms.get(), side->norms.bytes(), stream()));
  return synchronise(stream());
}

}  // namespace clipcid::cuda

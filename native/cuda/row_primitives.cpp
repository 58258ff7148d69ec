// pairDots, gather, segmentSum and rowNorms: rows where they are on the device, or brought there in batches.
#include <algorithm>

#include "core/parallel.h"
#include "cuda/backend.h"
#include "cuda/prepared.h"
#include "cuda/rows.h"
#include "cuda/segment_sum.h"

namespace clipcid {

using namespace cuda;

namespace {

// Pairs, or rows, that are worked on at a time where their data comes from the host.
constexpr int64_t kMostPairs = int64_t{1} << 22;

// Rows that a list names, on the device: where they are, or gathered. `indexOf` is asked on the host.
class ListedRows {
 public:
  ListedRows(const Context& context, Session& session, const CudaPrepared& rows)
      : rows_(rows), session_(session), uploader_(context, session.device()) {}

  // The rows are in place, by their index in the matrix.
  bool inPlace() const { return rows_.resident(); }
  Status bring(const std::function<int64_t(int64_t)>& indexOf, int64_t count, DeviceRows* out) {
    if (inPlace()) {
      *out = rows_.all();
      return {};
    }
    CLIPCID_TRY(rows_.gather(session_, uploader_, indexOf, count, &gathered_));
    *out = gathered_.rows;
    return {};
  }

 private:
  const CudaPrepared& rows_;
  Session& session_;
  Uploader uploader_;
  CudaPrepared::Gathered gathered_;
};

Status pairDotsOf(Device& device, const Context& context, const PairDotsArgs& args) {
  const CudaPrepared& queries = cudaPrepared(args.queries);
  const CudaPrepared& keys = cudaPrepared(args.keys);
  Session session(&device);
  CLIPCID_TRY(session.begin());
  ListedRows first(context, session, queries), second(context, session, keys);
  int64_t most = kMostPairs;
  for (const CudaPrepared* side : {&queries, &keys}) {
    if (side->resident()) continue;
    int64_t fits = 0;
    CLIPCID_TRY(side->blockRows(context, 4 * deviceStride(Dtype::kFloat32, side->dim), &fits));
    most = std::min(most, fits);
  }
  Buffer<Pair> pairs;
  Buffer<double> dots;
  const int64_t batch = std::max<int64_t>(std::min(most, args.count), 1);
  CLIPCID_TRY(pairs.allocate(batch, session.stream()));
  CLIPCID_TRY(dots.allocate(batch, session.stream()));
  std::vector<Pair> places;
  for (int64_t from = 0; from < args.count; from += batch) {
    if (context.cancelled()) return Status::aborted();
    const int64_t here = std::min(batch, args.count - from);
    const Pair* listed = args.pairs + from;
    DeviceRows a, b;
    CLIPCID_TRY(first.bring([&](int64_t at) { return int64_t{listed[at].first}; }, here, &a));
    CLIPCID_TRY(second.bring([&](int64_t at) { return int64_t{listed[at].second}; }, here, &b));
    if (!first.inPlace() || !second.inPlace()) {
      // Gathered rows go by their place in the list.
      places.assign(listed, listed + here);
      for (int64_t at = 0; at < here; ++at) {
        Pair& pair = places[static_cast<size_t>(at)];
        if (!first.inPlace()) pair.first = static_cast<int32_t>(at);
        if (!second.inPlace()) pair.second = static_cast<int32_t>(at);
      }
      listed = places.data();
    }
    CLIPCID_TRY(
        copyToDevice(pairs.get(), listed, static_cast<size_t>(here) * sizeof(Pair), session.stream()));
    CLIPCID_TRY(dotsOfPairs(device, session.stream(), a, b, pairs.get(), here, dots.get()));
    CLIPCID_TRY(copyToHost(args.dots + from, dots.get(), static_cast<size_t>(here) * 8, session.stream()));
    CLIPCID_TRY(session.synchronise());
  }
  return {};
}

}  // namespace

Status cuda::gatherCompared(const Context& context, const CudaPrepared& rows, const int64_t* wanted,
                            int64_t count, float* to) {
  Device& device = rows.device();
  Session session(&device);
  CLIPCID_TRY(session.begin());
  ListedRows listed(context, session, rows);
  int64_t batch = 0;
  CLIPCID_TRY(rows.blockRows(context, 8 * deviceStride(Dtype::kFloat32, rows.dim), &batch));
  batch = std::clamp<int64_t>(batch, 1, std::max<int64_t>(count, 1));
  Buffer<float> out;
  Buffer<int64_t> indices;
  CLIPCID_TRY(out.allocate(batch * rows.dim, session.stream()));
  CLIPCID_TRY(indices.allocate(batch, session.stream()));
  for (int64_t from = 0; from < count; from += batch) {
    if (context.cancelled()) return Status::aborted();
    const int64_t here = std::min(batch, count - from);
    DeviceRows at;
    CLIPCID_TRY(listed.bring([&](int64_t place) { return wanted[from + place]; }, here, &at));
    const int64_t* places = nullptr;
    if (listed.inPlace()) {
      CLIPCID_TRY(
          copyToDevice(indices.get(), wanted + from, static_cast<size_t>(here) * 8, session.stream()));
      places = indices.get();
    }
    CLIPCID_TRY(comparedRows(device, session.stream(), at, places, here, rows.dim, out.get()));
    CLIPCID_TRY(copyToHost(to + from * rows.dim, out.get(), static_cast<size_t>(here * rows.dim) * 4,
                           session.stream()));
    CLIPCID_TRY(session.synchronise());
  }
  return {};
}

namespace {

// Copies an array of the host to a new buffer.
template <typename T>
Status copied(const T* from, int64_t count, Stream stream, Buffer<T>* out) {
  CLIPCID_TRY(out->allocate(std::max<int64_t>(count, 1), stream));
  return copyToDevice(out->get(), from, static_cast<size_t>(count) * sizeof(T), stream);
}

Status segmentSumOf(Device& device, const Context& context, const SegmentSumArgs& args) {
  const CudaPrepared& rows = cudaPrepared(args.rows);
  Session session(&device);
  CLIPCID_TRY(session.begin());
  const Stream stream = session.stream();
  const int64_t count = args.indices == nullptr ? rows.rows : args.count;
  const int64_t total = args.segmentCount * rows.dim;
  Buffer<int64_t> sums, indices;
  Buffer<int32_t> segments;
  Buffer<float> weights;
  if (args.mode == SegmentSumArgs::Mode::kOverwrite) {
    CLIPCID_TRY(sums.allocate(std::max<int64_t>(total, 1), stream));
    CLIPCID_TRY(fillBytes(sums.get(), 0, sums.bytes(), stream));
  } else {
    CLIPCID_TRY(copied(args.sums, total, stream, &sums));
  }
  CLIPCID_TRY(copied(args.segments, count, stream, &segments));
  if (args.weights != nullptr) CLIPCID_TRY(copied(args.weights, count, stream, &weights));

  SegmentSumKernelArgs work;
  work.scale = args.scale;
  work.sign = args.mode == SegmentSumArgs::Mode::kSubtract ? -1 : 1;
  work.segmentCount = args.segmentCount;
  work.sums = sums.get();
  // The rows [from, from + here) of the list, or of the matrix.
  const auto add = [&](const DeviceRows& at, const int64_t* places, int64_t from, int64_t here) {
    work.rows = at;
    work.indices = places;
    work.count = here;
    work.segments = segments.get() + from;
    work.weights = args.weights == nullptr ? nullptr : weights.get() + from;
    return addToSegments(device, stream, work);
  };
  if (args.indices == nullptr) {
    CLIPCID_TRY(rows.eachBlock(context, session, 0, count, [&](const DeviceRows& block, int64_t begin) {
      return add(block, nullptr, begin, block.count);
    }));
  } else if (rows.resident()) {
    CLIPCID_TRY(copied(args.indices, count, stream, &indices));
    CLIPCID_TRY(add(rows.all(), indices.get(), 0, count));
  } else {
    ListedRows listed(context, session, rows);
    int64_t batch = 0;
    CLIPCID_TRY(rows.blockRows(context, 4 * deviceStride(Dtype::kFloat32, rows.dim), &batch));
    for (int64_t from = 0; from < count; from += batch) {
      const int64_t here = std::min(batch, count - from);
      DeviceRows at;
      CLIPCID_TRY(listed.bring([&](int64_t place) { return args.indices[from + place]; }, here, &at));
      CLIPCID_TRY(add(at, nullptr, from, here));
      CLIPCID_TRY(session.synchronise());
    }
  }
  CLIPCID_TRY(copyToHost(args.sums, sums.get(), static_cast<size_t>(total) * 8, stream));
  return session.synchronise();
}

Status rowNormsOf(Device& device, const Context& context, const RowNormsArgs& args) {
  if (args.count == 0) return {};
  const CudaPrepared rows(device, {.rows = Rows(floatView(args.data, args.count, args.dim))});
  Session session(&device);
  CLIPCID_TRY(session.begin());
  Buffer<double> norms;
  CLIPCID_TRY(norms.allocate(args.count, session.stream()));
  CLIPCID_TRY(rows.eachBlock(context, session, 0, args.count, [&](const DeviceRows& block, int64_t begin) {
    return normsOfRows(device, session.stream(), block, norms.get() + begin);
  }));
  CLIPCID_TRY(copyToHost(args.norms, norms.get(), static_cast<size_t>(args.count) * 8, session.stream()));
  return session.synchronise();
}

}  // namespace

Status CudaBackend::pairDots(const Context& context, const PairDotsArgs& args) {
  return guarded([&] { return pairDotsOf(device_, context, args); });
}

Status CudaBackend::gather(const Context& context, const GatherArgs& args) {
  return guarded(
      [&] { return gatherCompared(context, cudaPrepared(args.rows), args.indices, args.count, args.out); });
}

Status CudaBackend::segmentSum(const Context& context, const SegmentSumArgs& args) {
  return guarded([&] { return segmentSumOf(device_, context, args); });
}

Status CudaBackend::rowNorms(const Context& context, const RowNormsArgs& args) {
  return guarded([&] { return rowNormsOf(device_, context, args); });
}

}  // namespace clipcid

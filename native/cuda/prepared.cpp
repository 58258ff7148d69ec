#include "cuda/prepared.h"

#include <algorithm>
#include <bit>

#include "cuda/rows.h"

namespace clipcid::cuda {
namespace {

// Of what a call may hold on the device: rows, with what they are encoded to, of each of two matrices; and a block of rows
// that are not resident.
constexpr double kResidentShare = 3.0 / 8, kBlockShare = 1.0 / 16;
// All of the rows encoded.
constexpr double kEncodedShare = 3.0 / 8;
// About what a row takes when it is encoded.
constexpr int64_t encodedBytes(int64_t dim) { return 2 * dim + 256; }

}  // namespace

CudaPrepared::CudaPrepared(Device& device, const PrepareArgs& args) : device_(device), offset_(args.begin) {
  if (args.rows.device) {
    matrix_ = std::static_pointer_cast<const CudaMatrix>(args.rows.device);
  } else {
    host_ = std::make_unique<HostRows>(args.rows);
  }
  rows = args.count < 0 ? args.rows.count() - offset_ : args.count;
  dim = args.rows.dim();
  unit = args.unit;
}

int64_t CudaPrepared::rowBytes() const {
  return matrix_ != nullptr ? matrix_->stride * static_cast<int64_t>(dtypeSize(matrix_->dtype))
                            : host_->rowBytes();
}

DeviceRows CudaPrepared::view(const void* data, Dtype dtype, int64_t begin, int64_t count) const {
  DeviceRows view;
  view.data = data;
  view.dtype = dtype;
  view.stride = deviceStride(dtype, dim);
  view.dim = dim;
  view.count = count;
  view.norms = norms_.get() == nullptr ? nullptr : norms_.get() + begin;
  view.unit = unit;
  return view;
}

DeviceRows CudaPrepared::part(int64_t begin, int64_t count) const {
  if (matrix_ != nullptr)
    return view(matrix_->data.get() + (offset_ + begin) * rowBytes(), matrix_->dtype, begin, count);
  return view(stored_.get() + begin * rowBytes(), host_->dtype, begin, count);
}

Status CudaPrepared::makeResident(const Context& context, Session& session) {
  if (matrix_ != nullptr) return {};
  int64_t budget = 0;
  CLIPCID_TRY(deviceBudget(context, &budget));
  const auto limit = static_cast<double>(budget) * kResidentShare;
  if (static_cast<double>(rows) * static_cast<double>(rowBytes() + encodedBytes(dim)) > limit) return {};
  const Status status = stored_.allocate(rows * rowBytes(), session.stream());
  // Others may have taken what was free; then the rows are copied when they are needed.
  if (status.code == Code::kOutOfMemory) return {};
  CLIPCID_TRY(status);
  Uploader uploader(context, device_);
  return uploader.rows(*host_, offset_, rows, stored_.get(), session.stream());
}

Status CudaPrepared::scan(const Context& context, bool squaresOfUnitRows) {
  Session session(&device_);
  CLIPCID_TRY(session.begin());
  const Stream stream = session.stream();
  const bool withSquares = !unit || squaresOfUnitRows;
  Buffer<double> squareBuffer;
  Buffer<ScanResult> result;
  CLIPCID_TRY(norms_.allocate(std::max<int64_t>(rows, 1), stream));
  CLIPCID_TRY(result.allocate(1, stream));
  CLIPCID_TRY(fillBytes(result.get(), 0, result.bytes(), stream));
  if (withSquares) CLIPCID_TRY(squareBuffer.allocate(std::max<int64_t>(rows, 1), stream));
  CLIPCID_TRY(makeResident(context, session));
  CLIPCID_TRY(eachBlock(context, session, 0, rows, [&](const DeviceRows& block, int64_t begin) {
    ScanArgs args;
    args.rows = block;
    args.norms = norms_.get() + begin;
    args.squares = withSquares ? squareBuffer.get() + begin : nullptr;
    args.result = result.get();
    return scanRows(device_, stream, args);
  }));
  ScanResult found = {};
  CLIPCID_TRY(copyToHost(&found, result.get(), sizeof found, stream));
  if (withSquares) {
    squares.resize(static_cast<size_t>(rows));
    CLIPCID_TRY(copyToHost(squares.data(), squareBuffer.get(), squares.size() * 8, stream));
  }
  CLIPCID_TRY(session.synchronise());
  largest = unit ? 1 : static_cast<double>(std::bit_cast<float>(found.largest));
  if (found.faults > 0 || !resident()) {
    hostNorms_.resize(static_cast<size_t>(rows));
    CLIPCID_TRY(copyToHost(hostNorms_.data(), norms_.get(), hostNorms_.size() * 8, stream));
    CLIPCID_TRY(session.synchronise());
    for (int64_t i = 0; i < rows && found.faults > 0; ++i) {
      if (hostNorms_[static_cast<size_t>(i)] < 0) faults.push_back(i);
    }
    if (resident()) hostNorms_ = {};
  }
  norms_.freeOn(device_.home());
  stored_.freeOn(device_.home());
  return {};
}

Status CudaPrepared::blockRows(const Context& context, int64_t bytesOfRow, int64_t* out) const {
  int64_t budget = 0;
  CLIPCID_TRY(deviceBudget(context, &budget));
  *out = std::max<int64_t>(static_cast<int64_t>(static_cast<double>(budget) * kBlockShare) / bytesOfRow, 1);
  return {};
}

Status CudaPrepared::eachBlock(const Context& context, Session& session, int64_t begin, int64_t count,
                               const Visit& visit) const {
  if (count == 0) return {};
  if (resident()) return visit(part(begin, count), begin);
  int64_t together = 0;
  CLIPCID_TRY(blockRows(context, rowBytes(), &together));
  together = std::min(together, count);
  // While a block is worked on, the next one is on its way, on a stream of its own.
  Session copies(&device_);
  CLIPCID_TRY(copies.begin());
  Buffer<char> blocks[2];
  OwnedEvent copied[2], worked[2];
  for (int turn = 0; turn < 2; ++turn) {
    CLIPCID_TRY(blocks[turn].allocate(together * rowBytes(), copies.stream()));
    CLIPCID_TRY(copied[turn].create());
    CLIPCID_TRY(worked[turn].create());
  }
  Uploader uploader(context, device_);
  const auto load = [&](int64_t from, int turn) -> Status {
    CLIPCID_TRY(uploader.rows(*host_, offset_ + from, std::min(together, begin + count - from),
                              blocks[turn].get(), copies.stream()));
    return record(copied[turn].get(), copies.stream());
  };
  CLIPCID_TRY(load(begin, 0));
  int turn = 0;
  for (int64_t from = begin; from < begin + count; from += together, turn ^= 1) {
    CLIPCID_TRY(waitFor(session.stream(), copied[turn].get()));
    const int64_t here = std::min(together, begin + count - from);
    CLIPCID_TRY(visit(view(blocks[turn].get(), host_->dtype, from, here), from));
    CLIPCID_TRY(record(worked[turn].get(), session.stream()));
    if (from + here >= begin + count) continue;
    // What the block before was worked on with must be over.
    if (from > begin) CLIPCID_TRY(waitFor(copies.stream(), worked[turn ^ 1].get()));
    CLIPCID_TRY(load(from + here, turn ^ 1));
  }
  // The blocks are given back in the order of their stream.
  CLIPCID_TRY(waitFor(copies.stream(), worked[turn ^ 1].get()));
  return {};
}

bool CudaPrepared::hasEncoded(const Encoding& encoding) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kept_ && keptAs_ == encoding;
}

Status CudaPrepared::encoded(const Context& context, Session& session, const Encoding& encoding,
                             std::shared_ptr<const EncodedRows>* out) const {
  *out = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (kept_ && keptAs_ == encoding) {
      *out = kept_;
      return {};
    }
    kept_ = nullptr;
  }
  int64_t budget = 0;
  CLIPCID_TRY(deviceBudget(context, &budget));
  const int64_t bytes = rows * EncodedRows::rowBytes(encodedStride(encoding.math, dim));
  if (static_cast<double>(bytes) > static_cast<double>(budget) * kEncodedShare) return {};
  auto made = std::make_shared<EncodedRows>();
  const Status status = encodeRows(device_, session.stream(), all(), encoding, made.get());
  if (status.code == Code::kOutOfMemory) return {};
  CLIPCID_TRY(status);
  CLIPCID_TRY(session.synchronise());
  made->freeOn(device_.home());
  *out = made;
  const std::lock_guard<std::mutex> lock(mutex_);
  keptAs_ = encoding;
  kept_ = std::move(made);
  return {};
}

Status CudaPrepared::gather(Session& session, Uploader& uploader,
                            const std::function<int64_t(int64_t)>& indexOf, int64_t count,
                            Gathered* out) const {
  const int64_t stride = deviceStride(Dtype::kFloat32, dim);
  CLIPCID_TRY(out->data.atLeast(count * stride, session.stream()));
  CLIPCID_TRY(out->norms.atLeast(count, session.stream()));
  std::vector<double> norms(static_cast<size_t>(count));
  for (int64_t at = 0; at < count; ++at)
    norms[static_cast<size_t>(at)] = hostNorms_[static_cast<size_t>(indexOf(at))];
  CLIPCID_TRY(copyToDevice(out->norms.get(), norms.data(), norms.size() * 8, session.stream()));
  CLIPCID_TRY(uploader.listed(
      *host_, [&](int64_t at) { return offset_ + indexOf(at); }, count, out->data.get(), session.stream()));
  out->rows = view(out->data.get(), Dtype::kFloat32, 0, count);
  out->rows.norms = out->norms.get();
  return {};
}

}  // namespace clipcid::cuda

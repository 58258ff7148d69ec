#include "cuda/upload.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"

namespace clipcid::cuda {
namespace {

// Rows that a thread fills at a time, in bytes.
constexpr int64_t kRangeBytes = int64_t{256} << 10;

bool agreeOnDtype(const Rows& rows) {
  for (const Chunk& chunk : rows.chunks) {
    if (chunk.dtype() != rows.chunks.front().dtype()) return false;
  }
  return true;
}

}  // namespace

HostRows::HostRows(const Rows& rows)
    : dtype(agreeOnDtype(rows) ? rows.chunks.front().dtype() : Dtype::kFloat32),
      dim(rows.dim()),
      reader_(rows),
      uniform_(agreeOnDtype(rows)) {}

Status HostRows::read(int64_t begin, int64_t count, char* out) const {
  const int64_t stride = deviceStride(dtype, dim);
  // read() fills up its rows with zeros, readStored() does not.
  if (!uniform_) return reader_.read(begin, count, reinterpret_cast<float*>(out), stride);
  const auto each = static_cast<int64_t>(dtypeSize(dtype));
  CLIPCID_TRY(reader_.readStored(begin, count, out, static_cast<size_t>(stride * each)));
  for (int64_t r = 0; r < count && stride > dim; ++r)
    memset(out + (r * stride + dim) * each, 0, static_cast<size_t>((stride - dim) * each));
  return {};
}

Uploader::~Uploader() {
  for (Turn& turn : turns_) {
    if (turn.used) (void)synchronise(turn.copied.get());
    if (turn.memory.get() != nullptr) device_.returnStaging(std::move(turn.memory));
  }
}

Status Uploader::inTurns(int64_t count, int64_t rowBytes, char* to, Stream stream, const Fill& fill) {
  const int64_t together = static_cast<int64_t>(stagingBytes()) / rowBytes;
  if (together < 1) {
    // Rows of more than the pinned memory: as they come.
    std::vector<char> row(static_cast<size_t>(rowBytes));
    for (int64_t at = 0; at < count; ++at) {
      CLIPCID_TRY(fill(at, 1, row.data()));
      CLIPCID_TRY(copyToDevice(to + at * rowBytes, row.data(), row.size(), stream));
      CLIPCID_TRY(synchronise(stream));
    }
    return {};
  }
  for (int64_t from = 0; from < count; from += together) {
    if (context_.cancelled()) return Status::aborted();
    const int64_t here = std::min(together, count - from);
    Turn& turn = turns_[next_];
    next_ ^= 1;
    if (turn.used) {
      CLIPCID_TRY(synchronise(turn.copied.get()));
    } else {
      CLIPCID_TRY(device_.takeStaging(&turn.memory));
      CLIPCID_TRY(turn.copied.create());
    }
    const int64_t range = std::max<int64_t>(kRangeBytes / rowBytes, 1);
    CLIPCID_TRY(parallelTry(context_, (here + range - 1) / range, [&](int64_t task, int) -> Status {
      const int64_t first = task * range;
      return fill(from + first, std::min(range, here - first), turn.memory.get() + first * rowBytes);
    }));
    CLIPCID_TRY(
        copyToDevice(to + from * rowBytes, turn.memory.get(), static_cast<size_t>(here * rowBytes), stream));
    CLIPCID_TRY(record(turn.copied.get(), stream));
    turn.used = true;
  }
  return {};
}

Status Uploader::rows(const HostRows& rows, int64_t begin, int64_t count, char* to, Stream stream) {
  return inTurns(count, rows.rowBytes(), to, stream,
                 [&](int64_t from, int64_t here, char* out) { return rows.read(begin + from, here, out); });
}

Status Uploader::listed(const HostRows& rows, const std::function<int64_t(int64_t)>& indexOf, int64_t count,
                        float* to, Stream stream) {
  const int64_t stride = deviceStride(Dtype::kFloat32, rows.dim);
  return inTurns(
      count, stride * 4, reinterpret_cast<char*>(to), stream,
      [&](int64_t from, int64_t here, char* out) -> Status {
        for (int64_t r = 0; r < here; ++r)
          CLIPCID_TRY(rows.readOne(indexOf(from + r), reinterpret_cast<float*>(out) + r * stride, stride));
        return {};
      });
}

}  // namespace clipcid::cuda

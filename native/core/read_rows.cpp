#include "core/read_rows.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "clipcid/canonical.h"

namespace clipcid {
namespace {

void widen(const void* from, Dtype dtype, int64_t count, float* to) {
  const auto* bits = static_cast<const uint16_t*>(from);
  switch (dtype) {
    case Dtype::kFloat32:
      memcpy(to, from, static_cast<size_t>(count) * 4);
      break;
    case Dtype::kFloat16:
      for (int64_t i = 0; i < count; ++i) to[i] = widenFloat16(bits[i]);
      break;
    case Dtype::kBfloat16:
      for (int64_t i = 0; i < count; ++i) to[i] = widenBfloat16(bits[i]);
      break;
  }
}

class File {
 public:
  explicit File(const std::string& path)
      : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)), error_(errno) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  Status read(int64_t offset, void* out, size_t bytes) const {
    if (descriptor_ < 0) {
      const Code code = error_ == ENOENT || error_ == ENOTDIR ? Code::kFileNotFound : Code::kFileFormat;
      return {code, "Cannot open " + path_ + ": " + std::strerror(error_)};
    }
    auto* to = static_cast<char*>(out);
    while (bytes > 0) {
      const ssize_t got = pread(descriptor_, to, bytes, offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return {Code::kFileFormat, "Cannot read " + path_ + ": " + std::strerror(errno)};
      if (got == 0)
        return {Code::kFileFormat, path_ + " is shorter than its rows need: it ends before byte " +
                                       std::to_string(offset + static_cast<int64_t>(bytes))};
      to += got;
      offset += got;
      bytes -= static_cast<size_t>(got);
    }
    return {};
  }

 private:
  std::string path_;
  int descriptor_;
  int error_;
};

void spread(const void* from, Dtype dtype, int64_t strideFrom, int64_t count, int64_t dim, float* out,
            int64_t stride) {
  const auto* bytes = static_cast<const char*>(from);
  for (int64_t r = 0; r < count; ++r) {
    float* row = out + r * stride;
    widen(bytes + r * strideFrom * static_cast<int64_t>(dtypeSize(dtype)), dtype, dim, row);
    std::fill(row + dim, row + stride, 0.0f);
  }
}

Status readChunk(const Chunk& chunk, int64_t begin, int64_t count, float* out, int64_t stride) {
  const int64_t dim = chunk.dim();
  const auto size = static_cast<int64_t>(dtypeSize(chunk.dtype()));
  if (!chunk.inFile()) {
    const MatrixView& view = chunk.view;
    spread(static_cast<const char*>(view.data) + begin * view.stride * size, view.dtype, view.stride, count,
           dim, out, stride);
    return {};
  }
  const File file(chunk.file.path);
  // A part at a time, so that the raw bytes stay in cache until they are widened.
  const int64_t part = std::clamp<int64_t>((int64_t{1} << 18) / (dim * size), 1, std::max<int64_t>(count, 1));
  const AlignedArray<char> raw(part * dim * size);
  for (int64_t at = 0; at < count; at += part) {
    const int64_t rows = std::min(part, count - at);
    CLIPCID_TRY(file.read(chunk.file.offset + (begin + at) * dim * size, raw.get(),
                          static_cast<size_t>(rows * dim * size)));
    spread(raw.get(), chunk.file.dtype, dim, rows, dim, out + at * stride, stride);
  }
  return {};
}

}  // namespace

Status readRows(const Rows& rows, int64_t begin, int64_t count, float* out, int64_t stride) {
  if (rows.device) {
    const auto& matrix = static_cast<const CpuMatrix&>(*rows.device);
    const MatrixView view = {matrix.data.get(), matrix.dtype, matrix.rows, matrix.dim, matrix.dim};
    return readChunk({view, {}}, begin, count, out, stride);
  }
  for (const Chunk& chunk : rows.chunks) {
    if (begin >= chunk.rows()) {
      begin -= chunk.rows();
      continue;
    }
    const int64_t here = std::min(count, chunk.rows() - begin);
    CLIPCID_TRY(readChunk(chunk, begin, here, out, stride));
    out += here * stride;
    count -= here;
    begin = 0;
    if (count == 0) break;
  }
  return {};
}

Status copyRows(const Rows& rows, char* out) {
  for (const Chunk& chunk : rows.chunks) {
    const size_t rowBytes = static_cast<size_t>(chunk.dim()) * dtypeSize(chunk.dtype());
    const size_t bytes = static_cast<size_t>(chunk.rows()) * rowBytes;
    if (chunk.inFile()) {
      CLIPCID_TRY(File(chunk.file.path).read(chunk.file.offset, out, bytes));
    } else {
      const auto* from = static_cast<const char*>(chunk.view.data);
      const size_t stride = static_cast<size_t>(chunk.view.stride) * dtypeSize(chunk.view.dtype);
      for (int64_t r = 0; r < chunk.rows(); ++r) {
        memcpy(out + static_cast<size_t>(r) * rowBytes, from + static_cast<size_t>(r) * stride, rowBytes);
      }
    }
    out += bytes;
  }
  return {};
}

}  // namespace clipcid

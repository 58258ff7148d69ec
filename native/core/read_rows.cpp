#include "core/read_rows.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <string>

#include "clipcid/canonical.h"

namespace clipcid {

// A file that was opened for reading, or why it could not be.
class File {
 public:
  // No file when the path is empty.
  explicit File(const std::string& path)
      : path_(path),
        descriptor_(path.empty() ? -1 : open(path.c_str(), O_RDONLY | O_CLOEXEC)),
        error_(errno) {}
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

namespace {

// A reader keeps so many files open; a process may have about a thousand.
constexpr size_t kMostFiles = 128;

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

void spread(const void* from, Dtype dtype, int64_t strideFrom, int64_t count, int64_t dim, float* out,
            int64_t stride) {
  const auto* bytes = static_cast<const char*>(from);
  for (int64_t r = 0; r < count; ++r) {
    float* row = out + r * stride;
    widen(bytes + r * strideFrom * static_cast<int64_t>(dtypeSize(dtype)), dtype, dim, row);
    std::fill(row + dim, row + stride, 0.0f);
  }
}

Status readMemory(const MatrixView& view, int64_t begin, int64_t count, float* out, int64_t stride) {
  const auto size = static_cast<int64_t>(dtypeSize(view.dtype));
  spread(static_cast<const char*>(view.data) + begin * view.stride * size, view.dtype, view.stride, count,
         view.dim, out, stride);
  return {};
}

Status readFile(const FileView& view, const File& file, int64_t begin, int64_t count, float* out,
                int64_t stride) {
  const auto size = static_cast<int64_t>(dtypeSize(view.dtype));
  const int64_t rowBytes = view.dim * size;
  // As many bytes as the rows take: read in place, without a copy.
  if (view.dtype == Dtype::kFloat32 && stride == view.dim)
    return file.read(view.offset + begin * rowBytes, out, static_cast<size_t>(count * rowBytes));
  // A part at a time, so that the raw bytes stay in cache until they are widened.
  const int64_t part = std::clamp<int64_t>((int64_t{1} << 18) / rowBytes, 1, std::max<int64_t>(count, 1));
  const AlignedArray<char> raw(part * rowBytes);
  for (int64_t at = 0; at < count; at += part) {
    const int64_t rows = std::min(part, count - at);
    CLIPCID_TRY(
        file.read(view.offset + (begin + at) * rowBytes, raw.get(), static_cast<size_t>(rows * rowBytes)));
    spread(raw.get(), view.dtype, view.dim, rows, view.dim, out + at * stride, stride);
  }
  return {};
}

}  // namespace

MatrixView hostView(const DeviceMatrix& device) {
  const auto& matrix = static_cast<const CpuMatrix&>(device);
  return {matrix.data.get(), matrix.dtype, matrix.rows, matrix.dim, matrix.dim};
}

RowReader::RowReader(const Rows& rows) : rows_(rows) {
  if (rows.device) {
    rows_.chunks.assign(1, {hostView(*rows.device), {}});
  }
  std::map<std::string, std::shared_ptr<const File>> files;
  for (const Chunk& chunk : rows_.chunks) {
    if (chunk.inFile()) files.emplace(chunk.file.path, nullptr);
  }
  inMemory_ = files.empty();
  const bool keep = files.size() <= kMostFiles;
  int64_t begin = 0;
  for (const Chunk& chunk : rows_.chunks) {
    begins_.push_back(begin);
    begin += chunk.rows();
    if (!chunk.inFile() || !keep) {
      files_.push_back(nullptr);
      continue;
    }
    auto& file = files[chunk.file.path];
    if (!file) file = std::make_shared<const File>(chunk.file.path);
    files_.push_back(file);
  }
}

RowReader::~RowReader() = default;

size_t RowReader::chunkOf(int64_t row) const {
  // The last chunk that begins at or before the row: empty ones before it begin there too.
  return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), row) - begins_.begin()) - 1;
}

Status RowReader::read(int64_t begin, int64_t count, float* out, int64_t stride) const {
  if (count == 0) return {};
  for (size_t at = chunkOf(begin); count > 0; ++at) {
    const Chunk& chunk = rows_.chunks[at];
    const int64_t first = begin - begins_[at];
    const int64_t here = std::min(count, chunk.rows() - first);
    if (!chunk.inFile()) {
      CLIPCID_TRY(readMemory(chunk.view, first, here, out, stride));
    } else if (files_[at]) {
      CLIPCID_TRY(readFile(chunk.file, *files_[at], first, here, out, stride));
    } else {
      CLIPCID_TRY(readFile(chunk.file, File(chunk.file.path), first, here, out, stride));
    }
    out += here * stride;
    begin += here;
    count -= here;
  }
  return {};
}

Status RowReader::readStored(int64_t begin, int64_t count, char* out, size_t strideBytes) const {
  if (count == 0) return {};
  for (size_t at = chunkOf(begin); count > 0; ++at) {
    const Chunk& chunk = rows_.chunks[at];
    const int64_t first = begin - begins_[at];
    const int64_t here = std::min(count, chunk.rows() - first);
    const size_t rowBytes = static_cast<size_t>(chunk.dim()) * dtypeSize(chunk.dtype());
    if (!chunk.inFile()) {
      const auto* from = static_cast<const char*>(chunk.view.data);
      const size_t stride = static_cast<size_t>(chunk.view.stride) * dtypeSize(chunk.view.dtype);
      for (int64_t r = 0; r < here; ++r)
        memcpy(out + static_cast<size_t>(r) * strideBytes, from + static_cast<size_t>(first + r) * stride,
               rowBytes);
    } else {
      const File once(files_[at] ? std::string() : chunk.file.path);
      const File& file = files_[at] ? *files_[at] : once;
      const int64_t offset = chunk.file.offset + first * static_cast<int64_t>(rowBytes);
      if (strideBytes == rowBytes) {
        CLIPCID_TRY(file.read(offset, out, static_cast<size_t>(here) * rowBytes));
      } else {
        const AlignedArray<char> dense(here * static_cast<int64_t>(rowBytes));
        CLIPCID_TRY(file.read(offset, dense.get(), static_cast<size_t>(here) * rowBytes));
        for (int64_t r = 0; r < here; ++r)
          memcpy(out + static_cast<size_t>(r) * strideBytes, dense.get() + static_cast<size_t>(r) * rowBytes,
                 rowBytes);
      }
    }
    out += static_cast<size_t>(here) * strideBytes;
    begin += here;
    count -= here;
  }
  return {};
}

const float* RowReader::inPlace(int64_t begin, int64_t count, int64_t* stride) const {
  if (rows_.chunks.empty()) return nullptr;
  const size_t at = chunkOf(begin);
  const Chunk& chunk = rows_.chunks[at];
  const int64_t first = begin - begins_[at];
  if (chunk.inFile() || chunk.view.dtype != Dtype::kFloat32 || first + count > chunk.view.rows)
    return nullptr;
  *stride = chunk.view.stride;
  return chunk.view.floats() + first * chunk.view.stride;
}

Status readRows(const Rows& rows, int64_t begin, int64_t count, float* out, int64_t stride) {
  return RowReader(rows).read(begin, count, out, stride);
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

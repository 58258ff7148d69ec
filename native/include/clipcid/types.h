// What crosses the border of a back end: views of rows, the context of a call, its status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace clipcid {

// Element types of rows. The 16-bit ones are raw bits.
enum class Dtype : uint8_t { kFloat32, kFloat16, kBfloat16 };

constexpr size_t dtypeSize(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

// Precision of what a filter compares.
enum class Filter : uint8_t { kAuto, kFloat32, kBfloat16, kInt8 };

// Stable codes; the bindings turn them into the codes of CidError, kInvalidArgument into a RangeError.
enum class Code : uint8_t {
  kOk,
  kInvalidArgument,
  kInvalidData,
  kDeviceUnavailable,
  kOutOfMemory,
  kFileNotFound,
  kFileFormat,
  kAborted,
  kInternal,
};

struct [[nodiscard]] Status {
  Code code = Code::kOk;
  std::string message;

  Status() = default;
  Status(Code code, std::string message) : code(code), message(std::move(message)) {}
  bool ok() const { return code == Code::kOk; }

  static Status aborted() { return {Code::kAborted, "The operation was aborted"}; }
};

// Hands a failure on to the caller.
#define CLIPCID_TRY(expression)                     \
  do {                                              \
    ::clipcid::Status clipcidStatus = (expression); \
    if (!clipcidStatus.ok()) return clipcidStatus;  \
  } while (false)

// Rows in host memory, row-major; `stride` in elements, at least `dim`. Not owned.
struct MatrixView {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  int64_t rows = 0;
  int64_t dim = 0;
  int64_t stride = 0;

  const float* floats() const { return static_cast<const float*>(data); }
};

inline MatrixView floatView(const float* data, int64_t rows, int64_t dim) {
  return {data, Dtype::kFloat32, rows, dim, dim};
}

// Rows in a region of a file, row-major and dense, little-endian, from byte `offset` on; read by position.
struct FileView {
  std::string path;
  int64_t offset = 0;
  Dtype dtype = Dtype::kFloat32;
  int64_t rows = 0;
  int64_t dim = 0;
};

class Backend;

// A matrix that lives on a device. Opaque: only its back end knows what is behind it, and frees it when the
// last reference goes.
class DeviceMatrix {
 public:
  DeviceMatrix(const Backend* owner, Dtype dtype, int64_t rows, int64_t dim)
      : owner(owner), dtype(dtype), rows(rows), dim(dim) {}
  virtual ~DeviceMatrix() = default;
  DeviceMatrix(const DeviceMatrix&) = delete;
  DeviceMatrix& operator=(const DeviceMatrix&) = delete;
  size_t bytes() const { return static_cast<size_t>(rows) * static_cast<size_t>(dim) * dtypeSize(dtype); }

  const Backend* const owner;
  const Dtype dtype;
  const int64_t rows;
  const int64_t dim;
};

// An ordered run of rows: a view of memory, or a region of a file when `path` is not empty.
struct Chunk {
  MatrixView view;
  FileView file;

  bool inFile() const { return !file.path.empty(); }
  Dtype dtype() const { return inFile() ? file.dtype : view.dtype; }
  int64_t rows() const { return inFile() ? file.rows : view.rows; }
  int64_t dim() const { return inFile() ? file.dim : view.dim; }
};

// One logical matrix: chunks in order, or a device's matrix. Chunks have one width, but may differ in dtype.
struct Rows {
  std::vector<Chunk> chunks;
  std::shared_ptr<DeviceMatrix> device;

  Rows() = default;
  explicit Rows(const MatrixView& view) { chunks.push_back({view, {}}); }
  explicit Rows(std::shared_ptr<DeviceMatrix> matrix) : device(std::move(matrix)) {}

  int64_t count() const;
  int64_t dim() const;
};

// What every call takes. Work is ordered on `stream` (null: the back end's own); a back end may finish before
// it returns, and results on the host are valid after Backend::synchronise.
struct Context {
  int threads = 1;
  uint64_t seed = 0;
  // Bytes that the work may hold beyond what the caller handed in and gets out; 0: a back end's own measure.
  // A plan that fits is chosen; results do not depend on it.
  int64_t maxMemory = 0;
  // The same for the memory of a GPU, but for matrices that were uploaded.
  int64_t maxDeviceMemory = 0;
  // What the filter in front of the canonical decision compares, and how many coordinates of the rotated rows it
  // compares (0: all, -1: the planner's choice). A back end that lacks a filter takes the next better one.
  // Results do not depend on them.
  Filter filter = Filter::kAuto;
  int64_t prefix = -1;
  // The work stops soon after one of these becomes non-zero. They are read with atomic loads.
  const int32_t* cancel = nullptr;
  const int32_t* shutdown = nullptr;
  // Called from any of the working threads, one at a time, as often as the work likes; `done` never falls.
  std::function<void(double done, double total)> progress;
  void* stream = nullptr;

  bool cancelled() const {
    return (cancel != nullptr && __atomic_load_n(cancel, __ATOMIC_RELAXED) != 0) ||
           (shutdown != nullptr && __atomic_load_n(shutdown, __ATOMIC_RELAXED) != 0);
  }
};

}  // namespace clipcid

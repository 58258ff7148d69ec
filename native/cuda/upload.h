// Rows of the host to a device, and back.
#pragma once

#include "core/read_rows.h"
#include "cuda/device_rows.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// A GPU's matrix.
class CudaMatrix : public DeviceMatrix {
 public:
  CudaMatrix(const Backend* owner, Dtype dtype, int64_t rows, int64_t dim)
      : DeviceMatrix(owner, dtype, rows, dim), stride(deviceStride(dtype, dim)) {}

  const int64_t stride;
  Buffer<char> data;
};

// Rows of the host, with the dtype that they have on a device: their own where they agree on one, otherwise float32.
class HostRows {
 public:
  explicit HostRows(const Rows& rows);

  const Dtype dtype;
  const int64_t dim;
  // Rows [begin, begin + count) of that dtype, deviceStride apart, with zeros behind each.
  Status read(int64_t begin, int64_t count, char* out) const;
  // One row as float32, zeros up to `stride`.
  Status readOne(int64_t row, float* out, int64_t stride) const { return reader_.read(row, 1, out, stride); }
  int64_t rowBytes() const { return deviceStride(dtype, dim) * static_cast<int64_t>(dtypeSize(dtype)); }

 private:
  RowReader reader_;
  bool uniform_;
};

// Copies rows in turns through two pieces of pinned memory: while one is filled, by the context's threads, the other is on
// its way. Ends when all its copies have.
class Uploader {
 public:
  Uploader(const Context& context, Device& device) : context_(context), device_(device) {}
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  // Rows [begin, begin + count). Returns when all is queued on the stream.
  Status rows(const HostRows& rows, int64_t begin, int64_t count, char* to, Stream stream);
  // The rows indexOf(0) to indexOf(count - 1), float32.
  Status listed(const HostRows& rows, const std::function<int64_t(int64_t)>& indexOf, int64_t count,
                float* to, Stream stream);

 private:
  struct Turn {
    Pinned<char> memory;
    OwnedEvent copied;
    bool used = false;
  };
  using Fill = std::function<Status(int64_t from, int64_t count, char* out)>;

  Status inTurns(int64_t count, int64_t rowBytes, char* to, Stream stream, const Fill& fill);

  const Context& context_;
  Device& device_;
  Turn turns_[2];
  int next_ = 0;
};

}  // namespace clipcid::cuda

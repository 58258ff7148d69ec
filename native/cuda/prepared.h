// Rows made ready for a GPU: their norms on the device, and the rows themselves where there is room; otherwise they are
// copied there block by block whenever they are needed.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "clipcid/backend.h"
#include "cuda/encode.h"
#include "cuda/upload.h"

namespace clipcid::cuda {

class CudaPrepared final : public Prepared {
 public:
  CudaPrepared(Device& device, const PrepareArgs& args);

  // Norms, faults, the largest element and, where asked for, squares.
  Status scan(const Context& context, bool squaresOfUnitRows);

  Device& device() const { return device_; }
  // Whether all rows are on the device.
  bool resident() const { return matrix_ != nullptr || !stored_.empty(); }
  // Of resident rows: [begin, begin + count).
  DeviceRows part(int64_t begin, int64_t count) const;
  DeviceRows all() const { return part(0, rows); }
  // Bytes of a row on the device.
  int64_t rowBytes() const;

  // Calls visit(rows, begin) for blocks of rows on the device that make up [begin, begin + count): one when they are
  // resident. What it queues on the session's stream sees them; they are gone when the next block comes.
  using Visit = std::function<Status(const DeviceRows& rows, int64_t begin)>;
  Status eachBlock(const Context& context, Session& session, int64_t begin, int64_t count,
                   const Visit& visit) const;

  // The rows indexOf(0) .. indexOf(count - 1) on the device, in that order: `out`, with their norms, in the buffers. For rows that
  // are not resident.
  struct Gathered {
    Buffer<float> data;
    Buffer<double> norms;
    DeviceRows rows;
  };
  Status gather(Session& session, Uploader& uploader, const std::function<int64_t(int64_t)>& indexOf,
                int64_t count, Gathered* out) const;
  // Rows of a block that fits into a share of what the call may hold on the device.
  Status blockRows(const Context& context, int64_t bytesOfRow, int64_t* out) const;
  // Copies rows [begin, begin + count) of those that are not resident to `to`, rowBytes() apart.
  Status bring(Uploader& uploader, int64_t begin, int64_t count, char* to, Stream stream) const {
    return uploader.rows(*host_, offset_ + begin, count, to, stream);
  }
  // Rows [begin, begin + count) that were brought to `data`.
  DeviceRows brought(const char* data, int64_t begin, int64_t count) const {
    return view(data, host_->dtype, begin, count);
  }

  // All of resident rows encoded; kept for the next call with the same encoding, the last one only. `out` is null when
  // there is no room for them.
  Status encoded(const Context& context, Session& session, const Encoding& encoding,
                 std::shared_ptr<const EncodedRows>* out) const;
  bool hasEncoded(const Encoding& encoding) const;

 private:
  Status makeResident(const Context& context, Session& session);
  DeviceRows view(const void* data, Dtype dtype, int64_t begin, int64_t count) const;

  Device& device_;
  std::shared_ptr<const CudaMatrix> matrix_;  // of a device matrix
  std::unique_ptr<HostRows> host_;            // of others
  int64_t offset_;
  Buffer<char> stored_;
  Buffer<double> norms_;           // [rows]
  std::vector<double> hostNorms_;  // of rows that are not resident
  mutable std::mutex mutex_;
  mutable Encoding keptAs_;
  mutable std::shared_ptr<const EncodedRows> kept_;
};

// Listed rows as compared, [count, dim], to the host.
Status gatherCompared(const Context& context, const CudaPrepared& rows, const int64_t* wanted, int64_t count,
                      float* to);

inline const CudaPrepared& cudaPrepared(const Prepared* prepared) {
  return static_cast<const CudaPrepared&>(*prepared);
}

}  // namespace clipcid::cuda

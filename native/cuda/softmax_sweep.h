// What the softmax primitives have in common: rows on the device as halves, strips of queries with all keys, and the memory for them.
//
// Rows of the host are brought and encoded once a call, and stay. Queries then go by in strips: the logits of a strip with all
// keys, [strip, keys], are made, their log-sum-exps merged, and, where sums over values are wanted, turned into weights in place
// and multiplied with the values. How many queries a strip has is the plan's (softmax_plan.h); it is seen in the roundings of
// sums over queries.
//
// Everything is queued on one stream. The host waits for the strip before the last, to see whether it is to stop, and at the end.
#pragma once

#include <functional>

#include "clipcid/backend.h"
#include "cuda/softmax_kernels.h"
#include "cuda/softmax_plan.h"
#include "cuda/upload.h"

namespace clipcid::cuda {

class SoftmaxSweep {
 public:
  SoftmaxSweep(Device& device, const Context& context, const SoftmaxShape& shape)
      : device_(device), context_(context), shape_(shape), session_(&device), uploader_(context, device) {}

  // kOutOfMemory when the matrices and the smallest strip are more than the call may hold.
  Status begin();
  Stream stream() const { return session_.stream(); }
  // Elements from row to row of sums on the device.
  int64_t outStride() const { return deviceStride(Dtype::kFloat32, shape_.dim); }
  int64_t keyDepth() const { return plan_.keyDepth; }

  // A matrix on the device.
  struct Side {
    int64_t count = 0;
    float scale = 1;
    Halves rows, columns;
  };
  // Of the host's rows, their halves, or those of the transpose with a depth of at least `depth`, or both; `unit` when they are
  // known to be of norm 1. Norms that the side wants measured are there when `finish` returns.
  struct Wanted {
    bool rows = false, columns = false;
    int64_t depth = 0;
    bool unit = false;
  };
  Status bring(const SoftmaxSide& side, const Wanted& wanted, Side* out);

  // Calls body(first query, how many) for one strip of `queries` after the other.
  Status eachStrip(int64_t queries, const std::function<Status(int64_t begin, int64_t count)>& body);
  // How many strips there are.
  int64_t strips() const { return (shape_.queries + plan_.stripRows - 1) / plan_.stripRows; }

  // Log-sum-exps by query or by key, on the device.
  struct Sums {
    Buffer<float> maxima, factors;
    Buffer<double> sums;

    Status allocate(int64_t count, Stream stream);
    SoftmaxSums at(int64_t first) const {
      return {maxima.get() + first, sums.get() + first, factors.get() + first};
    }
  };
  // Logits of a strip of `queries` with all of `keys` as side 0 or 1, and what is wanted of them.
  struct LogitsOf {
    const Side* queries = nullptr;
    const Side* keys = nullptr;
    double scale = 1;
    bool stored = false;
    const Sums* byQuery = nullptr;  // [queries]
    double queryWeight = 0;
    const Sums* byKey = nullptr;  // [keys], over the strips so far
    double keyWeight = 0;
    const int32_t* targets = nullptr;  // [queries] on the device
    float* targetLogits = nullptr;     // [queries] on the device
  };
  Status logits(int which, int64_t begin, int64_t count, const LogitsOf& what);

  // Weights of a strip from its stored logits; see WeighParams, whose sizes, logits and places are filled in. The weights are at most
  // `most`.
  struct Weights {
    WeighParams params;
    double most = 1;
    double* querySums = nullptr;  // [queries] on the device, or null
  };
  Status weigh(int64_t begin, int64_t count, const Weights& what);
  // out[i] = factor sum_j g[i, j] values[j] of the strip's queries; `out` [queries, outStride()].
  Status sumOverKeys(int64_t begin, int64_t count, const Side& values, double factor, float* out);
  // out[j] += factor sum_i g[i, j] values[i] over the strip's queries; overwritten by the first strip. `out` [keys, outStride()].
  Status sumOverQueries(int64_t begin, int64_t count, const Side& values, double factor, float* out);

  // Host memory from the device, in the stream's order.
  template <typename T>
  Status download(const T* from, int64_t count, std::vector<T>* to) {
    to->resize(static_cast<size_t>(count));
    return copyToHost(to->data(), from, static_cast<size_t>(count) * sizeof(T), stream());
  }
  // Sums [count, outStride()] to dense rows of the host: in order, or row i to row indices[i]; or added to them.
  Status downloadRows(const float* from, int64_t count, const int32_t* indices, bool add, float* to);
  // Waits for all of it.
  Status finish();

 private:
  Status bringPiece(const SoftmaxSide& side, int64_t begin, int64_t count, int64_t most, const float** out);

  Device& device_;
  const Context& context_;
  const SoftmaxShape shape_;
  Session session_;
  Uploader uploader_;
  SoftmaxPlan plan_;
  float weightScale_ = 1;
  Buffer<float> logits_[2];
  Buffer<SoftmaxPart> queryParts_, keyParts_;
  Halves weightColumns_;
  Buffer<float> querySums_, partial_;
  // Of `bring`.
  Buffer<float> piece_;
  Buffer<int32_t> indices_;
  std::vector<std::pair<Buffer<double>, double*>> measured_;
  OwnedEvent done_[2];
};

// Values of the host on the device.
template <typename T>
Status bringValues(const std::vector<T>& values, Stream stream, Buffer<T>* out) {
  CLIPCID_TRY(out->allocate(static_cast<int64_t>(values.size()), stream));
  return copyToDevice(out->get(), values.data(), values.size() * sizeof(T), stream);
}

}  // namespace clipcid::cuda

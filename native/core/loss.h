// The three-part loss of a batch and its gradients, of steps on a device's memory (core/loss_steps.h): matrices that lie there
// are read, and gradients made, in place; those of the host are brought there once and back.
//
// Rows with a hat are normalised. x, y: student image and text, [B, Ds]; s, r: their projections, [B, Dt]; t,
// u: teacher image and text, [B, Dt]; c: the centres of the sample; e^a, e^b: the two learned scales.
//
//   clip       InfoNCE(x^, y^, e^a), the mean of both directions
//   cluster    CE_i = -log Q_i,label(i), KL_i = sum_j P_ij (log P_ij - log Q_ij), means over the batch, with
//              Q = softmax(s^ c^T / temperature) and P = softmax(t^ c^T / teacherTemperature), which takes no
//              gradient
//   instance   same: mean of InfoNCE(s^, t^, e^b) and InfoNCE(r^, u^, e^b); cross: mean of the row directions
//   alone of (s^, u^)
//              and (r^, t^); both: mean of these two
//
// With the soft centroid o_i = sum_j P_ij c^_j and the entropy H_i of P_i, KL_i = lse_i - s^_i . o_i /
// temperature - H_i, so that a teacher's o and H can be kept for as long as the centres stay. The gradient in
// s^_i is (sum_j Q_ij c^_j - o_i) / temperature.
//
// Memory beyond inputs and outputs is O((B + |sample|) Dt): the logits of some rows with all centres, or with
// the whole batch, as many as fit about a quarter of the inputs, or Context::maxMemory. How many these are is
// seen in the roundings of the gradients that are sums over the batch. Results do not depend on the number of
// threads as far as the back end's primitives do not.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

enum class Pairing : uint8_t { kSame, kCross, kBoth };

// A matrix that the loss takes: the host's, dense, or one of float32 on its device, which is read where it lies.
struct LossMatrix {
  const float* data = nullptr;
  const DeviceMatrix* device = nullptr;

  LossMatrix() = default;
  LossMatrix(const float* data) : data(data) {}               // NOLINT: as good as its data
  LossMatrix(const DeviceMatrix* device) : device(device) {}  // NOLINT
  explicit operator bool() const { return data != nullptr || device != nullptr; }
};

// Where it puts a gradient: the same.
struct LossGradient {
  float* data = nullptr;
  DeviceMatrix* device = nullptr;

  LossGradient() = default;
  LossGradient(float* data) : data(data) {}               // NOLINT
  LossGradient(DeviceMatrix* device) : device(device) {}  // NOLINT
  explicit operator bool() const { return data != nullptr || device != nullptr; }
};

struct LossArgs {
  int64_t batch = 0;
  int64_t dim = 0;
  LossMatrix image;  // [B, Ds]
  LossMatrix text;   // [B, Ds]

  // A weight of 0 leaves the term, and all that it alone needs, out.
  double clipWeight = 0;
  double clipLogScale = 0;

  int64_t teacherDim = 0;
  LossMatrix teacherImage;     // [B, Dt]
  LossMatrix teacherText;      // [B, Dt]
  LossMatrix imageProjection;  // [Ds, Dt], or null for the identity: then Ds = Dt
  LossMatrix textProjection;

  double ceWeight = 0;
  double klWeight = 0;
  double temperature = 1;
  double teacherTemperature = 1;
  LossMatrix centroids;  // [K, Dt]
  int64_t clusters = 0;
  const int32_t* labels = nullptr;  // [B]; not needed when ceWeight is 0
  const int32_t* sample = nullptr;  // ascending centres of this step, or null for all
  int64_t sampleCount = 0;
  const float* softCentroids =
      nullptr;  // [B, Dt] with entropies [B], instead of the teacher's pass; then all centres, not learned
  const float* entropies = nullptr;
  bool learned = false;

  double instanceWeight = 0;
  double instanceLogScale = 0;
  Pairing pairing = Pairing::kSame;

  bool useCluster() const { return ceWeight > 0 || klWeight > 0; }
  bool useInstance() const { return instanceWeight > 0; }
};

// Terms are unweighted; gradients are those of the total. Buffers are the caller's and overwritten.
struct LossResult {
  double total = 0, clip = 0, clusterCe = 0, clusterKl = 0, instance = 0;
  double clipLogScale = 0, instanceLogScale = 0;
  LossGradient image;            // [B, Ds]
  LossGradient text;             // [B, Ds]
  LossGradient imageProjection;  // [Ds, Dt], when there is a projection
  LossGradient textProjection;
  LossGradient centroids;  // [K, Dt], when learned
};

class LossSteps;

// kInvalidArgument for lengths and indices that would lead outside a buffer, kInvalidData for rows that
// cannot be normalised.
Status clusterInstanceLoss(LossSteps& steps, const LossArgs& args, LossResult* result);
// With steps of the back end's own.
Status clusterInstanceLoss(Backend& backend, const Context& context, const LossArgs& args,
                           LossResult* result);

}  // namespace clipcid

// The steps that the loss is made of, on the memory of a device: every pointer is to it, unless its comment says otherwise.
//
// They are done in the order in which they are asked for, and may be queued: what a step makes for the host, numbers and matrices,
// is there, and a row that cannot be normalised is told of, when `finish` returns. A matrix has the rows, elements apart, that the
// device likes best; so only steps look into one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/loss.h"
#include "core/loss_rows.h"

namespace clipcid {

class LossSteps {
 public:
  virtual ~LossSteps() = default;

  // Whose matrices on a device these steps take.
  virtual const Backend* owner() const = 0;

  // [rows, dim], where it lies on the device, or brought there.
  virtual Status bring(const LossMatrix& matrix, int64_t rows, int64_t dim, const float** out) = 0;
  // Memory for [rows, dim], of any content, until the steps go.
  virtual Status room(int64_t rows, int64_t dim, float** out) = 0;
  // Where a gradient [rows, dim] is made: in place on the device, or somewhere to be brought to the host in the end.
  virtual Status place(const LossGradient& gradient, int64_t rows, int64_t dim, float** out) = 0;
  virtual Status clear(float* matrix, int64_t rows, int64_t dim) = 0;

  // Rows over their norms. One that has none is a fault: kInvalidData that names the matrix and the first such row.
  virtual Status normalise(const std::string& name, const float* raw, int64_t rows, int64_t dim,
                           UnitView* out) = 0;
  // Gradient of the raw rows from that of the unit rows, written, or added to `out`, which may be `gradient`.
  virtual Status throughNormalise(const UnitView& unit, const float* gradient, bool add, float* out) = 0;
  // Of matrices as they lie: strides are filled in.
  virtual Status multiply(const MatmulArgs& product) = 0;
  // The value and the gradient of the scale are for the host.
  virtual Status contrast(const ContrastArgs& args) = 0;
  // The cluster terms of the unit projected student s. `teacher`, unit rows, is not read when the soft centroids are given or there is
  // no KL term. Adds the weighted gradient to `ds`, [B, Dt]; the values, and the gradient of centres that learn, are the result's.
  virtual Status cluster(const LossArgs& args, const UnitView& s, const float* teacher, float* ds,
                         LossResult* result) = 0;

  virtual Status finish() = 0;
};

// Labels of a batch as positions in the sample of centres, or as they are.
Status targetsOf(const LossArgs& args, std::vector<int32_t>* targets);

// Steps on the memory of the host, each done when it returns, by the primitives of a back end.
std::unique_ptr<LossSteps> hostLossSteps(Backend& backend, const Context& context);

}  // namespace clipcid

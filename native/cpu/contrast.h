// InfoNCE on the CPU: the passes of contrast.cpp, whose products may be made in another way.
#pragma once

#include <algorithm>
#include <vector>

#include "clipcid/backend.h"
#include "core/aligned.h"

namespace clipcid {

class Contrast {
 public:
  Contrast(const Context& context, const ContrastArgs& args);
  virtual ~Contrast() = default;
  Status run();

  // Whether all logits are kept at a time.
  static bool isWhole(const Context& context, const ContrastArgs& args);

 protected:
  // Of a strip of rows from `begin` on: the logits over the scale; once all log-sum-exps are known, what makes them more
  // exact; and what the weights add to the gradients.
  virtual Status logits(int64_t begin);
  virtual Status refine() { return {}; }
  virtual Status products(int64_t begin);

  int64_t rowsFrom(int64_t begin) const { return std::min(strip_, args_.rows - begin); }
  float* row(int64_t begin, int64_t i) const { return z_.get() + (i - begin) * stride_; }

  const Context& context_;
  const ContrastArgs& args_;
  const float scale_;      // in units of ln(2)
  const int64_t columns_;  // rows of y, filled up
  const int64_t stride_;
  const int64_t chunk_;  // rows
  const int64_t strip_;  // rows, whole chunks
  AlignedArray<float> z_;
  std::vector<double> rowLse_, columnLse_, targetLogit_, logitSums_;

 private:
  Status sums(int64_t begin);
  double lseOf(const float* z) const;
  Status finishColumns();
  Status gradients(int64_t begin);

  std::vector<float> columnMaxima_, columnSums_;  // [chunks, columns_]
};

}  // namespace clipcid

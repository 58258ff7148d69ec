// Contrast with products in fixed point, and large weights apart from them (contrast_fixed.cpp).
#pragma once

#include "cpu/contrast.h"
#include "cpu/kernels.h"
#include "cpu/softmax_loss_rows.h"

namespace clipcid {

class ContrastFixed final : public Contrast {
 public:
  // Whether this machine gains by it, and the errors are within what the loss promises.
  static bool serves(const Context& context, const ContrastArgs& args);

  ContrastFixed(const Context& context, const ContrastArgs& args);

 private:
  // A logit of a row that is made again, and later the weight that is taken out.
  struct Large {
    int32_t column;
    float weight;
    double change;  // of the column's sum, over the sum
  };

  Status logits(int64_t begin) override;
  Status refine() override;
  Status products(int64_t begin) override;

  void refineRow(int64_t i, float rowLimit, std::vector<Large>* out);
  Status takeLarge(float* largest);
  Status multiply(const uint32_t* weights, int64_t strideWeights, bool transposed, const float* rows,
                  float weightUnit, float* out);

  const FixedKernel& fixed_;
  const SoftmaxRows& rows_;
  const int64_t part_;
  const double limit_;
  std::vector<float> columnLimits_;  // [columns_] logits over the scale that are large for their columns
  std::vector<std::vector<Large>> large_;  // by row, ascending
};

}  // namespace clipcid

// How a product of matrices is cut, and where it goes.
#pragma once

#include "clipcid/ops.h"
#include "cuda/ops/chain_code.h"
#include "cuda/ops/work.h"

namespace clipcid::cuda {

enum class ProductShape : uint8_t {
  kLarge,  // tiles of 128 x 128
  kSmall,  // 64 x 64
  kExact,  // 64 x 64, of Precision::kFloat32
};

struct ProductPlan {
  ProductShape shape = ProductShape::kSmall;
  int32_t batches = 1;
  int32_t m = 0, n = 0, k = 0;
  int32_t tilesDown = 0, tilesAcross = 0;
  int32_t splits = 1;        // of the depth
  int32_t depthOfSplit = 0;  // a multiple of a stage's
};

// c = alpha sums (+ bias) (+ c)
struct ProductResult {
  float* c = nullptr;
  int64_t row = 0;            // elements from one row to the next
  int64_t batch[2] = {0, 0};  // from one matrix to the next
  int32_t inner = 1;          // matrices of the second level
  float alpha = 1;
  bool accumulate = false;
  bool vector = false;          // four columns, from a multiple of four on, are a vector
  const float* bias = nullptr;  // [n] by column, or null
  int64_t biasBatch = 0;
  float* parts = nullptr;  // [splits, batches, m, n] where the depth is cut
};

// `chained`: a chain runs over the sums, which have to be whole then.
Status planProduct(const Work& work, Precision precision, int64_t batches, int64_t m, int64_t n, int64_t k,
                   bool chained, ProductPlan* out);

// Puts together what was cut.
Status sumParts(const Work& work, const ProductPlan& plan, const ProductResult& result);

}  // namespace clipcid::cuda

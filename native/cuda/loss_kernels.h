// The kernels of the loss beside its products: rows over their norms and gradients through that, row by row; what softmaxes say of
// rows, and sums of it. All of them only queue their work.
#pragma once

#include "cuda/memory.h"

namespace clipcid::cuda {

constexpr double kLn2 = 0.69314718055994531;
constexpr double kLog2e = 1.4426950408889634;

// The first row that cannot be normalised, or none.
constexpr uint32_t kNoFault = 0xffffffffu;

// Dense rows [count, dim] of float32, `stride` elements apart.
struct LossRows {
  int64_t count = 0, dim = 0, stride = 0;
};

// unit[i] = raw[i] / norms[i], with zeros behind; the first norm that is not over 0 and finite lowers `fault`.
Status normaliseRows(const Device& device, Stream stream, const LossRows& rows, const float* raw,
                     const double* norms, float* unit, uint32_t* fault);
// The same of norms, of rows from `first` on.
Status checkNorms(const Device& device, Stream stream, const double* norms, int64_t count, int64_t first,
                  uint32_t* fault);
// Gradient of raw rows from that of unit rows: (g - (g . u) u) / norm. Added to `out`, or written; `out` may be `gradient`.
Status unitGradient(const Device& device, Stream stream, const LossRows& rows, const float* unit,
                    const double* norms, const float* gradient, bool add, float* out);
// The same of factor * gradient, for rows that are `raw` over their norms; row i goes to row indices[i] of `out`, or i.
Status rawGradient(const Device& device, Stream stream, const LossRows& rows, const float* raw,
                   const double* norms, const float* gradient, float factor, const int32_t* indices,
                   float* out);
// out[i] += x[i]
Status addFloats(const Device& device, Stream stream, const float* x, int64_t count, float* out);
// out[i] = i
Status countUp(const Device& device, Stream stream, int64_t count, int32_t* out);

// What the softmaxes of rows say: logits over their maxima in units of ln(2), as SoftmaxSums has them.
struct RowTermsArgs {
  int64_t count = 0;
  const float* maxima = nullptr;
  const double* sums = nullptr;
  const float* targetLogits = nullptr;  // or null
  // Of a teacher: the sums of its softmax, and sum_j 2^(y - maximum2) ((y - maximum2) - (z - maximum)); or null.
  const double* teacherSums = nullptr;
  const double* along = nullptr;
  // [count], in the natural unit; the others null as their inputs are.
  double* lse = nullptr;
  double* targetLogit = nullptr;
  double* divergence = nullptr;
};
Status rowTerms(const Device& device, Stream stream, const RowTermsArgs& args);

// Of InfoNCE, with column sums or without: terms[0] is its value, terms[1] the gradient of the scale's logarithm times `weight`.
struct ContrastTermsArgs {
  int64_t count = 0;
  const float *maxima = nullptr, *columnMaxima = nullptr, *targetLogits = nullptr;
  const double *sums = nullptr, *columnSums = nullptr, *along = nullptr;
  double weight = 1;
  double* terms = nullptr;
};
Status contrastTerms(Stream stream, const ContrastTermsArgs& args);

// The gradient of the cluster terms in unit rows, and with soft centroids o their divergences:
//   ds_i += factor (sums_i - teacherWeight o_i),   divergence_i = lse_i - s_i . o_i scale - entropies_i
struct ClusterRowsArgs {
  LossRows rows;
  const float* sums = nullptr;
  const float* s = nullptr;
  const float* soft = nullptr;  // or null, then no divergences
  const float* entropies = nullptr;
  const double* lse = nullptr;
  float factor = 1, teacherWeight = 0;
  double scale = 1;
  float* ds = nullptr;
  double* divergence = nullptr;
};
Status clusterRows(const Device& device, Stream stream, const ClusterRowsArgs& args);

// out = the mean of a[i] - b[i]; b may be null.
Status meanOf(Stream stream, const double* a, const double* b, int64_t count, double* out);

}  // namespace clipcid::cuda

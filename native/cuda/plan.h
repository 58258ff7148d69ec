// How two matrices are compared on a GPU. What is chosen decides the time that an operation takes, never its result.
#pragma once

#include <string>

#include "cuda/encode.h"
#include "cuda/prepared.h"

namespace clipcid::cuda {

struct FilterPlan {
  Encoding queries{}, keys{};
  int64_t dim = 0;
  // Scores bound dots from above only.
  bool oneSided = false;
  TileShape shape = TileShape::kMedium;

  Math math() const { return queries.math; }
  int64_t stride() const { return encodedStride(math(), dim); }
  int32_t depths() const { return static_cast<int32_t>(stride() / kDepthBytes); }
  // Units of a score in 1.
  double scoreUnits() const { return static_cast<double>(queries.scale) * static_cast<double>(keys.scale); }
  BoundTerms terms() const;
  TileSize tile() const { return tileSizeOf(math(), shape); }
  // "int8, 512 of 512 dimensions, sm_90"
  std::string text(const Device& device) const;
};

// The filter that was asked for, or the next more precise one there is.
Math mathOf(Filter filter);

// A plan of a kind of multiplication that was chosen; of int8, float16 where int8 cannot hold these rows.
Status planMath(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys, Math math,
                FilterPlan* out);

// The kind that is expected to tell soonest which dots are over `threshold`, unless the context names one.
// `decided`: every pair over it needs its canonical dot anyway.
Status planJoin(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys,
                double threshold, bool decided, FilterPlan* out);

// The kind that is expected to find the best keys of `count` queries soonest, unless the context names one.
Status planBest(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys, int64_t count,
                bool euclidean, FilterPlan* out);

// The same for centres of k-means, of which is known how large an element may be.
Status planCentres(const Context& context, const CudaPrepared& rows, int64_t count, int64_t clusters,
                   double largest, FilterPlan* out);

// The kind for the k best keys, of so many pairs.
Status planTopK(const Context& context, const CudaPrepared& queries, const CudaPrepared& keys, double pairs,
                FilterPlan* out);

// The float32 next below or equal to / above or equal to a float64.
float roundDown(double value);
float roundUp(double value);

}  // namespace clipcid::cuda

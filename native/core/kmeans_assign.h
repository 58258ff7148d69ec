// The assignment of k-means: the nearest centre of every row, by the back end, which may spare what cannot have changed.
//
// In: rows and centres [K, D], how far each centre moved since the last assignment. Out: labels, those of
// kmeans.h to the bit.
#pragma once

#include "core/kmeans_points.h"

namespace clipcid {

class Assigner {
 public:
  Assigner(const Points& points, int32_t* labels);

  // Labels for centroids [K, D]; `drift` as from Means::update, not used the first time. `changed` is the number of
  // labels that differ from before.
  Status assign(const float* centroids, const std::vector<double>& drift, const Share& share,
                int64_t* changed);
  // The centres of the last assignment.
  const Prepared& centres() const { return *centres_; }

 private:
  const Points& points_;
  int32_t* const labels_;
  std::unique_ptr<Prepared> centres_;
  std::unique_ptr<AssignMemory> memory_;
  std::vector<int32_t> before_;  // [N]
};

}  // namespace clipcid

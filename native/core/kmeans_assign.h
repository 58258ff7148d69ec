// The assignment of k-means: the nearest centre of every row, without looking again at rows that cannot have
// changed theirs.
//
// In: rows and centres [K, D], how far each centre moved since the last assignment. Out: labels, those of
// kmeans.h to the bit.
//
// Bounds (Hamerly, "Making k-means even faster", SDM 2010): a row keeps one number not below the distance to its
// centre and one not above the distance to any other. The first grows by what its centre moves, the second
// shrinks by the most that any other moved; while they stay apart, by more than rounding could bridge, the
// label stands. A few wild centres would spoil the second bound of all rows, so when K is large the centres are
// split into the calm and the wild: a row whose bound stands against the calm is compared with the wild alone.
//
// Distances are between the float32 rows and centres as points of real space (chords when spherical); decisions
// are about canonical float64 numbers. With E = (D / 16 + 8) 2^-50 (xx + max cc), which is more than all
// roundings of the scores, of xx and of cc can add up to in a squared distance:
//   upper^2 = xx + ccOwn - 2 best + E,   lower^2 = xx + min cc - 2 others - E   (no cc terms when Euclidean)
//   the label stands when lower > 0 and lower^2 - upper^2 > 2 E + (max cc - min cc when spherical)
// The bounds are stored as float32, widened by 2^-22 of themselves whenever they change: four times what that
// rounds.
//
// Where bounds leave nearly all rows open they are done without for a while: the first assignments never make any,
// and a failure doubles the pause to the next attempt.
//
// Best measured: rows in clusters settle early: 30,000 x 64 around 200 centres, K = 200, 40 iterations, with bounds from
// the first on, compared 6.7 N rows instead of 41 N, 0.11 s of a thread instead of 0.36 s. Of 100,000 x 256 without
// clusters, K = 1,000, ten iterations, no row is ever spared (Xeon with AMX, shared with other work, November 2026).
#pragma once

#include "core/kmeans_points.h"

namespace clipcid {

class Assigner {
 public:
  Assigner(const Points& points, int32_t* labels);

  // Labels for centroids [K, D]; `drift` as from Means::update, not used the first time. `changed` is the number of
  // labels that differ from before.
  Status assign(const float* centroids, const std::vector<double>& drift, int64_t* changed);
  // Of a row whose label someone else changed.
  void forget(int64_t row);
  // The centres of the last assignment.
  const Prepared& centres() const { return *centres_; }
  // Pairs of a row and a centre that were compared so far.
  double compared() const { return compared_; }

 private:
  // Of the centres, for one assignment.
  struct Geometry {
    double factor = 0;  // of E
    double most = 0, least = 0;
    double error(double square) const { return factor * (square + most); }
  };
  // Centres by how far they moved.
  struct Split {
    double farthest = 0, second = 0;  // over all centres
    int32_t farthestCentre = -1;
    double calm = 0;            // the most that a calm centre moved
    std::vector<int32_t> wild;  // ascending; none: no split
  };
  enum class Verdict : uint8_t { kStands, kWild, kOpen };

  Split splitBy(const std::vector<double>& drift, int64_t wild) const;
  Split chooseSplit(const Geometry& geometry, const std::vector<double>& drift) const;
  Verdict judge(const Geometry& geometry, const Split& split, const std::vector<double>& drift, int64_t row,
                double* upper, double* lower) const;
  bool stands(const Geometry& geometry, int64_t row, double upper, double lower) const;
  Status assignAll(const Geometry& geometry, int64_t* changed);
  // Without bounds.
  Status compareAll(int64_t* changed);
  Status assignRows(const Geometry& geometry, const int64_t* rows, int64_t count, int64_t* changed);
  Status compareWild(const Geometry& geometry, const Split& split, const float* centroids,
                     const std::vector<int64_t>& rows, int64_t* changed);
  double upperFrom(const Geometry& geometry, int64_t row, double best) const;
  double lowerFrom(const Geometry& geometry, int64_t row, double others) const;
  void store(int64_t row, double upper, double lower);

  const Points& points_;
  int32_t* const labels_;
  const bool bounded_;
  // Whether upper_ and lower_ hold; if not, assignments until they are made again. The first centres move so far that
  // bounds on them are of no use.
  bool known_ = false;
  int64_t pause_ = 2;
  int64_t pauses_ = 2;
  std::unique_ptr<Prepared> centres_;
  std::vector<float> upper_, lower_;  // [N] when bounded
  double compared_ = 0;
};

}  // namespace clipcid

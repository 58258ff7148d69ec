// The kernels of an iteration of k-means beside its comparison. All of these only queue their work.
#pragma once

#include "cuda/device_rows.h"
#include "cuda/memory.h"

namespace clipcid::cuda {

// What decides, on the device, whether the kernels that are queued still have something to do.
struct IterateControl {
  int32_t
      stop;  // all problems are done, or some problem waits for the host: kernels that change anything do nothing
  int32_t waiting;   // problems with an empty centre, which the host is to fill
  int32_t finished;  // problems that are done
  int32_t total;     // iterations of all problems
};

// Of `batch` problems of `rows` rows and `clusters` centres each.
struct IterateState {
  int32_t batch = 1, clusters = 1, dim = 1;
  int64_t rows = 1;
  bool spherical = true;
  DeviceRows points;               // [batch rows]
  const float* weights = nullptr;  // [batch rows], or null
  const double* sumScales = nullptr;
  const double* weightScales = nullptr;  // [batch]
  double tolerance = 0, movement = 0;
  const double* variances = nullptr;  // [batch], or null
  int32_t maxIterations = 0;

  float* centroids = nullptr;  // [batch clusters, stride] as stored rows
  int64_t stride = 1;
  int32_t* labels = nullptr;      // [batch rows]
  int32_t* found = nullptr;       // [batch rows] of the comparison under way
  int32_t* summed = nullptr;      // [batch rows] labels that the sums are of; -1 for none
  int64_t* sums = nullptr;        // [batch clusters, dim]
  int64_t* weightSums = nullptr;  // [batch clusters]
  int32_t* sizes = nullptr;       // [batch clusters] rows of positive weight
  int32_t* touched = nullptr;     // [batch clusters] whether a sum has changed
  double* moved = nullptr;        // [batch clusters]
  // [batch]
  int32_t* done = nullptr;
  int32_t* empty = nullptr;
  int32_t* changed = nullptr;
  int32_t* iterations = nullptr;
  IterateControl* control = nullptr;
};

// Counts rows by centre, and lets everything wait where a problem that is not done has an empty one.
Status findEmpty(const Device& device, Stream stream, const IterateState& state);
// Sums of rows that have other labels than when they were summed up, and the centroids that follow.
Status updateCentroids(const Device& device, Stream stream, const IterateState& state);
// Labels become what was found, and how many are new is counted.
Status takeLabels(const Device& device, Stream stream, const IterateState& state);
// An iteration is over: which problems are done.
Status finishIteration(const Device& device, Stream stream, const IterateState& state);

}  // namespace clipcid::cuda

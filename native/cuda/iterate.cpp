// Iterations of k-means: labels, sums and centroids stay on the device.
//
// In: rows [batch N, D], starting centres [batch, K, D]. Out: labels [batch N], centroids, iterations [batch].
//
// The host queues iterations ahead of the device and looks at those that are over: what decides about the next one is on the
// device (iterate_kernels.h), and what was queued behind the end does nothing. Only a centre without rows brings the device to
// wait: then the host moves rows, by the rule that all devices share, and goes on from there.
#include "cuda/iterate.h"

#include <algorithm>
#include <cstring>

#include "cuda/best_pass.h"
#include "cuda/iterate_kernels.h"
#include "cuda/prepared.h"
#include "cuda/rows.h"

namespace clipcid::cuda {
namespace {

// Iterations under way: enough that the device does not wait for the host.
constexpr size_t kAhead = 3;
// Of what a call may hold on the device.
constexpr double kShare = 0.8;

template <typename T>
Status bring(const T* from, int64_t count, Stream stream, Buffer<T>* to) {
  CLIPCID_TRY(to->allocate(std::max<int64_t>(count, 1), stream));
  return copyToDevice(to->get(), from, static_cast<size_t>(count) * sizeof(T), stream);
}

class Iterate {
 public:
  Iterate(Device& device, const Context& context, const IterateArgs& args)
      : device_(device),
        context_(context),
        args_(args),
        rows_(cudaPrepared(args.rows)),
        problemRows_(rows_.rows / args.batch),
        centres_(args.batch * args.clusters),
        stride_(deviceStride(Dtype::kFloat32, rows_.dim)),
        session_(&device) {}

  Status run() {
    if (!rows_.resident()) return {Code::kInternal, "Rows that are not on the device"};
    CLIPCID_TRY(session_.begin());
    CLIPCID_TRY(allocate());
    CLIPCID_TRY(planFor());
    CLIPCID_TRY(compare());
    CLIPCID_TRY(takeLabels(device_, stream(), state_));
    CLIPCID_TRY(fillBytes(changed_.get(), 0, changed_.bytes(), stream()));
    CLIPCID_TRY(iterations());
    CLIPCID_TRY(copyToHost(args_.labels, labels_.get(), static_cast<size_t>(rows_.rows) * 4, stream()));
    CLIPCID_TRY(copyRowsToHost(args_.centroids, static_cast<size_t>(rows_.dim) * 4, centroids_.get(),
                               static_cast<size_t>(stride_) * 4, static_cast<size_t>(rows_.dim) * 4,
                               static_cast<size_t>(centres_), stream()));
    CLIPCID_TRY(copyToHost(args_.iterations, counts_.get(), static_cast<size_t>(args_.batch) * 4, stream()));
    return session_.synchronise();
  }

 private:
  // What is known of an iteration that is over.
  struct Seen {
    Pinned<IterateControl> control;
    OwnedEvent over;
  };

  Stream stream() const { return session_.stream(); }

  Status allocate() {
    const int64_t batch = args_.batch, dim = rows_.dim;
    CLIPCID_TRY(centroids_.allocate(centres_ * stride_, stream()));
    CLIPCID_TRY(fillBytes(centroids_.get(), 0, centroids_.bytes(), stream()));
    CLIPCID_TRY(copyRowsToDevice(centroids_.get(), static_cast<size_t>(stride_) * 4, args_.centroids,
                                 static_cast<size_t>(dim) * 4, static_cast<size_t>(dim) * 4,
                                 static_cast<size_t>(centres_), stream()));
    for (Buffer<int32_t>* labels : {&labels_, &found_, &summed_}) {
      CLIPCID_TRY(labels->allocate(rows_.rows, stream()));
      CLIPCID_TRY(fillBytes(labels->get(), 0xff, labels->bytes(), stream()));
    }
    CLIPCID_TRY(sums_.allocate(centres_ * dim, stream()));
    CLIPCID_TRY(fillBytes(sums_.get(), 0, sums_.bytes(), stream()));
    CLIPCID_TRY(weightSums_.allocate(centres_, stream()));
    CLIPCID_TRY(fillBytes(weightSums_.get(), 0, weightSums_.bytes(), stream()));
    CLIPCID_TRY(sizes_.allocate(centres_, stream()));
    CLIPCID_TRY(touched_.allocate(centres_, stream()));
    CLIPCID_TRY(fillBytes(touched_.get(), 0, touched_.bytes(), stream()));
    CLIPCID_TRY(moved_.allocate(centres_, stream()));
    CLIPCID_TRY(fillBytes(moved_.get(), 0, moved_.bytes(), stream()));
    for (Buffer<int32_t>* one : {&done_, &empty_, &changed_, &counts_}) {
      CLIPCID_TRY(one->allocate(batch, stream()));
      CLIPCID_TRY(fillBytes(one->get(), 0, one->bytes(), stream()));
    }
    CLIPCID_TRY(control_.allocate(1, stream()));
    CLIPCID_TRY(fillBytes(control_.get(), 0, control_.bytes(), stream()));
    if (args_.weights != nullptr) CLIPCID_TRY(bring(args_.weights, rows_.rows, stream(), &weights_));
    CLIPCID_TRY(bring(args_.sumScales, batch, stream(), &sumScales_));
    CLIPCID_TRY(bring(args_.weightScales, batch, stream(), &weightScales_));
    if (args_.movement > 0) CLIPCID_TRY(bring(args_.variances, batch, stream(), &variances_));
    CLIPCID_TRY(norms_.allocate(centres_, stream()));
    CLIPCID_TRY(squares_.allocate(centres_, stream()));
    CLIPCID_TRY(scanned_.allocate(1, stream()));
    CLIPCID_TRY(fillBytes(scanned_.get(), 0, scanned_.bytes(), stream()));
    for (Seen& seen : seen_) {
      CLIPCID_TRY(seen.control.allocate(1));
      CLIPCID_TRY(seen.over.create());
    }

    state_.batch = static_cast<int32_t>(batch);
    state_.clusters = static_cast<int32_t>(args_.clusters);
    state_.dim = static_cast<int32_t>(dim);
    state_.rows = problemRows_;
    state_.spherical = args_.spherical;
    state_.points = rows_.all();
    state_.weights = weights_.get();
    state_.sumScales = sumScales_.get();
    state_.weightScales = weightScales_.get();
    state_.tolerance = args_.tolerance;
    state_.movement = args_.movement;
    state_.variances = variances_.get();
    state_.maxIterations = static_cast<int32_t>(args_.maxIterations);
    state_.centroids = centroids_.get();
    state_.stride = stride_;
    state_.labels = labels_.get();
    state_.found = found_.get();
    state_.summed = summed_.get();
    state_.sums = sums_.get();
    state_.weightSums = weightSums_.get();
    state_.sizes = sizes_.get();
    state_.touched = touched_.get();
    state_.moved = moved_.get();
    state_.done = done_.get();
    state_.empty = empty_.get();
    state_.changed = changed_.get();
    state_.iterations = counts_.get();
    state_.control = control_.get();
    return {};
  }

  // The filter, for centroids of any iteration: means of rows are no larger than the rows, but those given may be.
  Status planFor() {
    DeviceRows centres;
    centres.data = centroids_.get();
    centres.stride = stride_;
    centres.dim = rows_.dim;
    centres.count = centres_;
    centres.norms = norms_.get();
    sides_.keys = centres;
    ScanArgs scan;
    scan.rows = centres;
    scan.norms = norms_.get();
    scan.result = scanned_.get();
    CLIPCID_TRY(scanRows(device_, stream(), scan));
    ScanResult found = {};
    CLIPCID_TRY(copyToHost(&found, scanned_.get(), sizeof found, stream()));
    CLIPCID_TRY(session_.synchronise());
    float largest = 0;
    memcpy(&largest, &found.largest, sizeof largest);
    CLIPCID_TRY(planCentres(context_, rows_, problemRows_, args_.clusters,
                            std::max(static_cast<double>(largest), rows_.largest), &plan_));
    CLIPCID_TRY(rows_.encoded(context_, session_, plan_.queries, &encoded_));
    sides_.queries = rows_.all();
    if (encoded_ != nullptr) {
      sides_.encodedQueries = encoded_->view();
    } else {
      CLIPCID_TRY(encodeRows(device_, stream(), sides_.queries, plan_.queries, &ownEncoded_));
      sides_.encodedQueries = ownEncoded_.view();
    }
    sides_.problems = state_.batch;
    sides_.queriesOfProblem = static_cast<int32_t>(problemRows_);
    sides_.keysOfProblem = state_.clusters;
    sides_.squares = args_.spherical ? nullptr : squares_.get();
    pass_ = std::make_unique<BestPass>(device_, stream());
    return pass_->allocate(sides_);
  }

  // Queues the comparison of all rows with the centroids as they are by then.
  Status compare() {
    ScanArgs scan;
    scan.rows = sides_.keys;
    scan.norms = norms_.get();
    scan.squares = squares_.get();
    scan.result = scanned_.get();
    CLIPCID_TRY(scanRows(device_, stream(), scan));
    CLIPCID_TRY(encodeRows(device_, stream(), sides_.keys, plan_.keys, &encodedCentres_));
    sides_.encodedKeys = encodedCentres_.view();
    CLIPCID_TRY(setFloors(device_, stream(), static_cast<int32_t>(rows_.rows), nullptr, plan_.scoreUnits(),
                          pass_->floors()));
    return pass_->run(plan_, sides_, &control_.get()->stop, found_.get());
  }

  Status queue(bool lookForEmpty, Seen* seen) {
    if (lookForEmpty) CLIPCID_TRY(findEmpty(device_, stream(), state_));
    CLIPCID_TRY(updateCentroids(device_, stream(), state_));
    CLIPCID_TRY(compare());
    CLIPCID_TRY(takeLabels(device_, stream(), state_));
    CLIPCID_TRY(finishIteration(device_, stream(), state_));
    CLIPCID_TRY(copyToHost(seen->control.get(), control_.get(), sizeof(IterateControl), stream()));
    return record(seen->over.get(), stream());
  }

  Status iterations() {
    if (args_.maxIterations < 1) return {};
    size_t queued = 0, looked = 0;
    bool filled = false;  // the iteration that is queued next has had its empty centres filled
    for (;;) {
      while (queued < looked + kAhead) {
        CLIPCID_TRY(queue(!filled, &seen_[queued % kAhead]));
        filled = false;
        ++queued;
      }
      if (context_.cancelled()) return Status::aborted();
      const Seen& seen = seen_[looked++ % kAhead];
      CLIPCID_TRY(synchronise(seen.over.get()));
      const IterateControl control = *seen.control.get();
      if (args_.progress && control.total > told_) args_.progress(told_ = control.total);
      if (control.finished == state_.batch) return {};
      if (control.waiting == 0) continue;
      // What was queued behind it has done nothing.
      CLIPCID_TRY(fillEmpty(control));
      queued = looked = 0;
      filled = true;
    }
  }

  Status fillEmpty(IterateControl control) {
    CLIPCID_TRY(session_.synchronise());
    std::vector<int32_t> empty(static_cast<size_t>(args_.batch));
    CLIPCID_TRY(copyToHost(empty.data(), empty_.get(), empty.size() * 4, stream()));
    CLIPCID_TRY(session_.synchronise());
    std::vector<int32_t> labels(static_cast<size_t>(problemRows_));
    std::vector<float> centroids(static_cast<size_t>(args_.clusters * rows_.dim));
    const auto width = static_cast<size_t>(rows_.dim) * 4;
    for (int64_t problem = 0; problem < args_.batch; ++problem) {
      if (empty[static_cast<size_t>(problem)] == 0) continue;
      int32_t* own = labels_.get() + problem * problemRows_;
      CLIPCID_TRY(copyToHost(labels.data(), own, labels.size() * 4, stream()));
      CLIPCID_TRY(copyRowsToHost(
          centroids.data(), width, centroids_.get() + problem * args_.clusters * stride_,
          static_cast<size_t>(stride_) * 4, width, static_cast<size_t>(args_.clusters), stream()));
      CLIPCID_TRY(session_.synchronise());
      CLIPCID_TRY(args_.reseed(problem, labels.data(), centroids.data()));
      CLIPCID_TRY(copyToDevice(own, labels.data(), labels.size() * 4, stream()));
    }
    CLIPCID_TRY(fillBytes(empty_.get(), 0, empty_.bytes(), stream()));
    control.stop = control.waiting = 0;
    CLIPCID_TRY(copyToDevice(control_.get(), &control, sizeof control, stream()));
    return session_.synchronise();
  }

  Device& device_;
  const Context& context_;
  const IterateArgs& args_;
  const CudaPrepared& rows_;
  const int64_t problemRows_, centres_, stride_;
  Session session_;
  FilterPlan plan_;
  BestSides sides_;
  IterateState state_;
  std::unique_ptr<BestPass> pass_;
  std::shared_ptr<const EncodedRows> encoded_;
  EncodedRows ownEncoded_, encodedCentres_;
  Buffer<float> centroids_, weights_;
  Buffer<int32_t> labels_, found_, summed_, sizes_, touched_, done_, empty_, changed_, counts_;
  Buffer<int64_t> sums_, weightSums_;
  Buffer<double> sumScales_, weightScales_, variances_, moved_, norms_, squares_;
  Buffer<ScanResult> scanned_;
  Buffer<IterateControl> control_;
  Seen seen_[kAhead];
  int64_t told_ = 0;
};

}  // namespace

bool canIterate(Device& device, const Context& context, int64_t batch, int64_t rows, int64_t dim,
                int64_t clusters) {
  int64_t budget = 0;
  if (!setDevice(device.index).ok() || !deviceBudget(context, &budget).ok()) return false;
  const auto points = static_cast<double>(batch) * static_cast<double>(rows);
  const auto centres = static_cast<double>(batch) * static_cast<double>(clusters);
  if (points > 2e9 || centres > 2e9) return false;
  const auto width = static_cast<double>(dim);
  // Rows as stored, at most float32, and encoded, once by those who choose the starting centres; labels, floors and lists.
  // Centres, sums, and what belongs to each.
  const double bytes = points * (12 * width + 256) + centres * (14 * width + 384);
  return bytes < kShare * static_cast<double>(budget);
}

Status iterate(Device& device, const Context& context, const IterateArgs& args) {
  return Iterate(device, context, args).run();
}

}  // namespace clipcid::cuda

// The host's part of an AdamW step on the device.
#include <algorithm>
#include <cmath>

#include "cuda/adamw_kernels.h"

namespace clipcid::cuda {

Status AdamwTables::prepare(Stream stream, const AdamwArgs& args) {
  std::vector<AdamwRun> runs;
  int64_t begin = 0;
  for (size_t group = 0; group < args.groups.size(); ++group) {
    const int64_t end = begin + args.groups[group].length;
    for (; begin < end; begin += std::min(kAdamwRun, end - begin))
      runs.push_back({begin, std::min(kAdamwRun, end - begin), static_cast<int32_t>(group),
                      args.groups[group].rate == 0});
  }
  const auto same = [](const AdamwRun& a, const AdamwRun& b) {
    return a.begin == b.begin && a.length == b.length && a.group == b.group && a.frozen == b.frozen;
  };
  if (sums_.empty() || !std::equal(runs.begin(), runs.end(), runs_.begin(), runs_.end(), same)) {
    ++generation_;
    sums_ = {};  // of the tables of before, should the new ones fail
    count_ = static_cast<int64_t>(runs.size());
    runs_ = std::move(runs);
    CLIPCID_TRY(deviceRuns_.allocate(std::max<int64_t>(count_, 1), stream));
    CLIPCID_TRY(copyToDevice(deviceRuns_.get(), runs_.data(), runs_.size() * sizeof(AdamwRun), stream));
    CLIPCID_TRY(sums_.allocate(count_ + 1, stream));
  }
  const auto groups = static_cast<int64_t>(args.groups.size());
  if (groups != groups_) {
    ++generation_;
    groups_ = 0;  // should these fail
    CLIPCID_TRY(scalars_.allocate(groups));
    CLIPCID_TRY(deviceScalars_.allocate(groups, stream));
    groups_ = groups;
  }
  // The norm, by which gradients are scaled, is the device's.
  for (int64_t group = 0; group < groups; ++group)
    scalars_.get()[group] = adamwScalars(args, args.groups[static_cast<size_t>(group)], 0);
  return {};
}

Status AdamwTables::step(Stream stream, const AdamwBuffers& buffers, double clip,
                         const int32_t* fault) const {
  CLIPCID_TRY(copyToDevice(deviceScalars_.get(), scalars_.get(),
                           static_cast<size_t>(groups_) * sizeof(AdamwScalars), stream));
  CLIPCID_TRY(squaresOfRuns(stream, deviceRuns_.get(), count_, buffers.gradients, sums_.get()));
  CLIPCID_TRY(normOfRuns(stream, sums_.get(), count_, sums_.get() + count_));
  return updateRuns(stream, deviceRuns_.get(), count_, deviceScalars_.get(), buffers, {norm(), clip, fault});
}

Status firstNotFinite(const AdamwArgs& args, const float* gradients) {
  int64_t begin = 0;
  for (const AdamwGroup& group : args.groups) {
    for (int64_t i = begin; group.rate != 0 && i < begin + group.length; ++i) {
      if (!std::isfinite(gradients[i]))
        return {Code::kInvalidData, "The gradient at element " + std::to_string(i) + " is NaN or infinite"};
    }
    begin += group.length;
  }
  return {Code::kInternal, "The gradient norm is not finite"};
}

}  // namespace clipcid::cuda

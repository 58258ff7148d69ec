// The CPU's back end. Work is done when a call returns.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

class CpuBackend final : public Backend {
 public:
  Status upload(const Context& context, const Rows& rows, std::shared_ptr<DeviceMatrix>* out) override;
  Status download(const Context& context, const DeviceMatrix& matrix, void* out) override;
  void release(std::shared_ptr<DeviceMatrix> matrix) override;
  DeviceMemory memory() override;
  Status synchronise(const Context& context) override;
  Status peak(const Context& context, Peak* out) override;

  Status prepare(const Context& context, const PrepareArgs& args, std::unique_ptr<Prepared>* out) override;
  Status join(const Context& context, const JoinArgs& args) override;
  Status components(const Context& context, const ComponentsArgs& args) override;
  Status best(const Context& context, const BestArgs& args) override;
  Status assign(const Context& context, const AssignArgs& args) override;
  Status topK(const Context& context, const TopKArgs& args) override;
  Status pairDots(const Context& context, const PairDotsArgs& args) override;
  Status gather(const Context& context, const GatherArgs& args) override;
  Status segmentSum(const Context& context, const SegmentSumArgs& args) override;
  Status matmul(const Context& context, const MatmulArgs& args) override;
  Status rowNorms(const Context& context, const RowNormsArgs& args) override;
  Status softmax(const Context& context, const SoftmaxArgs& args) override;
  Status softmaxGradient(const Context& context, const SoftmaxGradientArgs& args) override;
  Status distil(const Context& context, const DistilArgs& args) override;
  Status contrast(const Context& context, const ContrastArgs& args) override;
  Status adamw(const Context& context, const AdamwArgs& args) override;
  Status runner(const Context& context, std::unique_ptr<Runner>* out) override;
};

}  // namespace clipcid

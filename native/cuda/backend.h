// A GPU's back end. Every call works on streams of its own and ends when its results are where they belong.
#pragma once

#include "clipcid/backend.h"
#include "cuda/memory.h"

namespace clipcid {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(cuda::Device& device) : device_(device) {}

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
  bool iterates(const Context& context, int64_t batch, int64_t rows, int64_t dim, int64_t clusters) override;
  Status iterate(const Context& context, const IterateArgs& args) override;
  Status topK(const Context& context, const TopKArgs& args) override;
  Status pairDots(const Context& context, const PairDotsArgs& args) override;
  Status gather(const Context& context, const GatherArgs& args) override;
  Status segmentSum(const Context& context, const SegmentSumArgs& args) override;
  Status matmul(const Context& context, const MatmulArgs& args) override;
  Status rowNorms(const Context& context, const RowNormsArgs& args) override;
  Status softmax(const Context& context, const SoftmaxArgs& args) override;
  Status softmaxGradient(const Context& context, const SoftmaxGradientArgs& args) override;
  Status contrast(const Context& context, const ContrastArgs& args) override;
  Status distil(const Context& context, const DistilArgs& args) override;
  Status lossSteps(const Context& context, std::unique_ptr<LossSteps>* out) override;
  Status adamw(const Context& context, const AdamwArgs& args) override;
  Status runner(const Context& context, std::unique_ptr<Runner>* out) override;

 private:
  cuda::Device& device_;
};

}  // namespace clipcid

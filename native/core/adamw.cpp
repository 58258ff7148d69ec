#include "adamw.h"

#include <algorithm>
#include <cmath>

namespace clipcid {

AdamwScalars adamwScalars(const AdamwArgs& args, const AdamwGroup& group, double norm) {
  const double rate = args.rate * group.rate;
  const auto step = static_cast<double>(args.step);
  AdamwScalars scalars;
  scalars.gradientScale = args.clip > 0 ? static_cast<float>(std::min(1.0, args.clip / (norm + 1e-6))) : 1.0f;
  scalars.keep = static_cast<float>(1 - rate * args.decay * group.decay);
  scalars.beta1 = static_cast<float>(args.beta1);
  scalars.rest1 = static_cast<float>(1 - args.beta1);
  scalars.beta2 = static_cast<float>(args.beta2);
  scalars.rest2 = static_cast<float>(1 - args.beta2);
  scalars.stepSize = static_cast<float>(rate / (1 - std::pow(args.beta1, step)));
  scalars.inverseCorrection = static_cast<float>(1 / std::sqrt(1 - std::pow(args.beta2, step)));
  scalars.epsilon = static_cast<float>(args.epsilon);
  scalars.averageRest = static_cast<float>(1 - args.emaDecay);
  return scalars;
}

Status validateAdamw(const AdamwArgs& args) {
  int64_t covered = 0;
  for (const AdamwGroup& group : args.groups) {
    if (group.length < 0 || group.length > args.length - covered) {
      return {Code::kInvalidArgument, "The parameter groups are longer than the buffers"};
    }
    covered += group.length;
  }
  if (covered != args.length) return {Code::kInvalidArgument, "The parameter groups don't cover the buffers"};
  if (args.step < 1) return {Code::kInvalidArgument, "The step is below 1"};
  const bool sound =
      args.beta1 >= 0 && args.beta1 < 1 && args.beta2 >= 0 && args.beta2 < 1 && args.epsilon > 0;
  if (!sound) return {Code::kInvalidArgument, "A beta is outside [0, 1), or epsilon isn't above 0"};
  return {};
}

}  // namespace clipcid

// Progress of work that is done in phases, each of which counts from nothing.
#pragma once

#include "clipcid/types.h"

namespace clipcid {

class Phases {
 public:
  // `total` is the sum of the weights of the phases, in a unit of the caller's.
  Phases(const Context& context, double total) : context_(context), total_(total) {}

  // The context of the next phase, which ends where another begins.
  Context next(double weight) {
    base_ += weight_;
    weight_ = weight;
    Context phase = context_;
    if (!context_.progress) return phase;
    phase.progress = [this, base = base_, weight](double done, double total) {
      if (weight > 0 && total > 0) context_.progress(base + weight * done / total, total_);
    };
    return phase;
  }

 private:
  const Context& context_;
  double total_;
  double base_ = 0;
  double weight_ = 0;
};

}  // namespace clipcid

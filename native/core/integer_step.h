// A step of an elementwise chain of whole numbers, the same on every device.
#pragma once

#include "clipcid/canonical.h"
#include "clipcid/ops.h"

namespace clipcid {

// The steps that there are for whole numbers; a division by zero gives 0. Sums wrap.
CLIPCID_INLINE int64_t integerStep(Step step, int64_t a, int64_t b, int64_t c) {
  const auto x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
  switch (step) {
    case Step::kNegate:
      return static_cast<int64_t>(0 - x);
    case Step::kAbsolute:
      return a < 0 ? static_cast<int64_t>(0 - x) : a;
    case Step::kSign:
      return (a > 0) - (a < 0);
    case Step::kNot:
      return a == 0;
    case Step::kAdd:
      return static_cast<int64_t>(x + y);
    case Step::kSubtract:
      return static_cast<int64_t>(x - y);
    case Step::kMultiply:
      return static_cast<int64_t>(x * y);
    case Step::kDivide:
      return b == 0 ? 0 : (b == -1 ? static_cast<int64_t>(0 - x) : a / b);
    case Step::kModulo: {
      if (b == 0 || b == -1) return 0;
      const int64_t rest = a % b;
      return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    }
    case Step::kMinimum:
      return a < b ? a : b;
    case Step::kMaximum:
      return a > b ? a : b;
    case Step::kEqual:
      return a == b;
    case Step::kLess:
      return a < b;
    case Step::kLessOrEqual:
      return a <= b;
    case Step::kGreater:
      return a > b;
    case Step::kGreaterOrEqual:
      return a >= b;
    case Step::kAnd:
      return a != 0 && b != 0;
    case Step::kOr:
      return a != 0 || b != 0;
    case Step::kSelect:
      return a != 0 ? b : c;
    default:
      return a;
  }
}

}  // namespace clipcid

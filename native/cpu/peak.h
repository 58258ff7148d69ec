// What this processor can do at most: multiply-adds out of registers, with nothing to load, by the instructions of
// each precision's filter, on `threads` threads at once, for some 30 ms a precision.
#pragma once

#include "clipcid/types.h"

namespace clipcid {

// Billions of operations a second, two to a multiply-add. Where the machine has no instructions for a precision,
// its filter is that of the next more precise one, and so is its figure.
struct Peak {
  double float32 = 0;
  double bfloat16 = 0;
  double int8 = 0;
};

Status measurePeak(const Context& context, Peak* peak);

}  // namespace clipcid

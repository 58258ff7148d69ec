// What this processor can do at most: multiply-adds out of registers, with nothing to load, by the instructions of
// each precision's filter, on `threads` threads at once, for some 30 ms a precision.
#pragma once

#include "clipcid/backend.h"

namespace clipcid {

Status measurePeak(const Context& context, Peak* peak);

}  // namespace clipcid

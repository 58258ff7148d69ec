#include "emulator/device.h"

#include "emulator/options.h"

namespace clipcid::emulator {

void interleave() {
  if (options().seed == 0) return;
  Group& group = *self().group;
  if ((group.draw() & 7) == 0) group.yield();
}

}  // namespace clipcid::emulator

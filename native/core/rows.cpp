#include "clipcid/types.h"

namespace clipcid {

int64_t Rows::count() const {
  if (device) return device->rows;
  int64_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.rows();
  return total;
}

int64_t Rows::dim() const {
  if (device) return device->dim;
  return chunks.empty() ? 0 : chunks.front().dim();
}

}  // namespace clipcid

#include <algorithm>

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

Rows Rows::slice(int64_t begin, int64_t count) const {
  Rows part;
  for (const Chunk& chunk : chunks) {
    const int64_t from = std::max<int64_t>(begin, 0);
    const int64_t to = std::min(begin + count, chunk.rows());
    if (from < to) {
      Chunk piece = chunk;
      const auto size = static_cast<int64_t>(dtypeSize(chunk.dtype()));
      if (chunk.inFile()) {
        piece.file.offset += from * chunk.dim() * size;
        piece.file.rows = to - from;
      } else {
        piece.view.data = static_cast<const char*>(chunk.view.data) + from * chunk.view.stride * size;
        piece.view.rows = to - from;
      }
      part.chunks.push_back(std::move(piece));
    }
    begin -= chunk.rows();
  }
  return part;
}

}  // namespace clipcid

#include "cuda/pieces.h"

#include <algorithm>
#include <cstring>

namespace clipcid::cuda {

Pieces::~Pieces() {
  if (memory_.get() != nullptr) device_.returnStaging(std::move(memory_));
}

Status Pieces::begin() {
  if (memory_.get() != nullptr) return {};
  for (OwnedEvent& event : passed_) CLIPCID_TRY(event.create());
  return device_.takeStaging(&memory_);
}

Status Pieces::send(char* to, const void* from, int64_t bytes, Stream stream) {
  CLIPCID_TRY(begin());
  const auto* source = static_cast<const char*>(from);
  const int64_t size = memory_.count() / kPieces;
  for (int64_t at = 0; at < bytes; at += size, next_ = (next_ + 1) % kPieces) {
    const auto length = static_cast<size_t>(std::min(size, bytes - at));
    char* piece = memory_.get() + next_ * size;
    if (used_[next_]) CLIPCID_TRY(synchronise(passed_[next_].get()));
    memcpy(piece, source + at, length);
    CLIPCID_TRY(copyToDevice(to + at, piece, length, stream));
    CLIPCID_TRY(record(passed_[next_].get(), stream));
    used_[next_] = true;
  }
  return {};
}

Status Pieces::fetch(void* to, const char* from, int64_t bytes, Stream stream) {
  CLIPCID_TRY(begin());
  auto* target = static_cast<char*>(to);
  const int64_t size = memory_.count() / kPieces;
  int asks = next_;
  int64_t asked = 0;
  for (int64_t at = 0; at < bytes; at += size, next_ = (next_ + 1) % kPieces) {
    // Those ahead are under way while this one is emptied. What was sent from a piece before comes before on the stream.
    for (; asked < std::min(bytes, at + kPieces * size); asked += size, asks = (asks + 1) % kPieces) {
      CLIPCID_TRY(copyToHost(memory_.get() + asks * size, from + asked,
                             static_cast<size_t>(std::min(size, bytes - asked)), stream));
      CLIPCID_TRY(record(passed_[asks].get(), stream));
      used_[asks] = true;
    }
    CLIPCID_TRY(synchronise(passed_[next_].get()));
    memcpy(target + at, memory_.get() + next_ * size, static_cast<size_t>(std::min(size, bytes - at)));
  }
  return {};
}

}  // namespace clipcid::cuda

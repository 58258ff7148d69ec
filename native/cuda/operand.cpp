#include "cuda/operand.h"

#include <algorithm>

namespace clipcid::cuda {
namespace {

// Of what a call may hold on the device: a block, as stored and encoded.
constexpr double kShare = 1.0 / 8;
// Blocks begin where tiles and groups of bounds do.
constexpr int64_t kBlockUnit = 256;

}  // namespace

OperandBlocks::OperandBlocks(const Context& context, Session& session, const CudaPrepared& rows,
                             const Encoding& encoding, int slots)
    : context_(context),
      session_(session),
      rows_(rows),
      encoding_(encoding),
      copies_(&session.device()),
      uploader_(context, session.device()),
      slots_(static_cast<size_t>(slots)) {}

OperandBlocks::~OperandBlocks() {
  // Blocks are given back in the order of the stream that they are brought on.
  if (any_ && record(slots_[given_].used.get(), session_.stream()).ok())
    (void)waitFor(copies_.stream(), slots_[given_].used.get());
}

Status OperandBlocks::fitting(int64_t* rows) {
  *rows = rows_.rows;
  if (rows_.rows == 0) return {};
  if (rows_.resident()) CLIPCID_TRY(rows_.encoded(context_, session_, encoding_, &whole_));
  if (whole_) return {};
  int64_t budget = 0;
  CLIPCID_TRY(deviceBudget(context_, &budget));
  const int64_t encodedBytes = EncodedRows::rowBytes(encodedStride(encoding_.math, rows_.dim));
  const int64_t rowBytes = encodedBytes + (rows_.resident() ? 0 : rows_.rowBytes());
  const auto fit =
      static_cast<int64_t>(static_cast<double>(budget) * kShare) / rowBytes / kBlockUnit * kBlockUnit;
  *rows = std::min(std::max(fit, kBlockUnit), rows_.rows);
  return {};
}

Status OperandBlocks::begin(int64_t mostRows) {
  if (rows_.rows == 0) return {};
  blocks_ = (rows_.rows + mostRows - 1) / mostRows;
  // Of about one size.
  blockRows_ = (rows_.rows + blocks_ - 1) / blocks_;
  if (blocks_ > 1) {
    blockRows_ = (blockRows_ + kBlockUnit - 1) / kBlockUnit * kBlockUnit;
    blocks_ = (rows_.rows + blockRows_ - 1) / blockRows_;
  }
  if (whole_) return {};
  CLIPCID_TRY(copies_.begin());
  for (Slot& slot : slots_) {
    CLIPCID_TRY(slot.ready.create());
    CLIPCID_TRY(slot.used.create());
  }
  return {};
}

Status OperandBlocks::load(int64_t block) {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  slot.block = -1;
  const Stream stream = copies_.stream();
  // What was queued on the block that was here must be over.
  if (slot.wasUsed) CLIPCID_TRY(waitFor(stream, slot.used.get()));
  const int64_t begin = block * blockRows_, count = std::min(blockRows_, rows_.rows - begin);
  DeviceRows stored;
  if (rows_.resident()) {
    stored = rows_.part(begin, count);
  } else {
    CLIPCID_TRY(slot.stored.atLeast(blockRows_ * rows_.rowBytes(), stream));
    CLIPCID_TRY(rows_.bring(uploader_, begin, count, slot.stored.get(), stream));
    stored = rows_.brought(slot.stored.get(), begin, count);
  }
  CLIPCID_TRY(encodeRows(session_.device(), stream, stored, encoding_, &slot.encoded));
  CLIPCID_TRY(record(slot.ready.get(), stream));
  slot.block = block;
  return {};
}

Status OperandBlocks::prefetch(int64_t block) {
  if (whole_ || block >= blocks_) return {};
  for (const Slot& slot : slots_) {
    if (slot.block == block) return {};
  }
  // With a single slot there is nowhere to bring it.
  return slots_.size() > 1 ? load(block) : Status();
}

Status OperandBlocks::get(int64_t block, Block* out) {
  out->begin = block * blockRows_;
  out->count = std::min(blockRows_, rows_.rows - out->begin);
  if (whole_) {
    out->stored = rows_.part(out->begin, out->count);
    out->encoded = whole_->view().part(out->begin, out->count);
    return {};
  }
  // The block before is done with, once what is queued on it by now is over.
  if (any_) {
    CLIPCID_TRY(record(slots_[given_].used.get(), session_.stream()));
    slots_[given_].wasUsed = true;
  }
  const auto find = [&] {
    return std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.block == block; });
  };
  if (find() == slots_.end()) CLIPCID_TRY(load(block));
  const auto slot = find();
  given_ = static_cast<size_t>(slot - slots_.begin());
  next_ = (given_ + 1) % slots_.size();
  any_ = true;
  CLIPCID_TRY(waitFor(session_.stream(), slot->ready.get()));
  out->stored = rows_.resident() ? rows_.part(out->begin, out->count)
                                 : rows_.brought(slot->stored.get(), out->begin, out->count);
  out->encoded = slot->encoded.view();
  return {};
}

}  // namespace clipcid::cuda

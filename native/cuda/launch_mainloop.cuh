// Starts a mainloop with an epilogue: the tile for a GPU and a kind of multiplication, and the mainloop for the GPU.
#pragma once

#include <algorithm>

#include "cuda/mainloop_sm80.cuh"
#include "cuda/memory.h"

namespace clipcid::cuda {

// Calls body(tile), with a value of the tile's type, for what is compiled.
template <typename Body>
Status withTile(Math math, TileShape shape, Body&& body) {
  switch (math) {
    case Math::kFloat32:
      return body(SmallTile());
    case Math::kFloat16:
      return shape == TileShape::kLarge ? body(LargeTile<Math::kFloat16>())
                                        : body(MediumTile<Math::kFloat16>());
    case Math::kInt8:
      return shape == TileShape::kLarge ? body(LargeTile<Math::kInt8>()) : body(MediumTile<Math::kInt8>());
  }
  return {Code::kInternal, "A product without a kind"};
}

template <typename Tile, template <typename, typename> typename EpilogueOf, typename EpilogueParams>
Status launchTile(const Device& device, Stream stream, const MainloopParams& params,
                  const EpilogueParams& epilogue) {
  using Epilogue = EpilogueOf<FragmentOf<Tile>, BlockTeam<Tile::kThreads>>;
  constexpr size_t kShared = Tile::kRingBytes + Epilogue::kSharedBytes;
  const int64_t items = params.schedule.items();
  if (items == 0) return {};
  if (kShared > device.properties.sharedOfBlock)
    return {Code::kInternal, "A tile needs more shared memory than this GPU has"};
  // As many blocks as run at the same time.
  const auto fit = static_cast<int64_t>(device.properties.sharedOfMultiprocessor / (kShared + 1024));
  const int64_t most = std::clamp<int64_t>(fit, 1, Tile::kBlocks) * device.properties.multiprocessors;
  return CLIPCID_LAUNCH((mainloopSm80<Tile, EpilogueOf>),
                        {.grid = static_cast<unsigned>(std::min(items, most)),
                         .block = Tile::kThreads,
                         .shared = kShared,
                         .stream = stream},
                        params, epilogue);
}

template <template <typename, typename> typename EpilogueOf, typename EpilogueParams>
Status launchMainloop(const Device& device, Stream stream, Math math, TileShape shape,
                      const MainloopParams& params, const EpilogueParams& epilogue) {
  return withTile(math, shape, [&](auto tile) {
    return launchTile<decltype(tile), EpilogueOf>(device, stream, params, epilogue);
  });
}

}  // namespace clipcid::cuda

// Starts a mainloop with an epilogue: the tile for a GPU and a kind of multiplication, and the mainloop for the GPU.
//
// An epilogue is compiled for the tiles of sm_80 here, and, of those that have one, for their sm_90 tile; nothing else of it
// differs. What of it the sm_90 mainloop cannot do is not launched there: rows that TMA does not take.
#pragma once

#include <algorithm>

#include "cuda/mainloop_sm80.cuh"
#include "cuda/mainloop_sm90.cuh"
#include "cuda/mainloops.h"
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
    case Math::kHalves:
      break;  // its epilogues have a tile of their own
  }
  return {Code::kInternal, "A product without a kind"};
}

template <typename Tile, template <typename, typename> typename EpilogueOf, typename EpilogueParams>
Status launchSm80(const Device& device, Stream stream, const MainloopParams& params,
                  const EpilogueParams& epilogue) {
  using Epilogue = EpilogueOf<FragmentOf<Tile>, BlockTeam<Tile::kThreads>>;
  constexpr size_t kShared = Tile::kRingBytes + Epilogue::kSharedBytes;
  if (kShared > device.properties.sharedOfBlock)
    return {Code::kInternal, "A tile needs more shared memory than this GPU has"};
  // As many blocks as run at the same time.
  const auto fit = static_cast<int64_t>(device.properties.sharedOfMultiprocessor / (kShared + 1024));
  const int64_t most = std::clamp<int64_t>(fit, 1, Tile::kBlocks) * device.properties.multiprocessors;
  return CLIPCID_LAUNCH((mainloopSm80<Tile, EpilogueOf>),
                        {.grid = static_cast<unsigned>(std::min<int64_t>(params.schedule.items(), most)),
                         .block = Tile::kThreads,
                         .shared = kShared,
                         .stream = stream},
                        params, epilogue);
}

#if CLIPCID_SM90_KERNELS

template <typename Tile, template <typename, typename> typename EpilogueOf, typename EpilogueParams>
Status launchSm90(const Device& device, Stream stream, const MainloopParams& params,
                  const HopperShapes& shapes, const EpilogueParams& epilogue) {
  using Epilogue = HopperEpilogue<Tile, EpilogueOf>;
  constexpr size_t kShared = size_t{kHopperStages<Tile, EpilogueOf>} * Tile::kStageBytes +
                             Tile::kBarrierBytes + Epilogue::kSharedBytes;
  HopperParams hopper;
  CLIPCID_TRY(encodeTensorMaps(shapes, &hopper.maps));
  hopper.loop = params;
  hopper.depths = (params.depths * kDepthBytes + Tile::kDepthBytes - 1) / Tile::kDepthBytes;
  constexpr bool kTwoProducts = requires(Epilogue & one, FragmentOf<Tile> & scores, const TileAt& at) {
    one.between(scores, at);
  };
  if (kTwoProducts)
    hopper.secondDepths = (params.secondDepths * kDepthBytes + Tile::kDepthBytes - 1) / Tile::kDepthBytes;
  Schedule& schedule = hopper.loop.schedule;
  const int cluster = clusterOf(schedule.rowEnd - schedule.rowBegin);
  schedule.rowsOfItem = cluster;
  const int64_t fit = std::max<int64_t>(device.properties.multiprocessors / cluster, 1);
  Launch how = {.grid = static_cast<unsigned>(std::min<int64_t>(schedule.items(), fit) * cluster),
                .block = Tile::kThreads,
                .shared = kShared,
                .stream = stream,
                .cluster = static_cast<unsigned>(cluster)};
  if (cluster > 1) {
    // One that had to wait for the end of another would begin when all others are done.
    int atOnce = 0;
    CLIPCID_TRY(CLIPCID_CLUSTERS_AT_ONCE((mainloopSm90<Tile, EpilogueOf>), how, &atOnce));
    how.grid = std::min(how.grid, static_cast<unsigned>(std::max(atOnce, 1) * cluster));
  }
  return CLIPCID_LAUNCH((mainloopSm90<Tile, EpilogueOf>), how, hopper, epilogue);
}

#endif

template <typename Tile, template <typename, typename> typename EpilogueOf, typename EpilogueParams>
Status launchTile(const Device& device, Stream stream, const MainloopParams& params,
                  const EpilogueParams& epilogue) {
  if (params.schedule.items() == 0) return {};
#if CLIPCID_SM90_KERNELS
  using Hopper = typename HopperTileFor<Tile>::Type;
  if constexpr (!std::is_void_v<Hopper>) {
    const HopperShapes shapes(params, Hopper::kRows, Hopper::kKeysOfBox);
    if (mainloopOf(device) == Mainloop::kSm90 && shapes.suit())
      return launchSm90<Hopper, EpilogueOf>(device, stream, params, shapes, epilogue);
  }
#endif
  return launchSm80<Tile, EpilogueOf>(device, stream, params, epilogue);
}

template <template <typename, typename> typename EpilogueOf, typename EpilogueParams>
Status launchMainloop(const Device& device, Stream stream, Math math, TileShape shape,
                      const MainloopParams& params, const EpilogueParams& epilogue) {
  return withTile(math, shape, [&](auto tile) {
    return launchTile<decltype(tile), EpilogueOf>(device, stream, params, epilogue);
  });
}

}  // namespace clipcid::cuda

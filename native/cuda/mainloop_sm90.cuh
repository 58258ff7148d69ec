// Mainloop of GPUs of 9.0: scores of tiles of queries and keys, each handed to an epilogue in registers.
//
// In: encoded rows (encode.h), which TMA copies. Of a block's three warpgroups one is the producer: a single thread of it keeps a
// ring of stages in shared memory filled, the next tile's while the one before is still multiplied or looked at. The others
// are consumers: each multiplies 64 rows of the tile of queries with all of its keys by wgmma, which reads a stage from shared
// memory, and has its epilogue. The producer gives its registers to them. A block is persistent (schedule.h). Blocks of a
// cluster have tiles of queries next to each other and the same keys, of which each copies a part to all.
//
// Barriers of a stage:
//   inputsArrived   one arrival, the producer's, and as many bytes as a stage has: those that the other blocks of the cluster
//                   send count too, and may come before the producer has said how many there are.
//   inputsFinished  one arrival of each warp of all consumers of the cluster: a stage is written to in all its blocks at once.
// A consumer has one stage's products under way while it starts the next one's; a stage is finished when they are over.
//
// Invariants: all blocks of a cluster go through the same steps, whether or not their own tile exists; none ends before all have.
// A wait for a phase is never more than one phase behind. The depth is cut into stages of 128 bytes; what is behind the end of
// a row, or of a problem's rows, comes as zeros. Not yet measured.
#pragma once

#include "cuda/fragment.cuh"
#include "cuda/hopper.h"
#include "cuda/launch.cuh"
#include "cuda/mainloop.h"
#include "cuda/ptx.cuh"

namespace clipcid::cuda {

struct HopperParams {
  TensorMaps maps;
  MainloopParams loop;
  int32_t depths = 0, secondDepths = 0;  // stages of this mainloop
};

// The threads that have accumulators. No other barrier of the block has this number.
template <typename Tile>
struct ConsumerTeam {
  static constexpr int kThreads = 128 * Tile::kConsumers;
  static constexpr int kBarrier = 1;
  CLIPCID_DEVICE int rank() const { return static_cast<int>(threadIdx.x) - 128; }
  CLIPCID_DEVICE void synchronise() const {
#if CLIPCID_SM90A
    synchroniseThreads<kBarrier, kThreads>();
#endif
  }
};

#if CLIPCID_SM90A

template <typename Tile, int kStages>
struct HopperRing {
  char* stages;
  Barrier* inputsArrived;
  Barrier* inputsFinished;

  CLIPCID_DEVICE explicit HopperRing(char* shared)
      : stages(shared),
        inputsArrived(reinterpret_cast<Barrier*>(shared + kStages * Tile::kStageBytes)),
        inputsFinished(inputsArrived + kStages) {}
  CLIPCID_DEVICE char* queries(int stage) const { return stages + stage * Tile::kStageBytes; }
  CLIPCID_DEVICE char* keys(int stage) const { return queries(stage) + Tile::kQueryBytes; }
};

// One thread.
template <typename Tile, int kStages>
CLIPCID_DEVICE void produce(const HopperParams& params, const Schedule& schedule,
                            const HopperRing<Tile, kStages>& ring, int rank, int blocks) {
  RingPlace place;
  const bool parts = params.loop.partsOfDepth;
  const auto copyRow = [&](const TensorMap& queries, const TensorMap& keys, int32_t depths,
                           const Cursor& at) {
    const int32_t problem = parts ? 0 : at.item.problem;
    const int32_t begin = parts ? at.item.problem * depths : 0;
    for (int32_t depth = begin; depth < begin + depths; ++depth, place.advance(kStages)) {
      // Of a fresh barrier the phase before the first one counts as over.
      wait(ring.inputsFinished + place.stage, place.parity ^ 1);
      Barrier* arrived = ring.inputsArrived + place.stage;
      expectBytes(arrived, Tile::kStageBytes);
      copyBox(ring.queries(place.stage), &queries, depth * Tile::kDepthBytes,
              (at.item.rowTile + rank) * Tile::kRows, problem, arrived);
      for (int box = blocks == 1 ? 0 : rank; box < Tile::kKeyBoxes; box += blocks) {
        char* to = ring.keys(place.stage) + box * Tile::kKeysOfBox * Tile::kDepthBytes;
        const int row = at.column * Tile::kColumns + box * Tile::kKeysOfBox;
        if (blocks == 1) {
          copyBox(to, &keys, depth * Tile::kDepthBytes, row, problem, arrived);
        } else {
          copyBoxToCluster(to, &keys, depth * Tile::kDepthBytes, row, problem, arrived, 3);
        }
      }
    }
  };
  const int32_t clusters = static_cast<int32_t>(gridDim.x) / blocks;
  for (Cursor at(schedule, static_cast<int32_t>(blockIdx.x) / blocks, clusters); at.valid(schedule);
       at.advance(schedule, 1, clusters)) {
    copyRow(params.maps.queries, params.maps.keys, params.depths, at);
    copyRow(params.maps.secondQueries, params.maps.secondKeys, params.secondDepths, at);
  }
}

template <typename Tile>
CLIPCID_DEVICE TileAt hopperTileAt(const MainloopParams& params, int32_t queryCount, const Cursor& at,
                                   int rank) {
  TileAt tile;
  tile.problem = at.item.problem;
  tile.row = (at.item.rowTile + rank) * Tile::kRows;
  tile.column = at.column * Tile::kColumns;
  tile.rows = queryCount - tile.row < Tile::kRows ? queryCount - tile.row : Tile::kRows;
  tile.columns =
      params.keys.rows - tile.column < Tile::kColumns ? params.keys.rows - tile.column : Tile::kColumns;
  return tile;
}

// One warp's part of what a warpgroup does with the ring.
template <typename Tile, int kStages, typename Fragment>
class Consumer {
 public:
  CLIPCID_DEVICE Consumer(const HopperRing<Tile, kStages>& ring, const Fragment& scores, int blocks)
      : ring_(ring),
        queries_(sharedAddress(ring.stages) +
                 static_cast<uint32_t>(scores.warpRow / Tile::kRowsOfConsumer * Tile::kRowsOfConsumer *
                                       Tile::kDepthBytes)),
        keys_(sharedAddress(ring.stages) + Tile::kQueryBytes),
        // These lanes arrive at a barrier of a block each.
        arrives_(scores.lane < blocks),
        block_(scores.lane) {}

  // scores += queries keys', of so many stages; they are there when this returns.
  CLIPCID_DEVICE void multiply(Fragment& scores, int32_t depths) {
    if constexpr (Tile::kMath == Math::kHalves) {
      multiplyHalves(scores, depths);
      return;
    }
    multiplyStage(scores);
    RingPlace under = place_;  // its products may be under way
    place_.advance(kStages);
    for (int32_t depth = 1; depth < depths; ++depth) {
      multiplyStage(scores);
      waitProducts<1>(scores.values[0]);
      finish(under);
      under = place_;
      place_.advance(kStages);
    }
    waitProducts<0>(scores.values[0]);
    finish(under);
  }

 private:
  static_assert(Fragment::kRows == 2, "one wgmma's rows");

  CLIPCID_DEVICE void multiplyStage(Fragment& scores) {
    wait(ring_.inputsArrived + place_.stage, place_.parity);
    const auto from = static_cast<uint32_t>(place_.stage * Tile::kStageBytes);
    const uint64_t a = matrixDescriptor(queries_ + from), b = matrixDescriptor(keys_ + from);
    beginProducts(scores.values[0]);
    if constexpr (Tile::kMath == Math::kHalves) {
      // High high, high low, low high: of each 64 bytes of a row the first half are the high ones.
#pragma unroll
      for (uint32_t byte = 0; byte < Tile::kDepthBytes; byte += 2 * kProductBytes) {
        multiplyAddAsync(scores.values[0], deeper(a, byte), deeper(b, byte));
        multiplyAddAsync(scores.values[0], deeper(a, byte), deeper(b, byte + kProductBytes));
        multiplyAddAsync(scores.values[0], deeper(a, byte + kProductBytes), deeper(b, byte));
      }
    } else {
#pragma unroll
      for (uint32_t byte = 0; byte < Tile::kDepthBytes; byte += kProductBytes)
        multiplyAddAsync(scores.values[0], deeper(a, byte), deeper(b, byte));
    }
    commitProducts();
  }
  // Of kPromotedStages at a time, which go over into sums that are rounded to nearest; meanwhile the other consumer multiplies.
  CLIPCID_DEVICE void multiplyHalves(Fragment& scores, int32_t depths) {
    constexpr int kTogether = kPromotedStages * clipcid::cuda::kDepthBytes / Tile::kDepthBytes;
    static_assert(kTogether == 2);
    Fragment few = scores;
    for (int32_t depth = 0; depth < depths; depth += kTogether) {
      few.clear();
      multiplyStage(few);
      const RingPlace first = place_;
      place_.advance(kStages);
      multiplyStage(few);
      waitProducts<0>(few.values[0]);
      finish(first);
      finish(place_);
      place_.advance(kStages);
      scores.add(few);
    }
  }
  CLIPCID_DEVICE void finish(const RingPlace& place) {
    arriveAt(ring_.inputsFinished + place.stage, block_, arrives_);
  }

  const HopperRing<Tile, kStages> ring_;
  const uint32_t queries_, keys_;
  const bool arrives_;
  const int block_;
  RingPlace place_;
};

template <typename Tile, int kStages, typename Epilogue, typename Fragment>
CLIPCID_DEVICE void consume(const HopperParams& params, const Schedule& schedule, int32_t queryCount,
                            const HopperRing<Tile, kStages>& ring, int rank, int blocks, Epilogue& epilogue,
                            Fragment& scores) {
  constexpr bool kTwoProducts = requires(Epilogue & one, Fragment & of, const TileAt& at) {
    one.between(of, at);
  };
  Consumer<Tile, kStages, Fragment> consumer(ring, scores, blocks);
  const int32_t clusters = static_cast<int32_t>(gridDim.x) / blocks;
  for (Cursor at(schedule, static_cast<int32_t>(blockIdx.x) / blocks, clusters); at.valid(schedule);
       at.advance(schedule, 1, clusters)) {
    const bool exists = schedule.has(at.item, rank);
    const TileAt tile = hopperTileAt<Tile>(params.loop, queryCount, at, rank);
    if (exists && at.atFirstColumn()) epilogue.begin(tile);
    epilogue.start(scores, tile);
    consumer.multiply(scores, params.depths);
    if constexpr (kTwoProducts) {
      epilogue.between(scores, tile);
      consumer.multiply(scores, params.secondDepths);
    }
    if (exists) epilogue.visit(scores, tile);
    if (exists && at.atLastColumn()) epilogue.finish(tile);
  }
}

#endif  // CLIPCID_SM90A

template <typename Tile, template <typename, typename> typename EpilogueOf>
using HopperEpilogue = EpilogueOf<FragmentOf<Tile>, ConsumerTeam<Tile>>;

template <typename Tile, template <typename, typename> typename EpilogueOf>
constexpr int kHopperStages = Tile::stages(HopperEpilogue<Tile, EpilogueOf>::kSharedBytes);

template <typename Tile, template <typename, typename> typename EpilogueOf>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    mainloopSm90(const __grid_constant__ HopperParams params,
                 const __grid_constant__ typename HopperEpilogue<Tile, EpilogueOf>::Params epilogueParams) {
#if CLIPCID_SM90A
  using Epilogue = HopperEpilogue<Tile, EpilogueOf>;
  constexpr int kStages = kHopperStages<Tile, EpilogueOf>;
  static_assert(kStages >= 2, "an epilogue that leaves no room for a ring");
  const MainloopParams& loop = params.loop;
  // All blocks of a cluster read the same here.
  if (loop.stop != nullptr && *loop.stop != 0) return;
  int32_t queryCount = loop.queries.rows;
  Schedule schedule = loop.schedule;
  if (loop.queryCount != nullptr) {
    const int32_t known = *loop.queryCount;
    queryCount = known < queryCount ? known : queryCount;
    const int32_t tiles = (queryCount + Tile::kRows - 1) / Tile::kRows;
    schedule.rowEnd = tiles < schedule.rowEnd ? tiles : schedule.rowEnd;
    if (schedule.rowEnd <= schedule.rowBegin) return;
  }
  const int rank = clusterRank(), blocks = clusterBlocks();
  const HopperRing<Tile, kStages> ring(sharedMemory());
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      initialise(ring.inputsArrived + stage, 1);
      initialise(ring.inputsFinished + stage, 4 * Tile::kConsumers * blocks);
    }
    publishBarriers();
    prefetch(&params.maps.queries);
    prefetch(&params.maps.keys);
  }
  synchroniseCluster();
  // The same for all lanes of a warp, which the compiler does not see.
  const int warpgroup = __shfl_sync(kAllLanes, thread / 128, 0);
  if (warpgroup == 0) {
    decreaseRegisters<kProducerRegisters>();
    if (thread == 0) produce<Tile, kStages>(params, schedule, ring, rank, blocks);
    __syncwarp();
  } else {
    increaseRegisters<kConsumerRegisters>();
    FragmentOf<Tile> scores;
    scores.lane = thread % kWarp;
    scores.warpRow = (warpgroup - 1) * Tile::kRowsOfConsumer + thread / kWarp % 4 * 16;
    scores.warpColumn = 0;
    Epilogue epilogue(epilogueParams, ring.stages + kStages * Tile::kStageBytes + Tile::kBarrierBytes,
                      ConsumerTeam<Tile>());
    consume<Tile, kStages>(params, schedule, queryCount, ring, rank, blocks, epilogue, scores);
  }
  // Others may still write to this block's shared memory, or arrive at its barriers.
  synchroniseCluster();
#endif
}

}  // namespace clipcid::cuda

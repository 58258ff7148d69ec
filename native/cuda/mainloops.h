// Which mainloop a launch takes, and what the sm_90 one needs to be told of its operands.
#pragma once

#include "cuda/mainloop.h"
#include "cuda/memory.h"
#include "cuda/tensor_map.h"
#include "cuda/tiles.h"

namespace clipcid::cuda {

// The one for the device, as far as this build has it; the sm_80 one where the environment variable CLIP_CID_CUDA_MAINLOOP
// says "sm_80", so that the two can be compared on one machine. Whatever it is, results are the same on the emulated
// device; on a GPU this is not yet compared.
Mainloop mainloopOf(const Device& device);
// In place of the environment variable: the most that is taken. For tests.
Mainloop& mostMainloop();

// The matrices of a product as TMA is told of them.
struct HopperShapes {
  TensorShape queries, keys, secondQueries, secondKeys;
  bool two;

  HopperShapes(const MainloopParams& params, int queriesOfBox, int keysOfBox)
      : queries(shapeOf(params.queries, params, queriesOfBox)),
        keys(shapeOf(params.keys, params, keysOfBox)),
        secondQueries(shapeOf(params.secondQueries, params, queriesOfBox)),
        secondKeys(shapeOf(params.secondKeys, params, keysOfBox)),
        two(params.secondDepths > 0) {}
  // Whether TMA takes them.
  bool suit() const {
    return suitsTensorMap(queries) && suitsTensorMap(keys) &&
           (!two || (suitsTensorMap(secondQueries) && suitsTensorMap(secondKeys)));
  }

 private:
  static TensorShape shapeOf(const Operand& operand, const MainloopParams& params, int boxRows) {
    // Parts of the depth are of the same rows, and the mainloop says where they begin.
    const int64_t problems = params.partsOfDepth ? 1 : params.schedule.problems;
    return {operand.words, operand.stride, operand.rowBytes > 0 ? operand.rowBytes : operand.stride,
            operand.rows,  problems,       boxRows};
  }
};
Status encodeTensorMaps(const HopperShapes& shapes, TensorMaps* out);

}  // namespace clipcid::cuda

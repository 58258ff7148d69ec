// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
// (SC 2011): what is drawn depends on (seed, stream, index) alone, never on a thread.
#pragma once

#include <cstdint>

#include "canonical.h"

namespace clipcid {

// Streams keep the draws of different purposes apart.
enum PhiloxStream : uint64_t {
  kPhiloxKmeansPlusPlus = 1,
  kPhiloxKmeansRandom = 2,
  kPhiloxKmeansAccept = 16,
  kPhiloxKmeansOversample = 17,
  kPhiloxKmeansReduce = 18,
  kPhiloxKmeansReduceAccept = 19,
  kPhiloxKmeansRun = 20,
  kPhiloxSemdedup = 32,
  kPhiloxEstimate = 33,
  kPhiloxKeep = 48,
};

struct Philox4 {
  uint32_t word[4];
};

// Key: low and high word of `seed`. Counter: low and high word of `index`, low and high word of `stream`.
CLIPCID_INLINE Philox4 philox(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The first two words, word 0 the low one.
CLIPCID_INLINE uint64_t philox64(uint64_t seed, uint64_t stream, uint64_t index) {
  const Philox4 draw = philox(seed, stream, index);
  return static_cast<uint64_t>(draw.word[1]) << 32 | draw.word[0];
}

// floor(draw * bound / 2^64): an integer in [0, bound).
CLIPCID_INLINE uint64_t scaleDraw(uint64_t draw, uint64_t bound) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(draw, bound);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(draw) * bound) >> 64);
#endif
}

}  // namespace clipcid

// The one configuration of AMX's tiles that everything here uses: eight of 16 rows of 64 bytes. Only for files compiled
// for AMX; everything has internal linkage (see canonical.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace clipcid {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
constexpr TileConfig kTileConfig;

// Around every run of tile instructions on a thread.
void enter() { _tile_loadconfig(&kTileConfig); }
void leave() { _tile_release(); }

}  // namespace
}  // namespace clipcid

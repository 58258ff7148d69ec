// cpu/product_amx.cpp over tiles that are emulated, so that it can be run where there is AVX512_BF16 and no AMX.
#include "cpu/words_avx512.inc"
// After it: what the tiles' own intrinsics are replaced by.
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#include <cmath>
#include <cstring>

namespace {

constexpr int kRows = 16, kWords = 16;

struct Tile {
  uint32_t words[kRows][kWords];
};

thread_local Tile tiles[8];
thread_local bool entered = false;

void load(int tile, const void* base, int64_t stride) {
  for (int r = 0; r < kRows; ++r)
    std::memcpy(tiles[tile].words[r], static_cast<const char*>(base) + r * stride, 64);
}

void store(int tile, void* base, int64_t stride) {
  for (int r = 0; r < kRows; ++r)
    std::memcpy(static_cast<char*>(base) + r * stride, tiles[tile].words[r], 64);
}

// Denormals count as zero.
float valueOf(uint32_t bits) {
  if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The even and the odd products of words are added apart, as the manual has it.
void multiplyAdd(int sums, int a, int b) {
  for (int m = 0; entered && m < kRows; ++m) {
    for (int n = 0; n < kWords; ++n) {
      float even = 0, odd = 0;
      for (int k = 0; k < kWords; ++k) {
        const uint32_t x = tiles[a].words[m][k], y = tiles[b].words[k][n];
        even = std::fma(valueOf(x << 16), valueOf(y << 16), even);
        odd = std::fma(valueOf(x & 0xffff0000), valueOf(y & 0xffff0000), odd);
      }
      float sum;
      std::memcpy(&sum, &tiles[sums].words[m][n], 4);
      sum += even + odd;
      std::memcpy(&tiles[sums].words[m][n], &sum, 4);
    }
  }
}

}  // namespace

#define _tile_loadconfig(config) (static_cast<void>(config), entered = true)
#define _tile_release() (entered = false)
#define _tile_loadd(tile, base, stride) load(tile, base, stride)
#define _tile_stored(tile, base, stride) store(tile, base, stride)
#define _tile_zero(tile) (tiles[tile] = {})
#define _tile_dpbf16ps(sums, a, b) multiplyAdd(sums, a, b)
#define amxProduct emulatedAmxProduct
#define amxBfloat16Product emulatedAmxBfloat16Product
#include "cpu/product_amx.cpp"

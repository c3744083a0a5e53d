// The operations on AMX tiles that are taken here, on tiles of up to 16 rows of 64 bytes.
//
// Not the compiler's intrinsics: those of GCC 12 do not say that they touch memory, and stores move
// across them.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(EMULATE_TILES)
#include "tiles_emulated.h"
#endif

namespace {

constexpr int TILE_SIDE = 16;  // rows, and words of a row
constexpr int TILE_BYTES = 4 * TILE_SIDE;

struct alignas(64) TileConfiguration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#if !defined(EMULATE_TILES)

inline void tiles_configure(const TileConfiguration& configuration) {
    asm volatile("ldtilecfg %0" ::"m"(configuration) : "memory");
}

inline void tiles_release() { asm volatile("tilerelease" ::: "memory"); }

template <int TILE> inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(TILE) : "memory");
}

template <int TILE> inline void tile_load(const void* from, size_t row_bytes) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(TILE), "r"(from), "r"(row_bytes) : "memory");
}

template <int TILE> inline void tile_store(void* to, size_t row_bytes) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(TILE), "r"(to), "r"(row_bytes) : "memory");
}

// SUM += A times B, whose words are pairs of bfloat16.
template <int SUM, int A, int B> inline void tile_multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B) : "memory");
}

// SUM += A times B, whose words are four bytes, unsigned ones in A and signed ones in B.
template <int SUM, int A, int B> inline void tile_multiply_bytes() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B) : "memory");
}

#endif

// Tiles of so many rows, as long as it lives. Configuration belongs to the thread, and other
// libraries change it: one in every call.
struct ConfiguredTiles {
    explicit ConfiguredTiles(const uint8_t (&rows)[8]) {
        TileConfiguration configuration = {};
        configuration.palette = 1;
        for (int tile = 0; tile < 8; ++tile) {
            configuration.rows[tile] = rows[tile];
            configuration.row_bytes[tile] = TILE_BYTES;
        }
        tiles_configure(configuration);
    }
    ~ConfiguredTiles() { tiles_release(); }
    ConfiguredTiles(const ConfiguredTiles&) = delete;
    ConfiguredTiles& operator=(const ConfiguredTiles&) = delete;
};

}  // namespace

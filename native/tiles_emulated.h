// AMX tiles in plain C++, to test what computes on them where no processor has them.
//
// Follows the operations of Intel's Architecture Instruction Set Extensions reference (ldtilecfg,
// tilezero, tileloadd, tilestored, tdpbf16ps, tdpbusd, tilerelease), and stops the program where a
// processor would: tiles without a configuration, or whose sizes do not fit each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

struct TileConfiguration;

struct EmulatedTile {
    int rows, row_bytes;
    uint8_t bytes[16][64];
};

struct EmulatedTiles {
    bool are_configured;
    EmulatedTile tiles[8];
};

thread_local EmulatedTiles emulated;

inline void demand(bool condition) {
    if (!condition) __builtin_trap();
}

template <int TILE> inline EmulatedTile& tile_of_thread() {
    static_assert(TILE >= 0 && TILE < 8, "a processor has eight tiles");
    demand(emulated.are_configured && emulated.tiles[TILE].rows > 0);
    return emulated.tiles[TILE];
}

inline void tiles_configure(const TileConfiguration& configuration) {
    uint8_t bytes[64];
    std::memcpy(bytes, &configuration, sizeof bytes);
    demand(bytes[0] == 1 && bytes[1] == 0);
    std::memset(&emulated, 0, sizeof emulated);
    for (int i = 0; i < 8; ++i) {
        uint16_t row_bytes;
        std::memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof row_bytes);
        demand(row_bytes <= 64 && bytes[48 + i] <= 16);
        emulated.tiles[i].rows = bytes[48 + i];
        emulated.tiles[i].row_bytes = row_bytes;
    }
    emulated.are_configured = true;
}

inline void tiles_release() { std::memset(&emulated, 0, sizeof emulated); }

template <int TILE> inline void tile_zero() {
    EmulatedTile& tile = tile_of_thread<TILE>();
    std::memset(tile.bytes, 0, sizeof tile.bytes);
}

template <int TILE> inline void tile_load(const void* from, size_t row_bytes) {
    tile_zero<TILE>();
    EmulatedTile& tile = tile_of_thread<TILE>();
    for (int row = 0; row < tile.rows; ++row)
        std::memcpy(tile.bytes[row], (const uint8_t*)from + row * row_bytes, tile.row_bytes);
}

template <int TILE> inline void tile_store(void* to, size_t row_bytes) {
    const EmulatedTile& tile = tile_of_thread<TILE>();
    for (int row = 0; row < tile.rows; ++row)
        std::memcpy((uint8_t*)to + row * row_bytes, tile.bytes[row], tile.row_bytes);
}

// Denormal numbers count as zero, before and after an operation.
inline float flushed(float value) {
    return __builtin_fabsf(value) < 1.17549435e-38f ? __builtin_copysignf(0.0f, value) : value;
}

inline float widened_half(uint32_t word, int half) {
    const uint32_t bits = half ? word & 0xffff0000u : word << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return flushed(value);
}

// Stops the program where the product of two tiles can't be added to a third one.
template <int SUM, int A, int B> inline void demand_that_tiles_fit() {
    static_assert(SUM != A && SUM != B && A != B, "the processor refuses a tile twice");
    const EmulatedTile& sum = tile_of_thread<SUM>();
    const EmulatedTile &a = tile_of_thread<A>(), &b = tile_of_thread<B>();
    demand(sum.rows == a.rows && sum.row_bytes == b.row_bytes && a.row_bytes / 4 == b.rows);
    demand(a.row_bytes % 4 == 0 && sum.row_bytes % 4 == 0);
}

template <int SUM, int A, int B> inline void tile_multiply() {
    demand_that_tiles_fit<SUM, A, B>();
    EmulatedTile& sum = tile_of_thread<SUM>();
    const EmulatedTile &a = tile_of_thread<A>(), &b = tile_of_thread<B>();
    const int words = a.row_bytes / 4, columns = sum.row_bytes / 4;
    for (int row = 0; row < sum.rows; ++row) {
        float halves[16][2] = {};  // the sums of even and of odd numbers
        for (int s = 0; s < words; ++s) {
            uint32_t left, right[16];
            std::memcpy(&left, a.bytes[row] + 4 * s, sizeof left);
            std::memcpy(right, b.bytes[s], sizeof right);
            for (int column = 0; column < columns; ++column)
                for (int half = 0; half < 2; ++half)
                    halves[column][half] =
                        flushed(__builtin_fmaf(widened_half(left, half),
                                               widened_half(right[column], half),
                                               halves[column][half]));
        }
        float sums[16];
        std::memcpy(sums, sum.bytes[row], sizeof sums);
        for (int column = 0; column < columns; ++column)
            sums[column] = flushed(flushed(sums[column]) +
                                   flushed(halves[column][0] + halves[column][1]));
        std::memcpy(sum.bytes[row], sums, 4 * columns);
    }
}

template <int SUM, int A, int B> inline void tile_multiply_bytes() {
    demand_that_tiles_fit<SUM, A, B>();
    EmulatedTile& sum = tile_of_thread<SUM>();
    const EmulatedTile &a = tile_of_thread<A>(), &b = tile_of_thread<B>();
    const int words = a.row_bytes / 4, columns = sum.row_bytes / 4;
    for (int row = 0; row < sum.rows; ++row) {
        uint32_t sums[16];
        std::memcpy(sums, sum.bytes[row], 4 * columns);
        for (int s = 0; s < words; ++s)
            for (int column = 0; column < columns; ++column)
                for (int byte = 0; byte < 4; ++byte)
                    sums[column] += (uint32_t)((int)a.bytes[row][4 * s + byte] *
                                               (int8_t)b.bytes[s][4 * column + byte]);
        std::memcpy(sum.bytes[row], sums, 4 * columns);
    }
}

}  // namespace

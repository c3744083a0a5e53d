// Products of rows of unsigned bytes with a panel of signed bytes, for one instruction set.
//
// A panel holds its columns' bytes by fours: (depth / 4, columns, 4), columns a multiple of 16.
#pragma once

#include "simd.h"
#if defined(BYTE_TILES)
#include "tiles.h"
#endif

namespace {

constexpr int COLUMN_GROUP = 16;

// Largest signed byte in a panel. Without VNNI two products are summed in 16 bits, and 2 * 255 * 63
// is the most that fits there.
#if defined(__AVX512VNNI__) && LANES == 16
constexpr int SIGNED_LEVELS = 127;
#else
constexpr int SIGNED_LEVELS = 63;
#endif

// Rows that are multiplied at a time with 32 columns: their sums and the columns fit the registers.
constexpr int ROWS_AT_ONCE = LANES == 16 ? 8 : LANES == 8 ? 2 : 1;

// Rows of bytes: those, or a tile's. `ByteTiles` is what has to live while they are multiplied.
#if defined(BYTE_TILES)
constexpr int BYTE_ROWS = TILE_SIDE, FEW_BYTE_ROWS = TILE_SIDE / 2;

// Tiles of sums (0 and 1, with half of the rows 2 and 3), of rows (4, or 5), of columns (6 and 7).
struct ByteTiles {
    const ConfiguredTiles tiles{
        {BYTE_ROWS, BYTE_ROWS, FEW_BYTE_ROWS, FEW_BYTE_ROWS, BYTE_ROWS, FEW_BYTE_ROWS, 16, 16}};
};
#else
constexpr int BYTE_ROWS = ROWS_AT_ONCE, FEW_BYTE_ROWS = (BYTE_ROWS + 1) / 2;

struct ByteTiles {
    ByteTiles() {}
};
#endif

#if LANES == 16
// Adds products of 64 bytes, by fours.
inline __m512i add_byte_products(__m512i sum, __m512i unsigned_bytes, __m512i signed_bytes) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
#else
    const __m512i pairs = _mm512_maddubs_epi16(unsigned_bytes, signed_bytes);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
#endif

// Adds the products of four unsigned and four signed bytes in each lane.
inline Ints add_products(Ints sum, uint32_t unsigned_bytes, Ints signed_bytes) {
#if LANES == 16
    return (Ints)add_byte_products((__m512i)sum, _mm512_set1_epi32((int)unsigned_bytes),
                                   (__m512i)signed_bytes);
#elif LANES == 8
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32((int)unsigned_bytes),
                                               (__m256i)signed_bytes);
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    // Of the lower and the upper byte of each half of a lane; two products fit into 16 bits.
    typedef int16_t Halves16 __attribute__((vector_size(sizeof(Ints))));
    typedef uint16_t Bits16 __attribute__((vector_size(sizeof(Ints))));
    const Ints left = Ints{} + (int32_t)unsigned_bytes;
    const Halves16 lower = (Halves16)((Bits16)signed_bytes << 8) >> 8;
    const Halves16 upper = (Halves16)signed_bytes >> 8;
    const Halves16 pairs = lower * (Halves16)((Bits16)left & 0xff) +
                           upper * (Halves16)((Bits16)left >> 8);
    sum += ((Ints)((Words)pairs << 16) >> 16) + ((Ints)pairs >> 16);
    return sum;
#endif
}

inline Ints load_ints(const void* from) {
    Ints out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

// sums[r][v] += row r times the columns of `panel` from its first on, VECTORS * LANES of them.
template <int ROWS, int VECTORS>
inline void multiply_by_vectors(const uint8_t* rows, size_t row_bytes, const int8_t* panel,
                                size_t columns, int depth, Ints (&sums)[ROWS][VECTORS]) {
    for (int d = 0; d < depth; d += 4) {
        Ints right[VECTORS];
        for (int v = 0; v < VECTORS; ++v) right[v] = load_ints(panel + 4 * LANES * v);
        for (int r = 0; r < ROWS; ++r) {
            uint32_t left;
            std::memcpy(&left, rows + r * row_bytes + d, sizeof left);
            for (int v = 0; v < VECTORS; ++v) sums[r][v] = add_products(sums[r][v], left, right[v]);
        }
        panel += 4 * columns;
    }
}

#if defined(BYTE_TILES)
// The same for a depth of whole tiles; sums: (ROWS, COLUMNS). Written where no processor had tiles:
// tested through the emulation, and its speed is not known. (Out of line: in line, GCC 12 spills
// the addresses to memory between tiles.)
template <int ROWS, int COLUMNS>
[[gnu::noinline]] void multiply_on_tiles(const uint8_t* rows, size_t row_bytes, const int8_t* panel,
                                         size_t panel_bytes, int depth, void* sums) {
    static_assert(ROWS == BYTE_ROWS || ROWS == FEW_BYTE_ROWS, "other tiles have other rows");
    static_assert(COLUMNS == TILE_SIDE || COLUMNS == 2 * TILE_SIDE, "one tile of columns, or two");
    constexpr int SUM = ROWS == BYTE_ROWS ? 0 : 2, OTHER = SUM + 1;
    constexpr int ROW = ROWS == BYTE_ROWS ? 4 : 5;
    constexpr bool ARE_TWO = COLUMNS > TILE_SIDE;
    uint8_t* other_sums = (uint8_t*)sums + TILE_BYTES;
    tile_load<SUM>(sums, 4 * COLUMNS);
    if constexpr (ARE_TWO) tile_load<OTHER>(other_sums, 4 * COLUMNS);
    for (int d = 0; d < depth; d += TILE_BYTES, panel += TILE_SIDE * panel_bytes) {
        tile_load<ROW>(rows + d, row_bytes);
        tile_load<6>(panel, panel_bytes);
        tile_multiply_bytes<SUM, ROW, 6>();
        if constexpr (ARE_TWO) {
            tile_load<7>(panel + TILE_BYTES, panel_bytes);
            tile_multiply_bytes<OTHER, ROW, 7>();
        }
    }
    tile_store<SUM>(sums, 4 * COLUMNS);
    if constexpr (ARE_TWO) tile_store<OTHER>(other_sums, 4 * COLUMNS);
}
#endif

// By tiles where there are some, and what fills none by vectors.
template <int ROWS, int VECTORS>
inline void multiply_bytes(const uint8_t* rows, size_t row_bytes, const int8_t* panel,
                           size_t columns, int depth, Ints (&sums)[ROWS][VECTORS]) {
#if defined(BYTE_TILES)
    const int on_tiles = depth / TILE_BYTES * TILE_BYTES;
    if (on_tiles) {
        multiply_on_tiles<ROWS, VECTORS * LANES>(rows, row_bytes, panel, 4 * columns, on_tiles,
                                                 sums);
        rows += on_tiles, panel += on_tiles * columns, depth -= on_tiles;
    }
#endif
    multiply_by_vectors(rows, row_bytes, panel, columns, depth, sums);
}

// Nearest integers of numbers below 2^22 in size.
inline Ints nearest_integers(Floats value) {
#if LANES == 16
    return (Ints)_mm512_maskz_cvtps_epi32(ALL, (__m512)value);
#elif LANES == 8
    return (Ints)_mm256_cvtps_epi32((__m256)value);
#else
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    const Floats magic = broadcast(12582912.0f);
    return (Ints)(value + magic) - (Ints)magic;
#endif
}

inline Floats to_floats(Ints value) { return __builtin_convertvector(value, Floats); }

// float16 numbers that are finite.
inline Floats load_float16(const uint16_t* from) {
    Halves bits;
    std::memcpy(&bits, from, sizeof bits);
#if LANES == 16
    return (Floats)_mm512_maskz_cvtph_ps(ALL, (__m256i)bits);
#else
    const Words wide = __builtin_convertvector(bits, Words);
    // The exponent's bias is 112 smaller; the product does right by subnormal numbers too.
    const Floats size = (Floats)((wide & 0x7fffu) << 13) * 0x1p112f;
    return (Floats)((Words)size | ((wide & 0x8000u) << 16));
#endif
}

inline float widen_float16(uint16_t bits) {
    const uint32_t size_bits = (bits & 0x7fffu) << 13;
    float size;
    std::memcpy(&size, &size_bits, sizeof size);
    return bits & 0x8000u ? -size * 0x1p112f : size * 0x1p112f;
}

}  // namespace

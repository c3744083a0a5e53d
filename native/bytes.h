// Products of rows of unsigned bytes with a panel of signed bytes, for one instruction set.
//
// A panel holds its columns' bytes by fours: (depth / 4, columns, 4), columns a multiple of 16.
#pragma once

#include "simd.h"

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
inline void multiply_bytes(const uint8_t* rows, size_t row_bytes, const int8_t* panel,
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

// Nearest integers of numbers below 2^22 in size.
inline Ints nearest_integers(Floats value) {
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    const Floats magic = broadcast(12582912.0f);
    return (Ints)(value + magic) - (Ints)magic;
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

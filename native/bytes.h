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

inline __m256i add_halves(__m512i value) {
    return _mm256_add_epi32(_mm512_maskz_extracti64x4_epi64((__mmask8)ALL, value, 0),
                            _mm512_maskz_extracti64x4_epi64((__mmask8)ALL, value, 1));
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
    for (int byte = 0; byte < 4; ++byte) {
        const int32_t value = (unsigned_bytes >> 8 * byte) & 0xff;
        sum += ((Ints)((Words)signed_bytes << (24 - 8 * byte)) >> 24) * value;
    }
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

// A row of unsigned bytes times one of signed bytes; `depth` is a multiple of 64.
inline int32_t dot_bytes(const uint8_t* row, const int8_t* other, int depth) {
#if LANES == 16
    __m512i total = _mm512_setzero_si512();
    for (int d = 0; d < depth; d += 64)
        total = add_byte_products(total, _mm512_loadu_si512(row + d),
                                  _mm512_loadu_si512(other + d));
    const __m256i half = add_halves(total);
#elif LANES == 8
    __m256i half = _mm256_setzero_si256();
    for (int d = 0; d < depth; d += 32) {
        const __m256i left = _mm256_loadu_si256((const __m256i*)(row + d));
        const __m256i right = _mm256_loadu_si256((const __m256i*)(other + d));
        const __m256i pairs = _mm256_maddubs_epi16(left, right);
        half = _mm256_add_epi32(half, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
#endif
#if LANES >= 8
    __m128i quarter =
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
    quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1));
    return _mm_cvtsi128_si32(quarter);
#else
    int32_t total = 0;
    for (int d = 0; d < depth; ++d) total += (int32_t)row[d] * other[d];
    return total;
#endif
}

#if LANES >= 8
// Four products as in `dot_bytes`, whose sums over lanes share their steps.
inline __m128i dot_four(const uint8_t* const (&rows)[4], const int8_t* const (&others)[4],
                        int depth) {
#if LANES == 16
    __m512i sums[4];
    for (int i = 0; i < 4; ++i) {
        sums[i] = _mm512_setzero_si512();
        for (int d = 0; d < depth; d += 64)
            sums[i] = add_byte_products(sums[i], _mm512_loadu_si512(rows[i] + d),
                                        _mm512_loadu_si512(others[i] + d));
    }
    // Sums of two in turns, then of four, in each quarter of a register.
    const __m512i low = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(ALL, sums[0], sums[1]),
                                         _mm512_maskz_unpackhi_epi32(ALL, sums[0], sums[1]));
    const __m512i high = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(ALL, sums[2], sums[3]),
                                          _mm512_maskz_unpackhi_epi32(ALL, sums[2], sums[3]));
    const __m256i four = add_halves(
        _mm512_add_epi32(_mm512_maskz_unpacklo_epi64((__mmask8)ALL, low, high),
                         _mm512_maskz_unpackhi_epi64((__mmask8)ALL, low, high)));
#else
    __m256i sums[4];
    for (int i = 0; i < 4; ++i) {
        sums[i] = _mm256_setzero_si256();
        for (int d = 0; d < depth; d += 32) {
            const __m256i left = _mm256_loadu_si256((const __m256i*)(rows[i] + d));
            const __m256i right = _mm256_loadu_si256((const __m256i*)(others[i] + d));
            const __m256i pairs = _mm256_maddubs_epi16(left, right);
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
    const __m256i four = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]),
                                           _mm256_hadd_epi32(sums[2], sums[3]));
#endif
    return _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
}
#endif

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

// The largest products of documents' tokens with query tokens, in float, for one instruction set.
//
// Query tokens are the columns of a panel, (width, columns), columns a multiple of 16.
#pragma once

#include "bytes.h"

#include <algorithm>
#include <type_traits>

namespace {

// Below every product that is finite.
constexpr float LOWEST = -3e38f;

// A float16 number that is finite.
struct Float16 {
    uint16_t bits;
};

inline Floats load(const Float16* from) { return load_float16(&from->bits); }

inline float widen(Float16 value) { return widen_float16(value.bits); }

// Calls `f(first column, vectors as a constant)` for groups of 32 columns and a last one of 16.
template <class F> inline void each_group(int columns, F f) {
    int at = 0;
    for (; at + 2 * COLUMN_GROUP <= columns; at += 2 * COLUMN_GROUP)
        f(at, std::integral_constant<int, 2 * COLUMN_GROUP / LANES>());
    if (at < columns) f(at, std::integral_constant<int, COLUMN_GROUP / LANES>());
}

// How far ahead of the products rows are fetched: the processor's own guesses come too late, and
// many lines at once would wait for each other.
constexpr size_t BYTES_AHEAD = 8192;

// Adds the products of rows with some columns of a panel to `sums`, and fetches what lies ahead.
template <int ROWS, int VECTORS>
inline void multiply_group(const float* rows, int width, const float* panel, int columns,
                           const char* ahead, size_t ahead_step, Floats (&sums)[ROWS][VECTORS]) {
    for (int d = 0; d < width; ++d, panel += columns, ahead += ahead_step) {
        __builtin_prefetch(ahead);
        Floats right[VECTORS];
        for (int v = 0; v < VECTORS; ++v) right[v] = load(panel + v * LANES);
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += rows[r * width + d] * right[v];
    }
}

template <int ROWS, int VECTORS>
inline void raise_group(const float* rows, int width, const float* panel, int columns, float* best,
                        const char* ahead, size_t ahead_step) {
    Floats sums[ROWS][VECTORS] = {};
    multiply_group(rows, width, panel, columns, ahead, ahead_step, sums);
    for (int v = 0; v < VECTORS; ++v) {
        Floats most = load(best + v * LANES);
        for (int r = 0; r < ROWS; ++r) most = larger(most, sums[r][v]);
        store(best + v * LANES, most);
    }
}

// Raises `best` of each column to the largest of its products with `count` tokens.
// buffer: (ROWS_AT_ONCE, width).
template <class Number>
inline void raise_to_products(const Number* tokens, int64_t count, int width, const float* panel,
                              int columns, float* buffer, float* best) {
    constexpr int HALF = (ROWS_AT_ONCE + 1) / 2;
    for (int64_t first = 0; first < count; first += ROWS_AT_ONCE) {
        // The last token fills up what is left of a block of rows, or of half of one.
        const bool is_half = count - first <= HALF;
        const char* ahead = (const char*)(tokens + first * width) + BYTES_AHEAD;
        for (int r = 0; r < (is_half ? HALF : ROWS_AT_ONCE); ++r) {
            const Number* from = tokens + std::min(first + r, count - 1) * width;
            int d = 0;
            for (; d + LANES <= width; d += LANES) store(buffer + r * width + d, load(from + d));
            for (; d < width; ++d) buffer[r * width + d] = widen(from[d]);
        }
        each_group(columns, [&](int column, auto vectors) {
            constexpr int VECTORS = decltype(vectors)::value;
            const auto raise = is_half ? raise_group<HALF, VECTORS>
                                       : raise_group<ROWS_AT_ONCE, VECTORS>;
            raise(buffer, width, panel + column, columns, best + column, ahead,
                  ROWS_AT_ONCE * sizeof(Number));
        });
    }
}

}  // namespace

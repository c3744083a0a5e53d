// Vectors along directions: products of rows of floats with a matrix.
#pragma once

#include "simd.h"

namespace {

// Columns of a matrix of directions: as many as whole vectors on any instruction set hold.
constexpr int padded_columns_of(int directions) { return (directions + 15) / 16 * 16; }

// to[r] = from[r] * directions for ROWS rows; directions: (width, columns), columns padded.
template <int ROWS>
inline void project_rows(const float* from, int width, const float* directions, int columns,
                         float* to) {
    for (int column = 0; column < columns; column += LANES) {
        Floats sums[ROWS] = {};
        for (int d = 0; d < width; ++d) {
            const Floats direction = load(directions + (size_t)d * columns + column);
            for (int r = 0; r < ROWS; ++r)
                sums[r] += broadcast(from[(size_t)r * width + d]) * direction;
        }
        for (int r = 0; r < ROWS; ++r) store(to + (size_t)r * columns + column, sums[r]);
    }
}

// The same for `count` rows.
inline void project(const float* from, int64_t count, int width, const float* directions,
                    int columns, float* to) {
    constexpr int ROWS = 4;
    int64_t row = 0;
    for (; row + ROWS <= count; row += ROWS)
        project_rows<ROWS>(from + row * width, width, directions, columns, to + row * columns);
    for (; row < count; ++row)
        project_rows<1>(from + row * width, width, directions, columns, to + row * columns);
}

}  // namespace

// Linear layers in int8, for one instruction set: rows to 8 bits, each with a scale and a zero
// point of its own, and their product with weights that have a scale for each output.

#include "bytes.h"
#include "int8.h"
#include "rows.h"

#include <algorithm>
#include <vector>

namespace {

// Rows of a register tile: their accumulators beside each panel's columns, which take VECTORS
// registers, and one broadcast have to fit the register file.
constexpr int VECTORS = 64 / LANES;
constexpr int TILE_ROWS = LANES == 16 ? 6 : 2;
constexpr int PANEL_VECTORS = LANES == 16 ? 4 : LANES == 8 ? 4 : 2;
// Rows whose 8-bit values stay in the second-level cache while all panels pass.
constexpr int64_t CACHED_BYTES = 384 << 10;

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

// Finds the range of a row and writes it as 8-bit numbers; zero always has a number of its own.
inline void quantize_row(const float* row, int width, uint8_t* out, float* scale, int32_t* zero) {
    Floats low = {}, high = {};
    int c = 0;
    for (; c + LANES <= width; c += LANES) {
        const Floats value = load(row + c);
        low = choose(value < low, value, low);
        high = larger(high, value);
    }
    float bottom = -maximum(-low), top = maximum(high);
    for (; c < width; ++c) {
        bottom = std::min(bottom, row[c]);
        top = std::max(top, row[c]);
    }
    const float range = top - bottom;
    const float inverse = range > 0 ? 255.0f / range : 0.0f;
    const float offset = std::nearbyint(-bottom * inverse);
    *scale = range / 255.0f;
    // Neither NaN nor infinity has an integer; the scale makes the results what they have to be.
    *zero = offset >= 0 && offset <= 255 ? (int32_t)offset : 0;
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    const float magic = 12582912.0f;
    const Floats most = broadcast(255.0f);
    for (c = 0; c + LANES <= width; c += LANES) {
        Floats value = larger(load(row + c) * inverse + offset, Floats{});
        value = choose(value < most, value, most);
        const Ints bits = (Ints)(value + magic) & 0xff;
        const Bytes bytes = __builtin_convertvector(bits, Bytes);
        std::memcpy(out + c, &bytes, sizeof bytes);
    }
    for (; c < width; ++c) {
        const float value = std::nearbyint(row[c] * inverse + offset);
        out[c] = (uint8_t)std::min(255.0f, std::max(0.0f, value));
    }
}

// Calls `make(number, row)` for every row, which leaves it in float, and quantizes it.
template <class Make>
void quantize_each(const RowSource* source, const QuantizedRows* out, Make make) {
    std::vector<float> row(source->width);
    for (int64_t t = 0; t < source->rows; ++t) {
        make(t, row.data());
        quantize_row(row.data(), source->width, out->values + t * source->width, out->scales + t,
                     out->zeros + t);
    }
}

template <class T> void quantize(const RowSource* source, const QuantizedRows* out) {
    const T* in = (const T*)source->in;
    const int width = source->width;
    quantize_each(source, out, [=](int64_t t, float* row) {
        const T* from = in + t * width;
        int c = 0;
        for (; c + LANES <= width; c += LANES) store(row + c, load(from + c));
        for (; c < width; ++c) row[c] = widen(from[c]);
    });
}

template <class T> void layer_norm(const RowSource* source, const QuantizedRows* out) {
    const T* in = (const T*)source->in;
    quantize_each(source, out, [=](int64_t t, float* row) {
        layer_norm_row(in + t * source->width, source->weight, source->bias, row, source->width,
                       source->epsilon);
    });
}

template <class T> void geglu(const RowSource* source, const QuantizedRows* out) {
    const T* in = (const T*)source->in;
    quantize_each(source, out, [=](int64_t t, float* row) {
        geglu_row(in + 2 * t * source->width, row, source->width);
    });
}

// Adds the products of four unsigned and four signed bytes in each lane.
inline void accumulate(Ints& sum, uint32_t unsigned_bytes, Ints signed_bytes) {
#if defined(__AVX512VNNI__) && LANES == 16
    sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32((int)unsigned_bytes),
                                    (__m512i)signed_bytes);
#else
    for (int byte = 0; byte < 4; ++byte) {
        const int32_t value = (unsigned_bytes >> 8 * byte) & 0xff;
        sum += ((Ints)((Words)signed_bytes << (24 - 8 * byte)) >> 24) * value;
    }
#endif
}

template <class T> struct Target {
    const QuantizedRows* in;
    const Int8Product* product;
    const T* residual;
    T* out;

    void finish(int64_t row, int column, Ints sums) const {
        const int columns = product->columns;
        const int32_t zero = in->zeros[row];
        const float scale = in->scales[row];
        if (column + LANES <= columns) {
            Ints offsets;
            std::memcpy(&offsets, product->column_sums + column, sizeof offsets);
            Floats value = __builtin_convertvector(sums - offsets * zero, Floats);
            value = value * scale * load(product->column_scales + column);
            if (product->bias) value += load(product->bias + column);
            if (residual) value += load(residual + row * columns + column);
            store(out + row * columns + column, value);
            return;
        }
        for (int lane = 0; column + lane < columns; ++lane) {
            const int c = column + lane;
            float value = (float)(sums[lane] - product->column_sums[c] * zero) * scale *
                          product->column_scales[c];
            if (product->bias) value += product->bias[c];
            if (residual) value += widen(residual[row * columns + c]);
            out[row * columns + c] = narrow<T>(value);
        }
    }
};

// ROWS rows from `row` on, and PANEL_VECTORS vectors of columns of one panel.
template <class T, int ROWS>
inline void tile(const Target<T>& target, int64_t row, int panel, int first_vector) {
    const int depth = target.product->depth, words = depth / 4;
    const uint8_t* a = target.in->values + row * depth;
    const int8_t* b = target.product->weight + (size_t)panel * PANEL_COLUMNS * depth +
                      (size_t)first_vector * LANES * 4;
    Ints sums[ROWS][PANEL_VECTORS] = {};
    for (int s = 0; s < words; ++s) {
        Ints columns[PANEL_VECTORS];
        for (int j = 0; j < PANEL_VECTORS; ++j)
            columns[j] = load_ints(b + (size_t)s * PANEL_COLUMNS * 4 + j * LANES * 4);
        for (int i = 0; i < ROWS; ++i) {
            uint32_t bytes;
            std::memcpy(&bytes, a + (size_t)i * depth + 4 * s, sizeof bytes);
            for (int j = 0; j < PANEL_VECTORS; ++j) accumulate(sums[i][j], bytes, columns[j]);
        }
    }
    // Through memory, so that the loop below does not keep the sums out of registers above.
    int32_t finished[ROWS][PANEL_VECTORS][LANES];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j)
            std::memcpy(finished[i][j], &sums[i][j], sizeof sums[i][j]);
    const int column = panel * PANEL_COLUMNS + first_vector * LANES;
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j)
            target.finish(row + i, column + j * LANES, load_ints(finished[i][j]));
}

template <class T, int ROWS>
void rows_of_panel(const Target<T>& target, int64_t row, int panel) {
    for (int vector = 0; vector < VECTORS; vector += PANEL_VECTORS)
        tile<T, ROWS>(target, row, panel, vector);
}

// As many of the rows from `row` to `last` as fill AMX tiles, where the depth does too; returns the
// first that is left.
template <class T>
inline int64_t tiles_of_panel(const Target<T>& target, int64_t row, int64_t last, int panel) {
#if defined(BYTE_TILES)
    constexpr int COLUMNS = 2 * TILE_SIDE;
    const int depth = target.product->depth;
    if (depth % TILE_BYTES) return row;
    for (; row + BYTE_ROWS <= last; row += BYTE_ROWS) {
        for (int column = panel * PANEL_COLUMNS; column < (panel + 1) * PANEL_COLUMNS;
             column += COLUMNS) {
            const int8_t* weight = target.product->weight + (size_t)panel * PANEL_COLUMNS * depth +
                                   column % PANEL_COLUMNS * 4;
            int32_t sums[BYTE_ROWS][COLUMNS] = {};
            multiply_on_tiles<BYTE_ROWS, COLUMNS>(target.in->values + row * depth, depth, weight,
                                                  4 * PANEL_COLUMNS, depth, sums);
            for (int r = 0; r < BYTE_ROWS; ++r)
                for (int c = 0; c < COLUMNS; c += LANES)
                    target.finish(row + r, column + c, load_ints(sums[r] + c));
        }
    }
#else
    (void)target, (void)last, (void)panel;
#endif
    return row;
}

template <class T>
void multiply(const QuantizedRows* in, const Int8Product* product, const void* residual,
              void* out) {
    const ByteTiles tiles;
    const Target<T> target{in, product, (const T*)residual, (T*)out};
    const int panels = (product->columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    constexpr int64_t WHOLE = TILE_ROWS * BYTE_ROWS;  // tiles of registers, and of AMX
    const int64_t block = std::max(WHOLE, CACHED_BYTES / product->depth / WHOLE * WHOLE);
    for (int64_t first = 0; first < product->rows; first += block) {
        const int64_t last = std::min(product->rows, first + block);
        for (int panel = 0; panel < panels; ++panel) {
            int64_t row = tiles_of_panel(target, first, last, panel);
            for (; row + TILE_ROWS <= last; row += TILE_ROWS)
                rows_of_panel<T, TILE_ROWS>(target, row, panel);
            for (; row + 2 <= last; row += 2) rows_of_panel<T, 2>(target, row, panel);
            for (; row < last; ++row) rows_of_panel<T, 1>(target, row, panel);
        }
    }
}

}  // namespace

extern const Int8Kernels INT8_KERNELS = {
    {quantize<float>, quantize<Bfloat16>},
    {layer_norm<float>, layer_norm<Bfloat16>},
    {geglu<float>, geglu<Bfloat16>},
    {multiply<float>, multiply<Bfloat16>},
};

// Attention in bfloat16 on AMX tiles. Compiled for processors that have them and, with
// EMULATE_TILES, for any; ATTENTION and ATTENTION_GRADIENT name the functions. Written where no
// processor had them: it is tested through the emulation, and its speed is not known.

#include "attention_gradient.h"
#include "tiles.h"

namespace {

// The products of attention.h, on two by two tiles of sums (tiles 0 to 3), two of the left operand
// (4 and 5) and two of the right one (6 and 7).
struct TileProducts {
    static constexpr bool PAIRS = true;
    static constexpr int ROWS = 2 * TILE_SIDE, FEW_ROWS = TILE_SIDE;
    static constexpr int KEY_COLUMNS = TILE_SIDE, KEY_STEP = 2 * TILE_SIDE, KEY_BLOCK = 256;
    static constexpr int VALUE_STEP = 2 * TILE_SIDE;
    static constexpr int SCORE_STRIDE = KEY_BLOCK + 16;

    const ConfiguredTiles tiles{{16, 16, 16, 16, 16, 16, 16, 16}};

    // Adds a[i][s] * b[s][c] for `words` s; ROWS of a's rows, each `a_stride` words, and two tiles
    // of columns, which begin at b and at b_second.
    template <int ROWS>
    static void multiply(const uint32_t* a, size_t a_stride, const uint32_t* b,
                         const uint32_t* b_second, size_t b_stride, int words) {
        for (int s = 0; s < words; s += TILE_SIDE) {
            tile_load<4>(a + s, 4 * a_stride);
            tile_load<6>(b + s * b_stride, 4 * b_stride);
            tile_load<7>(b_second + s * b_stride, 4 * b_stride);
            tile_multiply<0, 4, 6>();
            tile_multiply<1, 4, 7>();
            if constexpr (ROWS > TILE_SIDE) {
                tile_load<5>(a + TILE_SIDE * a_stride + s, 4 * a_stride);
                tile_multiply<2, 5, 6>();
                tile_multiply<3, 5, 7>();
            }
        }
    }

    template <int ROWS> static void store_sums(float* out, size_t stride) {
        tile_store<0>(out, 4 * stride);
        tile_store<1>(out + TILE_SIDE, 4 * stride);
        if constexpr (ROWS > TILE_SIDE) {
            tile_store<2>(out + TILE_SIDE * stride, 4 * stride);
            tile_store<3>(out + TILE_SIDE * stride + TILE_SIDE, 4 * stride);
        }
    }

    // (Out of line, as add_values: in line, GCC 12 spills the addresses to memory between tiles.)
    template <int ROWS>
    [[gnu::noinline]] static void scores(const uint32_t* queries, const uint32_t* keys, int words,
                                         int columns, float* out) {
        for (int c = 0; c < columns; c += 2 * TILE_SIDE) {
            tile_zero<0>();
            tile_zero<1>();
            if constexpr (ROWS > TILE_SIDE) {
                tile_zero<2>();
                tile_zero<3>();
            }
            multiply<ROWS>(queries, words, keys + c * words, keys + (c + TILE_SIDE) * words,
                           TILE_SIDE, words);
            store_sums<ROWS>(out + c, SCORE_STRIDE);
        }
    }

    template <int ROWS>
    [[gnu::noinline]] static void add_values(const uint32_t* probabilities, size_t stride,
                                             const uint32_t* values, size_t value_stride, int words,
                                             int width, float* out, size_t out_stride) {
        for (int c = 0; c < width; c += 2 * TILE_SIDE) {
            tile_load<0>(out + c, 4 * out_stride);
            tile_load<1>(out + c + TILE_SIDE, 4 * out_stride);
            if constexpr (ROWS > TILE_SIDE) {
                tile_load<2>(out + TILE_SIDE * out_stride + c, 4 * out_stride);
                tile_load<3>(out + TILE_SIDE * out_stride + c + TILE_SIDE, 4 * out_stride);
            }
            multiply<ROWS>(probabilities, stride, values + c, values + c + TILE_SIDE, value_stride,
                           words);
            store_sums<ROWS>(out + c, out_stride);
        }
    }
};

}  // namespace

// Widths of a head that are multiples of 32 (kernels.h).
void ATTENTION(const void* qkv, void* out, float* normalisers, const AttentionShape* shape,
               const int32_t* offsets, const int32_t* key_counts, const float* cosines,
               const float* sines) {
    attend<Bfloat16, TileProducts>(qkv, out, normalisers, shape, offsets, key_counts, cosines,
                                   sines);
}

void ATTENTION_GRADIENT(const void* qkv, const void* out, const float* normalisers,
                        const void* out_gradient, void* gradient, const AttentionShape* shape,
                        const int32_t* offsets, const int32_t* key_counts, const float* cosines,
                        const float* sines) {
    attend_back<Bfloat16, TileProducts>(qkv, out, normalisers, out_gradient, gradient, shape,
                                        offsets, key_counts, cosines, sines);
}

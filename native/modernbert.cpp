// The parts of a ModernBERT layer that are not matrix products, for one instruction set: layer
// norm, rotary positions with softmax attention, and the gated activation, over a packed stream of
// tokens. Compiled once for each instruction set, with KERNELS naming the table that it fills.

#include "attention.h"
#include "rows.h"

namespace {

// Rows of a register tile, and vectors of columns beside each other: their product, the columns
// and one broadcast have to fit the register file.
constexpr int TILE_ROWS = LANES == 16 ? 6 : 3;
constexpr int TILE_VECTORS = LANES == 4 ? 2 : 4;

// A product's operands are 32-bit words: one float, or two bfloat16 numbers that lie beside each
// other along the summed axis. Where the processor multiplies bfloat16 pairs, bfloat16 input stays
// as it is; elsewhere it is widened to float once, while it is packed.
#if defined(__AVX512BF16__) && LANES == 16
constexpr bool HAS_PAIRS = true;
#else
constexpr bool HAS_PAIRS = false;
#endif

template <bool PAIRS> inline void accumulate(Floats& sum, uint32_t a, Floats b) {
    if constexpr (PAIRS) {
#if defined(__AVX512BF16__) && LANES == 16
        sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a),
                                       (__m512bh)b);
#endif
    } else {
        float value;
        std::memcpy(&value, &a, sizeof value);
        sum += value * b;
    }
}

// out[i][c] (+)= sum over s of a[i][s] * b[s][c], for ROWS rows and VECTORS vectors of columns, one
// `b_vector` after the other in b.
template <bool PAIRS, int ROWS, int VECTORS, bool ADD>
inline void tile(const uint32_t* a, int a_stride, const uint32_t* b, int b_stride, int b_vector,
                 int words, float* out, int out_stride) {
    Floats sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j)
            sums[i][j] = ADD ? load(out + i * out_stride + j * LANES) : Floats{};
    for (int s = 0; s < words; ++s) {
        Floats columns[VECTORS];
        for (int j = 0; j < VECTORS; ++j)
            columns[j] = load((const float*)b + s * b_stride + j * b_vector);
        for (int i = 0; i < ROWS; ++i)
            for (int j = 0; j < VECTORS; ++j)
                accumulate<PAIRS>(sums[i][j], a[i * a_stride + s], columns[j]);
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) store(out + i * out_stride + j * LANES, sums[i][j]);
}

// The products of attention.h on vectors.
template <bool PAIRS_> struct VectorProducts {
    static constexpr bool PAIRS = PAIRS_;
    static constexpr int ROWS = TILE_ROWS, FEW_ROWS = LANES == 16 ? 3 : 1;
    static constexpr int KEY_COLUMNS = LANES, KEY_STEP = LANES, KEY_BLOCK = 512;
    static constexpr int VALUE_STEP = PAIRS ? 2 : 1;
    static constexpr int SCORE_STRIDE = KEY_BLOCK + 16;

    template <int ROWS>
    static void scores(const uint32_t* queries, const uint32_t* keys, int words, int columns,
                       float* out) {
        int c = 0;
        for (; c + TILE_VECTORS * LANES <= columns; c += TILE_VECTORS * LANES)
            tile<PAIRS, ROWS, TILE_VECTORS, false>(queries, words, keys + c * words, LANES,
                                                   words * LANES, words, out + c, SCORE_STRIDE);
        for (; c < columns; c += LANES)
            tile<PAIRS, ROWS, 1, false>(queries, words, keys + c * words, LANES, words * LANES,
                                        words, out + c, SCORE_STRIDE);
    }

    template <int ROWS>
    static void add_values(const uint32_t* probabilities, const uint32_t* values, int words,
                           int width, float* out) {
        int c = 0;
        for (; c + TILE_VECTORS * LANES <= width; c += TILE_VECTORS * LANES)
            tile<PAIRS, ROWS, TILE_VECTORS, true>(probabilities, SCORE_STRIDE, values + c, width,
                                                  LANES, words, out + c, width);
        for (; c < width; c += LANES)
            tile<PAIRS, ROWS, 1, true>(probabilities, SCORE_STRIDE, values + c, width, LANES,
                                       words, out + c, width);
    }
};

template <class T>
void layer_norm(const T* in, const float* weight, const float* bias, T* out, int64_t tokens,
                int width, float epsilon) {
    for (int64_t t = 0; t < tokens; ++t, in += width, out += width)
        layer_norm_row(in, weight, bias, out, width, epsilon);
}

template <class T> void geglu(const T* in, T* out, int64_t tokens, int width) {
    for (int64_t t = 0; t < tokens; ++t, in += 2 * width, out += width) geglu_row(in, out, width);
}

template <class T>
void layer_norm_of(const void* in, const float* weight, const float* bias, void* out,
                   int64_t tokens, int width, float epsilon) {
    layer_norm<T>((const T*)in, weight, bias, (T*)out, tokens, width, epsilon);
}

template <class T> void geglu_of(const void* in, void* out, int64_t tokens, int width) {
    geglu<T>((const T*)in, (T*)out, tokens, width);
}

}  // namespace

extern const ModernBertKernels KERNELS = {
    {attend<float, VectorProducts<false>>, attend<Bfloat16, VectorProducts<HAS_PAIRS>>},
    {layer_norm_of<float>, layer_norm_of<Bfloat16>},
    {geglu_of<float>, geglu_of<Bfloat16>},
};

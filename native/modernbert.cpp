// The parts of a ModernBERT layer that are not matrix products, for one instruction set: layer
// norm, rotary positions with softmax attention, and the gated activation, over a packed stream of
// tokens. Compiled once for each instruction set, with KERNELS naming the table that it fills.

#include "attention_gradient.h"
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

// All `columns`: VECTORS beside each other, then what is left by fewer. (One alone would wait for
// each of its sums.)
template <bool PAIRS, int ROWS, int VECTORS, bool ADD>
inline void product(const uint32_t* a, int a_stride, const uint32_t* b, int b_stride, int b_vector,
                    int words, int columns, float* out, int out_stride) {
    int c = 0;
    for (; c + VECTORS * LANES <= columns; c += VECTORS * LANES)
        tile<PAIRS, ROWS, VECTORS, ADD>(a, a_stride, b + c / LANES * b_vector, b_stride, b_vector,
                                        words, out + c, out_stride);
    if constexpr (VECTORS > 1)
        if (c < columns)
            product<PAIRS, ROWS, VECTORS - 1, ADD>(a, a_stride, b + c / LANES * b_vector, b_stride,
                                                   b_vector, words, columns - c, out + c,
                                                   out_stride);
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
        product<PAIRS, ROWS, TILE_VECTORS, false>(queries, words, keys, LANES, words * LANES, words,
                                                  columns, out, SCORE_STRIDE);
    }

    template <int ROWS>
    static void add_values(const uint32_t* probabilities, int stride, const uint32_t* values,
                           int value_stride, int words, int width, float* out, int out_stride) {
        product<PAIRS, ROWS, TILE_VECTORS, true>(probabilities, stride, values, value_stride, LANES,
                                                 words, width, out, out_stride);
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

template <class T>
void geglu_gradient_of(const void* in, const void* out_gradient, void* gradient, int64_t tokens,
                       int width) {
    const T *row = (const T*)in, *of_out = (const T*)out_gradient;
    T* to = (T*)gradient;
    for (int64_t t = 0; t < tokens; ++t, row += 2 * width, of_out += width, to += 2 * width)
        geglu_gradient_row(row, of_out, to, width);
}

}  // namespace

extern const ModernBertKernels KERNELS = {
    {attend<float, VectorProducts<false>>, attend<Bfloat16, VectorProducts<HAS_PAIRS>>},
    {attend_back<float, VectorProducts<false>>, attend_back<Bfloat16, VectorProducts<HAS_PAIRS>>},
    {layer_norm_of<float>, layer_norm_of<Bfloat16>},
    {geglu_of<float>, geglu_of<Bfloat16>},
    {geglu_gradient_of<float>, geglu_gradient_of<Bfloat16>},
};

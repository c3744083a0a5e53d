// The parts of a ModernBERT layer that are not matrix products, for one instruction set: layer
// norm, rotary positions with softmax attention, and the gated activation, over a packed stream of
// tokens. Compiled once for each instruction set, with KERNELS naming the table that it fills.

#include "kernels.h"
#include "rows.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

// Rows of a register tile, and vectors of columns beside each other: their product, the columns
// and one broadcast have to fit the register file.
constexpr int TILE_ROWS = LANES == 16 ? 6 : 3;
constexpr int TILE_VECTORS = LANES == 4 ? 2 : 4;
constexpr int KEY_BLOCK = 512;
constexpr int QUERY_BLOCK = 256;

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

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

// out[i][c] (+)= sum over s of a[i][s] * b[s][c], for ROWS rows and VECTORS * LANES columns.
template <bool PAIRS, int ROWS, int VECTORS>
inline void tile(const uint32_t* a, int a_stride, const float* b, int b_stride, int words,
                 float* out, int out_stride, bool add) {
    Floats sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j)
            sums[i][j] = add ? load(out + i * out_stride + j * LANES) : Floats{};
    for (int s = 0; s < words; ++s) {
        Floats columns[VECTORS];
        for (int j = 0; j < VECTORS; ++j) columns[j] = load(b + (size_t)s * b_stride + j * LANES);
        for (int i = 0; i < ROWS; ++i)
            for (int j = 0; j < VECTORS; ++j)
                accumulate<PAIRS>(sums[i][j], a[i * a_stride + s], columns[j]);
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j)
            store(out + i * out_stride + j * LANES, sums[i][j]);
}

template <bool PAIRS, int ROWS>
inline void product(const uint32_t* a, int a_stride, const float* b, int b_stride, int words,
                    int columns, float* out, int out_stride, bool add) {
    int c = 0;
    for (; c + TILE_VECTORS * LANES <= columns; c += TILE_VECTORS * LANES)
        tile<PAIRS, ROWS, TILE_VECTORS>(a, a_stride, b + c, b_stride, words, out + c, out_stride,
                                        add);
    for (; c < columns; c += LANES)
        tile<PAIRS, ROWS, 1>(a, a_stride, b + c, b_stride, words, out + c, out_stride, add);
}

// A row of rotated query or key, as words. Source: Su et al. 2021, arXiv:2104.09864.
template <class T, bool PAIRS>
inline void rotate(const T* row, const float* cosines, const float* sines, int width,
                   uint32_t* words) {
    const int half = width / 2;
    alignas(64) float rotated[MAX_HEAD_WIDTH];
    int c = 0;
    for (; c + LANES <= half; c += LANES) {
        const Floats a = load(row + c), b = load(row + half + c);
        const Floats cosine = load(cosines + c), sine = load(sines + c);
        store(rotated + c, a * cosine - b * sine);
        store(rotated + half + c, b * cosine + a * sine);
    }
    for (; c < half; ++c) {
        const float a = widen(row[c]), b = widen(row[half + c]);
        rotated[c] = a * cosines[c] - b * sines[c];
        rotated[half + c] = b * cosines[c] + a * sines[c];
    }
    if constexpr (PAIRS) {
        Bfloat16* to = (Bfloat16*)words;
        for (c = 0; c + LANES <= width; c += LANES) store(to + c, load(rotated + c));
        for (; c < width; ++c) to[c] = narrow<Bfloat16>(rotated[c]);
    } else {
        // Rounded as the wider path rounds, so that both see the same keys.
        for (c = 0; c < width; ++c) rotated[c] = widen(narrow<T>(rotated[c]));
        std::memcpy(words, rotated, width * sizeof(float));
    }
}

// Memory that one call uses again for every head and block.
template <bool PAIRS> struct Scratch {
    int key_words, value_width;
    std::vector<uint32_t> queries, probabilities;
    std::vector<float> keys, values, scores, outputs;
    float maxima[QUERY_BLOCK], sums[QUERY_BLOCK];

    explicit Scratch(int width)
        : key_words(PAIRS ? width / 2 : width), value_width(round_up(width, LANES)),
          queries(QUERY_BLOCK * key_words), probabilities(TILE_ROWS * KEY_BLOCK),
          keys(key_words * KEY_BLOCK), values(KEY_BLOCK * value_width),
          scores(TILE_ROWS * KEY_BLOCK), outputs(QUERY_BLOCK * value_width) {}
};

struct Head {
    int width;
    size_t stride;  // from a token's row to the next one's, in elements
    const float *cosines, *sines;
};

// Keys of one block with the summed axis outside, values with the keys outside.
template <class T, bool PAIRS>
void pack_block(const T* keys, const T* values, const Head& head, int first, int count,
                Scratch<PAIRS>& scratch) {
    const int padded = round_up(count, LANES), half = head.width / 2;
    uint32_t* columns = (uint32_t*)scratch.keys.data();
    for (int j0 = 0; j0 < padded; j0 += LANES) {
        alignas(64) uint32_t rows[LANES][MAX_HEAD_WIDTH];
        for (int j = 0; j < LANES; ++j) {
            if (j0 + j >= count) {
                std::memset(rows[j], 0, scratch.key_words * sizeof(uint32_t));
                continue;
            }
            const int position = first + j0 + j;
            rotate<T, PAIRS>(keys + position * head.stride, head.cosines + (size_t)position * half,
                             head.sines + (size_t)position * half, head.width, rows[j]);
        }
        for (int s = 0; s < scratch.key_words; ++s) {
            Words column;
            for (int j = 0; j < LANES; ++j) column[j] = rows[j][s];
            std::memcpy(columns + s * KEY_BLOCK + j0, &column, sizeof column);
        }
    }
    const int width = scratch.value_width;
    float* to = scratch.values.data();
    if constexpr (PAIRS) {
        // Keys 2p and 2p + 1 share a word of row p.
        for (int p = 0; 2 * p < padded; ++p) {
            const T* even = 2 * p < count ? values + (first + 2 * p) * head.stride : nullptr;
            const T* odd = 2 * p + 1 < count ? values + (first + 2 * p + 1) * head.stride : nullptr;
            uint32_t* out = (uint32_t*)(to + p * width);
            for (int c = 0; c < head.width; ++c) {
                const uint32_t low = even ? ((const uint16_t*)even)[c] : 0;
                const uint32_t high = odd ? ((const uint16_t*)odd)[c] : 0;
                out[c] = low | high << 16;
            }
            for (int c = head.width; c < width; ++c) out[c] = 0;
        }
    } else {
        for (int j = 0; j < padded; ++j) {
            float* out = to + j * width;
            const bool is_key = j < count;
            for (int c = 0; c < width; ++c)
                out[c] = is_key && c < head.width
                             ? widen(values[(first + j) * head.stride + c])
                             : 0.0f;
        }
    }
}

// Turn a row's scores into probabilities against its running maximum.
// Returns what the row's earlier sum and output have to be multiplied with.
template <bool PAIRS>
inline float soften(float* scores, uint32_t* probabilities, int low, int high, int start, int end,
                    float scale, float& maximum_so_far, float& sum_so_far) {
    // [start, end) is what the tile computed, [low, high) what this row may see.
    Floats lanes;
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = (float)lane;
    const Floats lowest = broadcast(-INFINITY);
    Floats top = lowest;
    for (int j = start; j < end; j += LANES) {
        Floats value = load(scores + j) * scale;
        if (j < low || j + LANES > high) {
            const Floats at = lanes + (float)j;
            value = choose((at >= broadcast((float)low)) & (at < broadcast((float)high)), value,
                           lowest);
        }
        store(scores + j, value);
        top = larger(top, value);
    }
    const float before = maximum_so_far;
    const float now = std::max(before, maximum(top));
    if (now == -INFINITY) {  // nothing seen yet
        std::memset(probabilities + (PAIRS ? start / 2 : start), 0,
                    (PAIRS ? (end - start) / 2 : end - start) * sizeof(uint32_t));
        return 1.0f;
    }
    Floats total = {};
    for (int j = start; j < end; j += LANES) {
        const Floats value = exponential(load(scores + j) - now);
        total += value;
        if constexpr (PAIRS) {
            store((Bfloat16*)probabilities + j, value);
        } else {
            store((float*)probabilities + j, value);
        }
    }
    const float keep = before == -INFINITY ? 0.0f : std::exp(before - now);
    maximum_so_far = now;
    sum_so_far = sum_so_far * keep + sum(total);
    return keep;
}

template <bool PAIRS, int ROWS>
void attend_rows(int row, int first_query, int first_key, int key_count, int window, float scale,
                 Scratch<PAIRS>& scratch) {
    const int width = scratch.value_width;
    // Keys of this block that any of the rows may see.
    const int lowest = window < 0 ? 0 : std::max(0, first_query - window - first_key);
    const int highest = window < 0 ? key_count
                                   : std::min(key_count, first_query + ROWS + window - first_key);
    if (lowest >= highest) return;
    const int start = lowest / LANES * LANES, end = round_up(highest, LANES);
    float* scores = scratch.scores.data();
    product<PAIRS, ROWS>(scratch.queries.data() + row * scratch.key_words, scratch.key_words,
                         scratch.keys.data() + start, KEY_BLOCK, scratch.key_words, end - start,
                         scores + start, KEY_BLOCK, false);
    float* outputs = scratch.outputs.data() + row * width;
    for (int i = 0; i < ROWS; ++i) {
        const int query = first_query + i;
        const int low = window < 0 ? 0 : std::max(0, query - window - first_key);
        const int high = window < 0 ? key_count
                                    : std::min(key_count, query + window + 1 - first_key);
        const float keep = soften<PAIRS>(
            scores + i * KEY_BLOCK, scratch.probabilities.data() + i * KEY_BLOCK, low, high, start,
            end, scale, scratch.maxima[row + i], scratch.sums[row + i]);
        if (keep != 1.0f)
            for (int c = 0; c < width; c += LANES)
                store(outputs + i * width + c, load(outputs + i * width + c) * keep);
    }
    const int from = PAIRS ? start / 2 : start, words = PAIRS ? (end - start) / 2 : end - start;
    product<PAIRS, ROWS>(scratch.probabilities.data() + from, KEY_BLOCK,
                         scratch.values.data() + from * width, width, words, width, outputs, width,
                         true);
}

template <class T, bool PAIRS>
void attend(const T* qkv, T* out, int heads, const Head& head, const int32_t* offsets,
            const int32_t* key_counts, int sequences, int window, float scale) {
    Scratch<PAIRS> scratch(head.width);
    const int hidden = heads * head.width;
    for (int sequence = 0; sequence < sequences; ++sequence) {
        const int length = offsets[sequence + 1] - offsets[sequence];
        const int keys_total = key_counts ? key_counts[sequence] : length;
        const T* rows = qkv + offsets[sequence] * head.stride;
        T* to = out + (size_t)offsets[sequence] * hidden;
        for (int h = 0; h < heads; ++h) {
            const T* queries = rows + h * head.width;
            const T *keys = queries + hidden, *values = keys + hidden;
            for (int q0 = 0; q0 < length; q0 += QUERY_BLOCK) {
                const int count = std::min(QUERY_BLOCK, length - q0);
                for (int i = 0; i < count; ++i) {
                    const size_t at = (size_t)(q0 + i) * (head.width / 2);
                    rotate<T, PAIRS>(queries + (q0 + i) * head.stride, head.cosines + at,
                                     head.sines + at, head.width,
                                     scratch.queries.data() + i * scratch.key_words);
                    scratch.maxima[i] = -INFINITY;
                    scratch.sums[i] = 0;
                }
                std::fill_n(scratch.outputs.data(), count * scratch.value_width, 0.0f);
                const int k_first = window < 0 ? 0 : std::max(0, q0 - window);
                const int k_last = window < 0 ? keys_total
                                              : std::min(keys_total, q0 + count + window);
                for (int k0 = k_first; k0 < k_last; k0 += KEY_BLOCK) {
                    const int block = std::min(KEY_BLOCK, k_last - k0);
                    pack_block<T, PAIRS>(keys, values, head, k0, block, scratch);
                    int i = 0;
                    for (; i + TILE_ROWS <= count; i += TILE_ROWS)
                        attend_rows<PAIRS, TILE_ROWS>(i, q0 + i, k0, block, window, scale, scratch);
                    for (; i < count; ++i)
                        attend_rows<PAIRS, 1>(i, q0 + i, k0, block, window, scale, scratch);
                }
                for (int i = 0; i < count; ++i) {
                    // A row that may see no key gives zeros, as torch's attention does.
                    const float inverse = scratch.sums[i] > 0 ? 1.0f / scratch.sums[i] : 0.0f;
                    const float* from = scratch.outputs.data() + i * scratch.value_width;
                    T* row = to + (size_t)(q0 + i) * hidden + h * head.width;
                    int c = 0;
                    for (; c + LANES <= head.width; c += LANES)
                        store(row + c, load(from + c) * inverse);
                    for (; c < head.width; ++c) row[c] = narrow<T>(from[c] * inverse);
                }
            }
        }
    }
}

// Rotate queries and keys where they are, for an attention that is not ours.
template <class T>
void rotate_in_place(T* qkv, int heads, const Head& head, const int32_t* offsets, int sequences) {
    const int half = head.width / 2;
    for (int sequence = 0; sequence < sequences; ++sequence) {
        for (int t = offsets[sequence]; t < offsets[sequence + 1]; ++t) {
            const size_t at = (size_t)(t - offsets[sequence]) * half;
            const float *cosines = head.cosines + at, *sines = head.sines + at;
            for (int h = 0; h < 2 * heads; ++h) {
                T* row = qkv + t * head.stride + h * head.width;
                int c = 0;
                for (; c + LANES <= half; c += LANES) {
                    const Floats a = load(row + c), b = load(row + half + c);
                    const Floats cosine = load(cosines + c), sine = load(sines + c);
                    store(row + c, a * cosine - b * sine);
                    store(row + half + c, b * cosine + a * sine);
                }
                for (; c < half; ++c) {
                    const float a = widen(row[c]), b = widen(row[half + c]);
                    row[c] = narrow<T>(a * cosines[c] - b * sines[c]);
                    row[half + c] = narrow<T>(b * cosines[c] + a * sines[c]);
                }
            }
        }
    }
}

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
void attention_of(const void* qkv, void* out, const AttentionShape* shape, const int32_t* offsets,
                  const int32_t* key_counts, const float* cosines, const float* sines) {
    constexpr bool PAIRS = HAS_PAIRS && sizeof(T) == 2;
    const Head head{shape->head_width, (size_t)3 * shape->heads * shape->head_width, cosines,
                    sines};
    attend<T, PAIRS>((const T*)qkv, (T*)out, shape->heads, head, offsets, key_counts,
                     shape->sequences, shape->window, shape->scale);
}

template <class T>
void rotate_of(void* qkv, const AttentionShape* shape, const int32_t* offsets,
               const float* cosines, const float* sines) {
    const Head head{shape->head_width, (size_t)3 * shape->heads * shape->head_width, cosines,
                    sines};
    rotate_in_place<T>((T*)qkv, shape->heads, head, offsets, shape->sequences);
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
    {attention_of<float>, attention_of<Bfloat16>},
    {rotate_of<float>, rotate_of<Bfloat16>},
    {layer_norm_of<float>, layer_norm_of<Bfloat16>},
    {geglu_of<float>, geglu_of<Bfloat16>},
};

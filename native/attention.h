// Attention over a packed stream of tokens, whatever multiplies: softmax, and the loops over
// sequences, heads and blocks.
//
// What multiplies is a type `Products` with
//   PAIRS                   whether a product's operands are words of two bfloat16 numbers that lie
//                           beside each other along the summed axis, or else of one float
//   ROWS, FEW_ROWS          queries multiplied together, and so many where few are left
//   KEY_COLUMNS             keys that lie beside each other when they are packed
//   KEY_STEP, VALUE_STEP    keys, and values, are multiplied in multiples of so many
//   KEY_BLOCK               and at most so many, whose scores are held at once
//   SCORE_STRIDE            from a row of scores to the next, no multiple of 1 KB, so that rows
//                           do not displace each other from the cache
//   scores<ROWS>(queries, keys, words, columns, scores)
//   add_values<ROWS>(probabilities, stride, values, value_stride, words, width, outputs,
//                    output_stride)
// and a constructor and destructor around all products of one call.
#pragma once

#include "attention_packing.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace {

// Turn a row of `end` scores into probabilities against its running maximum, of which keys
// [low, high) are seen; they take the scores' place, in the front half of it where they are pairs.
// `scale` is for powers of two. Returns what the row's earlier sum and output have to be
// multiplied with.
template <bool PAIRS>
inline float soften(float* scores, int low, int high, int end, float scale, float& maximum_so_far,
                    float& sum_so_far) {
    using Probability = std::conditional_t<PAIRS, Bfloat16, float>;
    Probability* probabilities = (Probability*)scores;
    if (low >= high) {
        for (int j = 0; j < end; j += LANES) store(probabilities + j, Floats{});
        return 1.0f;
    }
    const int first = low / LANES * LANES, last = round_up(high, LANES);
    const Floats lowest = broadcast(-INFINITY);
    if (first < low)
        store(scores + first, choose(lane_numbers() < low - first, lowest, load(scores + first)));
    if (high < last) {
        float* at = scores + last - LANES;
        store(at, choose(lane_numbers() < high - (last - LANES), load(at), lowest));
    }
    Floats top = load(scores + first);
    for (int j = first + LANES; j < last; j += LANES) top = larger(top, load(scores + j));
    const float before = maximum_so_far;
    const float now = std::max(before, maximum(top) * scale);
    for (int j = 0; j < first; j += LANES) store(probabilities + j, Floats{});
    Floats total = {};
    for (int j = first; j < last; j += LANES) {
        const Floats value = power_of_two<Probability>(load(scores + j) * scale - now);
        total += value;
        store(probabilities + j, value);
    }
    for (int j = last; j < end; j += LANES) store(probabilities + j, Floats{});
    const float keep = before == now ? 1.0f : std::exp2(before - now);
    maximum_so_far = now;
    sum_so_far = sum_so_far * keep + sum(total);
    return keep;
}

// The keys [k_first, k_last) of queries that follow each other, and how their scores are softened.
struct Span {
    int k_first, k_last, window;
    float scale;
};

// Attend from `count` queries, the first of which is `row` of the scratch and `query` of its
// sequence, to the keys of a span.
template <class Products, int ROWS>
void attend_rows(int row, int query, int count, const Span& span, Scratch<Products>& scratch) {
    constexpr bool PAIRS = Products::PAIRS;
    constexpr int STEP = Products::KEY_STEP, BLOCK = Products::KEY_BLOCK;
    constexpr int VALUE_STEP = Products::VALUE_STEP, WORD = PAIRS ? 2 : 1;
    const int width = scratch.value_width, words = scratch.key_words, window = span.window;
    float *scores = scratch.scores.data(), *outputs = scratch.outputs.data() + row * width;
    // Keys that any of the rows may see.
    const int lowest = std::max(span.k_first, query - window);
    const int highest = std::min(span.k_last, query + count + window);
    if (lowest >= highest) return;
    for (int start = lowest / STEP * STEP; start < highest; start += BLOCK) {
        const int end = round_up(std::min(highest, start + BLOCK), STEP), keys = end - start;
        Products::template scores<ROWS>(scratch.queries.data() + row * words,
                                        scratch.keys.data() + (size_t)start * words, words, keys,
                                        scores);
        for (int i = 0; i < count; ++i) {
            const int low = std::max(lowest, query + i - window);
            const int high = std::min({highest, query + i + window + 1, end});
            const float keep = soften<PAIRS>(scores + i * Products::SCORE_STRIDE,
                                             std::max(0, low - start), high - start, keys,
                                             span.scale, scratch.maxima[row + i],
                                             scratch.sums[row + i]);
            if (keep != 1.0f)
                for (int c = 0; c < width; c += LANES)
                    store(outputs + i * width + c, load(outputs + i * width + c) * keep);
        }
        // What is left out at both ends are zeros.
        const int from = (std::max(lowest, start) - start) / VALUE_STEP * VALUE_STEP;
        const int to = round_up(std::min(highest, end) - start, VALUE_STEP);
        Products::template add_values<ROWS>(
            (const uint32_t*)scores + from / WORD, Products::SCORE_STRIDE,
            scratch.values.data() + (size_t)(start + from) / WORD * width, width,
            (to - from) / WORD, width, outputs, width);
    }
}

// One head of one sequence, of whose keys the first `keys` may be seen. The logarithms of sums of
// powers of two, by which a query's probabilities are normalised, go to `normalisers`, `heads` apart,
// unless it is null: infinity where there is no key.
template <class Products, class T>
void attend_head(const Head<T>& head, int length, int keys, int window, float scale,
                 Scratch<Products>& scratch, T* out, size_t out_stride, float* normalisers,
                 size_t heads) {
    const int words = scratch.key_words, width = scratch.value_width;
    pack_keys(head, keys, scratch);
    pack_values(head, keys, scratch);
    for (int q0 = 0; q0 < length; q0 += scratch.QUERIES) {
        const int count = std::min(scratch.QUERIES, length - q0);
        // Rows past the last one are multiplied too; zeros stay zeros.
        const int padded = round_up(count, Products::ROWS);
        for (int i = 0; i < padded; ++i) {
            uint32_t* row = scratch.queries.data() + i * words;
            if (i < count)
                rotate_to_words<Products::PAIRS>(head.queries + (q0 + i) * head.stride, head,
                                                 q0 + i, row);
            else
                std::fill_n(row, words, 0);
        }
        std::fill_n(scratch.maxima, count, -INFINITY);
        std::fill_n(scratch.sums, count, 0.0f);
        std::fill_n(scratch.outputs.data(), padded * width, 0.0f);
        // All queries pass a block of keys before the next one comes, unless a window keeps each
        // query's keys few.
        const int first = std::max(0, q0 - window), last = std::min(keys, q0 + count + window);
        const int step = window < length ? last : Products::KEY_BLOCK;
        for (int k0 = first; k0 < last; k0 += step) {
            const Span span{k0, std::min(last, k0 + step), window, scale};
            for (int i = 0; i < count;) {
                const int left = count - i;
                if (left > Products::FEW_ROWS) {
                    attend_rows<Products, Products::ROWS>(i, q0 + i, std::min(left, Products::ROWS),
                                                          span, scratch);
                    i += Products::ROWS;
                } else {
                    attend_rows<Products, Products::FEW_ROWS>(i, q0 + i, left, span, scratch);
                    i += Products::FEW_ROWS;
                }
            }
        }
        for (int i = 0; i < count; ++i) {
            // A row that may see no key gives zeros, as torch's attention does.
            const float total = scratch.sums[i], inverse = total > 0 ? 1.0f / total : 0.0f;
            if (normalisers)
                normalisers[(q0 + i) * heads] =
                    total > 0 ? scratch.maxima[i] + std::log2(total) : INFINITY;
            const float* from = scratch.outputs.data() + i * width;
            T* row = out + (q0 + i) * out_stride;
            int c = 0;
            for (; c + LANES <= head.width; c += LANES) store(row + c, load(from + c) * inverse);
            for (; c < head.width; ++c) store(row + c, from[c] * inverse);
        }
    }
}

inline int longest_sequence(const AttentionShape& shape, const int32_t* offsets) {
    int longest = 0;
    for (int i = 0; i < shape.sequences; ++i)
        longest = std::max(longest, offsets[i + 1] - offsets[i]);
    return longest;
}

// An AttentionFunction (kernels.h) for numbers of type T.
template <class T, class Products>
void attend(const void* qkv, void* out, float* normalisers, const AttentionShape* shape,
            const int32_t* offsets, const int32_t* key_counts, const float* cosines,
            const float* sines) {
    const int width = shape->head_width, heads = shape->heads, hidden = heads * width;
    const int longest = longest_sequence(*shape, offsets);
    const int window = shape->window < 0 ? longest : std::min(shape->window, longest);
    const float scale = shape->scale * LOG2_E;
    Scratch<Products> scratch(width, longest);
    [[maybe_unused]] const Products products;
    for (int i = 0; i < shape->sequences; ++i) {
        const int length = offsets[i + 1] - offsets[i];
        const size_t first = offsets[i];
        const T* rows = (const T*)qkv + first * 3 * hidden;
        for (int h = shape->first_head; h < shape->last_head; ++h) {
            const T* queries = rows + h * width;
            const Head<T> head{queries, queries + hidden, queries + 2 * hidden,
                               (size_t)3 * hidden, width, cosines, sines};
            attend_head<Products>(head, length, key_counts ? key_counts[i] : length, window, scale,
                                  scratch, (T*)out + first * hidden + h * width, (size_t)hidden,
                                  normalisers ? normalisers + first * heads + h : nullptr,
                                  (size_t)heads);
        }
    }
}

}  // namespace

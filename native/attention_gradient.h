// The gradient of attention (attention.h) over a packed stream, whatever multiplies.
//
// With scores S of all queries with all keys, probabilities P = 2^(scale log2(e) S - n) by the
// normalisers n that attention kept, dO the gradient of its output O, and D the sums of dO * O:
//   dV = P^T dO,  dP = dO V^T,  dS = scale P * (dP - D),  dQ = dS K,  dK = dS^T Q.
// A few keys at a time are taken with all queries that see them, so that rows are keys and columns
// are queries, whose n and D lie beside each other; nothing is as large as S.
// Source: Dao 2023, arXiv:2307.08691, algorithm 2.
#pragma once

#include "attention.h"

namespace {

// Rows of a head, as numbers that the products take: the left side of a product over the width.
template <class Products> struct Rows {
    static constexpr bool PAIRS = Products::PAIRS;
    using Number = std::conditional_t<PAIRS, Bfloat16, float>;

    int width, words, value_width;
    Lines<Number> rows;  // (tokens, width)

    // Zeros follow the last token, for products of whole blocks of rows and of tokens.
    Rows(int width, int longest)
        : width(width), words(PAIRS ? width / 2 : width), value_width(round_up(width, LANES)),
          rows((size_t)capacity(longest) * width) {}

    static int capacity(int tokens) {
        return round_up(tokens, Products::KEY_STEP) + round_up(Products::ROWS, Products::KEY_STEP);
    }

    const uint32_t* row(int token) const {
        return (const uint32_t*)(rows.data() + (size_t)token * width);
    }

    // Fill `rows` by `write(token, to)`.
    template <class Write> void fill_rows(int count, Write write) {
        for (int token = 0; token < count; ++token)
            write(token, rows.data() + (size_t)token * width);
        std::memset((void*)(rows.data() + (size_t)count * width), 0,
                    sizeof(Number) * (capacity(count) - count) * width);
    }
};

// Rows that also are a right side.
template <class Products> struct Operand : Rows<Products> {
    using typename Rows<Products>::Number;
    using Rows<Products>::PAIRS, Rows<Products>::capacity, Rows<Products>::width,
        Rows<Products>::words, Rows<Products>::value_width, Rows<Products>::rows;

    Lines<uint32_t> columns;  // blocks of KEY_COLUMNS tokens, for sums over the width (pack_keys)
    Lines<uint32_t> values;   // (tokens or pairs of them, value_width), for sums over the tokens
                              // (pack_values)

    Operand(int width, int longest)
        : Rows<Products>(width, longest), columns((size_t)capacity(longest) * words),
          values((size_t)capacity(longest) / (PAIRS ? 2 : 1) * value_width) {}

    void fill_columns(int count) {
        constexpr int COLUMNS = Products::KEY_COLUMNS;
        for (int first = 0; first < round_up(count, Products::KEY_STEP); first += COLUMNS)
            transpose<COLUMNS>(this->row(first), words, columns.data() + (size_t)first * words);
    }

    void fill_values(int count) {
        uint32_t* to = values.data();
        const Number* from = rows.data();
        for (int token = 0; token < round_up(count, Products::KEY_STEP); to += value_width) {
            if constexpr (PAIRS) {
                interleave(from, from + width, width, to);
                token += 2, from += 2 * width;
            } else {
                std::memcpy(to, from, sizeof(Number) * width);
                ++token, from += width;
            }
        }
    }
};

template <class Products> struct GradientScratch {
    static constexpr bool PAIRS = Products::PAIRS;
    using Number = typename Rows<Products>::Number;

    // Keys whose dS are held until they are multiplied with those keys: whole blocks of rows, and
    // as much of a summed axis as products take at a time.
    static constexpr int GROUP = round_up(48, Products::ROWS > 16 ? Products::ROWS : 6);
    static constexpr int GROUP_WORDS = GROUP / (PAIRS ? 2 : 1);
    static constexpr int STRIDE = Products::SCORE_STRIDE;
    static_assert(GROUP % Products::ROWS == 0 && Products::ROWS % Products::VALUE_STEP == 0);

    Operand<Products> queries, outputs;                // `outputs` are the gradients of outputs
    Rows<Products> keys, values;
    Lines<float> scores, products;                     // S and dP of some keys, then P
    Lines<uint32_t> slopes;                            // dS of a group: a row for each key,
    Lines<uint32_t> slope_pairs;                       // and as pairs of keys
    Lines<uint32_t> group_columns;                     // (width, GROUP) keys of a group
    Lines<float> of_keys, of_values;                   // (GROUP, value_width) gradients
    Lines<float> of_queries;                           // (width, queries) gradients
    Lines<float> normalisers, sums;                    // n and D of every query

    GradientScratch(int width, int longest)
        : queries(width, longest), outputs(width, longest), keys(width, longest),
          values(width, longest), scores(Products::ROWS * STRIDE),
          products(Products::ROWS * STRIDE), slopes(GROUP * STRIDE),
          slope_pairs(PAIRS ? GROUP_WORDS * STRIDE : 0),
          group_columns(round_up(width, Products::ROWS) * GROUP_WORDS),
          of_keys(GROUP * queries.value_width), of_values(GROUP * queries.value_width),
          of_queries((size_t)round_up(width, Products::ROWS) * queries.capacity(longest)),
          normalisers(queries.capacity(longest)), sums(queries.capacity(longest)) {}

    Number* slope_row(int key) { return (Number*)(slopes.data() + key * STRIDE); }
};

// P, in the place of a key's row of scores, and dS for queries [0, end), of which [low, high) see
// the key.
template <class Number>
inline void probabilities_and_slopes(float* scores, const float* products, int low, int high,
                                     int end, float scale, const float* normalisers,
                                     const float* sums, Number* slopes) {
    Number* probabilities = (Number*)scores;
    for (int j = 0; j < end; j += LANES) {
        Floats p{}, slope{};
        if (j + LANES > low && j < high) {
            p = power_of_two<Number>(load(scores + j) * (scale * LOG2_E) - load(normalisers + j));
            slope = p * (load(products + j) - load(sums + j)) * scale;
            if (j < low || j + LANES > high) {
                const Ints lane = lane_numbers() + j;
                const Ints is_seen = (lane >= low) & (lane < high);
                p = choose(is_seen, p, Floats{});
                slope = choose(is_seen, slope, Floats{});
            }
        }
        store(probabilities + j, p);
        store(slopes + j, slope);
    }
}

// Keys [first, first + count) of a sequence with queries [begin, end), whole steps, some of which
// see them; the keys are the rows from `row` on of their group.
template <class Products, int ROWS>
void slopes_of_rows(int row, int first, int count, int begin, int end, int length, int window,
                    float scale, GradientScratch<Products>& scratch) {
    using Number = typename GradientScratch<Products>::Number;
    constexpr int STEP = Products::KEY_STEP, STRIDE = scratch.STRIDE;
    constexpr int WORD = Products::PAIRS ? 2 : 1;
    const int words = scratch.keys.words, width = scratch.keys.value_width;
    const int low = std::max(begin, first - window);
    const int high = std::min({end, length, first + count + window});
    const int from = low / STEP * STEP, to = low < high ? round_up(high, STEP) : from;
    float *scores = scratch.scores.data(), *products = scratch.products.data();
    if (from < to) {
        const size_t at = (size_t)from * words;
        Products::template scores<ROWS>(scratch.keys.row(first),
                                        scratch.queries.columns.data() + at, words, to - from,
                                        scores);
        Products::template scores<ROWS>(scratch.values.row(first),
                                        scratch.outputs.columns.data() + at, words, to - from,
                                        products);
    }
    for (int i = 0; i < ROWS; ++i) {
        Number* slopes = scratch.slope_row(row + i);
        const int seen = i < count ? std::max(low, first + i - window) : high;
        const int past = std::min(high, first + i + window + 1);
        probabilities_and_slopes(scores + i * STRIDE, products + i * STRIDE, seen - from,
                                 past - from, to - from, scale, scratch.normalisers.data() + from,
                                 scratch.sums.data() + from, slopes + (from - begin));
        std::memset((void*)slopes, 0, sizeof(Number) * (from - begin));
        std::memset((void*)(slopes + (to - begin)), 0, sizeof(Number) * (end - to));
    }
    if (from == to) return;
    const size_t at = (size_t)from / WORD * width;
    Products::template add_values<ROWS>((const uint32_t*)scores, STRIDE,
                                        scratch.outputs.values.data() + at, width,
                                        (to - from) / WORD, width,
                                        scratch.of_values.data() + row * width, width);
    Products::template add_values<ROWS>(scratch.slopes.data() + row * STRIDE + (from - begin) / WORD,
                                        STRIDE, scratch.queries.values.data() + at, width,
                                        (to - from) / WORD, width,
                                        scratch.of_keys.data() + row * width, width);
}

// Adds dS K of a group's first `count` keys for queries [begin, end), transposed.
template <class Products>
void add_to_queries(int count, int begin, int end, int capacity,
                    GradientScratch<Products>& scratch) {
    constexpr int STRIDE = scratch.STRIDE, WORDS = scratch.GROUP_WORDS;
    const int words = round_up(count, Products::VALUE_STEP) / (Products::PAIRS ? 2 : 1);
    const uint32_t* slopes = scratch.slopes.data();
    if constexpr (Products::PAIRS) {
        slopes = scratch.slope_pairs.data();
        for (int pair = 0; pair < words; ++pair)
            interleave(scratch.slope_row(2 * pair), scratch.slope_row(2 * pair + 1), end - begin,
                       scratch.slope_pairs.data() + pair * STRIDE);
    }
    for (int c = 0; c < scratch.keys.width; c += Products::ROWS)
        Products::template add_values<Products::ROWS>(
            scratch.group_columns.data() + c * WORDS, WORDS, slopes, STRIDE, words, end - begin,
            scratch.of_queries.data() + (size_t)c * capacity + begin, capacity);
}

template <class In, class Out> inline void convert(const In* from, int width, Out* to) {
    int c = 0;
    for (; c + LANES <= width; c += LANES) store(to + c, load(from + c));
    for (; c < width; ++c) store(to + c, widen(from[c]));
}

// One head of one sequence with its output, as attention left it, and the gradient of that.
template <class T> struct HeadOutput {
    const T *outputs, *gradients;
    const float* normalisers;
    size_t stride, normaliser_stride;
};

// As the products take a head: rotated, rounded, and in the layouts that each side needs.
template <class Products, class T>
void prepare(const Head<T>& head, const HeadOutput<T>& output, int length, int keys,
             GradientScratch<Products>& scratch) {
    using Number = typename GradientScratch<Products>::Number;
    const int width = head.width;
    const auto rotated = [&](const T* rows) {
        return [&head, rows, width](int token, Number* to) {
            const size_t at = (size_t)token * (width / 2);
            T turned[MAX_HEAD_WIDTH];
            rotate(rows + token * head.stride, head.cosines + at, head.sines + at, width, turned);
            convert(turned, width, to);
        };
    };
    const auto plain = [width](const T* rows, size_t stride) {
        return [rows, stride, width](int token, Number* to) {
            convert(rows + token * stride, width, to);
        };
    };
    scratch.queries.fill_rows(length, rotated(head.queries));
    scratch.queries.fill_columns(length);
    scratch.queries.fill_values(length);
    scratch.outputs.fill_rows(length, plain(output.gradients, output.stride));
    scratch.outputs.fill_columns(length);
    scratch.outputs.fill_values(length);
    scratch.keys.fill_rows(keys, rotated(head.keys));
    scratch.values.fill_rows(keys, plain(head.values, head.stride));
    const int padded = round_up(length, Products::KEY_STEP);
    for (int token = 0; token < padded; ++token) {
        float total = 0;
        if (token < length) {
            const T* row = output.outputs + token * output.stride;
            const T* gradient = output.gradients + token * output.stride;
            Floats sums{};
            int c = 0;
            for (; c + LANES <= width; c += LANES) sums += load(row + c) * load(gradient + c);
            for (; c < width; ++c) total += widen(row[c]) * widen(gradient[c]);
            total += sum(sums);
        }
        scratch.sums.data()[token] = total;
        scratch.normalisers.data()[token] =
            token < length ? output.normalisers[token * output.normaliser_stride] : INFINITY;
    }
}

// The keys [first, first + count) as the left side of dS K transposed: (width, GROUP).
template <class Products>
void fill_group_columns(int first, int count, GradientScratch<Products>& scratch) {
    using Number = typename GradientScratch<Products>::Number;
    constexpr int GROUP = scratch.GROUP;
    const int width = scratch.keys.width, rows = round_up(width, Products::ROWS);
    Number* to = (Number*)scratch.group_columns.data();
    std::memset((void*)to, 0, sizeof(Number) * rows * GROUP);
    for (int key = 0; key < count; ++key) {
        const Number* row = scratch.keys.rows.data() + (size_t)(first + key) * width;
        for (int c = 0; c < width; ++c) to[c * GROUP + key] = row[c];
    }
}

// Gradients of one head's queries, keys and values, of whose keys the first `keys` may be seen;
// scale is that of scores.
template <class Products, class T>
void attend_head_back(const Head<T>& head, const HeadOutput<T>& output, int length, int keys,
                      int window, float scale, GradientScratch<Products>& scratch, T* of_queries,
                      T* of_keys, T* of_values) {
    constexpr int GROUP = scratch.GROUP, STEP = Products::KEY_STEP, ROWS = Products::ROWS;
    const int width = head.width, value_width = scratch.keys.value_width;
    const int capacity = scratch.queries.capacity(length), half = width / 2;
    prepare(head, output, length, keys, scratch);
    std::fill_n(scratch.of_queries.data(), (size_t)round_up(width, ROWS) * capacity, 0.0f);
    for (int group = 0; group < keys; group += GROUP) {
        const int count = std::min(GROUP, keys - group);
        fill_group_columns(group, count, scratch);
        std::fill_n(scratch.of_keys.data(), GROUP * value_width, 0.0f);
        std::fill_n(scratch.of_values.data(), GROUP * value_width, 0.0f);
        const int last = std::min(length, group + count + window);
        for (int begin = std::max(0, group - window) / STEP * STEP; begin < last;) {
            const int end = round_up(std::min(last, begin + Products::KEY_BLOCK), STEP);
            for (int row = 0; row < count; row += ROWS)
                slopes_of_rows<Products, ROWS>(row, group + row, std::min(ROWS, count - row), begin,
                                               end, length, window, scale, scratch);
            add_to_queries(count, begin, end, capacity, scratch);
            begin = end;
        }
        for (int i = 0; i < count; ++i) {
            const size_t at = (group + i) * head.stride, angle = (size_t)(group + i) * half;
            rotate(scratch.of_keys.data() + i * value_width, head.cosines + angle,
                   head.sines + angle, width, of_keys + at, -1.0f);
            convert(scratch.of_values.data() + i * value_width, width, of_values + at);
        }
    }
    for (int token = keys; token < length; ++token) {
        std::memset((void*)(of_keys + token * head.stride), 0, sizeof(T) * width);
        std::memset((void*)(of_values + token * head.stride), 0, sizeof(T) * width);
    }
    float row[MAX_HEAD_WIDTH];
    for (int token = 0; token < length; ++token) {
        for (int c = 0; c < width; ++c)
            row[c] = scratch.of_queries.data()[(size_t)c * capacity + token];
        const size_t angle = (size_t)token * half;
        rotate(row, head.cosines + angle, head.sines + angle, width,
               of_queries + token * head.stride, -1.0f);
    }
}

// An AttentionGradientFunction (kernels.h) for numbers of type T.
template <class T, class Products>
void attend_back(const void* qkv, const void* out, const float* normalisers,
                 const void* out_gradient, void* gradient, const AttentionShape* shape,
                 const int32_t* offsets, const int32_t* key_counts, const float* cosines,
                 const float* sines) {
    const int width = shape->head_width, heads = shape->heads, hidden = heads * width;
    const int longest = longest_sequence(*shape, offsets);
    const int window = shape->window < 0 ? longest : std::min(shape->window, longest);
    GradientScratch<Products> scratch(width, longest);
    [[maybe_unused]] const Products products;
    for (int i = 0; i < shape->sequences; ++i) {
        const int length = offsets[i + 1] - offsets[i];
        const size_t first = offsets[i];
        for (int h = shape->first_head; h < shape->last_head; ++h) {
            const T* queries = (const T*)qkv + first * 3 * hidden + h * width;
            const Head<T> head{queries, queries + hidden, queries + 2 * hidden,
                               (size_t)3 * hidden, width, cosines, sines};
            const HeadOutput<T> output{(const T*)out + first * hidden + h * width,
                                       (const T*)out_gradient + first * hidden + h * width,
                                       normalisers + first * heads + h, (size_t)hidden,
                                       (size_t)heads};
            T* of_queries = (T*)gradient + first * 3 * hidden + h * width;
            attend_head_back<Products>(head, output, length,
                                       key_counts ? key_counts[i] : length, window, shape->scale,
                                       scratch, of_queries, of_queries + hidden,
                                       of_queries + 2 * hidden);
        }
    }
}

}  // namespace

// What attention multiplies: queries, keys and values of one head, turned by their positions and
// laid out for the products. `Products` is described in attention.h.
#pragma once

#include "kernels.h"
#include "lines.h"
#include "simd.h"

#include <algorithm>

namespace {

constexpr int round_up(int value, int multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// Turn a query or key by its position, or back where `direction` is -1; `to` may be `row`.
// Source: Su et al. 2021, arXiv:2104.09864.
template <class In, class Out>
inline void rotate(const In* row, const float* cosines, const float* sines, int width, Out* to,
                   float direction = 1.0f) {
    const int half = width / 2;
    int c = 0;
    for (; c + LANES <= half; c += LANES) {
        const Floats a = load(row + c), b = load(row + half + c);
        const Floats cosine = load(cosines + c), sine = load(sines + c) * direction;
        store(to + c, a * cosine - b * sine);
        store(to + half + c, b * cosine + a * sine);
    }
    for (; c < half; ++c) {
        const float a = widen(row[c]), b = widen(row[half + c]), sine = sines[c] * direction;
        store(to + c, a * cosines[c] - b * sine);
        store(to + half + c, b * cosines[c] + a * sine);
    }
}

// The rows of one head in one sequence.
template <class T> struct Head {
    const T *queries, *keys, *values;
    size_t stride;  // from a token's row to the next one's
    int width;
    const float *cosines, *sines;
};

// What one call holds, and uses again for every sequence and head.
template <class Products> struct Scratch {
    static constexpr bool PAIRS = Products::PAIRS;
    static constexpr int QUERIES = 256 / Products::ROWS * Products::ROWS;

    int key_words, value_width;
    Lines<uint32_t> queries, keys, rows, values;
    Lines<float> scores, outputs;
    float maxima[QUERIES], sums[QUERIES];

    Scratch(int width, int longest)
        : key_words(PAIRS ? width / 2 : width), value_width(round_up(width, LANES)),
          queries((size_t)QUERIES * key_words),
          keys((size_t)round_up(longest, Products::KEY_STEP) * key_words),
          rows(Products::KEY_COLUMNS * key_words),
          values((size_t)round_up(longest, Products::KEY_STEP) / (PAIRS ? 2 : 1) * value_width),
          scores(Products::ROWS * Products::SCORE_STRIDE), outputs(QUERIES * value_width) {}
};

constexpr int PREFETCHED_ROWS = 8;

// Fetch the row that comes a few after `row`, if only into thin air: rows of one head lie too far
// apart for the processor to guess the next one.
template <class T> inline void prefetch(const T* row, const Head<T>& head) {
    const uintptr_t at = (uintptr_t)row + PREFETCHED_ROWS * head.stride * sizeof(T);
    for (size_t byte = 0; byte < head.width * sizeof(T); byte += 64)
        __builtin_prefetch((const void*)(at + byte));
}

// A rotated row as words.
template <bool PAIRS, class T>
inline void rotate_to_words(const T* row, const Head<T>& head, int position, uint32_t* words) {
    const size_t at = (size_t)position * (head.width / 2);
    prefetch(row, head);
    if constexpr (PAIRS == (sizeof(T) == 2)) {
        rotate(row, head.cosines + at, head.sines + at, head.width, (T*)words);
    } else {
        T rotated[MAX_HEAD_WIDTH];
        rotate(row, head.cosines + at, head.sines + at, head.width, rotated);
        for (int c = 0; c < head.width; ++c) store((float*)words + c, widen(rotated[c]));
    }
}

// (COLUMNS, words) to (words, COLUMNS).
template <int COLUMNS> inline void transpose(const uint32_t* rows, int words, uint32_t* to) {
    int s = 0;
#if LANES == 16
    if constexpr (COLUMNS == 16) {
        const __m512i lower =
            _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
        for (; s + 16 <= words; s += 16) {
            __m512i now[16], next[16];
            for (int i = 0; i < 16; ++i) now[i] = _mm512_loadu_si512(rows + i * words + s);
            for (int round = 0; round < 4; ++round) {
                for (int i = 0; i < 8; ++i) {
                    next[2 * i] = _mm512_permutex2var_epi32(now[i], lower, now[i + 8]);
                    next[2 * i + 1] = _mm512_permutex2var_epi32(now[i], upper, now[i + 8]);
                }
                for (int i = 0; i < 16; ++i) now[i] = next[i];
            }
            for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (s + i) * 16, now[i]);
        }
    }
#endif
    for (; s < words; ++s)
        for (int j = 0; j < COLUMNS; ++j) to[s * COLUMNS + j] = rows[j * words + s];
}

// Blocks of KEY_COLUMNS keys, each with the summed axis outside.
template <class Products, class T>
void pack_keys(const Head<T>& head, int count, Scratch<Products>& scratch) {
    constexpr int COLUMNS = Products::KEY_COLUMNS;
    const int words = scratch.key_words, padded = round_up(count, Products::KEY_STEP);
    uint32_t* rows = scratch.rows.data();
    for (int first = 0; first < padded; first += COLUMNS) {
        for (int j = 0; j < COLUMNS; ++j) {
            const int position = first + j;
            if (position < count)
                rotate_to_words<Products::PAIRS>(head.keys + position * head.stride, head, position,
                                                 rows + j * words);
            else
                std::fill_n(rows + j * words, words, 0);
        }
        transpose<COLUMNS>(rows, words, scratch.keys.data() + (size_t)first * words);
    }
}

// Words of the numbers that stand at one place of two rows: the first one's in the lower half.
inline void interleave(const Bfloat16* even, const Bfloat16* odd, int width, uint32_t* to) {
    int c = 0;
    for (; c + LANES <= width; c += LANES) {
        const Words word = (Words)load(odd + c) | (Words)load(even + c) >> 16;
        std::memcpy(to + c, &word, sizeof word);
    }
    for (; c < width; ++c) to[c] = (uint32_t)odd[c].bits << 16 | even[c].bits;
}

// The keys outside; where words are pairs, keys 2p and 2p + 1 share those of row p.
template <class Products, class T>
void pack_values(const Head<T>& head, int count, Scratch<Products>& scratch) {
    static const T none[MAX_HEAD_WIDTH] = {};
    const int width = head.width, padded = round_up(count, Products::KEY_STEP);
    uint32_t* to = scratch.values.data();
    const auto row = [&](int key) { return key < count ? head.values + key * head.stride : none; };
    if constexpr (Products::PAIRS) {
        for (int key = 0; key < padded; key += 2, to += scratch.value_width) {
            const T *even = row(key), *odd = row(key + 1);
            prefetch(even, head);
            prefetch(odd, head);
            interleave(even, odd, width, to);
        }
    } else {
        for (int key = 0; key < padded; ++key, to += scratch.value_width) {
            const T* from = row(key);
            int c = 0;
            for (; c + LANES <= width; c += LANES) store((float*)to + c, load(from + c));
            for (; c < width; ++c) store((float*)to + c, widen(from[c]));
        }
    }
}

}  // namespace

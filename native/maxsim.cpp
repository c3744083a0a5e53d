// Exact MaxSim of one query and many documents, and bounds of it from bytes, for one instruction set.

#include "best_matches.h"

#include <cmath>
#include <limits>
#include <vector>

namespace {

// What a thread keeps between calls.
struct Scratch {
    Lines<float> panel, rows, best, factors, few_scales;
    Lines<int8_t> byte_panel;
    Lines<int32_t> bias;
    Lines<uint8_t> byte_rows;
    Lines<uint16_t> pair_panel;
};

// Not inlined: the compiler would look it up again and again, in the middle of products.
__attribute__((noinline)) Scratch& scratch_of_thread() {
    thread_local Scratch scratch;
    return scratch;
}

int padded_columns(int tokens) { return (tokens + COLUMN_GROUP - 1) / COLUMN_GROUP * COLUMN_GROUP; }

float sum_of(const float* values, int count) {
    float total = 0;
    for (int at = 0; at < count; ++at) total += values[at];
    return total;
}

// Calls `raise(first token, number of tokens, best)` for each document, and adds its best up.
template <class Raise>
void score_each(const TokenRuns& runs, int tokens, Scratch& s, float* scores, Raise raise) {
    const int columns = padded_columns(tokens);
    s.best.resize(columns);
    for (int64_t document = 0; document < runs.count; ++document) {
        const int64_t start = runs.starts[document], length = runs.ends[document] - start;
        if (length <= 0) {
            scores[document] = -std::numeric_limits<float>::infinity();
            continue;
        }
        std::fill(s.best.begin(), s.best.end(), LOWEST);
        raise(start, length, s.best.data());
        scores[document] = sum_of(s.best.data(), tokens);
    }
}

template <class Number>
void score_floats(const TokenRuns& runs, const float* query, int tokens, float* scores) {
    Scratch& s = scratch_of_thread();
    const int columns = padded_columns(tokens), width = runs.width;
    s.panel.assign((size_t)width * columns, 0);
    for (int t = 0; t < tokens; ++t)
        for (int d = 0; d < width; ++d)
            s.panel[(size_t)d * columns + t] = query[(size_t)t * width + d];
    s.rows.resize((size_t)ROWS_AT_ONCE * width);
    score_each(runs, tokens, s, scores, [&](int64_t start, int64_t length, float* best) {
        raise_to_products((const Number*)runs.tokens + start * width, length, width,
                          s.panel.data(), columns, s.rows.data(), best);
    });
}

#if defined(__AVX512BF16__) && LANES == 16
template <int ROWS, int VECTORS>
inline void raise_pairs(const uint16_t* const* rows, int width, const uint16_t* panel, int columns,
                        float* best) {
    Floats sums[ROWS][VECTORS] = {};
    const char* ahead = (const char*)rows[0] + BYTES_AHEAD;
    for (int d = 0; d < width; d += 2, panel += 2 * columns, ahead += 4 * ROWS) {
        __builtin_prefetch(ahead);
        Ints right[VECTORS];
        for (int v = 0; v < VECTORS; ++v) right[v] = load_ints(panel + 2 * v * LANES);
        for (int r = 0; r < ROWS; ++r) {
            int32_t left;
            std::memcpy(&left, rows[r] + d, sizeof left);
            for (int v = 0; v < VECTORS; ++v)
                sums[r][v] = (Floats)_mm512_dpbf16_ps((__m512)sums[r][v],
                                                      (__m512bh)_mm512_set1_epi32(left),
                                                      (__m512bh)right[v]);
        }
    }
    for (int v = 0; v < VECTORS; ++v) {
        Floats most = load(best + v * LANES);
        for (int r = 0; r < ROWS; ++r) most = larger(most, sums[r][v]);
        store(best + v * LANES, most);
    }
}

// By the processor's products of pairs.
void score_bfloat16(const TokenRuns& runs, const float* query, int tokens, float* scores) {
    Scratch& s = scratch_of_thread();
    const int columns = padded_columns(tokens), width = runs.width;
    s.pair_panel.assign((size_t)width * columns, 0);
    for (int t = 0; t < tokens; ++t)
        for (int d = 0; d < width; ++d)
            s.pair_panel[((size_t)(d / 2) * columns + t) * 2 + d % 2] =
                narrow<Bfloat16>(query[(size_t)t * width + d]).bits;
    score_each(runs, tokens, s, scores, [&](int64_t start, int64_t length, float* best) {
        const uint16_t* from = (const uint16_t*)runs.tokens + start * width;
        for (int64_t first = 0; first < length; first += ROWS_AT_ONCE) {
            const uint16_t* rows[ROWS_AT_ONCE];
            for (int r = 0; r < ROWS_AT_ONCE; ++r)
                rows[r] = from + std::min(first + r, length - 1) * width;
            each_group(columns, [&](int column, auto vectors) {
                raise_pairs<ROWS_AT_ONCE, decltype(vectors)::value>(
                    rows, width, s.pair_panel.data() + 2 * column, columns, best + column);
            });
        }
    });
}
#else
void score_bfloat16(const TokenRuns& runs, const float* query, int tokens, float* scores) {
    std::vector<float> narrowed((size_t)tokens * runs.width);
    for (size_t at = 0; at < narrowed.size(); ++at)
        narrowed[at] = widen(narrow<Bfloat16>(query[at]));
    score_floats<Bfloat16>(runs, narrowed.data(), tokens, scores);
}
#endif

void score(const TokenRuns* runs, const float* query, int32_t tokens, float* scores) {
    switch (runs->number) {
    case TOKENS_FLOAT32: return score_floats<float>(*runs, query, tokens, scores);
    case TOKENS_FLOAT16: return score_floats<Float16>(*runs, query, tokens, scores);
    default: return score_bfloat16(*runs, query, tokens, scores);
    }
}

// Query tokens as bytes, and by how much they may be off.
struct ByteQuery {
    double lengths = 0, errors = 0;  // sums over the tokens
    int columns = 0;
};

ByteQuery to_bytes(const float* query, int tokens, int width, Scratch& s) {
    ByteQuery q;
    q.columns = padded_columns(tokens);
    s.byte_panel.assign((size_t)width * q.columns, 0);
    s.bias.assign(q.columns, 0);
    s.factors.assign(q.columns, 0);
    for (int t = 0; t < tokens; ++t) {
        const float* from = query + (size_t)t * width;
        float largest = 0;
        for (int d = 0; d < width; ++d) largest = std::max(largest, std::fabs(from[d]));
        // Not so small that a level overflows.
        const float factor = std::max(largest / SIGNED_LEVELS, 1e-37f);
        double length = 0, error = 0;
        for (int d = 0; d < width; ++d) {
            const int level = (int)std::nearbyint(from[d] / factor);
            const double off = from[d] - (double)level * factor;
            length += (double)from[d] * from[d];
            error += off * off;
            s.byte_panel[((size_t)(d / 4) * q.columns + t) * 4 + d % 4] = (int8_t)level;
            s.bias[t] -= 128 * level;
        }
        s.factors[t] = factor;
        q.lengths += std::sqrt(length);
        q.errors += std::sqrt(error);
    }
    return q;
}

template <int ROWS, int VECTORS>
inline void raise_bytes(const uint8_t* rows, const float* scales, int width, const int8_t* panel,
                        const int32_t* bias, int columns, float* best) {
    Ints sums[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = load_ints(bias + v * LANES);
    multiply_bytes(rows, width, panel, columns, width, sums);
    for (int v = 0; v < VECTORS; ++v) {
        Floats most = load(best + v * LANES);
        for (int r = 0; r < ROWS; ++r)
            most = larger(most, to_floats(sums[r][v]) * scales[r]);
        store(best + v * LANES, most);
    }
}

float largest_of(const float* values, int64_t count) {
    Floats most = broadcast(0);
    int64_t at = 0;
    for (; at + LANES <= count; at += LANES) most = larger(most, load(values + at));
    float out = maximum(most);
    for (; at < count; ++at) out = std::max(out, values[at]);
    return out;
}

// The products of rounded tokens q' and d' are exact integers, and by Cauchy-Schwarz
//     q d - q' d' = q (d - d') + (q - q') d' <= |q| |d - d'| + |q - q'| |d'|,
// so that the sum of the largest, with the largest |d - d'| and |d'| of the document, is at least
// MaxSim. The last term is for what `score`, and the sums here, may round: each sum of n floats
// is off by n * 2^-24 of the sum of their sizes at the most.
void bound(const RoundedRuns* rounded, const float* query, int32_t tokens, float* bounds) {
    const ByteTiles tiles;
    Scratch& s = scratch_of_thread();
    const TokenRuns& runs = rounded->runs;
    const int width = runs.width;
    const ByteQuery q = to_bytes(query, tokens, width, s);
    const double rounding = (width + 2.0 * tokens + 16) * 0x1p-24 * (q.lengths + q.errors);
    s.best.resize(q.columns);
    s.byte_rows.resize((size_t)BYTE_ROWS * width);
    s.few_scales.resize(BYTE_ROWS);
    float* best = s.best.data();
    for (int64_t document = 0; document < runs.count; ++document) {
        const int64_t start = runs.starts[document], length = runs.ends[document] - start;
        if (length <= 0) {
            bounds[document] = -std::numeric_limits<float>::infinity();
            continue;
        }
        const float error = largest_of(rounded->errors + start, length);
        const float size = largest_of(rounded->sizes + start, length);
        const uint8_t* rows = (const uint8_t*)runs.tokens + start * width;
        const float* scales = rounded->scales + start;
        int64_t count = length;
        if (count < BYTE_ROWS) {
            for (int r = 0; r < BYTE_ROWS; ++r) {
                const int64_t row = std::min<int64_t>(r, length - 1);
                std::memcpy(s.byte_rows.data() + (size_t)r * width, rows + row * width, width);
                s.few_scales[r] = scales[row];
            }
            rows = s.byte_rows.data(), scales = s.few_scales.data(), count = BYTE_ROWS;
        }
        std::fill(best, best + q.columns, LOWEST);
        for (int64_t first = 0; first < count; first += BYTE_ROWS) {
            // The last rows are met again where no whole block is left: that changes no maximum.
            const bool is_half = count - first <= FEW_BYTE_ROWS;
            const int64_t row = std::min(first, count - (is_half ? FEW_BYTE_ROWS : BYTE_ROWS));
            const uint8_t* ahead = rows + (row + 2 * BYTE_ROWS) * width;
            for (int at = 0; at < BYTE_ROWS * width; at += 64) __builtin_prefetch(ahead + at);
            each_group(q.columns, [&](int column, auto vectors) {
                constexpr int VECTORS = decltype(vectors)::value;
                const auto raise = is_half ? raise_bytes<FEW_BYTE_ROWS, VECTORS>
                                           : raise_bytes<BYTE_ROWS, VECTORS>;
                raise(rows + row * width, scales + row, width, s.byte_panel.data() + 4 * column,
                      s.bias.data() + column, q.columns, best + column);
            });
        }
        double total = q.lengths * error + q.errors * size + rounding * ((double)size + error);
        for (int t = 0; t < tokens; ++t) total += (double)best[t] * s.factors[t];
        const float nearest = (float)total;
        bounds[document] = std::nextafter(nearest, std::numeric_limits<float>::infinity());
    }
}

}  // namespace

extern const MaxSimKernels MAXSIM_KERNELS;
const MaxSimKernels MAXSIM_KERNELS = {score, bound, match};

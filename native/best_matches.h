// Every query token's best match in every document of a training batch: its product and which token
// it is, for one instruction set.
#pragma once

#include "late_interaction.h"
#include "lines.h"
#include "maxsim.h"

#include <limits>
#include <vector>

namespace {

constexpr int MATCHED_COLUMNS = COLUMN_GROUP * 2;
// Query tokens whose panel stays in the cache while documents pass.
constexpr int PANEL_TOKENS = 256;

// The best products of some query tokens so far, and their tokens' numbers.
struct Matches {
    float best[PANEL_TOKENS];
    int32_t tokens[PANEL_TOKENS];
};

// Raises the matches of MATCHED_COLUMNS query tokens by ROWS_AT_ONCE document tokens, whose numbers
// are `numbers`; a product that is no number stays. panel: (width, MATCHED_COLUMNS).
inline void match_rows(const float* rows, const int32_t* numbers, int width, const float* panel,
                       float* best, int32_t* tokens) {
    constexpr int ROWS = ROWS_AT_ONCE, VECTORS = MATCHED_COLUMNS / LANES;
    Floats sums[ROWS][VECTORS] = {};
    multiply_group(rows, width, panel, MATCHED_COLUMNS, (const char*)rows + BYTES_AHEAD,
                   ROWS * sizeof(float), sums);
    for (int v = 0; v < VECTORS; ++v) {
        Floats most = load(best + v * LANES);
        Ints token;
        std::memcpy(&token, tokens + v * LANES, sizeof token);
        for (int r = 0; r < ROWS; ++r) {
            const Ints is_better = ~(sums[r][v] <= most) & (most == most);
            most = choose(is_better, sums[r][v], most);
            token = is_better ? Ints{} + numbers[r] : token;
        }
        store(best + v * LANES, most);
        std::memcpy(tokens + v * LANES, &token, sizeof token);
    }
}

// `MATCHED_COLUMNS` query tokens after the other, each group (width, MATCHED_COLUMNS); zeros fill up
// the last one.
inline void fill_panel(const float* queries, int count, int width, Lines<float>& panel) {
    const int groups = (count + MATCHED_COLUMNS - 1) / MATCHED_COLUMNS;
    panel.assign((size_t)groups * MATCHED_COLUMNS * width, 0);
    for (int t = 0; t < count; ++t) {
        float* to = panel.data() + (size_t)(t / MATCHED_COLUMNS) * MATCHED_COLUMNS * width +
                    t % MATCHED_COLUMNS;
        for (int d = 0; d < width; ++d) to[(size_t)d * MATCHED_COLUMNS] = queries[t * width + d];
    }
}

// The tokens of one document that count, as rows that lie together. The last one is repeated until
// blocks of rows are full, which changes no match.
struct KeptTokens {
    Lines<float> rows;
    std::vector<int32_t> numbers;

    void add(const float* document, int32_t token, int width) {
        const float* row = document + (size_t)token * width;
        numbers.push_back(token);
        rows.insert(rows.end(), row, row + width);
    }

    void fill(const float* document, const uint8_t* keep, int tokens, int width) {
        numbers.clear();
        rows.clear();
        for (int t = 0; t < tokens; ++t) {
            if (keep && !keep[t]) continue;
            add(document, t, width);
        }
        while (numbers.size() % ROWS_AT_ONCE) add(document, numbers.back(), width);
    }
};

// A MaxSimKernels' match.
void match(const TrainingBatch* batch, float* best, int64_t* tokens) {
    const int width = batch->width;
    Lines<float> panel;
    KeptTokens kept;
    Matches matches;
    for (int first = 0; first < batch->queries; first += PANEL_TOKENS) {
        const int count = std::min(PANEL_TOKENS, batch->queries - first);
        fill_panel(batch->query_tokens + (size_t)first * width, count, width, panel);
        for (int64_t document = 0; document < batch->documents; ++document) {
            const size_t at = (size_t)document * batch->tokens;
            kept.fill(batch->document_tokens + at * width, batch->keep ? batch->keep + at : nullptr,
                      batch->tokens, width);
            std::fill_n(matches.best, PANEL_TOKENS, -std::numeric_limits<float>::infinity());
            std::fill_n(matches.tokens, PANEL_TOKENS, 0);
            for (size_t row = 0; row < kept.numbers.size(); row += ROWS_AT_ONCE)
                for (int column = 0; column < count; column += MATCHED_COLUMNS)
                    match_rows(kept.rows.data() + row * width, kept.numbers.data() + row, width,
                               panel.data() + (size_t)column * width, matches.best + column,
                               matches.tokens + column);
            const size_t to = (size_t)document * batch->queries + first;
            std::copy_n(matches.best, count, best + to);
            std::copy_n(matches.tokens, count, tokens + to);
        }
    }
}

}  // namespace

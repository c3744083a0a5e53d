// A query of a PLAID index, what a thread keeps for searching, and the scores of all centroids.
#pragma once

#include "late_interaction.h"
#include "lines.h"
#include "maxsim.h"
#include "projection.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

typedef int16_t Shorts __attribute__((vector_size(2 * COLUMN_GROUP)));
typedef uint16_t UnsignedShorts __attribute__((vector_size(2 * COLUMN_GROUP)));

// Centroids that share one maximum, by which most of them are passed over.
constexpr int MOST_IN_BLOCK = 32;
// How many documents before it is scored by centroids a document's bounds and its codes are fetched.
constexpr int BOUNDS_AHEAD = 8, CODES_AHEAD = 4;
// How many documents' residuals have their pages looked up at a time, so that the processor waits for
// some of them at once; how many before a document is scored by residuals its tokens that are near
// are listed, whose residuals are fetched then.
constexpr int PAGES_AT_ONCE = 16, DOCUMENTS_AHEAD = 2;
constexpr int64_t PAGE = 4096;
// Candidates that are put in order before the first is scored by its residuals.
constexpr int64_t SORTED_AT_FIRST = 256;
// Scores of candidates' best centroids that are kept: 8 MB.
constexpr int64_t MOST_KEPT = 1 << 22;
// Documents whose gains are added up at a time: 256 KB.
constexpr int64_t DOCUMENTS_AT_ONCE = 1 << 16;
// Tokens of a document that are listed at a time.
constexpr int64_t TOKENS_AT_ONCE = 1 << 13;
// Of a cosine of 1 as a 16-bit integer; rounding may make it a tenth larger.
constexpr float LARGEST_ONE = 28000;
// Lengths of query tokens end here, so that no sum of scores is infinite.
constexpr double LONGEST = 1e29;

struct Scored {
    float score;
    int32_t row;  // in `best_of_candidates`, or -1 where there is none
    int64_t position;
};

// Not a function, whose address algorithms would call.
constexpr auto is_better = [](const Scored& a, const Scored& b) {
    return a.score > b.score || (a.score == b.score && a.position < b.position);
};

inline void keep_best(std::vector<Scored>& candidates, int64_t wanted) {
    if ((int64_t)candidates.size() > wanted) {
        std::nth_element(candidates.begin(), candidates.begin() + wanted, candidates.end(),
                         is_better);
        candidates.resize(wanted);
    }
}

// What a document has gained, in steps of a size that lets no sum be too large, shifted left, and
// one more than the number of the query token that touched it last; 0 before the first has. One
// word: documents are met in any order, and the fewer lines of the cache they fill, the better.
typedef uint32_t Gain;
constexpr int TOUCHED_BITS = 13;
constexpr uint32_t MOST_GAINED = (1u << (32 - TOUCHED_BITS)) - 1;

struct Probe {
    int16_t score;
    int32_t centroid;
};

// What is left of the list of a centroid.
struct Entries {
    const int32_t *next, *end;

    void prefetch() const {
        for (const int32_t* from = next; from < end && from < next + 256; from += 16)
            __builtin_prefetch(from);
    }
};

// Components of a residual that have equally many bits. Decoded, the components of a byte lie in as
// many planes.
struct Section {
    int bits = 0, components = 0, bytes = 0, plane_bytes = 0;
    int first_byte = 0, first_place = 0;  // of a packed residual, of a decoded one
};

// How residuals lie in bytes; `depth` is that of a decoded one.
struct Layout {
    Section sections[2];
    int count = 0, bytes = 0, depth = 0;

    // The next components, and their bytes.
    void add(int bits, int components) {
        Section& each = sections[count++];
        each.bits = bits, each.components = components;
        each.bytes = components * bits / 8;
        each.plane_bytes = (each.bytes + 3) / 4 * 4;
        each.first_byte = bytes;
        bytes += each.bytes;
    }
    // Where decoded ones lie, when all are added.
    void place() {
        // The last one first: it has the most planes, whose vectors should not lie across lines.
        for (int at = count - 1; at >= 0; --at) {
            sections[at].first_place = depth;
            depth += 8 / sections[at].bits * sections[at].plane_bytes;
        }
    }

    // Of each component among the decoded ones.
    void write_places(std::vector<int>& places) const {
        places.clear();
        for (int at = 0; at < count; ++at) {
            const Section& each = sections[at];
            const int per_byte = 8 / each.bits;
            for (int c = 0; c < each.components; ++c)
                places.push_back(each.first_place + c % per_byte * each.plane_bytes + c / per_byte);
        }
    }

    // From a row of decoded bytes to the next: whole cache lines.
    size_t stride() const { return (depth + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE; }
};

Layout layout_of(const PlaidCodec& codec) {
    Layout layout;
    const int first = codec.directions ? codec.components / 3 : 0;
    if (first) layout.add(2 * codec.bits, first);
    layout.add(codec.bits, codec.components - first);
    layout.place();
    return layout;
}

// Query tokens as columns of panels, scaled to unit length.
struct Query {
    int tokens = 0, columns = 0;
    std::vector<float> lengths;  // of each column; 0 where there is no token
    std::vector<float> units;    // (tokens, width)
    // With centroids: an int16 score is the sum of products and bias, times the factor.
    Lines<int8_t> centroid_panel;
    Lines<int32_t> centroid_bias;
    Lines<float> factors;
    // With residuals, whose decoded bytes are `layout.depth`: the sum of products and bias, and the
    // centroid's score shifted left, are in one unit.
    Layout layout;
    std::vector<int> places;  // of a residual's components among the decoded ones
    Lines<float> along;       // (tokens, padded components) of principal directions
    std::vector<int8_t> levels;  // what the components of one token are rounded to
    Lines<int8_t> residual_panel;
    Lines<int32_t> residual_bias;
    int shift = 0;
    float one = 0, unit = 0;
    Lines<float> float_panel;  // (width, columns), made where it is needed
};

// A run of tokens or of entries, empty where the mapped files name what is not there.
struct Run {
    int64_t first, end;

    Run beginning(int64_t most) const { return {first, std::min(end, first + most)}; }
};

// A document's token whose residual is looked at.
struct NearToken {
    uint32_t code;    // of its centroid
    uint32_t offset;  // from the first token that was listed
};

// A document that will be scored by its residuals, and the tokens of it, or of a part of it, that are
// looked at; how many of them are fetched.
struct NearDocument {
    const PlaidSegment* segment = nullptr;
    Run run = {0, 0};
    int64_t first = 0;  // token of the part
    int64_t count = 0, fetched = 0;
    std::vector<NearToken> tokens;
    Lines<int16_t> least;  // of a centroid's score in each column

    int64_t token(const NearToken& near) const { return first + near.offset; }
};

// What a thread keeps between searches.
struct Scratch {
    Query query;
    // Of a code; whatever the files say, there is a row of scores for what is left of it.
    uint32_t code_mask = 0;
    bool is_damaged = false;  // the files hold what no index does
    Lines<int16_t> scores, block_best, thresholds;
    std::vector<std::vector<Probe>> probes;
    std::vector<Entries> lists;
    std::vector<Gain> probe_gains;
    std::vector<Gain> gains;       // zeros between searches
    bool has_zero_gains = true;    // false where a search has ended in the middle
    std::vector<int64_t> hits;
    std::vector<Scored> candidates;
    std::vector<float> best_scores;  // a heap, the lowest first
    std::vector<int32_t> bins;
    Lines<uint8_t> rows;
    NearDocument near_documents[DOCUMENTS_AHEAD + 1];
    Lines<float> float_rows, best;
    Lines<int16_t> best_shorts;         // a document's best centroid's score in each column
    Lines<int16_t> best_of_candidates;  // the same of many, a row for each
};

// Not inlined: the compiler would look it up again and again, in the middle of products.
__attribute__((noinline)) Scratch& scratch_of_thread() {
    thread_local Scratch scratch;
    return scratch;
}

inline Run checked_run(const int64_t* bounds, int64_t count) {
    const int64_t first = bounds[0], end = bounds[1];
    return first >= 0 && first <= end && end <= count ? Run{first, end} : Run{0, 0};
}

inline Run tokens_of(const PlaidSegment& segment, int64_t position) {
    return checked_run(segment.offsets + (position - segment.first_position), segment.token_count);
}

inline Run entries_of(const PlaidSegment& segment, int32_t list) {
    return checked_run(segment.list_starts + list, segment.entry_count);
}

// Rounds `count` numbers to levels of so much, and returns their sum.
inline int32_t round_to_levels(const float* values, int count, float level, int8_t* to) {
    const float most = SIGNED_LEVELS;
    int32_t total = 0;
    for (int at = 0; at < count; ++at) {
        const float rounded = std::nearbyint(values[at] / level);
        to[at] = (int8_t)std::min(most, std::max(-most, rounded));
        total += to[at];
    }
    return total;
}

inline size_t place_in_panel(const Query& q, int row, int column) {
    return ((size_t)(row / 4) * q.columns + column) * 4 + row % 4;
}

float largest_size(const float* values, size_t count) {
    float largest = 0;
    for (size_t at = 0; at < count; ++at) largest = std::max(largest, std::fabs(values[at]));
    return largest;
}

void prepare(Query& q, const PlaidCodec& codec, const float* query, int tokens) {
    const int width = codec.width, components = codec.components;
    q.tokens = tokens;
    q.columns = (tokens + COLUMN_GROUP - 1) / COLUMN_GROUP * COLUMN_GROUP;
    q.lengths.assign(q.columns, 0);
    q.units.resize((size_t)tokens * width);
    q.factors.assign(q.columns, 0);
    for (int t = 0; t < tokens; ++t) {
        const float* from = query + (size_t)t * width;
        double square = 0;
        for (int d = 0; d < width; ++d) square += (double)from[d] * from[d];
        const double length = std::sqrt(square);
        q.lengths[t] = (float)std::min(length, LONGEST);
        for (int d = 0; d < width; ++d)
            q.units[(size_t)t * width + d] = length > 0 ? (float)(from[d] / length) : 0;
    }
    // The tokens as they are multiplied with residuals' components.
    const float* with_residuals = q.units.data();
    int columns = components;
    if (codec.directions) {
        columns = padded_columns_of(components);
        q.along.resize((size_t)tokens * columns);
        project(q.units.data(), tokens, width, codec.directions, columns, q.along.data());
        with_residuals = q.along.data();
    }
    float largest_of_all = largest_size(with_residuals, (size_t)tokens * columns);
    if (largest_of_all == 0) largest_of_all = 1;
    // A cosine of 1 is `one`; shifted left, it is counted in what the residuals' products come in.
    const float finest = codec.value_scale * largest_of_all / SIGNED_LEVELS;
    q.shift = 0;
    while (q.shift < 8 && LARGEST_ONE * finest * (1 << q.shift) < 1) ++q.shift;
    q.one = std::max(2.0f, std::min(LARGEST_ONE, 1 / (finest * (1 << q.shift))));
    q.unit = 1 / (q.one * (1 << q.shift));
    const float level_of_all = q.unit / codec.value_scale;

    q.levels.resize(std::max(width, components));
    q.layout = layout_of(codec);
    q.layout.write_places(q.places);
    q.centroid_panel.assign((size_t)width * q.columns, 0);
    q.centroid_bias.assign(q.columns, 0);
    q.residual_panel.assign((size_t)q.layout.depth * q.columns, 0);
    q.residual_bias.assign(q.columns, 0);
    for (int t = 0; t < tokens; ++t) {
        const float* unit = q.units.data() + (size_t)t * width;
        const float largest = largest_size(unit, width);
        const float level = largest > 0 ? largest / SIGNED_LEVELS : 1;
        q.factors[t] = level * q.one;
        // The other side holds 128 more than what it stands for, which the bias takes out.
        q.centroid_bias[t] = -128 * round_to_levels(unit, width, level, q.levels.data());
        for (int d = 0; d < width; d += 4)
            std::memcpy(q.centroid_panel.data() + place_in_panel(q, d, t), q.levels.data() + d, 4);
        q.residual_bias[t] = -128 * round_to_levels(with_residuals + (size_t)t * columns, components,
                                                    level_of_all, q.levels.data());
        for (int c = 0; c < components; ++c)
            q.residual_panel[place_in_panel(q, q.places[c], t)] = q.levels[c];
    }
    q.float_panel.clear();
}

inline void store_shorts(int16_t* to, Ints value) {
#if LANES == 16
    _mm256_storeu_si256((__m256i*)to, _mm512_maskz_cvtepi32_epi16(ALL, (__m512i)value));
#else
    typedef int16_t Narrow __attribute__((vector_size(2 * LANES)));
    const Narrow narrow = __builtin_convertvector(value, Narrow);
    std::memcpy(to, &narrow, sizeof narrow);
#endif
}

inline Ints load_shorts(const int16_t* from) {
#if LANES == 16
    return (Ints)_mm512_maskz_cvtepi16_epi32(ALL, _mm256_loadu_si256((const __m256i*)from));
#else
    typedef int16_t Narrow __attribute__((vector_size(2 * LANES)));
    Narrow narrow;
    std::memcpy(&narrow, from, sizeof narrow);
    return __builtin_convertvector(narrow, Ints);
#endif
}

inline Shorts load_group(const int16_t* from) {
    Shorts out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

inline Shorts larger(Shorts a, Shorts b) { return a > b ? a : b; }

// Scores of all centroids, and the largest of each block of them.
void score_centroids(const PlaidCodec& codec, const Query& q, int block, Scratch& s) {
    const int columns = q.columns;
    const int64_t padded = (codec.centroids + 7) / 8 * 8;
    int64_t named = 8;
    while (named < codec.centroids) named *= 2;
    s.code_mask = (uint32_t)(named - 1);
    s.scores.resize((size_t)named * columns);
    each_group(columns, [&](int column, auto vectors) {
        constexpr int VECTORS = decltype(vectors)::value;
        Floats factors[VECTORS];
        Ints bias[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            factors[v] = load(q.factors.data() + column + v * LANES);
            bias[v] = load_ints(q.centroid_bias.data() + column + v * LANES);
        }
        const auto score_rows = [&](int64_t k, auto rows) {
            constexpr int ROWS = decltype(rows)::value;
            Ints sums[ROWS][VECTORS];
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < VECTORS; ++v) sums[r][v] = bias[v];
            multiply_bytes(codec.bytes + k * codec.width, codec.width,
                           q.centroid_panel.data() + 4 * column, columns, codec.width, sums);
            for (int r = 0; r < ROWS; ++r) {
                int16_t* to = s.scores.data() + (k + r) * columns + column;
                for (int v = 0; v < VECTORS; ++v)
                    store_shorts(to + v * LANES,
                                 nearest_integers(to_floats(sums[r][v]) *
                                                  (factors[v] * codec.byte_scales[k + r])));
            }
        };
        int64_t k = 0;
        for (; k + BYTE_ROWS <= padded; k += BYTE_ROWS)
            score_rows(k, std::integral_constant<int, BYTE_ROWS>());
        if (k < padded) score_rows(k, std::integral_constant<int, std::min(BYTE_ROWS, 8)>());
    });
    const int64_t blocks = (codec.centroids + block - 1) / block;
    s.block_best.resize((size_t)blocks * columns);
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t last = std::min<int64_t>(codec.centroids, (b + 1) * block);
        for (int column = 0; column < columns; column += COLUMN_GROUP) {
            const int16_t* from = s.scores.data() + column;
            Shorts best = load_group(from + b * block * columns);
            for (int64_t k = b * block + 1; k < last; ++k)
                best = larger(best, load_group(from + k * columns));
            std::memcpy(s.block_best.data() + b * columns + column, &best, sizeof best);
        }
    }
}

}  // namespace

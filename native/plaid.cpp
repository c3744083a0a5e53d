// The search of a PLAID index, for one instruction set: the stages of numpy_search.py in integers.
//
// Scores of query tokens with centroids are 16-bit integers, a row for each centroid and a column
// for each query token, so that a candidate's tokens are compared by the maximum of short integers.
// Residuals are never decoded to floats: their bits choose bytes, which are multiplied as bytes.

#include "late_interaction.h"
#include "maxsim.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <vector>

namespace {

typedef int16_t Shorts __attribute__((vector_size(2 * COLUMN_GROUP)));
typedef uint16_t UnsignedShorts __attribute__((vector_size(2 * COLUMN_GROUP)));

// Centroids that share one maximum, by which most of them are passed over.
constexpr int MOST_IN_BLOCK = 32;
// Bins of approximate scores; the last candidates are those of a whole bin.
constexpr int BINS = 4096;
// Documents whose tokens are fetched while others are scored.
constexpr int DOCUMENTS_AHEAD = 2;
// Documents that are scored before it is asked whether more are worth it.
constexpr int64_t STEP = 16;
// A document's tokens are gone through in runs of so many, which `Pair` can name.
constexpr int64_t TOKENS_AT_ONCE = 1 << 13;
// Lengths of query tokens end here, so that no sum of scores is infinite.
constexpr double LONGEST = 1e29;

struct Scored {
    float score;
    int64_t position;
};

inline bool is_better(const Scored& a, const Scored& b) {
    return a.score > b.score || (a.score == b.score && a.position < b.position);
}

struct Gain {
    float value;
    uint32_t stamp;  // of the query token that last touched it
};

struct Probe {
    int16_t score;
    int32_t centroid;
};

// A document's token whose residual is looked at.
struct NearToken {
    int64_t token;
    const int16_t* scores;  // of its centroid
    float scale;
};

// One of those with a query token.
struct Pair {
    uint32_t column : 12, near : 20;
};

// Query tokens as columns of panels, scaled to unit length.
struct Query {
    int tokens = 0, columns = 0;
    std::vector<float> lengths;  // of each column; 0 where there is no token
    std::vector<float> units;    // (tokens, width)
    // With centroids: an int16 score is the sum of products and bias, times the factor.
    std::vector<int8_t> centroid_panel;
    std::vector<int32_t> centroid_bias;
    std::vector<float> factors;
    // With residuals: the sum of products and bias, and the centroid's score shifted left, are in
    // one unit. Rows of `depth` bytes, in the order of a decoded residual's.
    std::vector<int8_t> residual_rows;
    std::vector<int32_t> residual_bias;
    int plane_bytes = 0, depth = 0, shift = 0;
    float one = 0, unit = 0;
    std::vector<float> float_panel;  // (width, columns), made where it is needed
};

// What a thread keeps between searches.
struct Scratch {
    Query query;
    // Of a code; whatever the files say, there is a row of scores for what is left of it.
    uint32_t code_mask = 0;
    bool is_damaged = false;  // the files hold what no index does
    std::vector<int16_t> scores, block_best, thresholds;
    std::vector<std::vector<Probe>> probes;
    std::vector<Gain> gains;
    uint32_t stamp = 0;
    std::vector<int64_t> hits, touched;
    std::vector<Scored> candidates;
    std::vector<float> ranked;
    std::vector<int32_t> bins;
    std::vector<uint8_t> rows;
    std::vector<NearToken> near_tokens;
    std::vector<Pair> pairs;
    std::vector<float> float_rows, best;
    std::vector<int16_t> best_shorts;
};

// Not inlined: the compiler would look it up again and again, in the middle of products.
__attribute__((noinline)) Scratch& scratch_of_thread() {
    thread_local Scratch scratch;
    return scratch;
}

int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// A run of tokens or of entries, empty where the mapped files name what is not there.
struct Run {
    int64_t first, end;
};

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

int32_t rounded_levels(float value, float scale) {
    const float level = std::nearbyint(value / scale);
    return (int32_t)std::min((float)SIGNED_LEVELS, std::max((float)-SIGNED_LEVELS, level));
}

void prepare(Query& q, const PlaidCodec& codec, const float* query, int tokens) {
    const int width = codec.width;
    q.tokens = tokens;
    q.columns = (tokens + COLUMN_GROUP - 1) / COLUMN_GROUP * COLUMN_GROUP;
    q.lengths.assign(q.columns, 0);
    q.units.resize((size_t)tokens * width);
    q.factors.assign(q.columns, 0);
    std::vector<float> largest(tokens);
    float largest_of_all = 0;
    for (int t = 0; t < tokens; ++t) {
        const float* from = query + (size_t)t * width;
        double square = 0;
        for (int d = 0; d < width; ++d) square += (double)from[d] * from[d];
        const double length = std::sqrt(square);
        q.lengths[t] = (float)std::min(length, LONGEST);
        for (int d = 0; d < width; ++d) {
            const float unit = length > 0 ? (float)(from[d] / length) : 0;
            q.units[(size_t)t * width + d] = unit;
            largest[t] = std::max(largest[t], std::fabs(unit));
        }
        largest_of_all = std::max(largest_of_all, largest[t]);
    }
    if (largest_of_all == 0) largest_of_all = 1;
    // A cosine of 1 is `one`, a power of two below 2^15 whose unit is not finer than what the
    // residuals' products come in.
    const float finest = codec.value_scale * largest_of_all / SIGNED_LEVELS;
    int exponent = 14;
    while (exponent > 1 && std::ldexp(1.0f, -exponent) < finest) --exponent;
    q.one = std::ldexp(1.0f, exponent);
    q.shift = 0;
    while (q.shift < 8 && std::ldexp(1.0f, -exponent - q.shift - 1) >= finest) ++q.shift;
    q.unit = std::ldexp(1.0f, -exponent - q.shift);
    const float level_of_all = q.unit / codec.value_scale;

    const int per_byte = 8 / codec.bits, bytes = width / per_byte;
    q.plane_bytes = (bytes + 3) / 4 * 4;
    q.depth = (per_byte * q.plane_bytes + 63) / 64 * 64;
    q.centroid_panel.assign((size_t)width * q.columns, 0);
    q.centroid_bias.assign(q.columns, 0);
    q.residual_rows.assign((size_t)q.depth * tokens, 0);
    q.residual_bias.assign(q.columns, 0);
    for (int t = 0; t < tokens; ++t) {
        const float* unit = q.units.data() + (size_t)t * width;
        const float level = largest[t] > 0 ? largest[t] / SIGNED_LEVELS : 1;
        q.factors[t] = level * q.one;
        int8_t* row = q.residual_rows.data() + (size_t)t * q.depth;
        for (int d = 0; d < width; ++d) {
            // The other side holds 128 more than what it stands for, which the bias takes out.
            const int32_t with_centroid = rounded_levels(unit[d], level);
            q.centroid_panel[((size_t)(d / 4) * q.columns + t) * 4 + d % 4] = (int8_t)with_centroid;
            q.centroid_bias[t] -= 128 * with_centroid;
            const int32_t with_residual = rounded_levels(unit[d], level_of_all);
            row[d % per_byte * q.plane_bytes + d / per_byte] = (int8_t)with_residual;
            q.residual_bias[t] -= 128 * with_residual;
        }
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
        for (int64_t k = 0; k < padded; k += ROWS_AT_ONCE) {
            Ints sums[ROWS_AT_ONCE][VECTORS];
            for (int r = 0; r < ROWS_AT_ONCE; ++r)
                for (int v = 0; v < VECTORS; ++v) sums[r][v] = bias[v];
            multiply_bytes(codec.bytes + k * codec.width, codec.width,
                           q.centroid_panel.data() + 4 * column, columns, codec.width, sums);
            for (int r = 0; r < ROWS_AT_ONCE; ++r) {
                int16_t* to = s.scores.data() + (k + r) * columns + column;
                for (int v = 0; v < VECTORS; ++v)
                    store_shorts(to + v * LANES,
                                 nearest_integers(to_floats(sums[r][v]) *
                                                  (factors[v] * codec.byte_scales[k + r])));
            }
        }
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

// For each column the largest score that at least `count` of the blocks' best reach.
void find_thresholds(int columns, int64_t blocks, int count, Scratch& s) {
    s.thresholds.resize(columns);
    for (int column = 0; column < columns; column += COLUMN_GROUP) {
        Shorts threshold = Shorts{} + (int16_t)-32768;
        for (int bit = 15; bit >= 0; --bit) {
            // The first step, from the lowest number to 0, wraps around as it should.
            const uint16_t step = (uint16_t)(1u << bit);
            const Shorts higher = (Shorts)((UnsignedShorts)threshold + step);
            Shorts reached = {};
            for (int64_t b = 0; b < blocks; ++b)
                reached -= (Shorts)(load_group(s.block_best.data() + b * columns + column) >=
                                    higher);
            const Shorts is_enough = (Shorts)(reached >= (int16_t)std::min(count, 32767));
            threshold = is_enough ? higher : threshold;
        }
        std::memcpy(s.thresholds.data() + column, &threshold, sizeof threshold);
    }
}

// A bit for each of 16 columns that reaches its threshold.
inline uint32_t reaching(const int16_t* scores, Shorts thresholds) {
    const Shorts is_there = (Shorts)(load_group(scores) >= thresholds);
#if LANES == 16
    return _mm256_movepi16_mask((__m256i)is_there);
#elif LANES == 8
    const __m256i narrow = _mm256_packs_epi16((__m256i)is_there, _mm256_setzero_si256());
    const uint32_t bits = (uint32_t)_mm256_movemask_epi8(narrow);
    return (bits & 0xff) | (bits >> 8 & 0xff00);
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < COLUMN_GROUP; ++lane) bits |= (uint32_t)(is_there[lane] & 1) << lane;
    return bits;
#endif
}

// The best centroids of each query token, best first.
__attribute__((noinline)) void find_probes(const PlaidCodec& codec, const Query& q, int wanted, int block, Scratch& s) {
    const int columns = q.columns;
    const int64_t blocks = (codec.centroids + block - 1) / block;
    find_thresholds(columns, blocks, (int)std::min<int64_t>(wanted, blocks), s);
    if ((int)s.probes.size() < columns) s.probes.resize(columns);
    for (auto& each : s.probes) each.clear();
    for (int column = 0; column < q.tokens; column += COLUMN_GROUP) {
        const Shorts thresholds = load_group(s.thresholds.data() + column);
        const uint32_t real = q.tokens - column >= COLUMN_GROUP ? 0xffff
                                                                : (1u << (q.tokens - column)) - 1;
        for (int64_t b = 0; b < blocks; ++b) {
            if (!(reaching(s.block_best.data() + b * columns + column, thresholds) & real))
                continue;
            const int64_t last = std::min<int64_t>(codec.centroids, (b + 1) * block);
            for (int64_t k = b * block; k < last; ++k) {
                const int16_t* row = s.scores.data() + k * columns + column;
                uint32_t bits = reaching(row, thresholds) & real;
                for (; bits; bits &= bits - 1) {
                    const int lane = __builtin_ctz(bits);
                    s.probes[column + lane].push_back({row[lane], (int32_t)k});
                }
            }
        }
    }
    const auto is_before = [](const Probe& a, const Probe& b) {
        return a.score > b.score || (a.score == b.score && a.centroid < b.centroid);
    };
    for (int token = 0; token < q.tokens; ++token) {
        std::vector<Probe>& each = s.probes[token];
        if ((int64_t)each.size() > wanted) {
            std::nth_element(each.begin(), each.begin() + wanted - 1, each.end(), is_before);
            each.resize(wanted);
        }
        std::sort(each.begin(), each.end(), is_before);
    }
}

void prefetch_list(const PlaidSegment& segment, int32_t centroid) {
    const int32_t list = segment.list_of[centroid];
    if (list < 0) return;
    const Run run = entries_of(segment, list);
    const int32_t* from = segment.list_documents + run.first;
    const int32_t* end = segment.list_documents + run.end;
    for (; from < end; from += 16) __builtin_prefetch(from);
}

// Adds up what the documents of the probed centroids gain over the last probe of each query token.
__attribute__((noinline)) void gather(const PlaidView& view, const Query& q, const uint8_t* mask, Scratch& s) {
    if ((int64_t)s.gains.size() < view.documents || s.stamp > 0xffffffffu - 2 - (uint32_t)q.tokens) {
        s.gains.assign(std::max<size_t>(s.gains.size(), view.documents), Gain{0, 0});
        s.stamp = 0;
    }
    const uint32_t before = s.stamp;
    // One behind the last is written too; never made smaller, since what comes back is filled.
    if ((int64_t)s.hits.size() <= view.documents) s.hits.resize(view.documents + 1);
    int64_t touched = 0;
    for (int token = 0; token < q.tokens; ++token) {
        const std::vector<Probe>& probes = s.probes[token];
        const uint32_t stamp = ++s.stamp;
        const int16_t lowest = probes.back().score;
        for (size_t number = 0; number < probes.size(); ++number) {
            const Probe& probe = probes[number];
            const float gain = (float)(probe.score - lowest) * q.lengths[token];
            for (int at = 0; at < view.segment_count; ++at) {
                const PlaidSegment& segment = view.segments[at];
                if (number + 2 < probes.size()) prefetch_list(segment, probes[number + 2].centroid);
                const int32_t list = segment.list_of[probe.centroid];
                if (list < 0) continue;
                const Run run = entries_of(segment, list);
                if (run.first == run.end) s.is_damaged = true;
                const int32_t* each = segment.list_documents + run.first;
                const int32_t* end = segment.list_documents + run.end;
                const uint32_t documents = (uint32_t)segment.documents;
                Gain* gains = s.gains.data() + segment.first_position;
                int64_t* to = s.hits.data();
                for (; each != end; ++each) {
                    const uint32_t number = (uint32_t)*each;
                    if (__builtin_expect(number >= documents, 0)) {
                        s.is_damaged = true;
                        continue;
                    }
                    // Without branches: which documents come again can't be foreseen.
                    Gain& at = gains[number];
                    const bool is_first = at.stamp <= before;
                    to[touched] = segment.first_position + number;
                    touched += is_first;
                    // Probes come best first, so that a token's first gain is its gain.
                    at.value = (is_first ? 0 : at.value) + (at.stamp == stamp ? 0 : gain);
                    at.stamp = stamp;
                }
            }
        }
    }
    if (mask) {
        const auto is_out = [&](int64_t position) { return !mask[position]; };
        touched = std::remove_if(s.hits.begin(), s.hits.begin() + touched, is_out) -
                  s.hits.begin();
    }
    s.touched.assign(s.hits.begin(), s.hits.begin() + touched);
}

// The touched documents with the highest gains: `wanted`, and what is as good as the last of them
// by a bin's width.
__attribute__((noinline)) void choose_candidates(int wanted, Scratch& s) {
    s.candidates.clear();
    const Gain* gains = s.gains.data();
    float most = 0;
    if ((int64_t)s.touched.size() > wanted)
        for (const int64_t position : s.touched) most = std::max(most, gains[position].value);
    if (most == 0) {
        for (const int64_t position : s.touched) s.candidates.push_back({0, position});
        if ((int64_t)s.candidates.size() > wanted) {
            std::nth_element(s.candidates.begin(), s.candidates.begin() + wanted,
                             s.candidates.end(), is_better);
            s.candidates.resize(wanted);
        }
        return;
    }
    const float to_bin = std::min((BINS - 1) / most, -LOWEST);
    s.bins.assign(BINS, 0);
    for (const int64_t position : s.touched) ++s.bins[(int)(gains[position].value * to_bin)];
    int lowest = BINS;
    for (int64_t count = 0; lowest > 0 && count < wanted;) count += s.bins[--lowest];
    for (const int64_t position : s.touched)
        if ((int)(gains[position].value * to_bin) >= lowest)
            s.candidates.push_back({gains[position].value, position});
}

inline const PlaidSegment& segment_of(const PlaidView& view, int64_t position) {
    int low = 0, high = view.segment_count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (view.segments[middle].first_position <= position ? low : high) = middle;
    }
    return view.segments[low];
}

template <class Code>
void maximum_of_centroids(const Code* code, const Code* end, uint32_t mask, const int16_t* scores,
                          int columns, int16_t* best) {
    int column = 0;
    for (; column + 2 * COLUMN_GROUP <= columns; column += 2 * COLUMN_GROUP) {
        const int16_t* from = scores + column;
        Shorts a = load_group(from + (size_t)(*code & mask) * columns);
        Shorts b = load_group(from + (size_t)(*code & mask) * columns + COLUMN_GROUP);
        Shorts c = a, d = b;
        const Code* each = code + 1;
        for (; each + 2 <= end; each += 2) {
            const int16_t* row = from + (size_t)(each[0] & mask) * columns;
            const int16_t* other = from + (size_t)(each[1] & mask) * columns;
            a = larger(a, load_group(row));
            b = larger(b, load_group(row + COLUMN_GROUP));
            c = larger(c, load_group(other));
            d = larger(d, load_group(other + COLUMN_GROUP));
        }
        if (each < end) {
            a = larger(a, load_group(from + (size_t)(*each & mask) * columns));
            b = larger(b, load_group(from + (size_t)(*each & mask) * columns + COLUMN_GROUP));
        }
        a = larger(a, c), b = larger(b, d);
        std::memcpy(best + column, &a, sizeof a);
        std::memcpy(best + column + COLUMN_GROUP, &b, sizeof b);
    }
    if (column < columns) {
        Shorts a = load_group(scores + column + (size_t)(*code & mask) * columns);
        for (const Code* each = code + 1; each < end; ++each)
            a = larger(a, load_group(scores + column + (size_t)(*each & mask) * columns));
        std::memcpy(best + column, &a, sizeof a);
    }
}

// The best centroid of a document for each column, in s.best_shorts.
inline void maximum_of_document(const PlaidView& view, const PlaidSegment& segment, Run run,
                                int columns, Scratch& s) {
    const int16_t* scores = s.scores.data();
    int16_t* best = s.best_shorts.data();
    if (view.code_bytes == 2) {
        const uint16_t* codes = (const uint16_t*)segment.codes;
        maximum_of_centroids(codes + run.first, codes + run.end, s.code_mask, scores, columns,
                             best);
    } else {
        const int32_t* codes = (const int32_t*)segment.codes;
        maximum_of_centroids(codes + run.first, codes + run.end, s.code_mask, scores, columns,
                             best);
    }
}

// Scores candidates by their centroids alone and keeps the best.
__attribute__((noinline)) void score_by_centroids(const PlaidView& view, const Query& q, int wanted, Scratch& s) {
    s.best_shorts.resize(q.columns);
    for (size_t at = 0; at < s.candidates.size(); ++at) {
        if (at + DOCUMENTS_AHEAD < s.candidates.size()) {
            const int64_t position = s.candidates[at + DOCUMENTS_AHEAD].position;
            const PlaidSegment& segment = segment_of(view, position);
            const Run run = tokens_of(segment, position);
            const char* codes = (const char*)segment.codes;
            const char* end = codes + run.end * view.code_bytes;
            for (const char* from = codes + run.first * view.code_bytes; from < end; from += 64)
                __builtin_prefetch(from);
        }
        const int64_t position = s.candidates[at].position;
        const PlaidSegment& segment = segment_of(view, position);
        const Run run = tokens_of(segment, position);
        if (run.first == run.end) {
            s.is_damaged = true;
            s.candidates[at].score = LOWEST;
            continue;
        }
        maximum_of_document(view, segment, run, q.columns, s);
        Floats total = {};
        for (int column = 0; column < q.columns; column += LANES)
            total += to_floats(load_shorts(s.best_shorts.data() + column)) *
                     load(q.lengths.data() + column);
        s.candidates[at].score = sum(total);
    }
    if ((int64_t)s.candidates.size() > wanted) {
        std::nth_element(s.candidates.begin(), s.candidates.begin() + wanted, s.candidates.end(),
                         is_better);
        s.candidates.resize(wanted);
    }
}

#if LANES == 16
typedef __m512i ByteVector;
inline ByteVector choose_bytes(ByteVector table, ByteVector numbers) {
    return _mm512_shuffle_epi8(table, numbers);
}
#elif LANES == 8
typedef __m256i ByteVector;
inline ByteVector choose_bytes(ByteVector table, ByteVector numbers) {
    return _mm256_shuffle_epi8(table, numbers);
}
#endif

// Writes the bytes that a token's residual stands for, plane by plane; up to 64 bytes behind the
// last plane are overwritten.
struct Decoder {
    int bits, bytes, plane_bytes;
    const uint8_t* values;
#if LANES >= 8
    ByteVector table;
#endif

    Decoder(const PlaidCodec& codec, const Query& q)
        : bits(codec.bits), bytes(codec.width * codec.bits / 8), plane_bytes(q.plane_bytes),
          values(codec.values) {
#if LANES >= 8
        alignas(64) uint8_t repeated[sizeof(ByteVector)] = {};
        if (bits < 8)
            for (size_t at = 0; at < sizeof repeated; ++at)
                repeated[at] = values[at % 16 & ((1 << bits) - 1)];
        std::memcpy(&table, repeated, sizeof table);
#endif
    }

    void operator()(const uint8_t* from, uint8_t* to) const {
        if (bits == 8) {
            std::memcpy(to, from, bytes);
            return;
        }
#if LANES >= 8
        constexpr int STEP = sizeof(ByteVector);
        const int planes = 8 / bits;
        for (int at = 0; at < bytes; at += STEP) {
            ByteVector packed;
            if (at + STEP <= bytes) {
                std::memcpy(&packed, from + at, sizeof packed);
            } else {
                uint8_t last[STEP] = {};
                std::memcpy(last, from + at, bytes - at);
                std::memcpy(&packed, last, sizeof packed);
            }
            for (int plane = 0; plane < planes; ++plane) {
                const Words shifted = (Words)packed >> (bits * plane);
                const ByteVector numbers =
                    (ByteVector)(shifted & (0x01010101u * ((1u << bits) - 1)));
                const ByteVector chosen = choose_bytes(table, numbers);
                uint8_t* plane_to = to + plane * plane_bytes + at;
                if (at + STEP <= plane_bytes)
                    std::memcpy(plane_to, &chosen, sizeof chosen);
                else
                    std::memcpy(plane_to, &chosen, plane_bytes - at);
            }
        }
#else
        for (int plane = 0; plane < 8 / bits; ++plane)
            for (int at = 0; at < bytes; ++at)
                to[plane * plane_bytes + at] =
                    values[from[at] >> (bits * plane) & ((1 << bits) - 1)];
#endif
    }
};

inline int32_t code_of(const PlaidView& view, const PlaidSegment& segment, int64_t token) {
    return view.code_bytes == 2 ? ((const uint16_t*)segment.codes)[token]
                                : ((const int32_t*)segment.codes)[token];
}

inline float weighted_sum(const Query& q, const float* best) {
    Floats total = {};
    for (int column = 0; column < q.columns; column += LANES)
        total += load(best + column) * load(q.lengths.data() + column);
    return sum(total);
}

// Lists the numbers of `bits` as pairs; writes up to 16 of them, those behind the last without
// meaning, and returns how many there are.
inline int64_t list_bits(uint32_t bits, int32_t near, int32_t first_column, Pair* to) {
#if LANES == 16
    const __m512i columns = _mm512_add_epi32(_mm512_set1_epi32(first_column),
                                             (__m512i)lane_numbers());
    const __m512i chosen = _mm512_maskz_compress_epi32((__mmask16)bits, columns);
    const __m512i nears = _mm512_set1_epi32(near << 12);
    _mm512_storeu_si512(to, _mm512_or_si512(chosen, nears));
    return __builtin_popcount(bits);
#else
    int64_t count = 0;
    for (; bits; bits &= bits - 1)
        to[count++] = {(uint32_t)(first_column + __builtin_ctz(bits)), (uint32_t)near};
    return count;
#endif
}

// The best score of each column among the pairs; DEPTH is the query's, or 0 for any.
template <int DEPTH>
void multiply_pairs(const Query& q, const Pair* __restrict pairs, int64_t count,
                    const NearToken* __restrict near_tokens, const uint8_t* __restrict rows,
                    float* __restrict best) {
    const int depth = DEPTH ? DEPTH : q.depth, factor = 1 << q.shift;
    const int8_t* __restrict queries = q.residual_rows.data();
    const int32_t* __restrict bias = q.residual_bias.data();
    for (int64_t at = 0; at < count; ++at) {
        const uint32_t column = pairs[at].column, near = pairs[at].near;
        const NearToken& token = near_tokens[near];
        const int32_t product = dot_bytes(rows + (size_t)near * depth,
                                          queries + (size_t)column * depth, depth);
        const int32_t score = product + bias[column] + token.scores[column] * factor;
        best[column] = std::max(best[column], (float)score * token.scale);
    }
}

// What a centroid's score has to reach in each column for the token's residual to be looked at:
// the document's best less a margin, in s.best_shorts.
inline void find_least(const PlaidView& view, const PlaidSegment& segment, Run run, const Query& q,
                       Shorts margin, Scratch& s) {
    const int columns = q.columns;
    maximum_of_document(view, segment, run, columns, s);
    for (int column = 0; column < columns; column += COLUMN_GROUP) {
        // A sum of two negative numbers may wrap around, which only unsigned ones are allowed to.
        const Shorts most = load_group(s.best_shorts.data() + column);
        const Shorts least = (Shorts)((UnsignedShorts)most - (UnsignedShorts)margin);
        const Shorts threshold = least > most ? Shorts{} + (int16_t)-32768 : least;
        std::memcpy(s.best_shorts.data() + column, &threshold, sizeof threshold);
    }
    // No score reaches this, so that columns without a query token stay out.
    std::fill(s.best_shorts.begin() + q.tokens, s.best_shorts.end(), (int16_t)32767);
}

// The largest products of a run of tokens with each query token, in s.best.
inline void multiply_residuals(const PlaidView& view, const PlaidSegment& segment, Run run,
                               const Query& q, const Decoder& decode, Scratch& s) {
    const int columns = q.columns;
    // Which pairs there are can't be foreseen, so they are listed first, without branches where
    // that can be, and then gone through in one run.
    const int64_t tokens = run.end - run.first;
    if ((int64_t)s.near_tokens.size() < tokens + 1) s.near_tokens.resize(tokens + 1);
    const size_t most_pairs = (size_t)tokens * columns + COLUMN_GROUP;
    if (s.pairs.size() < most_pairs) s.pairs.resize(most_pairs);
    int64_t near = 0, pairs = 0;
    for (int64_t token = run.first; token < run.end; ++token) {
        const int64_t code = code_of(view, segment, token) & s.code_mask;
        const int16_t* scores = s.scores.data() + (size_t)code * columns;
        s.near_tokens[near] = {token, scores, 0};
        const int64_t before = pairs;
        for (int column = 0; column < columns; column += COLUMN_GROUP) {
            const uint32_t bits =
                reaching(scores + column, load_group(s.best_shorts.data() + column));
            pairs += list_bits(bits, (int32_t)near, column, s.pairs.data() + pairs);
        }
        near += pairs > before;
    }
    if ((int64_t)s.rows.size() < near * q.depth) s.rows.resize(near * q.depth);
    for (int64_t at = 0; at < near; ++at) {
        NearToken& token = s.near_tokens[at];
        decode(segment.residuals + token.token * decode.bytes, s.rows.data() + at * q.depth);
        token.scale = widen_float16(segment.scales[token.token]);
    }
    const auto multiply = q.depth == 128 ? multiply_pairs<128> : multiply_pairs<0>;
    multiply(q, s.pairs.data(), pairs, s.near_tokens.data(), s.rows.data(),
             s.best.data());
}

// MaxSim of one document from its codes and residuals.
//
// A query token is multiplied with the residuals of those tokens only whose centroids come within
// `margin` of the document's best: of 32 x 150 pairs some 300 are left.
float score_by_residuals(const PlaidView& view, const Query& q, const Decoder& decode,
                         Shorts margin, int64_t position, Scratch& s) {
    const PlaidSegment& segment = segment_of(view, position);
    const Run run = tokens_of(segment, position);
    if (run.first == run.end) {
        s.is_damaged = true;
        return LOWEST;
    }
    find_least(view, segment, run, q, margin, s);
    std::fill(s.best.begin(), s.best.begin() + q.tokens, LOWEST);
    for (int64_t first = run.first; first < run.end; first += TOKENS_AT_ONCE) {
        const Run part = {first, std::min(run.end, first + TOKENS_AT_ONCE)};
        multiply_residuals(view, segment, part, q, decode, s);
    }
    return weighted_sum(q, s.best.data()) * q.unit;
}

void prefetch_document(const PlaidView& view, int64_t position, int residual_bytes) {
    const PlaidSegment& segment = segment_of(view, position);
    const Run run = tokens_of(segment, position);
    const char* from = (const char*)segment.residuals + run.first * residual_bytes;
    const char* end = (const char*)segment.residuals + run.end * residual_bytes;
    for (; from < end; from += 64) __builtin_prefetch(from, 0, 2);
    __builtin_prefetch(segment.scales + run.first);
    __builtin_prefetch(segment.scales + run.first + 32);
}

// MaxSim of one document from its kept tokens, in float.
float score_exactly(const PlaidView& view, const Query& q, int64_t position, Scratch& s) {
    const PlaidSegment& segment = segment_of(view, position);
    const Run run = tokens_of(segment, position);
    const int width = view.codec->width;
    float* best = s.best.data();
    std::fill(best, best + q.columns, LOWEST);
    raise_to_products((const Float16*)segment.tokens + run.first * width, run.end - run.first, width,
                      q.float_panel.data(), q.columns, s.float_rows.data(), best);
    return weighted_sum(q, best);
}

void keep_best(std::vector<Scored>& candidates, int64_t wanted) {
    if ((int64_t)candidates.size() > wanted) {
        std::nth_element(candidates.begin(), candidates.begin() + wanted, candidates.end(),
                         is_better);
        candidates.resize(wanted);
    }
}

// How much documents gain by their residuals over what their centroids say.
struct Gains {
    double total = 0, squares = 0;

    void add(double gain) { total += gain, squares += gain * gain; }

    // What all but a few of `count` gains stay below.
    float highest(int64_t count, float deviations) const {
        const double mean = total / count;
        return (float)(mean + deviations * std::sqrt(std::max(0.0, squares / count - mean * mean)));
    }
};

// Of the first `count` candidates the score of the one that is the last wanted.
float last_wanted(const std::vector<Scored>& candidates, int64_t count, int64_t wanted, Scratch& s) {
    s.ranked.resize(count);
    for (int64_t at = 0; at < count; ++at) s.ranked[at] = candidates[at].score;
    std::nth_element(s.ranked.begin(), s.ranked.begin() + (wanted - 1), s.ranked.end(),
                     std::greater<float>());
    return s.ranked[wanted - 1];
}

// Scores candidates by their residuals; where they are ranked by their centroids, only until the
// rest can hardly come among the best.
void score_candidates(const PlaidView& view, const PlaidEffort& effort, bool is_ranked,
                      Scratch& s) {
    const Query& q = s.query;
    const Decoder decode(*view.codec, q);
    const float widest = std::min(effort.margin * q.one, 32767.0f);
    const Shorts margin = Shorts{} + (int16_t)widest;
    const int64_t count = (int64_t)s.candidates.size(), wanted = std::max(1, effort.wanted);
    const bool may_stop = is_ranked && effort.patience < 1e6f;
    if (may_stop) std::sort(s.candidates.begin(), s.candidates.end(), is_better);
    Gains gains;
    for (int64_t at = 0; at < count; ++at) {
        const float by_centroids = s.candidates[at].score / q.one;
        if (may_stop && at % STEP == 0 && at >= std::max(2 * STEP, wanted) &&
            by_centroids + gains.highest(at, effort.patience) <
                last_wanted(s.candidates, at, wanted, s)) {
            s.candidates.resize(at);
            return;
        }
        if (at + DOCUMENTS_AHEAD < count)
            prefetch_document(view, s.candidates[at + DOCUMENTS_AHEAD].position, decode.bytes);
        Scored& each = s.candidates[at];
        each.score = score_by_residuals(view, q, decode, margin, each.position, s);
        gains.add(each.score - by_centroids);
    }
}

// Scores the candidates by residuals, and the best of them exactly, and writes them, best first.
int64_t finish(const PlaidView& view, const PlaidEffort& effort, bool is_ranked, int64_t* positions,
               float* scores, Scratch& s, PlaidStages* stages) {
    Query& q = s.query;
    const int width = view.codec->width;
    int64_t started = stages ? now() : 0;
    s.best.assign(q.columns, 0);
    s.best_shorts.resize(q.columns);
    score_candidates(view, effort, is_ranked, s);
    if (stages) {
        stages->nanoseconds[4] += now() - started;
        stages->scored += s.candidates.size();
        started = now();
    }
    bool has_tokens = true;
    for (int number = 0; number < view.segment_count; ++number)
        has_tokens = has_tokens && (view.segments[number].tokens || !view.segments[number].documents);
    if (effort.rescored > 0 && has_tokens) {
        keep_best(s.candidates, effort.rescored);
        q.float_panel.assign((size_t)width * q.columns, 0);
        for (int t = 0; t < q.tokens; ++t)
            for (int d = 0; d < width; ++d)
                q.float_panel[(size_t)d * q.columns + t] = q.units[(size_t)t * width + d];
        s.float_rows.resize((size_t)ROWS_AT_ONCE * width);
        for (Scored& each : s.candidates) each.score = score_exactly(view, q, each.position, s);
        if (stages) stages->rescored += s.candidates.size();
    }
    std::sort(s.candidates.begin(), s.candidates.end(), is_better);
    for (size_t at = 0; at < s.candidates.size(); ++at) {
        positions[at] = s.candidates[at].position;
        scores[at] = s.candidates[at].score;
    }
    if (stages) stages->nanoseconds[5] += now() - started;
    return s.is_damaged ? PLAID_DAMAGED : (int64_t)s.candidates.size();
}

// Few enough centroids in a block that there are many more blocks than probes.
int block_size(int centroids, int probes) {
    int block = MOST_IN_BLOCK;
    while (block > 1 && centroids / block < 4 * probes) block /= 2;
    return block;
}

int64_t search(const PlaidView* view, const float* query, int32_t tokens,
               const PlaidEffort* effort, const uint8_t* mask, int64_t* positions, float* scores,
               PlaidStages* stages) {
    Scratch& s = scratch_of_thread();
    s.is_damaged = false;
    Query& q = s.query;
    int64_t times[5] = {};
    const auto mark = [&](int at) {
        if (stages) times[at] = now();
    };
    const int block = block_size(view->codec->centroids, effort->probes);
    mark(0);
    prepare(q, *view->codec, query, tokens);
    score_centroids(*view->codec, q, block, s);
    mark(1);
    find_probes(*view->codec, q, effort->probes, block, s);
    mark(2);
    gather(*view, q, mask, s);
    choose_candidates(effort->candidates, s);
    mark(3);
    const bool is_ranked = (int64_t)s.candidates.size() > effort->scored;
    if (is_ranked) score_by_centroids(*view, q, effort->scored, s);
    mark(4);
    if (stages) {
        for (int at = 0; at < 4; ++at) stages->nanoseconds[at] += times[at + 1] - times[at];
        stages->touched += s.touched.size();
    }
    return finish(*view, *effort, is_ranked, positions, scores, s, stages);
}

int64_t rank(const PlaidView* view, const float* query, int32_t tokens, const PlaidEffort* effort,
             int64_t count, int64_t* positions, float* scores) {
    Scratch& s = scratch_of_thread();
    s.is_damaged = false;
    prepare(s.query, *view->codec, query, tokens);
    score_centroids(*view->codec, s.query, MOST_IN_BLOCK, s);
    s.candidates.clear();
    for (int64_t at = 0; at < count; ++at) s.candidates.push_back({0, positions[at]});
    return finish(*view, *effort, false, positions, scores, s, nullptr);
}

}  // namespace

extern const LateInteractionKernels LATE_INTERACTION_KERNELS;
const LateInteractionKernels LATE_INTERACTION_KERNELS = {search, rank};

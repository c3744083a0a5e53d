// From the scores of centroids to candidates: the probes of each query token, the documents in their
// lists, and those documents ranked by their centroids alone.
#pragma once

#include "plaid_query.h"

namespace {

// Bins of gains, by their first bits; the last candidates are those of a whole bin.
constexpr int BIN_BITS = 13, BINS = 1 << BIN_BITS;

// For each column the largest score that at least `count` of the blocks' best reach, or less.
void find_thresholds(int columns, int64_t blocks, int64_t count, Scratch& s) {
    // More than 16 bits count: every centroid is looked at. A count that wraps around where there
    // are more blocks is too small, so that a threshold gets lower than it need be.
    s.thresholds.assign(columns, -32768);
    if (count > 32767) return;
    for (int column = 0; column < columns; column += COLUMN_GROUP) {
        Shorts threshold = Shorts{} + (int16_t)-32768;
        for (int bit = 15; bit >= 0; --bit) {
            // The first step, from the lowest number to 0, wraps around as it should.
            const uint16_t step = (uint16_t)(1u << bit);
            const Shorts higher = (Shorts)((UnsignedShorts)threshold + step);
            UnsignedShorts reached = {};
            for (int64_t b = 0; b < blocks; ++b)
                reached -= (UnsignedShorts)(load_group(s.block_best.data() + b * columns + column) >=
                                            higher);
            const Shorts is_enough = (Shorts)((Shorts)reached >= (int16_t)count);
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

inline bool any(Shorts conditions) {
#if LANES == 16
    return _mm256_movepi16_mask((__m256i)conditions) != 0;
#elif LANES == 8
    return !_mm256_testz_si256((__m256i)conditions, (__m256i)conditions);
#else
    int16_t together = 0;
    for (int lane = 0; lane < COLUMN_GROUP; ++lane) together |= conditions[lane];
    return together != 0;
#endif
}

// The best centroids of each query token, best first.
void find_probes(const PlaidCodec& codec, const Query& q, int wanted, int block, Scratch& s) {
    const int columns = q.columns;
    const int64_t blocks = (codec.centroids + block - 1) / block;
    find_thresholds(columns, blocks, std::min<int64_t>(wanted, blocks), s);
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

// Steps of gains in a unit of scores: with the largest gains of all query tokens MOST_GAINED.
float gain_steps(const Query& q, const Scratch& s) {
    float most = 0;
    for (int token = 0; token < q.tokens; ++token)
        most += (float)(s.probes[token].front().score - s.probes[token].back().score) *
                q.lengths[token];
    // What rounding may add is left out.
    return most > 0 ? std::min((float)(MOST_GAINED - 16) / most, -LOWEST) : 0;
}

// The lists of a segment for all probes of all query tokens, in order, in s.lists.
void find_lists(const PlaidSegment& segment, const Query& q, Scratch& s) {
    s.lists.clear();
    for (int token = 0; token < q.tokens; ++token)
        for (const Probe& probe : s.probes[token]) {
            const int32_t list = segment.list_of[probe.centroid];
            Run run = {0, 0};
            if (list >= 0) {
                run = entries_of(segment, list);
                if (run.first == run.end) s.is_damaged = true;
            }
            s.lists.push_back({segment.list_documents + run.first, segment.list_documents + run.end});
        }
}

// Adds what a query token's probe gives to the documents before `end` that are left in its list;
// returns how many of them had nothing before, whose positions are written. Not inlined: in the
// middle of other loops the registers don't suffice for this one.
__attribute__((noinline)) int64_t add_gains(Entries& entries, uint32_t end, Gain gain,
                                            uint32_t token, Gain* __restrict gains,
                                            int64_t first_position, int64_t* __restrict hits) {
    const int32_t *each = entries.next, *last = entries.end;
    int64_t count = 0;
    for (; each != last; ++each) {
        const uint32_t document = (uint32_t)*each;
        if (__builtin_expect(document >= end, 0)) break;
        // Without branches: which documents come again can't be foreseen.
        const Gain before = gains[document];
        const uint32_t toucher = before & ((1u << TOUCHED_BITS) - 1);
        hits[count] = first_position + document;
        count += before == 0;
        gains[document] = (before - toucher) + (toucher == token ? 0 : gain) + token;
    }
    entries.next = each;
    return count;
}

// Adds up what the documents of the probed centroids gain over the last probe of each query token;
// returns how many documents there are, in s.hits.
//
// Lists are ascending, and all of them are gone through for the first documents, then for the next
// ones, so many at a time that their gains stay in the cache.
int64_t gather(const PlaidView& view, const Query& q, Scratch& s) {
    if (!s.has_zero_gains) std::fill(s.gains.begin(), s.gains.end(), 0);
    if ((int64_t)s.gains.size() < view.documents) s.gains.resize(view.documents, 0);
    s.has_zero_gains = false;
    // One behind the last is written too; never made smaller, since what comes back is filled.
    if ((int64_t)s.hits.size() <= view.documents) s.hits.resize(view.documents + 1);
    const float steps = gain_steps(q, s);
    s.probe_gains.clear();
    for (int token = 0; token < q.tokens; ++token) {
        const int16_t lowest = s.probes[token].back().score;
        for (const Probe& probe : s.probes[token]) {
            const float value = (float)(probe.score - lowest) * q.lengths[token];
            s.probe_gains.push_back((uint32_t)(value * steps) << TOUCHED_BITS);
        }
    }
    int64_t touched = 0;
    for (int at = 0; at < view.segment_count; ++at) {
        const PlaidSegment& segment = view.segments[at];
        find_lists(segment, q, s);
        Gain* gains = s.gains.data() + segment.first_position;
        for (int64_t first = 0; first < segment.documents; first += DOCUMENTS_AT_ONCE) {
            const uint32_t end = (uint32_t)std::min(segment.documents, first + DOCUMENTS_AT_ONCE);
            size_t number = 0;
            for (int token = 0; token < q.tokens; ++token) {
                const uint32_t mine = (uint32_t)token + 1;
                // Probes come best first, so that a token's first gain is its gain.
                for (size_t probe = 0; probe < s.probes[token].size(); ++probe, ++number) {
                    if (number + 2 < s.lists.size()) s.lists[number + 2].prefetch();
                    touched += add_gains(s.lists[number], end, s.probe_gains[number], mine, gains,
                                         segment.first_position, s.hits.data() + touched);
                }
            }
        }
        for (const Entries& each : s.lists) s.is_damaged |= each.next != each.end;
    }
    return touched;
}

// Of the first `count` documents in s.hits the ones with the highest gains: `wanted`, and what is as
// good as the last of them by a bin's width. Gains are zeros then.
void choose_candidates(const uint8_t* mask, int64_t count, int wanted, Scratch& s) {
    s.bins.assign(BINS, 0);
    constexpr int BIN_SHIFT = 32 - BIN_BITS;
    for (int64_t at = 0; at < count; ++at) {
        const int64_t position = s.hits[at];
        s.bins[s.gains[position] >> BIN_SHIFT] += !mask || mask[position];
    }
    int lowest = BINS;
    for (int64_t chosen = 0; lowest > 0 && chosen < wanted;) chosen += s.bins[--lowest];
    const Gain least = (Gain)lowest << BIN_SHIFT;
    s.candidates.clear();
    for (int64_t at = 0; at < count; ++at) {
        const int64_t position = s.hits[at];
        const Gain gain = s.gains[position];
        s.gains[position] = 0;
        if (gain >= least && (!mask || mask[position]))
            s.candidates.push_back({(float)(gain >> TOUCHED_BITS), -1, position});
    }
    s.has_zero_gains = true;
    // The lowest bin also has those that gained nothing, which may be many.
    if (lowest == 0) keep_best(s.candidates, wanted);
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
#if LANES == 16
    for (; column + 2 * COLUMN_GROUP <= columns; column += 2 * COLUMN_GROUP) {
        const auto row = [&](Code centroid) {
            return _mm512_loadu_si512(scores + column + (size_t)(centroid & mask) * columns);
        };
        __m512i a = row(*code), b = a;
        const Code* each = code + 1;
        for (; each + 2 <= end; each += 2)
            a = _mm512_max_epi16(a, row(each[0])), b = _mm512_max_epi16(b, row(each[1]));
        if (each < end) a = _mm512_max_epi16(a, row(*each));
        _mm512_storeu_si512(best + column, _mm512_max_epi16(a, b));
    }
#else
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
#endif
    if (column < columns) {
        Shorts a = load_group(scores + column + (size_t)(*code & mask) * columns);
        for (const Code* each = code + 1; each < end; ++each)
            a = larger(a, load_group(scores + column + (size_t)(*each & mask) * columns));
        std::memcpy(best + column, &a, sizeof a);
    }
}

// The score of a document's best centroid for each column.
inline void maximum_of_document(const PlaidView& view, const PlaidSegment& segment, Run run,
                                int columns, const Scratch& s, int16_t* best) {
    const int16_t* scores = s.scores.data();
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

inline void prefetch_codes(const PlaidView& view, int64_t position) {
    const PlaidSegment& segment = segment_of(view, position);
    const Run run = tokens_of(segment, position);
    const char* codes = (const char*)segment.codes;
    const char* end = codes + run.end * view.code_bytes;
    for (const char* from = codes + run.first * view.code_bytes; from < end; from += 64)
        __builtin_prefetch(from);
}

inline void prefetch_bounds(const PlaidView& view, int64_t position) {
    const PlaidSegment& segment = segment_of(view, position);
    __builtin_prefetch(segment.offsets + (position - segment.first_position));
}

// Scores candidates by their centroids alone and keeps the best.
void score_by_centroids(const PlaidView& view, const Query& q, int wanted, Scratch& s) {
    const int64_t count = (int64_t)s.candidates.size();
    const bool are_kept = count * q.columns <= MOST_KEPT;
    s.best_of_candidates.resize((are_kept ? count : 1) * q.columns);
    for (int64_t at = 0; at < count; ++at) {
        if (at + BOUNDS_AHEAD < count)
            prefetch_bounds(view, s.candidates[at + BOUNDS_AHEAD].position);
        if (at + CODES_AHEAD < count)
            prefetch_codes(view, s.candidates[at + CODES_AHEAD].position);
        const int64_t position = s.candidates[at].position;
        const PlaidSegment& segment = segment_of(view, position);
        const Run run = tokens_of(segment, position);
        if (run.first == run.end) {
            s.is_damaged = true;
            s.candidates[at].score = LOWEST;
            continue;
        }
        int16_t* best = s.best_of_candidates.data() + (are_kept ? at * q.columns : 0);
        maximum_of_document(view, segment, run, q.columns, s, best);
        if (are_kept) s.candidates[at].row = (int32_t)at;
        Floats total = {};
        for (int column = 0; column < q.columns; column += LANES)
            total += to_floats(load_shorts(best + column)) *
                     load(q.lengths.data() + column);
        s.candidates[at].score = sum(total);
    }
    keep_best(s.candidates, wanted);
}

}  // namespace

// MaxSim of one document from its codes and residuals, and from its kept tokens.
#pragma once

#include "plaid_candidates.h"

namespace {

#if LANES == 16
inline __m512i choose_bytes(__m512i table, __m512i numbers) {
    return _mm512_shuffle_epi8(table, numbers);
}
#endif
#if LANES >= 8
inline __m256i choose_bytes(__m256i table, __m256i numbers) {
    return _mm256_shuffle_epi8(table, numbers);
}
inline __m128i choose_bytes(__m128i table, __m128i numbers) {
    return _mm_shuffle_epi8(table, numbers);
}
#endif

// Scales of a document that are fetched before its residuals are, and those of a cache line.
constexpr int64_t SCALES_AHEAD = 128, SCALES_IN_LINE = 32;

// Writes the bytes that a token's residual stands for, plane by plane.
struct Decoder {
    int bits, bytes, plane_bytes;
    alignas(64) uint8_t table[64] = {};  // what bits stand for, again and again

    Decoder(const PlaidCodec& codec, const Query& q)
        : bits(codec.bits), bytes(codec.width * codec.bits / 8), plane_bytes(q.plane_bytes) {
        if (bits < 8)
            for (int at = 0; at < 64; ++at)
                table[at] = codec.values[at % 16 & ((1 << bits) - 1)];
    }

    void operator()(const uint8_t* from, uint8_t* to) const {
        if (bits == 8)
            std::memcpy(to, from, bytes);
        else if (bits == 4)
            decode<4>(from, to);
        else if (bits == 2)
            decode<2>(from, to);
        else
            decode<1>(from, to);
    }

  private:
    template <int BITS> void decode(const uint8_t* from, uint8_t* to) const {
        int at = 0;
#if LANES == 16
        for (; at + 64 <= bytes; at += 64) decode_vector<BITS, __m512i>(from + at, to + at);
#endif
#if LANES >= 8
        for (; at + 32 <= bytes; at += 32) decode_vector<BITS, __m256i>(from + at, to + at);
        for (; at + 16 <= bytes; at += 16) decode_vector<BITS, __m128i>(from + at, to + at);
#endif
        for (; at < bytes; ++at)
            for (int plane = 0; plane < 8 / BITS; ++plane)
                to[plane * plane_bytes + at] = table[from[at] >> (BITS * plane) & ((1 << BITS) - 1)];
    }

#if LANES >= 8
    template <int BITS, class Vector> void decode_vector(const uint8_t* from, uint8_t* to) const {
        typedef uint32_t Packed __attribute__((vector_size(sizeof(Vector))));
        Packed packed;
        Vector choice;
        std::memcpy(&packed, from, sizeof packed);
        std::memcpy(&choice, table, sizeof choice);
        for (int plane = 0; plane < 8 / BITS; ++plane) {
            const Packed numbers = packed >> (BITS * plane) & (0x01010101u * ((1u << BITS) - 1));
            const Vector chosen = choose_bytes(choice, (Vector)numbers);
            std::memcpy(to + plane * plane_bytes, &chosen, sizeof chosen);
        }
    }
#endif
};

inline float weighted_sum(const Query& q, const float* best) {
    Floats total = {};
    for (int column = 0; column < q.columns; column += LANES)
        total += load(best + column) * load(q.lengths.data() + column);
    return sum(total);
}

// What a centroid's score has to reach in each column for a token's residual to be looked at: the
// document's best less a margin.
inline void find_least(const PlaidView& view, const PlaidSegment& segment, Run run, const Query& q,
                       Shorts margin, int16_t* least, Scratch& s) {
    const int columns = q.columns;
    maximum_of_document(view, segment, run, columns, s);
    for (int column = 0; column < columns; column += COLUMN_GROUP) {
        // A sum of two negative numbers may wrap around, which only unsigned ones are allowed to.
        const Shorts most = load_group(s.best_shorts.data() + column);
        const Shorts lower = (Shorts)((UnsignedShorts)most - (UnsignedShorts)margin);
        const Shorts threshold = lower > most ? Shorts{} + (int16_t)-32768 : lower;
        std::memcpy(least + column, &threshold, sizeof threshold);
    }
    // No score reaches this, so that columns without a query token stay out.
    std::fill(least + q.tokens, least + columns, (int16_t)32767);
}

// Lists the tokens whose centroids reach `least` in any column; one behind the last is written too.
// COLUMNS are the query's, or 0 for any.
template <int COLUMNS, class Code>
int64_t list_near(const Code* codes, Run run, const int16_t* least, int any_columns,
                  const Scratch& s, NearToken* to) {
    const int columns = COLUMNS ? COLUMNS : any_columns;
    const uint32_t mask = s.code_mask;
    const int16_t* scores = s.scores.data();
    int64_t count = 0;
    for (int64_t token = run.first; token < run.end; ++token) {
        const uint32_t code = (uint32_t)codes[token] & mask;
        const int16_t* row = scores + (size_t)code * columns;
        Shorts is_near = {};
        for (int column = 0; column < columns; column += COLUMN_GROUP)
            is_near |= (Shorts)(load_group(row + column) >= load_group(least + column));
        to[count] = {token, code};
        count += any(is_near);
    }
    return count;
}

inline void list_near(const PlaidView& view, Run run, const Scratch& s, int columns,
                      NearDocument& document) {
    if ((int64_t)document.tokens.size() <= run.end - run.first)
        document.tokens.resize(run.end - run.first + 1);
    const void* codes = document.segment->codes;
    const int16_t* least = document.least.data();
    NearToken* to = document.tokens.data();
    document.count = view.code_bytes != 2
                         ? list_near<0>((const int32_t*)codes, run, least, columns, s, to)
                     : columns == 32
                         ? list_near<32>((const uint16_t*)codes, run, least, columns, s, to)
                         : list_near<0>((const uint16_t*)codes, run, least, columns, s, to);
    document.fetched = 0;
}

// Finds the tokens of a document, or of a long one's beginning, whose residuals are looked at.
inline void find_near(const PlaidView& view, const Query& q, Shorts margin, int64_t position,
                      Scratch& s, NearDocument& document) {
    document.segment = &segment_of(view, position);
    document.run = tokens_of(*document.segment, position);
    document.count = document.fetched = 0;
    if (document.run.first == document.run.end) {
        s.is_damaged = true;
        return;
    }
    document.least.resize(q.columns);
    find_least(view, *document.segment, document.run, q, margin, document.least.data(), s);
    list_near(view, document.run.beginning(TOKENS_AT_ONCE), s, q.columns, document);
    const Run beginning = document.run.beginning(SCALES_AHEAD);
    for (int64_t token = beginning.first; token < beginning.end; token += SCALES_IN_LINE)
        __builtin_prefetch(document.segment->scales + token);
}

// Fetches the residuals of some more tokens of a document that is scored later: all at once they
// would wait for one another.
inline void fetch_residuals(NearDocument& document, int64_t more, int bytes) {
    const int64_t end = std::min(document.count, document.fetched + more);
    for (; document.fetched < end; ++document.fetched) {
        const int64_t token = document.tokens[document.fetched].token;
        const char* from = (const char*)document.segment->residuals + token * bytes;
        for (int at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
    }
}

// Of negative numbers too.
inline Ints shifted_left(Ints value, int bits) { return (Ints)((Words)value << bits); }

// Raises s.best of each column to its largest product with ROWS tokens, or with fewer, of which the
// last one comes again.
template <int ROWS, int DEPTH>
inline void raise_to_residuals(const Query& q, const Decoder& decode, const PlaidSegment& segment,
                               const NearToken* tokens, int64_t count, Scratch& s) {
    const int depth = DEPTH ? DEPTH : q.depth, columns = q.columns;
    uint8_t* rows = s.rows.data();
    const int16_t* scores[ROWS];
    float scales[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        const NearToken& each = tokens[std::min<int64_t>(r, count - 1)];
        decode(segment.residuals + each.token * decode.bytes, rows + r * depth);
        scores[r] = s.scores.data() + (size_t)each.code * columns;
        scales[r] = widen_float16(segment.scales[each.token]);
    }
    each_group(columns, [&](int column, auto vectors) {
        constexpr int VECTORS = decltype(vectors)::value;
        Ints sums[ROWS][VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            const Ints bias = load_ints(q.residual_bias.data() + column + v * LANES);
            for (int r = 0; r < ROWS; ++r)
                sums[r][v] = bias + shifted_left(load_shorts(scores[r] + column + v * LANES), q.shift);
        }
        multiply_bytes(rows, depth, q.residual_panel.data() + 4 * column, columns, depth, sums);
        for (int v = 0; v < VECTORS; ++v) {
            float* best = s.best.data() + column + v * LANES;
            Floats most = load(best);
            for (int r = 0; r < ROWS; ++r)
                most = larger(most, to_floats(sums[r][v]) * broadcast(scales[r]));
            store(best, most);
        }
    });
}

template <int DEPTH>
void raise_to_document(const Query& q, const Decoder& decode, const NearDocument& document,
                       NearDocument& next, Scratch& s) {
    const PlaidSegment& segment = *document.segment;
    const NearToken* tokens = document.tokens.data();
    int64_t left = document.count;
    for (; left > FEW_BYTE_ROWS; left -= BYTE_ROWS, tokens += BYTE_ROWS) {
        fetch_residuals(next, BYTE_ROWS, decode.bytes);
        raise_to_residuals<BYTE_ROWS, DEPTH>(q, decode, segment, tokens, left, s);
    }
    if (left > 0) raise_to_residuals<FEW_BYTE_ROWS, DEPTH>(q, decode, segment, tokens, left, s);
}

// MaxSim of one document from its codes and residuals, while those of `next` are fetched.
//
// Residuals are those of tokens whose centroids come within a margin of the document's best for any
// query token; each is multiplied with all query tokens.
float score_by_residuals(const PlaidView& view, const Query& q, const Decoder& decode,
                         NearDocument& document, NearDocument& next, Scratch& s) {
    const auto raise = q.depth == 128 ? raise_to_document<128> : raise_to_document<0>;
    const Run run = document.run;
    if (run.first == run.end) return LOWEST;
    std::fill(s.best.begin(), s.best.end(), LOWEST);
    raise(q, decode, document, next, s);
    for (int64_t first = run.first + TOKENS_AT_ONCE; first < run.end; first += TOKENS_AT_ONCE) {
        list_near(view, Run{first, run.end}.beginning(TOKENS_AT_ONCE), s, q.columns, document);
        raise(q, decode, document, next, s);
    }
    fetch_residuals(next, next.count, decode.bytes);
    return weighted_sum(q, s.best.data()) * q.unit;
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

}  // namespace

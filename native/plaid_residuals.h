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

#if LANES >= 8
// 16 bytes again and again.
template <class Vector> inline Vector repeat_bytes(const uint8_t* from) {
#if LANES == 16
    if constexpr (sizeof(Vector) == 64)
        return _mm512_maskz_broadcast_i32x4(ALL, _mm_loadu_si128((const __m128i*)from));
    else
#endif
        return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)from));
}
#endif

// Scales of a document that are fetched before its residuals are, and those of a cache line.
constexpr int64_t SCALES_AHEAD = 128, SCALES_IN_LINE = 32;

// Writes the bytes that a section of a token's residual stands for, plane by plane.
struct SectionDecoder {
    Section section;
    alignas(64) uint8_t table[64] = {};  // what bits stand for, again and again

    SectionDecoder() = default;
    SectionDecoder(const Section& decoded, const uint8_t* values) : section(decoded) {
        if (section.bits < 8)
            for (int at = 0; at < 64; ++at)
                table[at] = values[at % 16 & ((1 << section.bits) - 1)];
    }

    // BITS are the section's, BYTES too, or 0 for any.
    template <int BITS, int BYTES>
    [[gnu::always_inline]] void operator()(const uint8_t* from, uint8_t* to) const {
        const int bytes = BYTES ? BYTES : section.bytes;
        from += section.first_byte, to += section.first_place;
        if (BITS == 8) {
            std::memcpy(to, from, bytes);
            return;
        }
#if LANES == 16
        if (BITS < 4 && bytes == 16) return decode_planes<BITS, __m512i>(from, to);
#endif
#if LANES >= 8
        if (BITS < 8 && bytes == 16) return decode_planes<BITS, __m256i>(from, to);
#endif
        const int plane_bytes = BYTES ? (BYTES + 3) / 4 * 4 : section.plane_bytes;
        int at = 0;
#if LANES == 16
        for (; at + 64 <= bytes; at += 64)
            decode_vector<BITS, __m512i, 64>(from + at, to + at, plane_bytes);
#endif
#if LANES >= 8
        for (; at + 32 <= bytes; at += 32)
            decode_vector<BITS, __m256i, 32>(from + at, to + at, plane_bytes);
        for (; at + 16 <= bytes; at += 16)
            decode_vector<BITS, __m128i, 16>(from + at, to + at, plane_bytes);
        for (; at + 4 <= bytes; at += 4)
            decode_vector<BITS, __m128i, 4>(from + at, to + at, plane_bytes);
#endif
        for (; at < bytes; ++at)
            for (int plane = 0; plane < 8 / BITS; ++plane)
                to[plane * plane_bytes + at] =
                    table[from[at] >> (BITS * plane) & ((1 << BITS) - 1)];
    }

  private:
#if LANES >= 8
    // All planes of 16 bytes, as many of them at a time as a vector holds.
    template <int BITS, class Vector>
    [[gnu::always_inline]] void decode_planes(const uint8_t* from, uint8_t* to) const {
        constexpr int AT_ONCE = sizeof(Vector) / 16, HALVES = 2 * AT_ONCE;
        typedef uint64_t Packed __attribute__((vector_size(sizeof(Vector))));
        Packed shifts;
        Vector choice;
        const Packed packed = (Packed)repeat_bytes<Vector>(from);
        uint64_t shift_of_half[HALVES];
        for (int half = 0; half < HALVES; ++half) shift_of_half[half] = half / 2 * BITS;
        std::memcpy(&shifts, shift_of_half, sizeof shifts);
        std::memcpy(&choice, table, sizeof choice);
        for (int plane = 0; plane < 8 / BITS; plane += AT_ONCE) {
            const Packed numbers = packed >> (shifts + BITS * plane) &
                                   (0x0101010101010101u * ((1u << BITS) - 1));
            const Vector chosen = choose_bytes(choice, (Vector)numbers);
            std::memcpy(to + 16 * plane, &chosen, sizeof chosen);
        }
    }

    // So many bytes, in one vector.
    template <int BITS, class Vector, int BYTES>
    [[gnu::always_inline]] void decode_vector(const uint8_t* from, uint8_t* to,
                                              int plane_bytes) const {
        typedef uint32_t Packed __attribute__((vector_size(sizeof(Vector))));
        Packed packed = {};
        Vector choice;
        std::memcpy(&packed, from, BYTES);
        std::memcpy(&choice, table, sizeof choice);
        for (int plane = 0; plane < 8 / BITS; ++plane) {
            const Packed numbers = packed >> (BITS * plane) & (0x01010101u * ((1u << BITS) - 1));
            const Vector chosen = choose_bytes(choice, (Vector)numbers);
            std::memcpy(to + plane * plane_bytes, &chosen, BYTES);
        }
    }
#endif
};

// What is known of a residual where the code is compiled: bits of (the last) components, whether
// they are along principal directions, and the vectors' width, or 0 for any.
template <int BITS_, bool IS_PRINCIPAL_, int WIDTH_> struct ResidualKind {
    static constexpr int BITS = BITS_, WIDTH = WIDTH_;
    static constexpr bool IS_PRINCIPAL = IS_PRINCIPAL_;
    static constexpr int DEPTH = IS_PRINCIPAL ? WIDTH / 4 * 3 : WIDTH;
    static constexpr int SECTION_BYTES = WIDTH * BITS / (IS_PRINCIPAL ? 16 : 8);
};

// Writes the bytes that a token's residual stands for.
struct Decoder {
    int bytes, count;
    SectionDecoder sections[2];

    Decoder(const PlaidCodec& codec, const Layout& layout)
        : bytes(layout.bytes), count(layout.count) {
        for (int at = 0; at < count; ++at) {
            const bool has_first_values = codec.directions && at == 0;
            sections[at] = SectionDecoder(layout.sections[at],
                                          has_first_values ? codec.first_values : codec.values);
        }
    }

    template <class Kind>
    [[gnu::always_inline]] void operator()(Kind, const uint8_t* from, uint8_t* to) const {
        constexpr int BITS = Kind::BITS, BYTES = Kind::SECTION_BYTES;
        if constexpr (Kind::IS_PRINCIPAL) {
            sections[0].template operator()<2 * BITS, BYTES>(from, to);
            sections[1].template operator()<BITS, BYTES>(from, to);
        } else {
            sections[0].template operator()<BITS, BYTES>(from, to);
        }
    }
};

inline float weighted_sum(const Query& q, const float* best) {
    Floats total = {};
    for (int column = 0; column < q.columns; column += LANES)
        total += load(best + column) * load(q.lengths.data() + column);
    return sum(total);
}

// What a centroid's score has to reach in each column for a token's residual to be looked at: the
// document's best less a margin.
inline void find_least(const Query& q, const int16_t* best, Shorts margin, int16_t* least) {
    const int columns = q.columns;
    for (int column = 0; column < columns; column += COLUMN_GROUP) {
        // A sum of two negative numbers may wrap around, which only unsigned ones are allowed to.
        const Shorts most = load_group(best + column);
        const Shorts lower = (Shorts)((UnsignedShorts)most - (UnsignedShorts)margin);
        const Shorts threshold = lower > most ? Shorts{} + (int16_t)-32768 : lower;
        std::memcpy(least + column, &threshold, sizeof threshold);
    }
    // No score reaches this, so that columns without a query token stay out.
    std::fill(least + q.tokens, least + columns, (int16_t)32767);
}

// Whether one of the scores is as large as its threshold; COLUMNS of them, or 0 for any number.
template <int COLUMNS>
inline bool reaches_any(const int16_t* scores, const int16_t* thresholds, int columns) {
#if LANES == 16
    if constexpr (COLUMNS == 32)
        return _mm512_cmpge_epi16_mask(_mm512_loadu_si512(scores), _mm512_loadu_si512(thresholds));
#endif
    Shorts is_near = {};
    for (int column = 0; column < columns; column += COLUMN_GROUP)
        is_near |= (Shorts)(load_group(scores + column) >= load_group(thresholds + column));
    return any(is_near);
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
        to[count] = {code, (uint32_t)(token - run.first)};
        count += reaches_any<COLUMNS>(scores + (size_t)code * columns, least, columns);
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
    document.first = run.first;
    document.count = view.code_bytes != 2
                         ? list_near<0>((const int32_t*)codes, run, least, columns, s, to)
                     : columns == 32
                         ? list_near<32>((const uint16_t*)codes, run, least, columns, s, to)
                         : list_near<0>((const uint16_t*)codes, run, least, columns, s, to);
    document.fetched = 0;
}

// Looks up the pages of a document's residuals: the processor waits long for each.
inline void touch_pages(const PlaidView& view, int64_t position, int bytes) {
    const PlaidSegment& segment = segment_of(view, position);
    const Run run = tokens_of(segment, position);
    const char* residuals = (const char*)segment.residuals;
    for (int64_t at = run.first * bytes; at < run.end * bytes; at += PAGE)
        __builtin_prefetch(residuals + at, 0, 2);
    if (run.first < run.end) __builtin_prefetch(residuals + run.end * bytes - 1, 0, 2);
}

// Finds the tokens of a document, or of a long one's beginning, whose residuals are looked at.
inline void find_near(const PlaidView& view, const Query& q, Shorts margin, const Scored& candidate,
                      Scratch& s, NearDocument& document) {
    document.segment = &segment_of(view, candidate.position);
    document.run = tokens_of(*document.segment, candidate.position);
    document.count = document.fetched = 0;
    if (document.run.first == document.run.end) {
        s.is_damaged = true;
        return;
    }
    document.least.resize(q.columns);
    const int16_t* best = s.best_shorts.data();
    if (candidate.row >= 0)
        best = s.best_of_candidates.data() + (int64_t)candidate.row * q.columns;
    else
        maximum_of_document(view, *document.segment, document.run, q.columns, s,
                            s.best_shorts.data());
    find_least(q, best, margin, document.least.data());
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
        const int64_t token = document.token(document.tokens[document.fetched]);
        const char* from = (const char*)document.segment->residuals + token * bytes;
        for (int at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
    }
}

// Of negative numbers too.
inline Ints shifted_left(Ints value, int bits) { return (Ints)((Words)value << bits); }

// Raises s.best of each column to its largest product with ROWS tokens, or with fewer, of which the
// last one comes again. (Out of line: in line, GCC 12 keeps columns in memory.)
template <int ROWS, class Kind>
[[gnu::noinline]] void raise_to_residuals(const Query& q, const Decoder& decode,
                                          const NearDocument& document, const NearToken* tokens,
                                          int64_t count, Scratch& s) {
    constexpr int DEPTH = Kind::DEPTH;
    const int depth = DEPTH ? DEPTH : q.layout.depth, columns = q.columns;
    const size_t stride = DEPTH ? (DEPTH + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE
                                : q.layout.stride();
    const PlaidSegment& segment = *document.segment;
    uint8_t* rows = s.rows.data();
    const int16_t* scores[ROWS];
    float scales[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        const NearToken& each = tokens[std::min<int64_t>(r, count - 1)];
        const int64_t token = document.token(each);
        decode(Kind(), segment.residuals + token * decode.bytes, rows + r * stride);
        scores[r] = s.scores.data() + (size_t)each.code * columns;
        scales[r] = widen_float16(segment.scales[token]);
    }
    each_group(columns, [&](int column, auto vectors) {
        constexpr int VECTORS = decltype(vectors)::value;
        Ints sums[ROWS][VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            const Ints bias = load_ints(q.residual_bias.data() + column + v * LANES);
            for (int r = 0; r < ROWS; ++r)
                sums[r][v] = bias + shifted_left(load_shorts(scores[r] + column + v * LANES), q.shift);
        }
        multiply_bytes(rows, stride, q.residual_panel.data() + 4 * column, columns, depth, sums);
        for (int v = 0; v < VECTORS; ++v) {
            float* best = s.best.data() + column + v * LANES;
            Floats most = load(best);
            for (int r = 0; r < ROWS; ++r)
                most = larger(most, to_floats(sums[r][v]) * broadcast(scales[r]));
            store(best, most);
        }
    });
}

template <class Kind>
void raise_to_document(const Query& q, const Decoder& decode, const NearDocument& document,
                       NearDocument& next, Scratch& s) {
    const NearToken* tokens = document.tokens.data();
    int64_t left = document.count;
    for (; left > FEW_BYTE_ROWS; left -= BYTE_ROWS, tokens += BYTE_ROWS) {
        fetch_residuals(next, BYTE_ROWS, decode.bytes);
        raise_to_residuals<BYTE_ROWS, Kind>(q, decode, document, tokens, left, s);
    }
    if (left > 0) raise_to_residuals<FEW_BYTE_ROWS, Kind>(q, decode, document, tokens, left, s);
}

typedef void RaiseToDocument(const Query&, const Decoder&, const NearDocument&, NearDocument&,
                             Scratch&);

template <int BITS, bool IS_PRINCIPAL> RaiseToDocument* raise_of(int width) {
    return width == 128 ? raise_to_document<ResidualKind<BITS, IS_PRINCIPAL, 128>>
                        : raise_to_document<ResidualKind<BITS, IS_PRINCIPAL, 0>>;
}

RaiseToDocument* raise_for(const PlaidCodec& codec) {
    const int width = codec.width;
    if (codec.directions)
        return codec.bits == 1 ? raise_of<1, true>(width) : raise_of<2, true>(width);
    return codec.bits == 1   ? raise_of<1, false>(width)
           : codec.bits == 2 ? raise_of<2, false>(width)
           : codec.bits == 4 ? raise_of<4, false>(width)
                             : raise_of<8, false>(width);
}

// MaxSim of one document from its codes and residuals, while those of `next` are fetched.
//
// Residuals are those of tokens whose centroids come within a margin of the document's best for any
// query token; each is multiplied with all query tokens.
float score_by_residuals(const PlaidView& view, const Query& q, const Decoder& decode,
                         RaiseToDocument* raise, NearDocument& document, NearDocument& next,
                         Scratch& s) {
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

// MaxSim of one document from its codes and residuals, and from its kept tokens.
#pragma once

#include "plaid_candidates.h"

namespace {

// A document's tokens are gone through in runs of so many, which `Pair` can name.
constexpr int64_t TOKENS_AT_ONCE = 1 << 13;

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
        if (bytes % STEP == 0 && bits == 4) return decode_whole<4>(from, to);
        if (bytes % STEP == 0 && bits == 2) return decode_whole<2>(from, to);
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

#if LANES >= 8
    // Where no vector is cut.
    template <int BITS> void decode_whole(const uint8_t* from, uint8_t* to) const {
        for (int at = 0; at < bytes; at += (int)sizeof(ByteVector)) {
            Words packed;
            std::memcpy(&packed, from + at, sizeof packed);
            for (int plane = 0; plane < 8 / BITS; ++plane) {
                const Words numbers = packed >> (BITS * plane) & (0x01010101u * ((1u << BITS) - 1));
                const ByteVector chosen = choose_bytes(table, (ByteVector)numbers);
                std::memcpy(to + plane * plane_bytes + at, &chosen, sizeof chosen);
            }
        }
    }
#endif
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

#if LANES == 8
// The numbers of the bits that are set in each byte, ascending.
struct BitNumbers {
    uint8_t of[256][8];

    constexpr BitNumbers() : of() {
        for (int byte = 0; byte < 256; ++byte)
            for (int bit = 0, count = 0; bit < 8; ++bit)
                if (byte >> bit & 1) of[byte][count++] = (uint8_t)bit;
    }
};
constexpr BitNumbers BIT_NUMBERS;
#endif

// Lists the numbers of `bits` as pairs; writes up to 16 of them, those behind the last without
// meaning, and returns how many there are.
inline int64_t list_bits(uint32_t bits, int32_t near, int32_t first_column, Pair* to) {
    const Pair first = (Pair)near << COLUMN_BITS | (Pair)first_column;
#if LANES == 16
    const __m512i pairs = _mm512_add_epi32(_mm512_set1_epi32((int)first), (__m512i)lane_numbers());
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32((__mmask16)bits, pairs));
    return __builtin_popcount(bits);
#elif LANES == 8
    int64_t count = 0;
    for (int half = 0; half < 2; ++half) {
        const uint32_t byte = bits >> 8 * half & 0xff;
        const __m128i numbers = _mm_loadl_epi64((const __m128i*)BIT_NUMBERS.of[byte]);
        const __m256i pairs = _mm256_add_epi32(_mm256_set1_epi32((int)first + 8 * half),
                                               _mm256_cvtepu8_epi32(numbers));
        _mm256_storeu_si256((__m256i*)(to + count), pairs);
        count += __builtin_popcount(byte);
    }
    return count;
#else
    int64_t count = 0;
    for (; bits; bits &= bits - 1) to[count++] = first + (Pair)__builtin_ctz(bits);
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
    int64_t at = 0;
#if LANES >= 8
    for (; at + 4 <= count; at += 4) {
        const uint8_t* from[4];
        const int8_t* with[4];
        int32_t rest[4];
        float scales[4], scores[4];
        for (int i = 0; i < 4; ++i) {
            const uint32_t column = column_of(pairs[at + i]), near = near_of(pairs[at + i]);
            from[i] = rows + (size_t)near * depth, with[i] = queries + (size_t)column * depth;
            rest[i] = bias[column] + near_tokens[near].scores[column] * factor;
            scales[i] = near_tokens[near].scale;
        }
        const __m128i sums = _mm_add_epi32(dot_four(from, with, depth),
                                           _mm_loadu_si128((const __m128i*)rest));
        _mm_storeu_ps(scores, _mm_mul_ps(_mm_cvtepi32_ps(sums), _mm_loadu_ps(scales)));
        for (int i = 0; i < 4; ++i) {
            float& most = best[column_of(pairs[at + i])];
            most = std::max(most, scores[i]);
        }
    }
#endif
    for (; at < count; ++at) {
        const uint32_t column = column_of(pairs[at]), near = near_of(pairs[at]);
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

// Residuals of a document that is scored later, fetched token by token between other work: all at
// once they would wait for one another.
struct Fetch {
    const char *next = nullptr, *end = nullptr;
    int lines = 0;  // of a token

    void step() { fetch(lines); }
    void rest() { fetch((end - next + 63) / 64); }

  private:
    void fetch(int64_t count) {
        for (; count > 0 && next < end; --count, next += 64) __builtin_prefetch(next, 0, 2);
    }
};

// The largest products of a run of tokens with each query token, in s.best.
inline void multiply_residuals(const PlaidView& view, const PlaidSegment& segment, Run run,
                               const Query& q, const Decoder& decode, Fetch& fetch, Scratch& s) {
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
        fetch.step();
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
// `margin` of the document's best: by default of 32 x 118 pairs some 950 are left.
float score_by_residuals(const PlaidView& view, const Query& q, const Decoder& decode,
                         Shorts margin, int64_t position, Fetch fetch, Scratch& s) {
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
        multiply_residuals(view, segment, part, q, decode, fetch, s);
    }
    fetch.rest();
    return weighted_sum(q, s.best.data()) * q.unit;
}

inline Fetch fetch_document(const PlaidView& view, int64_t position, int residual_bytes) {
    const PlaidSegment& segment = segment_of(view, position);
    const Run run = tokens_of(segment, position);
    const char* from = (const char*)segment.residuals;
    __builtin_prefetch(segment.scales + run.first);
    __builtin_prefetch(segment.scales + run.first + 32);
    return {from + run.first * residual_bytes, from + run.end * residual_bytes,
            (residual_bytes + 63) / 64};
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

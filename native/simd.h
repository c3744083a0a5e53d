// Vectors of float for one instruction set, chosen by the compiler's flags: 16 wide with AVX-512,
// 8 wide with AVX2, 4 wide elsewhere (SSE2, NEON, or scalar code that the compiler makes of it).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

// A bfloat16 number: the upper half of a float.
struct Bfloat16 {
    uint16_t bits;
};

inline Floats broadcast(float value) { return value - Floats{}; }

inline Floats load(const float* from) {
    Floats out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline Floats load(const Bfloat16* from) {
    Halves bits;
    std::memcpy(&bits, from, sizeof bits);
    return (Floats)(__builtin_convertvector(bits, Words) << 16);
}

// Round to the nearest, ties to even, as torch does; NaN is not kept.
inline Halves rounded(Floats value) {
#if defined(__AVX512BF16__) && LANES == 16
    return (Halves)_mm512_cvtneps_pbh((__m512)value);
#else
    Words bits = (Words)value;
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return __builtin_convertvector(bits >> 16, Halves);
#endif
}

inline void store(Bfloat16* to, Floats value) {
    const Halves bits = rounded(value);
    std::memcpy(to, &bits, sizeof bits);
}

inline float widen(float value) { return value; }

inline float widen(Bfloat16 value) {
    const uint32_t bits = (uint32_t)value.bits << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

template <class T> T narrow(float value);
template <> inline float narrow<float>(float value) { return value; }
template <> inline Bfloat16 narrow<Bfloat16>(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return Bfloat16{(uint16_t)(bits >> 16)};
}

inline Floats choose(Ints condition, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & condition) | ((Ints)no & ~condition));
}

inline Floats larger(Floats a, Floats b) { return choose(a > b, a, b); }

inline float sum(Floats value) {
    float out = 0;
    for (int lane = 0; lane < LANES; ++lane) out += value[lane];
    return out;
}

inline float maximum(Floats value) {
    float out = value[0];
    for (int lane = 1; lane < LANES; ++lane) out = value[lane] > out ? value[lane] : out;
    return out;
}

// e^x for x <= 88, relative error below 2e-7; 0 below -87.
inline Floats exponential(Floats x) {
    const Ints is_zero = x < broadcast(-87.0f);
    x = choose(is_zero, broadcast(-87.0f), x);
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    const float magic = 12582912.0f;
    const Floats shifted = x * 1.44269504f + magic;
    const Floats whole = shifted - magic;
    // The remainder in two steps, for the bits that one product would lose.
    const Floats rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Floats p = broadcast(1.9875691500e-4f);
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    p = p * rest * rest + rest + 1.0f;
    const Floats power = (Floats)((Ints)p + ((Ints)shifted << 23));
    return choose(is_zero, Floats{}, power);
}

// erf(x), absolute error below 2e-7. Source: Abramowitz and Stegun 1964, 7.1.26.
inline Floats error_function(Floats x) {
    const Floats magnitude = (Floats)((Ints)x & 0x7fffffff);
    const Ints sign = (Ints)x & (Ints)((Words{} + 1u) << 31);
    const Floats t = 1.0f / (1.0f + 0.3275911f * magnitude);
    Floats p = broadcast(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Floats out = 1.0f - p * t * exponential(-magnitude * magnitude);
    return (Floats)((Ints)out | sign);
}

}  // namespace

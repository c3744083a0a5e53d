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

#if LANES == 16
// Nothing is left out. GCC 12 warns of its own header where a form without a mask is taken.
constexpr __mmask16 ALL = 0xffff;
#endif

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
#if LANES == 16
    return (Floats)((Words)_mm512_maskz_cvtepu16_epi32(ALL, (__m256i)bits) << 16);
#else
    return (Floats)(__builtin_convertvector(bits, Words) << 16);
#endif
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

// Of single numbers, where other types may be read later.
inline void store(float* to, float value) { std::memcpy(to, &value, sizeof value); }

inline void store(Bfloat16* to, float value) {
    const Bfloat16 bits = narrow<Bfloat16>(value);
    std::memcpy(to, &bits, sizeof bits);
}

inline Ints lane_numbers() {
    Ints out;
    for (int lane = 0; lane < LANES; ++lane) out[lane] = lane;
    return out;
}

inline Floats choose(Ints condition, Floats yes, Floats no) { return condition ? yes : no; }

inline Floats larger(Floats a, Floats b) { return choose(a > b, a, b); }

// All lanes combined by `combine`, which takes two vectors.
template <class Combine> inline float fold(Floats value, Combine combine) {
#if LANES == 16
    // Halves, quarters, and within quarters.
    __m512 now = (__m512)value;
    now = (__m512)combine((Floats)now, (Floats)_mm512_maskz_shuffle_f32x4(ALL, now, now, 0x4e));
    now = (__m512)combine((Floats)now, (Floats)_mm512_maskz_shuffle_f32x4(ALL, now, now, 0xb1));
    now = (__m512)combine((Floats)now, (Floats)_mm512_maskz_permute_ps(ALL, now, 0x4e));
    now = (__m512)combine((Floats)now, (Floats)_mm512_maskz_permute_ps(ALL, now, 0xb1));
    return now[0];
#else
    for (int step = LANES / 2; step > 0; step /= 2) {
        Floats other = value;
        for (int lane = 0; lane < step; ++lane) other[lane] = value[lane + step];
        value = combine(value, other);
    }
    return value[0];
#endif
}

inline float sum(Floats value) {
    return fold(value, [](Floats a, Floats b) { return a + b; });
}

inline float maximum(Floats value) {
    return fold(value, [](Floats a, Floats b) { return larger(a, b); });
}

// 2^x for x in [0, 1], with the smallest relative error for its degree: 2e-9, and 8e-5 where the
// result will be a bfloat16 number. (Remez's exchange gave the coefficients.)
template <class T> Floats power_of_fraction(Floats x);

template <> inline Floats power_of_fraction<float>(Floats x) {
    Floats p = broadcast(2.170225489e-4f);
    p = p * x + 1.243968727e-3f;
    p = p * x + 9.678840637e-3f;
    p = p * x + 5.548334122e-2f;
    p = p * x + 2.402298301e-1f;
    p = p * x + 6.931470037e-1f;
    return p * x + 1.0f;
}

template <> inline Floats power_of_fraction<Bfloat16>(Floats x) {
    Floats p = broadcast(7.802452147e-2f);
    p = p * x + 2.260671556e-1f;
    p = p * x + 6.958335638e-1f;
    return p * x + 9.999251962e-1f;
}

// 2^x for x <= 127, as exact as T is; 0 for x below -125 or so.
template <class T> inline Floats power_of_two(Floats x) {
#if LANES == 16
    // 9: the fraction above the next lower integer, without exceptions.
    const __m512 fraction = _mm512_maskz_reduce_ps(ALL, (__m512)x, 9);
    const Floats power = power_of_fraction<T>((Floats)fraction);
    return (Floats)_mm512_maskz_scalef_ps(ALL, (__m512)power, (__m512)x);
#else
    const Ints is_zero = x < broadcast(-125.0f);
    x = choose(is_zero, broadcast(-125.0f), x);
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    const float magic = 12582912.0f;
    const Floats shifted = (x - 0.5f) + magic;
    const Floats power = power_of_fraction<T>(x - (shifted - magic));
    return choose(is_zero, Floats{}, (Floats)((Ints)power + ((Ints)shifted << 23)));
#endif
}

constexpr float LOG2_E = 1.44269504f;

// e^x for x <= 88, relative error below 1e-5, and below 2e-7 near 0; 0 for x below -87.
inline Floats exponential(Floats x) { return power_of_two<float>(x * LOG2_E); }

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

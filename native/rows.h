// One row of layer norm and of the gated activation, from and to any number format.
#pragma once

#include "simd.h"

#include <cmath>

namespace {

template <class In, class Out>
inline void layer_norm_row(const In* in, const float* weight, const float* bias, Out* out,
                           int width, float epsilon) {
    Floats total = {}, squares = {};
    float rest = 0, rest_squares = 0;
    int c = 0;
    for (; c + LANES <= width; c += LANES) total += load(in + c);
    for (; c < width; ++c) rest += widen(in[c]);
    const float mean = (sum(total) + rest) / width;
    for (c = 0; c + LANES <= width; c += LANES) {
        const Floats centred = load(in + c) - mean;
        squares += centred * centred;
    }
    for (; c < width; ++c) rest_squares += (widen(in[c]) - mean) * (widen(in[c]) - mean);
    const float scale = 1.0f / std::sqrt((sum(squares) + rest_squares) / width + epsilon);
    for (c = 0; c + LANES <= width; c += LANES) {
        Floats value = (load(in + c) - mean) * scale * load(weight + c);
        if (bias) value += load(bias + c);
        store(out + c, value);
    }
    for (; c < width; ++c)
        out[c] = narrow<Out>((widen(in[c]) - mean) * scale * weight[c] + (bias ? bias[c] : 0));
}

inline float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }

// For numbers of type T: to float's precision, or within 1.3e-4 where eight bits are kept anyway.
template <class T> inline Floats gelu_of(Floats x) {
    return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
}
template <> inline Floats gelu_of<Bfloat16>(Floats x) {
    // x (1/2 + y p(y^2)), y within [-4, 4]: least squares, weighted until the largest error of the
    // product was least.
    const Floats limit = broadcast(4.0f);
    const Floats y = -larger(-larger(x, -limit), -limit);
    const Floats t = y * y;
    Floats p = t * -1.00040442e-9f + 8.59957638e-8f;
    p = p * t - 3.21415225e-6f;
    p = p * t + 6.9312517e-5f;
    p = p * t - 9.68771561e-4f;
    p = p * t + 9.36997939e-3f;
    p = p * t - 6.56617218e-2f;
    p = p * t + 3.98549492e-1f;
    return x * (y * p + 0.5f);
}

// out = gelu(first half) * second half. Source: Shazeer 2020, arXiv:2002.05202.
template <class In, class Out> inline void geglu_row(const In* in, Out* out, int width) {
    int c = 0;
    for (; c + LANES <= width; c += LANES)
        store(out + c, gelu_of<In>(load(in + c)) * load(in + width + c));
    for (; c < width; ++c) out[c] = narrow<Out>(gelu(widen(in[c])) * widen(in[width + c]));
}

// The gradient of geglu_row: of both halves of `in`, from that of its output.
template <class T>
inline void geglu_gradient_row(const T* in, const T* out_gradient, T* gradient, int width) {
    constexpr float DENSITY = 0.39894228f;  // the normal distribution's at 0
    int c = 0;
    for (; c + LANES <= width; c += LANES) {
        const Floats x = load(in + c), gate = load(in + width + c), of_out = load(out_gradient + c);
        const Floats below = 0.5f + 0.5f * error_function(x * 0.70710678f);
        const Floats slope = below + x * exponential(x * x * -0.5f) * DENSITY;
        store(gradient + c, of_out * gate * slope);
        store(gradient + width + c, of_out * x * below);
    }
    for (; c < width; ++c) {
        const float x = widen(in[c]), of_out = widen(out_gradient[c]);
        const float below = 0.5f + 0.5f * std::erf(x * 0.70710678f);
        const float slope = below + x * std::exp(x * x * -0.5f) * DENSITY;
        store(gradient + c, of_out * widen(in[width + c]) * slope);
        store(gradient + width + c, of_out * x * below);
    }
}

}  // namespace

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

// out = gelu(first half) * second half. Source: Shazeer 2020, arXiv:2002.05202.
template <class In, class Out> inline void geglu_row(const In* in, Out* out, int width) {
    int c = 0;
    for (; c + LANES <= width; c += LANES) {
        const Floats x = load(in + c), gate = load(in + width + c);
        store(out + c, 0.5f * x * (1.0f + error_function(x * 0.70710678f)) * gate);
    }
    for (; c < width; ++c) out[c] = narrow<Out>(gelu(widen(in[c])) * widen(in[width + c]));
}

}  // namespace

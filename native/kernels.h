// What one instruction set offers to the C interface; index 0 of each pair is float, 1 bfloat16.
#pragma once

#include <cstdint>

constexpr int MAX_HEAD_WIDTH = 256;

struct AttentionShape {
    int32_t sequences, heads, head_width;
    int32_t first_head, last_head;  // those that are computed
    int32_t window;  // keys |i - j| <= window are seen; all of them where it is negative
    float scale;     // above 0
};

// Arguments as in interface.cpp.
typedef void AttentionFunction(const void* qkv, void* out, float* normalisers,
                               const AttentionShape* shape, const int32_t* offsets,
                               const int32_t* key_counts, const float* cosines,
                               const float* sines);
typedef void AttentionGradientFunction(const void* qkv, const void* out, const float* normalisers,
                                       const void* out_gradient, void* gradient,
                                       const AttentionShape* shape, const int32_t* offsets,
                                       const int32_t* key_counts, const float* cosines,
                                       const float* sines);

struct ModernBertKernels {
    AttentionFunction* attention[2];
    AttentionGradientFunction* attention_gradient[2];
    void (*layer_norm[2])(const void* in, const float* weight, const float* bias, void* out,
                          int64_t tokens, int width, float epsilon);
    void (*geglu[2])(const void* in, void* out, int64_t tokens, int width);
    void (*geglu_gradient[2])(const void* in, const void* out_gradient, void* gradient,
                              int64_t tokens, int width);
};

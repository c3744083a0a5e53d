// Linear layers in int8: what one instruction set offers; index 0 of each pair is float, 1 bfloat16.
#pragma once

#include <cstdint>

// Columns of a packed weight lie in panels of so many.
constexpr int PANEL_COLUMNS = 64;

// What turns rows into 8-bit rows: nothing, a layer norm, or the gated activation.
struct RowSource {
    const void* in;
    int64_t rows;
    int width;  // of an 8-bit row; the gated activation reads twice as much
    const float *weight, *bias;
    float epsilon;
};

// x = scale * (value - zero), scale and zero for each row.
struct QuantizedRows {
    uint8_t* values;
    float* scales;
    int32_t* zeros;
};

struct Int8Product {
    int64_t rows;
    int depth, columns;  // a multiple of 4, and any
    const int8_t* weight;  // (panels, depth / 4, PANEL_COLUMNS, 4), filled up with zeros
    const float *column_scales, *bias;  // bias may be null
    const int32_t* column_sums;         // of a weight's column, over its depth
};

struct Int8Kernels {
    void (*quantize[2])(const RowSource* source, const QuantizedRows* out);
    void (*layer_norm[2])(const RowSource* source, const QuantizedRows* out);
    void (*geglu[2])(const RowSource* source, const QuantizedRows* out);
    // residual: like out, or null.
    void (*multiply[2])(const QuantizedRows* in, const Int8Product* product, const void* residual,
                        void* out);
};

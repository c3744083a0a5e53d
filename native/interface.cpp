// The plain C interface: every function that Python calls, and the choice of instruction set.

#include "amx.h"
#include "int8.h"
#include "kernels.h"
#include "late_interaction.h"

#include <cstring>
#include <new>

extern const ModernBertKernels portable_kernels;
extern const Int8Kernels portable_int8_kernels;
extern const LateInteractionKernels portable_late_interaction;
extern const PlaidBuildKernels portable_plaid_build;
extern const MaxSimKernels portable_maxsim;
#if defined(__x86_64__)
extern const ModernBertKernels avx2_kernels, avx512_kernels, avx512_bf16_kernels;
extern const Int8Kernels avx2_int8_kernels, avx512_int8_kernels, avx512_bf16_int8_kernels;
extern const LateInteractionKernels avx2_late_interaction, avx512_late_interaction,
    avx512_bf16_late_interaction;
extern const PlaidBuildKernels avx2_plaid_build, avx512_plaid_build, avx512_bf16_plaid_build;
extern const MaxSimKernels avx2_maxsim, avx512_maxsim, avx512_bf16_maxsim;
#endif

// What computes on one kind of tiles.
#define DECLARE_TILES(NAME)                                                                        \
    AttentionFunction NAME##_attention;                                                            \
    AttentionGradientFunction NAME##_attention_gradient;                                           \
    extern const Int8Kernels NAME##_int8_kernels;                                                  \
    extern const LateInteractionKernels NAME##_late_interaction;                                   \
    extern const PlaidBuildKernels NAME##_plaid_build;                                             \
    extern const MaxSimKernels NAME##_maxsim;

#if defined(HAS_AMX)
DECLARE_TILES(amx)
#endif
#if defined(__x86_64__)
DECLARE_TILES(emulated_tile)
#endif
DECLARE_TILES(portable_emulated_tile)

namespace {

struct InstructionSet {
    const char* name;
    bool (*is_supported)();
    const ModernBertKernels* kernels;
    const Int8Kernels* int8_kernels;
    const LateInteractionKernels* late_interaction;
    const PlaidBuildKernels* plaid_build;
    const MaxSimKernels* maxsim;
    // Of bfloat16, where a head's width is a multiple of 32; null for that of the kernels.
    AttentionFunction* tile_attention = nullptr;
    AttentionGradientFunction* tile_attention_gradient = nullptr;
    bool is_only_on_request = false;
};

#if defined(__x86_64__)
bool has_avx512_bf16() {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

#if defined(HAS_AMX)
bool has_amx() { return has_avx512_bf16() && has_tiles(); }

// A compiler or a system that moves tiles' contents would be noticed here, and not by users.
bool computes_on_amx() {
    const ModernBertKernels& vectors = avx512_bf16_kernels;
    static const bool is_right =
        attends_alike(amx_attention, vectors.attention[1]) &&
        differentiates_alike(amx_attention_gradient, vectors.attention_gradient[1],
                             vectors.attention[1]) &&
        bounds_alike(amx_maxsim.bound, avx512_bf16_maxsim.bound);
    return is_right;
}
#endif

// Best first.
const InstructionSet SETS[] = {
#if defined(HAS_AMX)
    {"avx512_amx", [] { return has_amx() && computes_on_amx(); }, &avx512_bf16_kernels,
     &amx_int8_kernels, &amx_late_interaction, &amx_plaid_build, &amx_maxsim,
     amx_attention, amx_attention_gradient},
#endif
#if defined(__x86_64__)
    {"avx512_bf16", has_avx512_bf16, &avx512_bf16_kernels, &avx512_bf16_int8_kernels,
     &avx512_bf16_late_interaction, &avx512_bf16_plaid_build, &avx512_bf16_maxsim},
    {"avx512",
     [] { return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"); },
     &avx512_kernels, &avx512_int8_kernels, &avx512_late_interaction, &avx512_plaid_build,
     &avx512_maxsim},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     &avx2_kernels, &avx2_int8_kernels, &avx2_late_interaction, &avx2_plaid_build, &avx2_maxsim},
#endif
    {"portable", [] { return true; }, &portable_kernels, &portable_int8_kernels,
     &portable_late_interaction, &portable_plaid_build, &portable_maxsim},
// For tests of what computes on tiles.
#if defined(__x86_64__)
    {"amx_emulated", has_avx512_bf16, &avx512_bf16_kernels, &emulated_tile_int8_kernels,
     &emulated_tile_late_interaction, &emulated_tile_plaid_build, &emulated_tile_maxsim,
     emulated_tile_attention, emulated_tile_attention_gradient, true},
#endif
    {"amx_emulated_portable", [] { return true; }, &portable_kernels,
     &portable_emulated_tile_int8_kernels, &portable_emulated_tile_late_interaction,
     &portable_emulated_tile_plaid_build, &portable_emulated_tile_maxsim,
     portable_emulated_tile_attention, portable_emulated_tile_attention_gradient, true},
};

const InstructionSet* best() {
    for (const InstructionSet& each : SETS)
        if (each.is_supported()) return &each;
    return nullptr;
}

const InstructionSet* current = best();

// Widths of a head that fill tiles of bfloat16.
bool takes_tiles(int is_bfloat16, const AttentionShape& shape) {
    return is_bfloat16 && shape.head_width % 32 == 0;
}

}  // namespace

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

extern "C" {

int retrieval_abi_version() { return 7; }

// The name of instruction set `number`, or null past the last one that this processor has.
const char* retrieval_instruction_set(int number) {
    for (const InstructionSet& each : SETS)
        if (!each.is_only_on_request && each.is_supported() && number-- == 0) return each.name;
    return nullptr;
}

// The name of the instruction set that this processor has and that gave wrong results, or null.
const char* retrieval_rejected_instruction_set() {
#if defined(HAS_AMX)
    if (has_amx() && !computes_on_amx()) return "avx512_amx";
#endif
    return nullptr;
}

// Whether an attention of bfloat16 gives what the portable one gives.
int retrieval_attention_is_right(AttentionFunction* attention) {
    return attends_alike(attention, portable_kernels.attention[1]);
}

// Whether a gradient of attention in bfloat16 is what the portable one is.
int retrieval_attention_gradient_is_right(AttentionGradientFunction* gradient) {
    return differentiates_alike(gradient, portable_kernels.attention_gradient[1],
                                portable_kernels.attention[1]);
}

// Whether bounds of MaxSim are those of another function, which rounds queries to the same levels.
int retrieval_bounds_are_alike(BoundFunction* bound, BoundFunction* reference) {
    return bounds_alike(bound, reference);
}

const char* retrieval_current_instruction_set() { return current->name; }

// Returns 0, or -1 where this processor has no such instruction set.
int retrieval_choose_instruction_set(const char* name) {
    for (const InstructionSet& each : SETS) {
        if (std::strcmp(each.name, name) == 0 && each.is_supported()) {
            current = &each;
            return 0;
        }
    }
    return -1;
}

// Whether the current instruction set is known to multiply bytes faster than wider numbers; on AMX
// nobody has timed products of bytes beside those of bfloat16.
int retrieval_has_fast_int8() { return std::strcmp(current->name, "avx512_bf16") == 0; }

int retrieval_panel_columns() { return PANEL_COLUMNS; }

void retrieval_quantize(int is_bfloat16, const RowSource* source, const QuantizedRows* out) {
    current->int8_kernels->quantize[is_bfloat16](source, out);
}

void retrieval_quantized_layer_norm(int is_bfloat16, const RowSource* source,
                                    const QuantizedRows* out) {
    current->int8_kernels->layer_norm[is_bfloat16](source, out);
}

void retrieval_quantized_geglu(int is_bfloat16, const RowSource* source,
                               const QuantizedRows* out) {
    current->int8_kernels->geglu[is_bfloat16](source, out);
}

// residual: like out, (rows, columns), or null.
void retrieval_multiply_int8(int is_bfloat16, const QuantizedRows* in, const Int8Product* product,
                             const void* residual, void* out) {
    current->int8_kernels->multiply[is_bfloat16](in, product, residual, out);
}

int retrieval_max_head_width() { return MAX_HEAD_WIDTH; }

// qkv: (tokens, 3, heads, head_width), rotated by nobody yet; out: (tokens, heads, head_width).
// normalisers: (tokens, heads) for retrieval_attention_gradient, or null. offsets: where each
// sequence starts and, at its end, the number of tokens. key_counts: how many of a sequence's first
// tokens may be attended to, or null for all. cosines, sines: (longest sequence, head_width / 2).
void retrieval_attention(int is_bfloat16, const void* qkv, void* out, float* normalisers,
                         const AttentionShape* shape, const int32_t* offsets,
                         const int32_t* key_counts, const float* cosines, const float* sines) {
    const bool tiles = takes_tiles(is_bfloat16, *shape) && current->tile_attention;
    (tiles ? current->tile_attention : current->kernels->attention[is_bfloat16])(
        qkv, out, normalisers, shape, offsets, key_counts, cosines, sines);
}

// out, normalisers: as retrieval_attention left them; out_gradient: like out, gradient: like qkv.
void retrieval_attention_gradient(int is_bfloat16, const void* qkv, const void* out,
                                  const float* normalisers, const void* out_gradient,
                                  void* gradient, const AttentionShape* shape,
                                  const int32_t* offsets, const int32_t* key_counts,
                                  const float* cosines, const float* sines) {
    const bool tiles = takes_tiles(is_bfloat16, *shape) && current->tile_attention_gradient;
    (tiles ? current->tile_attention_gradient : current->kernels->attention_gradient[is_bfloat16])(
        qkv, out, normalisers, out_gradient, gradient, shape, offsets, key_counts, cosines, sines);
}

void retrieval_layer_norm(int is_bfloat16, const void* in, const float* weight, const float* bias,
                          void* out, int64_t tokens, int width, float epsilon) {
    current->kernels->layer_norm[is_bfloat16](in, weight, bias, out, tokens, width, epsilon);
}

// in: (tokens, 2 * width); out: (tokens, width).
void retrieval_geglu(int is_bfloat16, const void* in, void* out, int64_t tokens, int width) {
    current->kernels->geglu[is_bfloat16](in, out, tokens, width);
}

// in: as above; out_gradient: (tokens, width); gradient: (tokens, 2 * width).
void retrieval_geglu_gradient(int is_bfloat16, const void* in, const void* out_gradient,
                              void* gradient, int64_t tokens, int width) {
    current->kernels->geglu_gradient[is_bfloat16](in, out_gradient, gradient, tokens, width);
}

int64_t retrieval_plaid_search(const PlaidView* view, const float* query, int32_t tokens,
                               const PlaidEffort* effort, const uint8_t* mask, int64_t* positions,
                               float* scores, PlaidStages* stages) {
    try {
        return current->late_interaction->search(view, query, tokens, effort, mask, positions,
                                                 scores, stages);
    } catch (const std::bad_alloc&) {
        return PLAID_OUT_OF_MEMORY;
    }
}

int64_t retrieval_plaid_rank(const PlaidView* view, const float* query, int32_t tokens,
                             const PlaidEffort* effort, int64_t count, int64_t* positions,
                             float* scores) {
    try {
        return current->late_interaction->rank(view, query, tokens, effort, count, positions,
                                               scores);
    } catch (const std::bad_alloc&) {
        return PLAID_OUT_OF_MEMORY;
    }
}

CentroidGroups* retrieval_centroid_groups(const float* centroids, int32_t count, int32_t width,
                                          const float* heads, int32_t head_count,
                                          const int32_t* group_of, int32_t probed) {
    return current->plaid_build->make_groups(centroids, count, width, heads, head_count, group_of,
                                             probed);
}

void retrieval_free_centroid_groups(CentroidGroups* groups) {
    current->plaid_build->free_groups(groups);
}

void retrieval_nearest_centroids(const CentroidGroups* groups, const float* tokens, int64_t count,
                                 int32_t* codes) {
    current->plaid_build->nearest(groups, tokens, count, codes);
}

void retrieval_encode_residuals(const ResidualRounding* rounding, const float* tokens,
                                const int32_t* codes, int64_t count, uint8_t* residuals,
                                uint16_t* scales) {
    current->plaid_build->encode(rounding, tokens, codes, count, residuals, scales);
}

void retrieval_maxsim(const TokenRuns* runs, const float* query, int32_t tokens, float* scores) {
    current->maxsim->score(runs, query, tokens, scores);
}

void retrieval_maxsim_bounds(const RoundedRuns* rounded, const float* query, int32_t tokens,
                             float* bounds) {
    current->maxsim->bound(rounded, query, tokens, bounds);
}

void retrieval_best_matches(const TrainingBatch* batch, float* best, int64_t* tokens) {
    current->maxsim->match(batch, best, tokens);
}
}

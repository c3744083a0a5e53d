// Late interaction: what one instruction set offers for building and searching PLAID indexes and
// for exact MaxSim.
#pragma once

#include <cstdint>

// K centroids of `width` components, a multiple of 8, and what a residual's bits stand for.
//
// A residual's components are the vector's own, or those along principal directions, of which the
// first third has twice as many bits (retrieval/indexing/plaid/directions.py).
struct PlaidCodec {
    int32_t centroids, width, bits;
    int32_t components;           // of a residual
    float value_scale;            // of `values`, and of `first_values`
    const uint8_t* bytes;         // (K rounded up to a multiple of 8, width): 128 + a signed byte
    const float* byte_scales;     // (K rounded up): a component is its scale * (byte - 128)
    const uint8_t* values;        // (1 << bits): 128 + a signed byte
    const float* directions;      // (width, components rounded up to a multiple of 16), or null
    const uint8_t* first_values;  // (1 << 2 * bits), or null
};

// Documents of consecutive positions; arrays as in retrieval/indexing/plaid/segment.py.
struct PlaidSegment {
    int64_t first_position, documents;
    const int64_t* offsets;
    const void* codes;
    const uint8_t* residuals;
    const uint16_t* scales;
    const int32_t* list_of;  // (K,) the number of a centroid's list, or -1
    const int64_t* list_starts;
    const int32_t* list_documents;
    const uint16_t* tokens;  // or null
    int64_t token_count, entry_count;  // of all documents, of all lists
};

struct PlaidView {
    const PlaidCodec* codec;
    const PlaidSegment* segments;
    int32_t segment_count;
    int32_t code_bytes;  // 2 or 4
    int64_t documents;
};

// As in retrieval/indexing/plaid/numpy_search.py.
struct PlaidEffort {
    int32_t probes, candidates, scored, rescored;
    float margin;
    int32_t wanted;
    float patience;
};

// What a search did, for benchmarks; nanoseconds of each stage.
struct PlaidStages {
    int64_t nanoseconds[6];  // centroids, probes, candidates, by centroids, by residuals, exact
    int64_t touched, scored, rescored;
};

// Returned in place of a count. Numbers in the mapped arrays are trusted nowhere: they may have
// changed since somebody looked at them.
constexpr int64_t PLAID_DAMAGED = -1, PLAID_OUT_OF_MEMORY = -2;

// Queries have at least one token, and at most 4,096.
struct LateInteractionKernels {
    // Returns how many documents were ranked: at most what the last stage takes. mask: a byte for
    // each position, 0 where it must not be found, or null. stages: or null.
    int64_t (*search)(const PlaidView* view, const float* query, int32_t tokens,
                      const PlaidEffort* effort, const uint8_t* mask, int64_t* positions,
                      float* scores, PlaidStages* stages);
    // Ranks `count` documents, at least one, each with a token; returns how many are left.
    int64_t (*rank)(const PlaidView* view, const float* query, int32_t tokens,
                    const PlaidEffort* effort, int64_t count, int64_t* positions, float* scores);
};

struct CentroidGroups;

// How residuals become numbers of values.
struct ResidualRounding {
    int32_t width, bits;
    const float* centroids;  // (K, width)
    const float* values;     // (1 << bits), ascending
    const float* bounds;     // between them
    float shortest;          // that a rebuilt unit vector is taken to be
    // Along principal directions, or null:
    int32_t components;
    const float* to_components;        // (width, components rounded up to a multiple of 16)
    const float* centroid_components;  // (K, components)
    const float* squares;              // (components) of the directions' lengths
    const float* first_values;         // (1 << 2 * bits), of the first third
    const float* first_bounds;
};

struct PlaidBuildKernels {
    // `group_of` names for each centroid its group, whose head is the vector it is found by; a
    // token meets the centroids of the `probed` groups with the best heads.
    CentroidGroups* (*make_groups)(const float* centroids, int32_t count, int32_t width,
                                   const float* heads, int32_t head_count,
                                   const int32_t* group_of, int32_t probed);
    void (*free_groups)(CentroidGroups* groups);
    // For each of `count` tokens, below 2^31 / 16, the number of the centroid with the largest dot
    // product, up to the rounding of both to bytes.
    void (*nearest)(const CentroidGroups* groups, const float* tokens, int64_t count,
                    int32_t* codes);
    // residuals: (count, width * bits / 8); scales: float16, of at most 65,504.
    void (*encode)(const ResidualRounding* rounding, const float* tokens, const int32_t* codes,
                   int64_t count, uint8_t* residuals, uint16_t* scales);
};

// Documents as runs of tokens: document i has the rows from starts[i] to ends[i].
struct TokenRuns {
    const void* tokens;  // (rows, width)
    const int64_t* starts;
    const int64_t* ends;
    int64_t count;
    int32_t width;   // a multiple of 8
    int32_t number;  // what `tokens` holds
};

enum { TOKENS_FLOAT32, TOKENS_FLOAT16, TOKENS_BFLOAT16 };

// Tokens rounded to 128 plus a signed byte, as in retrieval/indexing/rounded_tokens.py.
struct RoundedRuns {
    TokenRuns runs;        // of bytes
    const float* scales;   // (rows,) of the bytes
    const float* errors;   // (rows,) at least the length of what rounding took away
    const float* sizes;    // (rows,) at least the length of what is left
};

// Tokens of queries and of documents in float; keep: (documents, tokens), 0 for those that don't
// count, or null.
struct TrainingBatch {
    const float* query_tokens;     // (queries, width)
    const float* document_tokens;  // (documents, tokens, width)
    const uint8_t* keep;
    int64_t documents;
    int32_t queries, tokens, width;
};

// Writes at least what MaxSim is of the float32 or float16 tokens that were rounded, as computed on
// any instruction set; -inf for a document without tokens.
typedef void BoundFunction(const RoundedRuns* rounded, const float* query, int32_t tokens,
                           float* bounds);

struct MaxSimKernels {
    // Writes MaxSim with each document; -inf for one without tokens. With tokens in bfloat16 the
    // query is rounded to bfloat16 as well.
    void (*score)(const TokenRuns* runs, const float* query, int32_t tokens, float* scores);
    BoundFunction* bound;
    // Writes, (documents, queries) each, the largest product of every query token with a document's
    // tokens, and the number of the first token that has it; -inf and 0 where none counts.
    void (*match)(const TrainingBatch* batch, float* best, int64_t* tokens);
};

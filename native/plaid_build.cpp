// Building a PLAID index, for one instruction set: tokens' nearest centroids and their residuals.

#include "bytes.h"
#include "late_interaction.h"
#include "lines.h"
#include "projection.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

constexpr int MOST_GROUPS_PROBED = 16;
constexpr float LOWEST = -3e38f;
constexpr int PANEL = 2 * COLUMN_GROUP;

// Vectors as columns: bytes by panels of 32 columns, each (width / 4, 32, 4).
struct Columns {
    int count = 0, width = 0;
    Lines<int8_t> bytes;
    Lines<int32_t> bias;         // takes out the 128 that rows have too much
    Lines<float> scales;         // of each column
    Lines<float> floors;         // 0, and LOWEST for the columns that fill the last panel up

    void add(const float* vector) {
        const int column = count++;
        if (column % PANEL == 0) {
            bytes.resize(bytes.size() + (size_t)width * PANEL);
            bias.resize(bias.size() + PANEL, 0);
            scales.resize(scales.size() + PANEL, 0);
            floors.resize(floors.size() + PANEL, LOWEST);
        }
        float largest = 0;
        for (int d = 0; d < width; ++d) largest = std::max(largest, std::fabs(vector[d]));
        const float scale = largest > 0 ? largest / SIGNED_LEVELS : 1;
        int8_t* panel = bytes.data() + (size_t)(column / PANEL) * width * PANEL;
        for (int d = 0; d < width; ++d) {
            const int level = (int)std::nearbyint(vector[d] / scale);
            panel[((size_t)(d / 4) * PANEL + column % PANEL) * 4 + d % 4] = (int8_t)level;
            bias[column] -= 128 * level;
        }
        scales[column] = scale;
        floors[column] = 0;
    }
};

// Products of BYTE_ROWS rows with the columns of one panel, in floats that can be compared
// along a row: each is off by the row's own scale.
template <class F>
inline void each_product(const Columns& columns, const uint8_t* rows, int panel, F f) {
    constexpr int VECTORS = PANEL / LANES;
    Ints sums[BYTE_ROWS][VECTORS];
    const int first = panel * PANEL;
    for (int r = 0; r < BYTE_ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v)
            sums[r][v] = load_ints(columns.bias.data() + first + v * LANES);
    multiply_bytes(rows, columns.width, columns.bytes.data() + (size_t)first * columns.width, PANEL,
                   columns.width, sums);
    for (int v = 0; v < VECTORS; ++v) {
        const Floats scales = load(columns.scales.data() + first + v * LANES);
        const Floats floors = load(columns.floors.data() + first + v * LANES);
        for (int r = 0; r < BYTE_ROWS; ++r)
            f(r, first + v * LANES, to_floats(sums[r][v]) * scales + floors);
    }
}

}  // namespace

// Centroids in groups of similar ones, of which a token meets the best only.
struct CentroidGroups {
    int width = 0, probed = 0;
    Columns heads;
    std::vector<Columns> groups;
    std::vector<std::vector<int32_t>> members;
};

namespace {

CentroidGroups* make_groups(const float* centroids, int32_t count, int32_t width,
                            const float* heads, int32_t head_count, const int32_t* group_of,
                            int32_t probed) {
    auto* made = new CentroidGroups;
    made->width = width;
    made->probed = std::min({probed, head_count, (int32_t)MOST_GROUPS_PROBED});
    made->heads.width = width;
    made->groups.resize(head_count);
    made->members.resize(head_count);
    for (int32_t head = 0; head < head_count; ++head) {
        made->heads.add(heads + (size_t)head * width);
        made->groups[head].width = width;
    }
    for (int32_t centroid = 0; centroid < count; ++centroid) {
        made->groups[group_of[centroid]].add(centroids + (size_t)centroid * width);
        made->members[group_of[centroid]].push_back(centroid);
    }
    return made;
}

void free_groups(CentroidGroups* groups) { delete groups; }

// Tokens as rows of bytes, each with a scale of its own, which the largest product does not need.
void to_rows(const float* tokens, int64_t count, int width, Lines<uint8_t>& rows) {
    rows.assign((size_t)(count + BYTE_ROWS) * width, 128);
    for (int64_t t = 0; t < count; ++t) {
        const float* from = tokens + t * width;
        uint8_t* to = rows.data() + t * width;
        float largest = 0;
        for (int d = 0; d < width; ++d) largest = std::max(largest, std::fabs(from[d]));
        if (largest == 0) continue;
        const float inverse = 127 / largest;
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
        for (int d = 0; d < width; ++d) {
            const float shifted = from[d] * inverse + (12582912.0f + 128.0f);
            uint32_t bits;
            std::memcpy(&bits, &shifted, sizeof bits);
            to[d] = (uint8_t)bits;
        }
    }
}

struct Best {
    float score = LOWEST;
    int32_t number = 0;

    void offer(float other, int32_t other_number) {
        if (other > score || (other == score && other_number < number))
            score = other, number = other_number;
    }
};

// Keeps the best `count` groups of each row, best first.
void choose_groups(const CentroidGroups& groups, const Lines<uint8_t>& rows, int64_t tokens,
                   std::vector<int32_t>& chosen) {
    const int probed = groups.probed, padded = (groups.heads.count + PANEL - 1) / PANEL * PANEL;
    chosen.resize((size_t)tokens * probed);
    Lines<float> scores((size_t)BYTE_ROWS * padded);
    for (int64_t t = 0; t < tokens; t += BYTE_ROWS) {
        for (int panel = 0; panel < padded / PANEL; ++panel)
            each_product(groups.heads, rows.data() + t * groups.width, panel,
                         [&](int r, int column, Floats value) {
                             store(scores.data() + (size_t)r * padded + column, value);
                         });
        const int64_t last = std::min<int64_t>(tokens, t + BYTE_ROWS);
        for (int64_t row = t; row < last; ++row) {
            Best best[MOST_GROUPS_PROBED];
            const float* from = scores.data() + (size_t)(row - t) * padded;
            for (int column = 0; column < groups.heads.count; ++column) {
                if (from[column] <= best[probed - 1].score) continue;
                int at = probed - 1;
                for (; at > 0 && best[at - 1].score < from[column]; --at) best[at] = best[at - 1];
                best[at].score = from[column], best[at].number = column;
            }
            for (int at = 0; at < probed; ++at) chosen[row * probed + at] = best[at].number;
        }
    }
}

void nearest(const CentroidGroups* groups, const float* tokens, int64_t count, int32_t* codes) {
    const ByteTiles tiles;
    const int width = groups->width, probed = groups->probed;
    const int64_t group_count = (int64_t)groups->groups.size();
    Lines<uint8_t> rows, gathered;
    to_rows(tokens, count, width, rows);
    std::vector<int32_t> chosen;
    choose_groups(*groups, rows, count, chosen);
    // The tokens of each group.
    std::vector<int64_t> starts(group_count + 1, 0);
    for (const int32_t group : chosen) ++starts[group + 1];
    for (int64_t group = 0; group < group_count; ++group) starts[group + 1] += starts[group];
    std::vector<int32_t> of_group(chosen.size());
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (size_t at = 0; at < chosen.size(); ++at)
        of_group[next[chosen[at]]++] = (int32_t)(at / probed);
    std::vector<Best> best(count);
    for (int64_t group = 0; group < group_count; ++group) {
        const Columns& columns = groups->groups[group];
        const int32_t* members = groups->members[group].data();
        const int64_t first = starts[group], total = starts[group + 1] - first;
        gathered.resize((size_t)(total + BYTE_ROWS) * width);
        for (int64_t at = 0; at < total; ++at)
            std::memcpy(gathered.data() + at * width,
                        rows.data() + (size_t)of_group[first + at] * width, width);
        const int panels = (columns.count + PANEL - 1) / PANEL;
        for (int64_t at = 0; panels && at < total; at += BYTE_ROWS) {
            Floats most[BYTE_ROWS];
            Ints where[BYTE_ROWS];
            for (int r = 0; r < BYTE_ROWS; ++r)
                most[r] = broadcast(LOWEST), where[r] = Ints{};
            for (int panel = 0; panel < panels; ++panel)
                each_product(columns, gathered.data() + at * width, panel,
                             [&](int r, int column, Floats value) {
                                 const Ints is_better = value > most[r];
                                 most[r] = choose(is_better, value, most[r]);
                                 where[r] = is_better ? Ints{} + column : where[r];
                             });
            const int64_t last = std::min<int64_t>(total, at + BYTE_ROWS);
            for (int64_t row = at; row < last; ++row) {
                Best& mine = best[of_group[first + row]];
                for (int lane = 0; lane < LANES; ++lane) {
                    const int column = where[row - at][lane] + lane;
                    if (column < columns.count)
                        mine.offer(most[row - at][lane], members[column]);
                }
            }
        }
    }
    for (int64_t t = 0; t < count; ++t) codes[t] = best[t].number;
}

// To the nearest float16, ties to even; the value is at least 0 and at most 65,504.
uint16_t to_float16(float value) {
    // Subnormal ones are multiples of 2^-24.
    if (value < 0x1p-14f) return (uint16_t)std::nearbyint(value * 0x1p24f);
    const float scaled = value * 0x1p-112f;
    uint32_t bits;
    std::memcpy(&bits, &scaled, sizeof bits);
    bits += 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(bits >> 13);
}

float length_of(const float* vector, int padded) {
    Floats total = {};
    for (int d = 0; d < padded; d += LANES) total += load(vector + d) * load(vector + d);
    return std::sqrt(sum(total));
}

// A token and its centroid, with zeros behind the last component.
struct TokenAtCentroid {
    int width, padded;
    std::vector<float> token, centroid;
    float length = 0, inverse = 1;  // of the token; 1 for a zero vector

    explicit TokenAtCentroid(int components)
        : width(components), padded((components + LANES - 1) / LANES * LANES), token(padded),
          centroid(padded) {}

    void load_from(const float* token_from, const float* centroid_from) {
        std::memcpy(token.data(), token_from, width * sizeof(float));
        std::memcpy(centroid.data(), centroid_from, width * sizeof(float));
        length = length_of(token.data(), padded);
        inverse = length > 0 ? 1 / length : 1;
    }
};

void pack(const int32_t* numbers, int bytes, int bits, uint8_t* to) {
    const int per_byte = 8 / bits;
    for (int at = 0; at < bytes; ++at) {
        int packed = 0;
        for (int place = 0; place < per_byte; ++place)
            packed |= numbers[at * per_byte + place] << (bits * place);
        to[at] = (uint8_t)packed;
    }
}

uint16_t scale_of(const ResidualRounding& rounding, float length, float rebuilt_length) {
    return to_float16(length / std::max(rebuilt_length, rounding.shortest));
}

void encode_own(const ResidualRounding* rounding, const float* tokens, const int32_t* codes,
                int64_t count, uint8_t* residuals, uint16_t* scales) {
    const int width = rounding->width, bits = rounding->bits;
    const int bytes = width * bits / 8, bounds = (1 << bits) - 1;
    TokenAtCentroid at_centroid(width);
    const int padded = at_centroid.padded;
    const float *token = at_centroid.token.data(), *centroid = at_centroid.centroid.data();
    std::vector<float> rebuilt(padded);
    std::vector<int32_t> numbers(padded);
    for (int64_t t = 0; t < count; ++t) {
        at_centroid.load_from(tokens + t * width, rounding->centroids + (size_t)codes[t] * width);
        const float inverse = at_centroid.inverse;
        for (int d = 0; d < padded; d += LANES) {
            const Floats residual = load(token + d) * inverse - load(centroid + d);
            Ints number = {};
            if (bits == 8) {
                const Floats level = residual * (127 / rounding->values[255]);
                const Floats least = broadcast(-128), most = broadcast(127);
                number = nearest_integers(choose(level > most, most, larger(level, least))) + 128;
            } else {
                for (int at = 0; at < bounds; ++at) number -= residual > rounding->bounds[at];
            }
            std::memcpy(numbers.data() + d, &number, sizeof number);
        }
        for (int d = 0; d < width; ++d)
            rebuilt[d] = centroid[d] + rounding->values[numbers[d]];
        pack(numbers.data(), bytes, bits, residuals + t * bytes);
        scales[t] = scale_of(*rounding, at_centroid.length, length_of(rebuilt.data(), padded));
    }
}

// The numbers of values for some components, and in place of these what the numbers stand for.
void round_to_values(float* __restrict components, int count, const float* values,
                     const float* bounds, int bound_count, int32_t* __restrict numbers) {
    std::fill(numbers, numbers + count, 0);
    for (int at = 0; at < bound_count; ++at)
        for (int c = 0; c < count; ++c) numbers[c] += components[c] > bounds[at];
    for (int c = 0; c < count; ++c) components[c] = values[numbers[c]];
}

// The components along principal directions.
void encode_principal(const ResidualRounding* rounding, const float* tokens, const int32_t* codes,
                      int64_t count, uint8_t* residuals, uint16_t* scales) {
    const int width = rounding->width, bits = rounding->bits, kept = rounding->components;
    const int first = kept / 3, first_bytes = first * 2 * bits / 8;
    const int bytes = first_bytes + (kept - first) * bits / 8;
    const int columns = padded_columns_of(kept);
    TokenAtCentroid at_centroid(width);
    std::vector<int32_t> numbers(kept);
    Lines<float> components((size_t)count * columns);
    project(tokens, count, width, rounding->to_components, columns, components.data());
    for (int64_t t = 0; t < count; ++t) {
        at_centroid.load_from(tokens + t * width, rounding->centroids + (size_t)codes[t] * width);
        const float inverse = at_centroid.inverse;
        const float* of_centroid = rounding->centroid_components + (size_t)codes[t] * kept;
        float* __restrict all = components.data() + (size_t)t * columns;
        for (int c = 0; c < kept; ++c) all[c] = all[c] * inverse - of_centroid[c];
        round_to_values(all, first, rounding->first_values, rounding->first_bounds,
                        (1 << 2 * bits) - 1, numbers.data());
        round_to_values(all + first, kept - first, rounding->values, rounding->bounds,
                        (1 << bits) - 1, numbers.data() + first);
        pack(numbers.data(), first_bytes, 2 * bits, residuals + t * bytes);
        pack(numbers.data() + first, bytes - first_bytes, bits, residuals + t * bytes + first_bytes);
        // The square of a sum of the centroid and of orthogonal directions.
        const float own = length_of(at_centroid.centroid.data(), at_centroid.padded);
        float square = own * own;
        for (int c = 0; c < kept; ++c)
            square += rounding->squares[c] * all[c] * (all[c] + 2 * of_centroid[c]);
        scales[t] = scale_of(*rounding, at_centroid.length, std::sqrt(std::max(square, 0.0f)));
    }
}

void encode(const ResidualRounding* rounding, const float* tokens, const int32_t* codes,
            int64_t count, uint8_t* residuals, uint16_t* scales) {
    const auto run = rounding->to_components ? encode_principal : encode_own;
    run(rounding, tokens, codes, count, residuals, scales);
}

}  // namespace

extern const PlaidBuildKernels PLAID_BUILD_KERNELS;
const PlaidBuildKernels PLAID_BUILD_KERNELS = {make_groups, free_groups, nearest, encode};

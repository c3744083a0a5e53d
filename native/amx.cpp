#include "amx.h"

#include <cmath>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

bool has_tiles() {
#if defined(__x86_64__) && defined(__linux__)
    static const bool has = [] {
        unsigned a, b, c, d;
        constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24, AMX_INT8 = 1u << 25;
        constexpr unsigned ALL_OF_AMX = AMX_BF16 | AMX_TILE | AMX_INT8;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
        if ((d & ALL_OF_AMX) != ALL_OF_AMX) return false;
        // Linux hands out the tiles' 8 KB of state only to a process that asked for it.
        constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
        return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    }();
    return has;
#else
    return false;
#endif
}

namespace {

uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

float from_bfloat16(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

// Numbers from -1 to 1. Source: Knuth's linear congruences.
struct Random {
    uint32_t state = 1;

    float next() {
        state = state * 1664525u + 1013904223u;
        return (float)(int32_t)state / 2147483648.0f;
    }
};

constexpr int HEADS = 2, WIDTH = 64, HIDDEN = HEADS * WIDTH, LONGEST = 70;
constexpr int32_t OFFSETS[] = {0, 37, 37 + LONGEST}, KEY_COUNTS[] = {37, LONGEST - 11};
constexpr int TOKENS = OFFSETS[2];

// A small random problem, with all keys or, within a window, some.
struct Problem {
    AttentionShape shape;
    const int32_t* key_counts;
    std::vector<uint16_t> qkv, out, out_gradient, gradient;
    std::vector<float> normalisers, cosines, sines;

    explicit Problem(int window)
        : shape{2, HEADS, WIDTH, 0, HEADS, window, 0.125f},
          key_counts(window < 0 ? nullptr : KEY_COUNTS), qkv(TOKENS * 3 * HIDDEN),
          out(TOKENS * HIDDEN), out_gradient(out), gradient(qkv), normalisers(TOKENS * HEADS),
          cosines(LONGEST * WIDTH / 2), sines(cosines) {
        Random random;
        for (auto* numbers : {&qkv, &out_gradient})
            for (uint16_t& each : *numbers) each = to_bfloat16(2 * random.next());
        for (size_t i = 0; i < cosines.size(); ++i) {
            cosines[i] = std::cos(0.1f * i);
            sines[i] = std::sin(0.1f * i);
        }
    }

    void attend(AttentionFunction* attention) {
        attention(qkv.data(), out.data(), normalisers.data(), &shape, OFFSETS, key_counts,
                  cosines.data(), sines.data());
    }

    void attend_back(AttentionGradientFunction* attention_gradient) {
        attention_gradient(qkv.data(), out.data(), normalisers.data(), out_gradient.data(),
                           gradient.data(), &shape, OFFSETS, key_counts, cosines.data(),
                           sines.data());
    }
};

bool is_near(float found, float expected, float limit) {
    return std::fabs(found - expected) <= limit;  // not-a-number is near to nothing
}

bool are_near(const std::vector<uint16_t>& found, const std::vector<uint16_t>& expected,
              float limit) {
    for (size_t i = 0; i < found.size(); ++i)
        if (!is_near(from_bfloat16(found[i]), from_bfloat16(expected[i]), limit)) return false;
    return true;
}

}  // namespace

bool attends_alike(AttentionFunction* candidate, AttentionFunction* reference) {
    for (const int window : {-1, 9}) {
        Problem found(window), expected(window);
        found.attend(candidate);
        expected.attend(reference);
        // Outputs reach 2, of which one rounding is 1/256.
        if (!are_near(found.out, expected.out, 1.0f / 64)) return false;
        for (size_t i = 0; i < found.normalisers.size(); ++i)
            if (found.normalisers[i] != expected.normalisers[i] &&
                !is_near(found.normalisers[i], expected.normalisers[i], 1.0f / 64))
                return false;
    }
    return true;
}

bool differentiates_alike(AttentionGradientFunction* candidate,
                          AttentionGradientFunction* reference, AttentionFunction* attention) {
    for (const int window : {-1, 9}) {
        Problem found(window), expected(window);
        found.attend(attention);
        expected.attend(attention);
        found.attend_back(candidate);
        expected.attend_back(reference);
        // Gradients reach 8; sums of two roundings of what they are made of differ by 1/64.
        if (!are_near(found.gradient, expected.gradient, 1.0f / 16)) return false;
    }
    return true;
}

bool bounds_alike(BoundFunction* candidate, BoundFunction* reference) {
    // Documents of no token, of some of half a tile, a tile and more, and of the rest.
    constexpr int64_t STARTS[] = {0, 0, 5, 21, 38}, ENDS[] = {0, 5, 21, 38, 81}, ROWS = 81;
    constexpr int DOCUMENTS = 5;
    Random random;
    // Rows that fill two tiles, and a tile and a half; one group of columns, two, and three.
    for (const int width : {128, 96}) {
        std::vector<uint8_t> rows(ROWS * width);
        for (uint8_t& each : rows) each = (uint8_t)(128 + 127 * random.next());
        std::vector<float> scales(ROWS), errors(ROWS), sizes(ROWS, 1);
        for (float& each : scales) each = 1.5f + random.next();
        for (float& each : errors) each = 0.1f + 0.1f * random.next();
        const RoundedRuns runs = {{rows.data(), STARTS, ENDS, DOCUMENTS, width, 0},
                                  scales.data(), errors.data(), sizes.data()};
        for (const int tokens : {7, 32, 40}) {
            std::vector<float> query((size_t)tokens * width);
            for (float& each : query) each = random.next();
            float found[DOCUMENTS] = {}, expected[DOCUMENTS] = {};
            candidate(&runs, query.data(), tokens, found);
            reference(&runs, query.data(), tokens, expected);
            for (int i = 0; i < DOCUMENTS; ++i)
                if (found[i] != expected[i] &&
                    !is_near(found[i], expected[i], 1e-5f * std::fabs(expected[i])))
                    return false;
        }
    }
    return true;
}

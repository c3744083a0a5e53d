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
        constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
        if ((d & AMX_BF16) == 0 || (d & AMX_TILE) == 0) return false;
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

}  // namespace

bool attends_alike(AttentionFunction* candidate, AttentionFunction* reference) {
    constexpr int HEADS = 2, WIDTH = 64, HIDDEN = HEADS * WIDTH, LONGEST = 70;
    const int32_t offsets[] = {0, 37, 37 + LONGEST}, key_counts[] = {37, LONGEST - 11};
    const int tokens = offsets[2];
    std::vector<uint16_t> qkv(tokens * 3 * HIDDEN), found(tokens * HIDDEN), expected(found);
    uint32_t state = 1;
    for (uint16_t& each : qkv) {  // between -2 and 2. Source: Knuth's linear congruences.
        state = state * 1664525u + 1013904223u;
        each = to_bfloat16((float)(int32_t)state / 1073741824.0f);
    }
    std::vector<float> cosines(LONGEST * WIDTH / 2), sines(cosines);
    for (size_t i = 0; i < cosines.size(); ++i) {
        cosines[i] = std::cos(0.1f * i);
        sines[i] = std::sin(0.1f * i);
    }
    for (const int window : {-1, 9}) {
        const AttentionShape shape{2, HEADS, WIDTH, window, 0.125f};
        for (const bool is_found : {true, false})
            (is_found ? candidate : reference)(
                qkv.data(), (is_found ? found : expected).data(), &shape, offsets,
                window < 0 ? nullptr : key_counts, cosines.data(), sines.data());
        for (size_t i = 0; i < found.size(); ++i) {
            const float difference = from_bfloat16(found[i]) - from_bfloat16(expected[i]);
            // Outputs reach 2, of which one rounding is 1/256. Not-a-number is no match either.
            if (!(std::fabs(difference) <= 1.0f / 64)) return false;
        }
    }
    return true;
}

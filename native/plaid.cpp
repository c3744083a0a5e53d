// The search of a PLAID index, for one instruction set: the stages of numpy_search.py in integers.
//
// Scores of query tokens with centroids are 16-bit integers, a row for each centroid and a column
// for each query token, so that a candidate's tokens are compared by the maximum of short integers.
// Residuals are never decoded to floats: their bits choose bytes, which are multiplied as bytes.

#include "plaid_residuals.h"

#include <chrono>
#include <functional>

namespace {

// Documents that are scored before it is asked whether more are worth it.
constexpr int64_t STEP = 16;

int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// Whether scoring may end before all candidates are scored, for which they have to be ranked.
bool may_stop(const PlaidEffort& effort, int64_t candidates) {
    return effort.patience < 1e6f && candidates > std::max<int64_t>(2 * STEP, effort.wanted);
}

// How much documents gain by their residuals over what their centroids say.
struct Gains {
    double total = 0, squares = 0;

    void add(double gain) { total += gain, squares += gain * gain; }

    // What all but a few of `count` gains stay below.
    float highest(int64_t count, float deviations) const {
        const double mean = total / count;
        return (float)(mean + deviations * std::sqrt(std::max(0.0, squares / count - mean * mean)));
    }
};

// Keeps the `wanted` best of the scores that are added.
void add_to_best(std::vector<float>& heap, float score, size_t wanted) {
    const auto is_higher = std::greater<float>();
    if (heap.size() < wanted) {
        heap.push_back(score);
        std::push_heap(heap.begin(), heap.end(), is_higher);
    } else if (score > heap.front()) {
        std::pop_heap(heap.begin(), heap.end(), is_higher);
        heap.back() = score;
        std::push_heap(heap.begin(), heap.end(), is_higher);
    }
}

// Puts the best candidates in order, more of them each time: most searches stop long before the last.
struct InOrder {
    std::vector<Scored>& candidates;
    int64_t sorted = 0;

    // Until the first `wanted` of them are.
    void extend(int64_t wanted) {
        const int64_t count = (int64_t)candidates.size();
        while (sorted < std::min(wanted, count)) {
            const int64_t end = std::min(count, std::max(SORTED_AT_FIRST, 2 * sorted));
            const auto from = candidates.begin() + sorted, to = candidates.begin() + end;
            if (end < count) std::nth_element(from, to, candidates.end(), is_better);
            std::sort(from, to, is_better);
            sorted = end;
        }
    }
};

// Scores candidates by their residuals; where they are ranked by their centroids, only until the
// rest can hardly come among the best.
void score_candidates(const PlaidView& view, const PlaidEffort& effort, bool is_ranked,
                      Scratch& s) {
    const Query& q = s.query;
    const Decoder decode(*view.codec, q.layout);
    RaiseToDocument* const raise = raise_for(*view.codec);
    const float widest = std::min(effort.margin * q.one, 32767.0f);
    const Shorts margin = Shorts{} + (int16_t)widest;
    const int64_t count = (int64_t)s.candidates.size(), wanted = std::max(1, effort.wanted);
    const bool is_stopped = is_ranked && may_stop(effort, count);
    InOrder in_order{s.candidates};
    s.rows.resize(BYTE_ROWS * q.layout.stride());
    const auto document = [&](int64_t at) -> NearDocument& {
        return s.near_documents[at % (DOCUMENTS_AHEAD + 1)];
    };
    const auto find = [&](int64_t at) {
        if (at % PAGES_AT_ONCE == 0) {
            const int64_t end = std::min(count, at + PAGES_AT_ONCE);
            if (is_stopped) in_order.extend(end);
            for (int64_t next = at; next < end; ++next)
                touch_pages(view, s.candidates[next].position, decode.bytes);
        }
        if (at < count)
            find_near(view, q, margin, s.candidates[at], s, document(at));
        else
            document(at).count = 0;
    };
    for (int64_t at = 0; at < DOCUMENTS_AHEAD; ++at) find(at);
    Gains gains;
    s.best_scores.clear();
    for (int64_t at = 0; at < count; ++at) {
        const float by_centroids = s.candidates[at].score / q.one;
        if (is_stopped && at % STEP == 0 && at >= std::max(2 * STEP, wanted) &&
            by_centroids + gains.highest(at, effort.patience) < s.best_scores.front()) {
            s.candidates.resize(at);
            return;
        }
        find(at + DOCUMENTS_AHEAD);
        Scored& each = s.candidates[at];
        each.score = score_by_residuals(view, q, decode, raise, document(at),
                                        document(at + DOCUMENTS_AHEAD), s);
        gains.add(each.score - by_centroids);
        if (is_stopped) add_to_best(s.best_scores, each.score, wanted);
    }
}

// Scores the candidates by residuals, and the best of them exactly, and writes them, best first.
int64_t finish(const PlaidView& view, const PlaidEffort& effort, bool is_ranked, int64_t* positions,
               float* scores, Scratch& s, PlaidStages* stages) {
    Query& q = s.query;
    const int width = view.codec->width;
    int64_t started = stages ? now() : 0;
    s.best.assign(q.columns, 0);
    s.best_shorts.resize(q.columns);
    score_candidates(view, effort, is_ranked, s);
    if (stages) {
        stages->nanoseconds[4] += now() - started;
        stages->scored += s.candidates.size();
        started = now();
    }
    bool has_tokens = true;
    for (int number = 0; number < view.segment_count; ++number)
        has_tokens = has_tokens && (view.segments[number].tokens || !view.segments[number].documents);
    if (effort.rescored > 0 && has_tokens) {
        keep_best(s.candidates, effort.rescored);
        q.float_panel.assign((size_t)width * q.columns, 0);
        for (int t = 0; t < q.tokens; ++t)
            for (int d = 0; d < width; ++d)
                q.float_panel[(size_t)d * q.columns + t] = q.units[(size_t)t * width + d];
        s.float_rows.resize((size_t)ROWS_AT_ONCE * width);
        for (Scored& each : s.candidates) {
            each.score = score_exactly(view, q, each.position, s);
            if (std::isnan(each.score)) {  // which can't be ranked, and no token gives
                s.is_damaged = true;
                each.score = LOWEST;
            }
        }
        if (stages) stages->rescored += s.candidates.size();
    }
    std::sort(s.candidates.begin(), s.candidates.end(), is_better);
    for (size_t at = 0; at < s.candidates.size(); ++at) {
        positions[at] = s.candidates[at].position;
        scores[at] = s.candidates[at].score;
    }
    if (stages) stages->nanoseconds[5] += now() - started;
    return s.is_damaged ? PLAID_DAMAGED : (int64_t)s.candidates.size();
}

// Few enough centroids in a block that there are many more blocks than probes.
int block_size(int centroids, int probes) {
    int block = MOST_IN_BLOCK;
    while (block > 1 && centroids / block < 4 * probes) block /= 2;
    return block;
}

int64_t search(const PlaidView* view, const float* query, int32_t tokens,
               const PlaidEffort* effort, const uint8_t* mask, int64_t* positions, float* scores,
               PlaidStages* stages) {
    const ByteTiles tiles;
    Scratch& s = scratch_of_thread();
    s.is_damaged = false;
    Query& q = s.query;
    int64_t times[5] = {};
    const auto mark = [&](int at) {
        if (stages) times[at] = now();
    };
    const int block = block_size(view->codec->centroids, effort->probes);
    mark(0);
    prepare(q, *view->codec, query, tokens);
    score_centroids(*view->codec, q, block, s);
    mark(1);
    find_probes(*view->codec, q, effort->probes, block, s);
    mark(2);
    const int64_t touched = gather(*view, q, s);
    choose_candidates(mask, touched, effort->candidates, s);
    mark(3);
    const int64_t candidates = (int64_t)s.candidates.size();
    const bool is_ranked = candidates > effort->scored || may_stop(*effort, candidates);
    if (is_ranked) score_by_centroids(*view, q, effort->scored, s);
    mark(4);
    if (stages) {
        for (int at = 0; at < 4; ++at) stages->nanoseconds[at] += times[at + 1] - times[at];
        stages->touched += touched;
    }
    return finish(*view, *effort, is_ranked, positions, scores, s, stages);
}

int64_t rank(const PlaidView* view, const float* query, int32_t tokens, const PlaidEffort* effort,
             int64_t count, int64_t* positions, float* scores) {
    const ByteTiles tiles;
    Scratch& s = scratch_of_thread();
    s.is_damaged = false;
    prepare(s.query, *view->codec, query, tokens);
    score_centroids(*view->codec, s.query, MOST_IN_BLOCK, s);
    s.candidates.clear();
    for (int64_t at = 0; at < count; ++at) s.candidates.push_back({0, -1, positions[at]});
    return finish(*view, *effort, false, positions, scores, s, nullptr);
}

}  // namespace

extern const LateInteractionKernels LATE_INTERACTION_KERNELS;
const LateInteractionKernels LATE_INTERACTION_KERNELS = {search, rank};

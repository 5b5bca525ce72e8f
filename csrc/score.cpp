#include "score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "best.h"
#include "changes.h"
#include "row.h"

namespace tgi {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

}  // namespace

struct Scorer::State {
    explicit State(int32_t num_vocab) : num_vocab(num_vocab) {}

    SampleStatus score(const float *logits, int32_t id, int32_t num_top, float *logprob,
                       int32_t *top_ids, float *top_logprobs);
    float logprob_of(float logit) const noexcept;

    int32_t num_vocab;
    const PenalizedTokens no_tokens{};
    std::vector<int32_t> no_groups;
    RowSummary summary;
    BestBuffers best;
    std::vector<float> finite;
};

SampleStatus Scorer::State::score(const float *logits, int32_t id, int32_t num_top, float *logprob,
                                  int32_t *top_ids, float *top_logprobs) {
    const Row row(logits, num_vocab, no_tokens, no_groups);
    find_maxima(row, summary);
    if (summary.raw.best == infinity) {  // no model means it, so this may cost a copy
        finite.assign(logits, logits + num_vocab);
        std::replace(finite.begin(), finite.end(), infinity, std::numeric_limits<float>::max());
        return score(finite.data(), id, num_top, logprob, top_ids, top_logprobs);
    }
    if (summary.raw.best == -infinity)
        return SampleStatus::no_finite_logit;
    sum_masses(row, Exponent(summary.raw.best, 1.0), nullptr, summary);
    *logprob = id < num_vocab ? logprob_of(logits[id]) : -infinity;
    if (num_top == 0)
        return SampleStatus::ok;
    find_best_n(row, summary.raw, num_top, best);
    for (size_t i = 0; i < best.best.size(); ++i) {
        top_ids[i] = best.best[i].id;
        top_logprobs[i] = logprob_of(best.best[i].value);
    }
    return SampleStatus::ok;
}

float Scorer::State::logprob_of(float logit) const noexcept {
    if (std::isnan(logit))
        return -infinity;
    const double distance = static_cast<double>(logit) - static_cast<double>(summary.raw.best);
    return static_cast<float>(distance - std::log(summary.raw_mass));
}

Scorer::Scorer(int32_t num_vocab) noexcept : state_(new (std::nothrow) State(num_vocab)) {}

Scorer::~Scorer() noexcept = default;

SampleStatus Scorer::score(const float *logits, int32_t id, int32_t num_top, float *logprob,
                           int32_t *top_ids, float *top_logprobs) noexcept {
    if (state_ == nullptr)
        return SampleStatus::out_of_memory;
    const bool has_top = top_ids != nullptr && top_logprobs != nullptr;
    if (state_->num_vocab <= 0 || logits == nullptr || logprob == nullptr || id < 0 ||
        num_top < 0 || (num_top > 0 && !has_top))
        return SampleStatus::bad_argument;
    try {
        return state_->score(logits, id, num_top, logprob, top_ids, top_logprobs);
    } catch (...) {  // std::bad_alloc: nothing else is thrown
        return SampleStatus::out_of_memory;
    }
}

}  // namespace tgi

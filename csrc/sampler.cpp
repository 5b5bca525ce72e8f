#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "best.h"
#include "changes.h"
#include "choice.h"
#include "mirostat.h"
#include "row.h"

namespace tgi {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Finalizer of splitmix64 (Steele, Lea and Flood 2014): every bit of z changes half of the result.
uint64_t mix(uint64_t z) noexcept {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

bool is_fraction(float x) noexcept {
    return x >= 0.0f && x <= 1.0f;
}

bool is_from(float x, float least) noexcept {
    return std::isfinite(x) && x >= least;
}

bool are_good_penalties(const SamplerParams &params) noexcept {
    return std::isfinite(params.repetition_penalty) && params.repetition_penalty > 0.0f &&
           std::isfinite(params.frequency_penalty) && std::isfinite(params.presence_penalty) &&
           params.penalty_last_n >= -1;
}

bool is_good_dry(const SamplerParams &params) noexcept {
    return is_from(params.dry_multiplier, 0.0f) && is_from(params.dry_base, 1.0f) &&
           params.dry_allowed_length >= 0 && params.dry_last_n >= -1 &&
           params.num_dry_breakers >= 0 &&
           (params.num_dry_breakers == 0 || params.dry_breaker_ids != nullptr);
}

bool are_good_cuts(const SamplerParams &params) noexcept {
    return params.top_k >= 0 && is_fraction(params.top_p) && is_fraction(params.typical_p) &&
           is_fraction(params.min_p) && is_fraction(params.xtc_probability) &&
           is_fraction(params.xtc_threshold) && params.mirostat >= 0 && params.mirostat <= 2 &&
           is_from(params.mirostat_tau, 0.0f) && is_from(params.mirostat_eta, 0.0f);
}

bool are_good_biases(const SamplerParams &params) noexcept {
    if (params.num_biases < 0 || (params.num_biases > 0 && params.bias_ids == nullptr) ||
        (params.num_biases > 0 && params.bias_values == nullptr))
        return false;
    for (int64_t i = 0; i < params.num_biases; ++i)
        if (!(params.bias_values[i] < infinity))  // true for NaN too
            return false;
    return true;
}

bool are_good(const SamplerParams &params) noexcept {
    return is_from(params.temperature, 0.0f) && params.num_top >= 0 && are_good_cuts(params) &&
           are_good_penalties(params) && is_good_dry(params) && are_good_biases(params);
}

bool are_ids(const int32_t *ids, int64_t num_ids) noexcept {
    if (num_ids < 0 || (num_ids > 0 && ids == nullptr))
        return false;
    for (int64_t i = 0; i < num_ids; ++i)
        if (ids[i] < 0)
            return false;
    return true;
}

// The reference of the penalised row's weights. That of the raw row serves too, and saves a pass,
// unless the best logits are so far apart that weights would under- or overflow.
bool can_share(const RowSummary &summary, float best, double temperature) noexcept {
    return temperature == 1.0 && std::fabs(summary.raw.best - best) < 40.0f;
}

}  // namespace

const char *sample_status_message(SampleStatus status) noexcept {
    switch (status) {
        case SampleStatus::ok:
            return "ok";
        case SampleStatus::no_finite_logit:
            return "every logit is NaN or -inf: there is no token to choose";
        case SampleStatus::out_of_memory:
            return "out of memory in the sampler";
        case SampleStatus::bad_argument:
            return "a token id is negative, or a sampling parameter out of range";
    }
    return "unknown sampler status";
}

double draw_uniform(uint64_t seed, int64_t position) noexcept {
    const uint64_t step = 0x9e3779b97f4a7c15u;  // 2^64 over the golden ratio
    const uint64_t bits = mix(mix(seed + step) + step * static_cast<uint64_t>(position));
    return static_cast<double>(bits >> 11) * 0x1p-53;
}

double coin_uniform(uint64_t seed, int64_t position) noexcept {
    return draw_uniform(seed ^ 0xd1b54a32d192ed03u, position);  // another stream
}

struct Sampler::State {
    explicit State(int32_t the_num_vocab) noexcept : num_vocab(the_num_vocab) {}

    SampleStatus sample(const float *logits, int64_t position, SampledToken *out, int32_t *top_ids,
                        float *top_logprobs);
    SampleStatus sample_without_infinities(const float *logits, int64_t position, SampledToken *out,
                                           int32_t *top_ids, float *top_logprobs);
    Choice choose_token(const Row &row, int64_t position);
    float logprob_of(float logit) const noexcept;
    void report_top(const float *logits, int32_t *top_ids, float *top_logprobs);

    int32_t num_vocab;
    SamplerParams params;
    LogitChanges changes;
    Mirostat mirostat;
    const PenalizedTokens no_tokens{};
    std::vector<int32_t> first_penalized;
    std::vector<int32_t> no_groups;
    RowSummary summary;
    ChoiceBuffers buffers;
};

SampleStatus Sampler::State::sample(const float *logits, int64_t position, SampledToken *out,
                                    int32_t *top_ids, float *top_logprobs) {
    changes.make_room();
    const Row row(logits, num_vocab, changes.apply(logits), first_penalized);
    find_maxima(row, summary);
    const float best = summary.maxima(row).best;
    if (summary.raw.best == infinity)
        return sample_without_infinities(logits, position, out, top_ids, top_logprobs);
    if (best == -infinity)
        return SampleStatus::no_finite_logit;

    const Choice choice = choose_token(row, position);
    out->id = choice.id;
    out->logprob = logprob_of(logits[choice.id]);
    report_top(logits, top_ids, top_logprobs);
    changes.count(choice.id);
    mirostat.learn(choice.surprise);
    return SampleStatus::ok;
}

// +inf stands for the largest float. No model means it, so this may cost a copy.
SampleStatus Sampler::State::sample_without_infinities(const float *logits, int64_t position,
                                                       SampledToken *out, int32_t *top_ids,
                                                       float *top_logprobs) {
    std::vector<float> finite(logits, logits + num_vocab);
    for (float &logit : finite)
        if (logit == infinity)
            logit = std::numeric_limits<float>::max();
    return sample(finite.data(), position, out, top_ids, top_logprobs);
}

Choice Sampler::State::choose_token(const Row &row, int64_t position) {
    const Exponent raw(summary.raw.best, 1.0);
    const double temperature = static_cast<double>(params.temperature);
    if (params.temperature == 0.0f) {
        sum_masses(row, raw, nullptr, summary);
        return {find_best(row, summary), 0.0};
    }
    const float best = summary.maxima(row).best;
    const bool is_shared = can_share(summary, best, temperature);
    const Exponent own(best, temperature);
    const Exponent &exponent = is_shared ? raw : own;
    sum_masses(row, raw, needs_masses(params, num_vocab) ? &exponent : nullptr, summary);
    return choose(row, summary, exponent, params, mirostat, position, buffers);
}

float Sampler::State::logprob_of(float logit) const noexcept {
    const double distance = static_cast<double>(logit) - static_cast<double>(summary.raw.best);
    return static_cast<float>(distance - std::log(summary.raw_mass));
}

void Sampler::State::report_top(const float *logits, int32_t *top_ids, float *top_logprobs) {
    if (params.num_top == 0)
        return;
    const Row raw_row(logits, num_vocab, no_tokens, no_groups);
    find_best_n(raw_row, summary.raw, params.num_top, buffers.best);
    for (size_t i = 0; i < buffers.best.best.size(); ++i) {
        const Ranked &entry = buffers.best.best[i];
        top_ids[i] = entry.id;
        top_logprobs[i] = logprob_of(entry.value);
    }
}

Sampler::Sampler(int32_t num_vocab) noexcept : state_(new (std::nothrow) State(num_vocab)) {}

Sampler::~Sampler() noexcept = default;

SampleStatus Sampler::reset(const SamplerParams &params, const int32_t *prompt_ids,
                            int64_t num_prompt, const int32_t *output_ids,
                            int64_t num_output) noexcept {
    if (state_ == nullptr)
        return SampleStatus::out_of_memory;
    const int32_t num_vocab = state_->num_vocab;
    if (num_vocab <= 0 || !are_good(params) || !are_ids(prompt_ids, num_prompt) ||
        !are_ids(output_ids, num_output))
        return SampleStatus::bad_argument;
    try {
        state_->changes.reset(params, num_vocab, {prompt_ids, num_prompt},
                              {output_ids, num_output});
        state_->mirostat.reset(params);
        state_->params = params;
        state_->params.num_top = std::min(params.num_top, num_vocab);
        state_->params.bias_ids = state_->params.dry_breaker_ids = nullptr;  // the caller's, copied
        state_->params.bias_values = nullptr;
        return SampleStatus::ok;
    } catch (...) {  // std::bad_alloc: nothing else is thrown
        return SampleStatus::out_of_memory;
    }
}

SampleStatus Sampler::sample(const float *logits, int64_t position, SampledToken *out,
                             int32_t *top_ids, float *top_logprobs) noexcept {
    if (state_ == nullptr)
        return SampleStatus::out_of_memory;
    const bool has_top = top_ids != nullptr && top_logprobs != nullptr;
    if (state_->num_vocab <= 0 || logits == nullptr || out == nullptr ||
        (state_->params.num_top > 0 && !has_top))
        return SampleStatus::bad_argument;
    try {
        return state_->sample(logits, position, out, top_ids, top_logprobs);
    } catch (...) {
        return SampleStatus::out_of_memory;
    }
}

int32_t Sampler::num_top() const noexcept {
    return state_ == nullptr ? 0 : state_->params.num_top;
}

}  // namespace tgi

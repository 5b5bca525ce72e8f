#include "penalties.h"

#include <algorithm>
#include <limits>

namespace tgi {

bool Penalties::counts_output() const noexcept {
    return params_.repetition_penalty != 1.0f || params_.frequency_penalty != 0.0f ||
           params_.presence_penalty != 0.0f;
}

bool Penalties::counts_prompt() const noexcept {
    return params_.repetition_penalty != 1.0f || (params_.penalize_prompt && counts_output());
}

void Penalties::add(const int32_t *ids, int64_t num_ids, int32_t num_vocab, int32_t weight) {
    for (int64_t i = 0; i < num_ids; ++i)
        if (ids[i] < num_vocab)
            counts_.push_back({ids[i], weight});
}

void Penalties::reset(const SamplerParams &params, int32_t num_vocab, const int32_t *prompt_ids,
                      int64_t num_prompt, const int32_t *output_ids, int64_t num_output) {
    params_ = params;
    counts_.clear();
    if (counts_prompt())
        add(prompt_ids, num_prompt, num_vocab, params.penalize_prompt ? 1 : 0);
    if (counts_output())
        add(output_ids, num_output, num_vocab, 1);
    std::sort(counts_.begin(), counts_.end(),
              [](const Count &a, const Count &b) { return a.id < b.id; });
    size_t num_ids = 0;
    for (const Count &count : counts_) {
        if (num_ids > 0 && counts_[num_ids - 1].id == count.id)
            counts_[num_ids - 1].num += count.num;
        else
            counts_[num_ids++] = count;
    }
    counts_.resize(num_ids);
}

void Penalties::make_room() {
    if (counts_output() && counts_.size() == counts_.capacity())
        counts_.reserve(2 * counts_.size() + 64);
}

void Penalties::count(int32_t id) noexcept {
    if (!counts_output())
        return;
    const auto place = std::lower_bound(counts_.begin(), counts_.end(), id,
                                        [](const Count &a, int32_t b) { return a.id < b; });
    if (place != counts_.end() && place->id == id)
        ++place->num;
    else
        counts_.insert(place, {id, 1});
}

float Penalties::penalized(float logit, int32_t num) const noexcept {
    const double repetition = static_cast<double>(params_.repetition_penalty);
    double value = static_cast<double>(logit);
    value = value > 0.0 ? value / repetition : value * repetition;
    value -= static_cast<double>(params_.frequency_penalty) * num;
    value -= num > 0 ? static_cast<double>(params_.presence_penalty) : 0.0;
    // Beyond the largest float a conversion would be undefined, or infinite.
    const double largest = static_cast<double>(std::numeric_limits<float>::max());
    if (value > largest)
        return std::numeric_limits<float>::max();
    return value < -largest ? -std::numeric_limits<float>::infinity() : static_cast<float>(value);
}

const PenalizedTokens &Penalties::apply(const float *logits) {
    tokens_.ids.resize(counts_.size());
    tokens_.raw.resize(counts_.size());
    tokens_.values.resize(counts_.size());
    for (size_t i = 0; i < counts_.size(); ++i) {
        const float logit = logits[counts_[i].id];
        tokens_.ids[i] = counts_[i].id;
        tokens_.raw[i] = logit;
        tokens_.values[i] = penalized(logit, counts_[i].num);
    }
    return tokens_;
}

}  // namespace tgi

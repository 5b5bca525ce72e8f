#include "penalties.h"

#include <algorithm>

namespace tgi {

bool Penalties::are_on(const SamplerParams &params) noexcept {
    return params.penalty_last_n != 0 &&
           (params.repetition_penalty != 1.0f || params.frequency_penalty != 0.0f ||
            params.presence_penalty != 0.0f);
}

bool Penalties::counts_prompt() const noexcept {
    return is_on_ && (repetition_ != 1.0 || penalizes_prompt_);
}

void Penalties::add(Ids ids, int32_t num_vocab, int32_t weight) {
    for (int64_t i = 0; i < ids.size; ++i)
        if (ids.data[i] < num_vocab)
            counts_.push_back({ids.data[i], weight, 1});
}

void Penalties::merge_counts() {
    std::sort(counts_.begin(), counts_.end(),
              [](const Count &a, const Count &b) { return a.id < b.id; });
    size_t num_ids = 0;
    for (const Count &count : counts_) {
        if (num_ids > 0 && counts_[num_ids - 1].id == count.id) {
            counts_[num_ids - 1].num += count.num;
            counts_[num_ids - 1].num_seen += count.num_seen;
        } else {
            counts_[num_ids++] = count;
        }
    }
    counts_.resize(num_ids);
}

void Penalties::reset(const SamplerParams &params, int32_t num_vocab, Ids prompt, Ids output) {
    is_on_ = are_on(params);
    repetition_ = static_cast<double>(params.repetition_penalty);
    frequency_ = static_cast<double>(params.frequency_penalty);
    presence_ = static_cast<double>(params.presence_penalty);
    penalizes_prompt_ = params.penalize_prompt;
    const int64_t num_last = params.penalty_last_n;
    const Ids last_output = output.last(num_last);
    const Ids last_prompt = prompt.last(num_last < 0 ? -1 : num_last - last_output.size);
    num_prompt_ = last_prompt.size;
    counts_.clear();
    if (counts_prompt())
        add(last_prompt, num_vocab, penalizes_prompt_ ? 1 : 0);
    if (is_on_)
        add(last_output, num_vocab, 1);
    merge_counts();
}

void Penalties::make_room() {
    if (is_on_ && counts_.size() == counts_.capacity())
        counts_.reserve(2 * counts_.size() + 64);
}

std::vector<Penalties::Count>::iterator Penalties::find(int32_t id) noexcept {
    return std::lower_bound(counts_.begin(), counts_.end(), id,
                            [](const Count &a, int32_t b) { return a.id < b; });
}

void Penalties::count(int32_t id) noexcept {
    if (!is_on_)
        return;
    const auto place = find(id);
    if (place != counts_.end() && place->id == id) {
        ++place->num;
        ++place->num_seen;
    } else {
        counts_.insert(place, {id, 1, 1});
    }
}

void Penalties::forget(int32_t id) noexcept {
    const bool is_prompt = num_prompt_ > 0;
    num_prompt_ -= is_prompt ? 1 : 0;
    if (is_prompt && !counts_prompt())
        return;
    const auto place = find(id);
    if (place == counts_.end() || place->id != id)  // padding
        return;
    place->num -= is_prompt && !penalizes_prompt_ ? 0 : 1;
    if (--place->num_seen == 0)
        counts_.erase(place);
}

}  // namespace tgi

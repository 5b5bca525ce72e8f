#include "changes.h"

#include <algorithm>
#include <limits>

namespace tgi {

namespace {

constexpr double largest = static_cast<double>(std::numeric_limits<float>::max());

// Beyond the largest float a conversion would be undefined, or infinite.
double bounded(double value) noexcept {
    if (value > largest)
        return largest;
    return value < -largest ? -std::numeric_limits<double>::infinity() : value;
}

// The id at the cursor, or one above all.
template <class Cursor>
int32_t id_at(Cursor at, Cursor end) noexcept {
    return at == end ? std::numeric_limits<int32_t>::max() : at->id;
}

int64_t num_kept_for(int64_t penalty_last_n, int64_t dry_last_n) noexcept {
    return dry_last_n < 0 ? dry_last_n : std::max(penalty_last_n, dry_last_n);
}

}  // namespace

void LogitChanges::reset(const SamplerParams &params, int32_t num_vocab, Ids prompt, Ids output) {
    // 0 where the ids in their order are of no use: the window of counts then holds everything.
    penalty_last_n_ = Penalties::are_on(params) ? std::max(params.penalty_last_n, 0) : 0;
    dry_last_n_ = Dry::is_on(params) ? params.dry_last_n : 0;
    history_.reset(num_kept_for(penalty_last_n_, dry_last_n_), prompt, output);
    penalties_.reset(params, num_vocab, prompt, output);
    if (dry_last_n_ != 0)
        dry_.reset(params, num_vocab, history_.last(dry_last_n_));
    set_biases(params, num_vocab);
}

void LogitChanges::set_biases(const SamplerParams &params, int32_t num_vocab) {
    biases_.clear();
    for (int64_t i = 0; i < params.num_biases; ++i)
        if (params.bias_ids[i] >= 0 && params.bias_ids[i] < num_vocab)
            biases_.push_back({params.bias_ids[i], params.bias_values[i]});
    std::stable_sort(biases_.begin(), biases_.end(),
                     [](const Bias &a, const Bias &b) { return a.id < b.id; });
}

void LogitChanges::make_room() {
    penalties_.make_room();
    history_.make_room();
}

void LogitChanges::count(int32_t id) noexcept {
    if (penalty_last_n_ > 0) {
        const Ids window = history_.last(penalty_last_n_);
        if (window.size == penalty_last_n_)
            penalties_.forget(window.data[0]);
    }
    penalties_.count(id);
    if (dry_last_n_ != 0)
        dry_.count(id);
    history_.append(id);
}

const PenalizedTokens &LogitChanges::apply(const float *logits) {
    const std::vector<Dry::Repeat> &repeats =
        dry_last_n_ == 0 ? no_repeats_ : dry_.find(history_.last(dry_last_n_));
    if (biases_.empty() && repeats.empty())
        penalize(logits);
    else
        merge(logits, repeats);
    return tokens_;
}

// The usual case, without looking for the other kinds at every token.
void LogitChanges::penalize(const float *logits) {
    const std::vector<Penalties::Count> &counts = penalties_.counts();
    tokens_.ids.resize(counts.size());
    tokens_.raw.resize(counts.size());
    tokens_.values.resize(counts.size());
    for (size_t i = 0; i < counts.size(); ++i) {
        const float logit = logits[counts[i].id];
        tokens_.ids[i] = counts[i].id;
        tokens_.raw[i] = logit;
        const double value = penalties_.penalized(static_cast<double>(logit), counts[i].num);
        tokens_.values[i] = static_cast<float>(bounded(value));
    }
}

void LogitChanges::merge(const float *logits, const std::vector<Dry::Repeat> &repeats) {
    tokens_.ids.clear();
    tokens_.raw.clear();
    tokens_.values.clear();
    auto bias = biases_.cbegin();
    auto count = penalties_.counts().cbegin();
    auto repeat = repeats.cbegin();
    while (bias != biases_.cend() || count != penalties_.counts().cend() ||
           repeat != repeats.cend()) {
        const int32_t id =
            std::min({id_at(bias, biases_.cend()), id_at(count, penalties_.counts().cend()),
                      id_at(repeat, repeats.cend())});
        double value = static_cast<double>(logits[id]);
        for (; bias != biases_.cend() && bias->id == id; ++bias)
            value += static_cast<double>(bias->value);
        if (id == id_at(count, penalties_.counts().cend()))
            value = penalties_.penalized(value, (count++)->num);
        value = bounded(value);
        if (id == id_at(repeat, repeats.cend())) {
            const double penalty = dry_.penalty((repeat++)->length);
            if (value >= -largest)  // neither banned nor NaN
                value = std::max(value - penalty, -largest);
        }
        tokens_.ids.push_back(id);
        tokens_.raw.push_back(logits[id]);
        tokens_.values.push_back(static_cast<float>(value));
    }
}

}  // namespace tgi

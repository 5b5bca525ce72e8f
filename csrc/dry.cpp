#include "dry.h"

#include <algorithm>
#include <cmath>

namespace tgi {

bool Dry::is_on(const SamplerParams &params) noexcept {
    return params.dry_multiplier > 0.0f && params.dry_last_n != 0;
}

void Dry::reset(const SamplerParams &params, int32_t num_vocab, Ids window) {
    multiplier_ = params.dry_multiplier;
    base_ = params.dry_base;
    allowed_length_ = params.dry_allowed_length;
    num_vocab_ = num_vocab;
    breakers_.assign(params.dry_breaker_ids, params.dry_breaker_ids + params.num_dry_breakers);
    std::sort(breakers_.begin(), breakers_.end());
    num_since_breaker_ = 0;
    while (num_since_breaker_ < window.size &&
           !is_breaker(window.data[window.size - 1 - num_since_breaker_]))
        ++num_since_breaker_;
}

bool Dry::is_breaker(int32_t id) const noexcept {
    return std::binary_search(breakers_.begin(), breakers_.end(), id);
}

void Dry::count(int32_t id) noexcept {
    num_since_breaker_ = is_breaker(id) ? 0 : num_since_breaker_ + 1;
}

// lengths_[k]: how many of the last tokens stand also k places earlier. This is the Z-function of
// the window read backwards (Gusfield 1997): a match found before tells what is inside of it, so
// that no token is compared twice.
void Dry::measure(Ids window) {
    const int32_t *newest = window.data + window.size - 1;
    const int32_t num = static_cast<int32_t>(window.size);
    lengths_.resize(static_cast<size_t>(num));
    int32_t start = 0, end = 0;  // of the match that reaches furthest back
    for (int32_t k = 1; k < num; ++k) {
        int32_t length = 0;
        if (k < end)
            length = std::min(lengths_[static_cast<size_t>(k - start)], end - k);
        if (k + length >= end) {
            while (k + length < num && newest[-length] == newest[-k - length])
                ++length;
            start = k;
            end = k + length;
        }
        lengths_[static_cast<size_t>(k)] = length;
    }
}

void Dry::keep_longest() {
    std::sort(repeats_.begin(), repeats_.end(), [](const Repeat &a, const Repeat &b) {
        return a.id < b.id || (a.id == b.id && a.length > b.length);
    });
    const auto end = std::unique(repeats_.begin(), repeats_.end(),
                                 [](const Repeat &a, const Repeat &b) { return a.id == b.id; });
    repeats_.erase(end, repeats_.end());
}

const std::vector<Dry::Repeat> &Dry::find(Ids window) {
    repeats_.clear();
    const int64_t longest = std::min(num_since_breaker_, window.size - 1);
    const int32_t shortest = std::max(allowed_length_, 1);
    if (longest < shortest)
        return repeats_;
    measure(window);
    for (int64_t k = 1; k < window.size; ++k) {
        const int32_t found = lengths_[static_cast<size_t>(k)];
        if (found < shortest)
            continue;
        const int32_t id = window.data[window.size - k];
        const int32_t length = static_cast<int32_t>(std::min<int64_t>(found, longest));
        if (!repeats_.empty() && repeats_.back().id == id)  // a token over and over
            repeats_.back().length = std::max(repeats_.back().length, length);
        else if (id < num_vocab_ && !is_breaker(id))
            repeats_.push_back({id, length});
    }
    keep_longest();
    return repeats_;
}

double Dry::penalty(int32_t length) const noexcept {
    const double base = static_cast<double>(base_);
    // A base of 1 never grows: the bound is infinite.
    const double exponent =
        std::min(static_cast<double>(length - allowed_length_), 88.0 / std::log(base));
    return static_cast<double>(multiplier_) * std::pow(base, exponent);
}

}  // namespace tgi

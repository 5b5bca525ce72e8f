// The plain definition of what changes single logits: bias, penalties, DRY. Slow on purpose.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "sampler.h"

namespace plain {

using Ids = std::vector<int32_t>;

constexpr double largest = static_cast<double>(std::numeric_limits<float>::max());

inline Ids last(const Ids &ids, int64_t num) {
    const int64_t size = static_cast<int64_t>(ids.size());
    return Ids(ids.end() - (num < 0 ? size : std::min(num, size)), ids.end());
}

inline Ids joined(const Ids &prompt, const Ids &output) {
    Ids all = prompt;
    all.insert(all.end(), output.begin(), output.end());
    return all;
}

// The length of the longest repetition of the end that each position's token extends, by comparing
// token after token.
inline std::vector<int32_t> repetitions(const Ids &window, const Ids &breakers) {
    const auto breaks = [&](int32_t id) {
        return std::find(breakers.begin(), breakers.end(), id) != breakers.end();
    };
    std::vector<int32_t> lengths(window.size());
    for (size_t end = 1; end < window.size(); ++end) {
        size_t length = 0;
        while (length < end && window[end - 1 - length] == window[window.size() - 1 - length] &&
               !breaks(window[end - 1 - length]))
            ++length;
        lengths[end] = breaks(window[end]) ? 0 : static_cast<int32_t>(length);
    }
    return lengths;
}

inline void add_biases(const tgi::SamplerParams &params, std::vector<double> &x) {
    for (int64_t i = 0; i < params.num_biases; ++i)
        if (params.bias_ids[i] >= 0 && params.bias_ids[i] < static_cast<int32_t>(x.size()))
            x[static_cast<size_t>(params.bias_ids[i])] +=
                static_cast<double>(params.bias_values[i]);
}

inline void penalize(const tgi::SamplerParams &params, const Ids &prompt, const Ids &output,
                     std::vector<double> &x) {
    std::vector<int> occurs(x.size()), counts(x.size());
    const Ids all = joined(prompt, output);
    const size_t num_left = all.size() - last(all, params.penalty_last_n).size();
    for (size_t i = num_left; i < all.size(); ++i) {
        const size_t id = static_cast<size_t>(all[i]);
        if (id >= x.size())
            continue;
        occurs[id] = 1;
        counts[id] += i >= prompt.size() || params.penalize_prompt ? 1 : 0;
    }
    const double repetition = static_cast<double>(params.repetition_penalty);
    for (size_t i = 0; i < x.size(); ++i) {
        if (occurs[i])
            x[i] = x[i] > 0 ? x[i] / repetition : x[i] * repetition;
        x[i] -= static_cast<double>(params.frequency_penalty) * counts[i];
        x[i] -= counts[i] > 0 ? static_cast<double>(params.presence_penalty) : 0.0;
    }
}

inline void discourage_repetitions(const tgi::SamplerParams &params, const Ids &prompt,
                                   const Ids &output, std::vector<double> &x) {
    const Ids window = last(joined(prompt, output), params.dry_last_n);
    const Ids breakers(params.dry_breaker_ids, params.dry_breaker_ids + params.num_dry_breakers);
    const std::vector<int32_t> lengths = repetitions(window, breakers);
    std::vector<int32_t> longest(x.size());
    for (size_t i = 0; i < window.size(); ++i)
        if (static_cast<size_t>(window[i]) < x.size()) {
            int32_t &length = longest[static_cast<size_t>(window[i])];
            length = std::max(length, lengths[i]);
        }
    const double base = static_cast<double>(params.dry_base);
    const double most = base > 1.0 ? 88.0 / std::log(base) : 1e30;
    for (size_t i = 0; i < x.size(); ++i) {
        if (longest[i] < std::max(params.dry_allowed_length, 1) || !(x[i] >= -largest))
            continue;
        const double excess = static_cast<double>(longest[i] - params.dry_allowed_length);
        const double growth = std::pow(base, std::min(excess, most));
        x[i] = std::max(x[i] - static_cast<double>(params.dry_multiplier) * growth, -largest);
    }
}

// In float64, rounded once.
inline std::vector<float> change(const tgi::SamplerParams &params, const std::vector<float> &logits,
                                 const Ids &prompt, const Ids &output) {
    std::vector<double> x(logits.begin(), logits.end());
    add_biases(params, x);
    penalize(params, prompt, output, x);
    for (double &value : x)
        value =
            value < -largest ? -std::numeric_limits<double>::infinity() : std::min(value, largest);
    if (params.dry_multiplier > 0.0f)
        discourage_repetitions(params, prompt, output, x);
    return std::vector<float>(x.begin(), x.end());
}

}  // namespace plain

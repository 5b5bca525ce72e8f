// The sampler's plain definition: float64, full sorts, one step after the other.
//
// Slow on purpose. tests/native/reference_sampler.py says the same in numpy. `margin` tells how
// far, as a probability, the nearest decision was from going the other way: below rounding, the
// fast sampler may choose another token and still be right.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "sampler.h"

namespace plain {

using Ids = std::vector<int32_t>;

// Probabilities by id; tokens that are not kept have 0.
struct Distribution {
    std::vector<double> p;
    double margin = 1.0;
};

struct Choice {
    int32_t id = -1;
    double logprob = 0.0;
    double margin = 1.0;
};

inline float finite_or_lowest(float x) {
    if (std::isnan(x))
        return -std::numeric_limits<float>::infinity();
    return std::min(x, std::numeric_limits<float>::max());
}

inline std::vector<float> penalize(const tgi::SamplerParams &params,
                                   const std::vector<float> &logits, const Ids &prompt,
                                   const Ids &output) {
    std::vector<int> occurs(logits.size()), counts(logits.size());
    for (const int32_t id : prompt) {
        occurs[static_cast<size_t>(id)] = 1;
        counts[static_cast<size_t>(id)] += params.penalize_prompt ? 1 : 0;
    }
    for (const int32_t id : output) {
        occurs[static_cast<size_t>(id)] = 1;
        counts[static_cast<size_t>(id)] += 1;
    }
    std::vector<float> penalized = logits;
    for (size_t i = 0; i < logits.size(); ++i) {
        double x = static_cast<double>(logits[i]);
        if (occurs[i])
            x = x > 0 ? x / static_cast<double>(params.repetition_penalty)
                      : x * static_cast<double>(params.repetition_penalty);
        x -= static_cast<double>(params.frequency_penalty) * counts[i];
        x -= counts[i] > 0 ? static_cast<double>(params.presence_penalty) : 0.0;
        penalized[i] = finite_or_lowest(static_cast<float>(x));
    }
    return penalized;
}

inline std::vector<double> softmax(const std::vector<float> &x, double temperature) {
    const double best = static_cast<double>(*std::max_element(x.begin(), x.end()));
    std::vector<double> p;
    for (const float logit : x)
        p.push_back(std::exp((static_cast<double>(logit) - best) / temperature));
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double &value : p)
        value /= sum;
    return p;
}

// Keep the smallest prefix of `order` with a mass of at least `fraction`, renormalised.
inline void keep_prefix(Distribution &d, const Ids &order, double fraction) {
    double mass = 0.0;
    size_t num_kept = order.size();
    for (size_t i = 0; i < order.size(); ++i) {
        mass += d.p[static_cast<size_t>(order[i])];
        d.margin = std::min(d.margin, std::fabs(mass - fraction));
        if (mass >= fraction) {
            num_kept = i + 1;
            break;
        }
    }
    for (size_t i = num_kept; i < order.size(); ++i)
        d.p[static_cast<size_t>(order[i])] = 0.0;
    const double sum = std::accumulate(d.p.begin(), d.p.end(), 0.0);
    for (double &value : d.p)
        value /= sum;
}

inline void keep_typical(Distribution &d, double fraction) {
    double entropy = 0.0;
    for (const double p : d.p)
        entropy -= p > 0 ? p * std::log(p) : 0.0;
    Ids order;
    std::vector<double> key(d.p.size());
    for (size_t i = 0; i < d.p.size(); ++i)
        if (d.p[i] > 0) {
            key[i] = std::fabs(-std::log(d.p[i]) - entropy);
            order.push_back(static_cast<int32_t>(i));
        }
    const auto key_of = [&](int32_t id) { return key[static_cast<size_t>(id)]; };
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return key_of(a) < key_of(b) || (key_of(a) == key_of(b) && a < b);
    });
    Distribution before = d;
    keep_prefix(d, order, fraction);
    // Two tokens at nearly the same distance may stand the other way around.
    for (size_t i = 0; i + 1 < order.size(); ++i) {
        const bool splits =
            d.p[static_cast<size_t>(order[i])] > 0 && !(d.p[static_cast<size_t>(order[i + 1])] > 0);
        const double first = before.p[static_cast<size_t>(order[i])];
        if (splits && first != before.p[static_cast<size_t>(order[i + 1])])
            d.margin = std::min(d.margin, key_of(order[i + 1]) - key_of(order[i]));
    }
}

inline Ids descending(const std::vector<float> &x) {
    Ids order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)];
    });
    return order;
}

inline Distribution distribute(const tgi::SamplerParams &params, const std::vector<float> &logits,
                               const Ids &prompt, const Ids &output) {
    std::vector<float> x;
    for (const float logit : logits)
        x.push_back(finite_or_lowest(logit));
    x = penalize(params, x, prompt, output);
    const Ids order = descending(x);
    Distribution d;
    if (params.temperature == 0.0f) {
        d.p.assign(x.size(), 0.0);
        d.p[static_cast<size_t>(order[0])] = 1.0;
        return d;
    }
    for (size_t i = static_cast<size_t>(params.top_k); params.top_k > 0 && i < order.size(); ++i)
        x[static_cast<size_t>(order[i])] = -std::numeric_limits<float>::infinity();
    d.p = softmax(x, static_cast<double>(params.temperature));
    if (params.top_p < 1.0f)
        keep_prefix(d, order, static_cast<double>(params.top_p));
    if (params.typical_p < 1.0f)
        keep_typical(d, static_cast<double>(params.typical_p));
    return d;
}

inline Choice sample(const tgi::SamplerParams &params, const std::vector<float> &logits,
                     const Ids &prompt, const Ids &output, int64_t position) {
    const Distribution d = distribute(params, logits, prompt, output);
    const double u = tgi::draw_uniform(params.seed, position);
    Choice choice;
    choice.margin = d.margin;
    double mass = 0.0;
    for (size_t i = 0; i < d.p.size(); ++i) {
        if (!(d.p[i] > 0))
            continue;
        if (choice.id < 0 || mass <= u)
            choice.id = static_cast<int32_t>(i);
        mass += d.p[i];
        if (params.temperature > 0.0f)
            choice.margin = std::min(choice.margin, std::fabs(mass - u));
    }
    std::vector<float> raw;
    for (const float logit : logits)
        raw.push_back(finite_or_lowest(logit));
    choice.logprob = std::log(softmax(raw, 1.0)[static_cast<size_t>(choice.id)]);
    return choice;
}

}  // namespace plain

// The sampler's plain definition: float64, full sorts, one step after the other.
//
// Slow on purpose. tests/native/reference_sampler.py says the same in numpy. `margin` tells how
// far, as a probability, the nearest decision was from going the other way: below rounding, the
// fast sampler may choose another token and still be right. plain_changes.h has what comes before
// the temperature.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "plain_changes.h"
#include "sampler.h"

namespace plain {

// Probabilities by id; tokens that are not kept have 0.
struct Distribution {
    std::vector<double> p;
    double margin = 1.0;
};

struct Choice {
    int32_t id = -1;
    double logprob = 0.0;
    double margin = 1.0;
    double surprise = 0.0;  // in bits, within what was kept
};

inline float finite_or_lowest(float x) {
    if (std::isnan(x))
        return -std::numeric_limits<float>::infinity();
    return std::min(x, std::numeric_limits<float>::max());
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

inline void normalise(Distribution &d) {
    const double sum = std::accumulate(d.p.begin(), d.p.end(), 0.0);
    for (double &value : d.p)
        value /= sum;
}

// How far the probabilities are from the threshold, as a part of it; but for the best token, which
// a threshold always keeps.
inline void note_threshold(Distribution &d, double threshold, bool with_best) {
    const double best = *std::max_element(d.p.begin(), d.p.end());
    for (const double p : d.p)
        if (p > 0 && (with_best || p < best))
            d.margin = std::min(d.margin, std::fabs(p - threshold) / threshold);
}

// The tokens of at least this probability, and the best in any case.
inline void keep_from(Distribution &d, double threshold) {
    note_threshold(d, threshold, false);
    const size_t best = static_cast<size_t>(std::max_element(d.p.begin(), d.p.end()) - d.p.begin());
    for (size_t i = 0; i < d.p.size(); ++i)
        if (d.p[i] < threshold && (i != best || threshold <= d.p[best]))
            d.p[i] = 0.0;
    normalise(d);
}

inline void exclude_top(Distribution &d, const Ids &order, double threshold) {
    note_threshold(d, threshold, true);
    Ids top;
    for (const int32_t id : order)
        if (d.p[static_cast<size_t>(id)] >= threshold)
            top.push_back(id);
    for (size_t i = 0; i + 1 < top.size(); ++i)
        d.p[static_cast<size_t>(top[i])] = 0.0;
    normalise(d);
}

// Mirostat 1: how many of the best are kept, before it is rounded down.
inline double zipf_kept(const std::vector<float> &x, const Ids &order, double temperature,
                        double mu) {
    double products = 0.0, squares = 0.0;
    for (size_t i = 0; i + 1 < std::min<size_t>(order.size(), 100); ++i) {
        const double a = static_cast<double>(x[static_cast<size_t>(order[i])]);
        const double b = static_cast<double>(x[static_cast<size_t>(order[i + 1])]);
        if (std::isinf(b))
            break;
        const double t = std::log(static_cast<double>(i + 2) / static_cast<double>(i + 1));
        products += t * ((a - b) / temperature);
        squares += t * t;
    }
    const double s = products / squares, log_n = std::log(static_cast<double>(x.size()));
    const double ratio = s == 1.0 ? 1 / log_n : (s - 1.0) / (1.0 - std::exp((1.0 - s) * log_n));
    const double k = std::exp((std::log(ratio) + mu * std::log(2.0)) / s);
    return k >= 1.0 ? std::min(k, static_cast<double>(x.size())) : 1.0;
}

inline void keep_mirostat(Distribution &d, const tgi::SamplerParams &params,
                          const std::vector<float> &x, const Ids &order, double mu) {
    if (params.mirostat == 2) {
        keep_from(d, std::exp2(std::max(-mu, -1000.0)));
        return;
    }
    const double k = zipf_kept(x, order, static_cast<double>(params.temperature), mu);
    if (k > 1.0)
        d.margin = std::min(d.margin, std::fabs(k - std::round(k)));
    for (size_t i = static_cast<size_t>(k); i < order.size(); ++i)
        d.p[static_cast<size_t>(order[i])] = 0.0;
    normalise(d);
}

// Position and mu matter only with XTC and with mirostat.
inline Distribution distribute(const tgi::SamplerParams &params, const std::vector<float> &logits,
                               const Ids &prompt, const Ids &output, int64_t position, double mu) {
    std::vector<float> x;
    for (const float logit : logits)
        x.push_back(finite_or_lowest(logit));
    x = change(params, x, prompt, output);
    const Ids order = descending(x);
    Distribution d;
    if (params.temperature == 0.0f) {
        d.p.assign(x.size(), 0.0);
        d.p[static_cast<size_t>(order[0])] = 1.0;
        return d;
    }
    const double temperature = static_cast<double>(params.temperature);
    if (params.mirostat != 0) {
        d.p = softmax(x, temperature);
        keep_mirostat(d, params, x, order, mu);
        return d;
    }
    for (size_t i = static_cast<size_t>(params.top_k); params.top_k > 0 && i < order.size(); ++i)
        x[static_cast<size_t>(order[i])] = -std::numeric_limits<float>::infinity();
    d.p = softmax(x, temperature);
    if (params.top_p < 1.0f)
        keep_prefix(d, order, static_cast<double>(params.top_p));
    if (params.typical_p < 1.0f)
        keep_typical(d, static_cast<double>(params.typical_p));
    if (params.min_p > 0.0f)
        keep_from(d, static_cast<double>(params.min_p) * *std::max_element(d.p.begin(), d.p.end()));
    if (tgi::coin_uniform(params.seed, position) < static_cast<double>(params.xtc_probability))
        exclude_top(d, order, std::max(static_cast<double>(params.xtc_threshold), 1e-6));
    return d;
}

// What a sampler chooses whose mirostat stands at mu, or has drawn nothing yet.
inline Choice sample(const tgi::SamplerParams &params, const std::vector<float> &logits,
                     const Ids &prompt, const Ids &output, int64_t position, double mu) {
    const Distribution d = distribute(params, logits, prompt, output, position, mu);
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
    choice.surprise = -std::log2(d.p[static_cast<size_t>(choice.id)]);
    return choice;
}

inline double first_mu(const tgi::SamplerParams &params) {
    return 2.0 * static_cast<double>(params.mirostat_tau);
}

inline Choice sample(const tgi::SamplerParams &params, const std::vector<float> &logits,
                     const Ids &prompt, const Ids &output, int64_t position) {
    return sample(params, logits, prompt, output, position, first_mu(params));
}

}  // namespace plain

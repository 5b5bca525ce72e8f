#include "mirostat.h"

#include <cmath>
#include <limits>

namespace tgi {

namespace {

constexpr double ln_2 = 0.69314718055994530942;

// The exponent s of Zipf's law, p ~ rank^-s, by least squares over the ratios of neighbours. NaN
// where there is but one token.
double zipf_exponent(const std::vector<Ranked> &best, double temperature) noexcept {
    double products = 0.0;
    double squares = 0.0;
    for (size_t i = 0; i + 1 < best.size(); ++i) {
        if (!(best[i + 1].value > -std::numeric_limits<float>::infinity()))
            break;
        const double rank = static_cast<double>(i + 1);
        const double t = std::log((rank + 1.0) / rank);
        const double fall =
            static_cast<double>(best[i].value) - static_cast<double>(best[i + 1].value);
        products += t * (fall / temperature);
        squares += t * t;
    }
    return products / squares;
}

}  // namespace

void Mirostat::reset(const SamplerParams &params) noexcept {
    target_ = static_cast<double>(params.mirostat_tau);
    rate_ = static_cast<double>(params.mirostat_eta);
    mu_ = 2.0 * target_;
}

double Mirostat::max_surprise() const noexcept {
    return mu_ * ln_2;
}

// k = (e 2^mu / (1 - N^-e))^(1/s) with e = s - 1, by logarithms, so that nothing overflows.
int32_t Mirostat::num_kept(const std::vector<Ranked> &best, double temperature,
                           int32_t num_vocab) const noexcept {
    const double s = zipf_exponent(best, temperature);
    const double log_vocab = std::log(static_cast<double>(num_vocab));
    const double e = s - 1.0;
    const double ratio = e == 0.0 ? 1.0 / log_vocab : e / -std::expm1(-e * log_vocab);
    const double k = std::exp((std::log(ratio) + mu_ * ln_2) / s);
    if (k >= static_cast<double>(num_vocab))
        return num_vocab;
    return k >= 1.0 ? static_cast<int32_t>(k) : 1;  // 1 for NaN too
}

}  // namespace tgi

// While it is unknown how many tokens are kept the cuts work on the whole row (KeptRow). As soon as
// few are certain to hold what a cut keeps, they are listed and the cuts go on with the list
// (Candidates). Both keep the same tokens.

#include "choice.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kept_row.h"

namespace tgi {

namespace {

// Of XTC: what weighs less may not be looked at, so that it has no part in being the last.
constexpr double min_threshold = 1e-6;
constexpr int32_t max_listed_k = 1024;  // beyond it a heap of the best is slower than a histogram

bool is_cut_by_k(const SamplerParams &params, int32_t num_vocab) noexcept {
    return params.top_k > 0 && params.top_k < num_vocab;
}

class Chooser {
  public:
    Chooser(const Row &row, RowSummary &summary, const Exponent &exponent, ChoiceBuffers &buffers)
        : row_(row),
          maxima_(summary.maxima(row)),
          exponent_(exponent),
          buffers_(buffers),
          kept_(row, summary, exponent, buffers.entries),
          list_(buffers.list),
          mass_(summary.mass) {}

    void keep_best(int32_t n);
    void keep_top_p(double top_p);
    void keep_typical(double typical_p);
    void keep_min_p(double min_p);
    void exclude_top(double threshold);
    void keep_surprise(double max_surprise);
    void keep_zipf(const Mirostat &mirostat);
    int32_t draw(double u) const noexcept { return is_listed_ ? list_.draw(u) : kept_.draw(u); }
    double surprise(int32_t id) const noexcept;

  private:
    void list_best(int32_t n);
    void list_until(double fraction, double thickest);
    void keep(const Key &key, double fraction, double first, double range);
    void keep(const Cut &cut);
    void keep_above(const Cut &cut);
    Cut cut_below_probability(double log_p) const noexcept;
    double thinnest(double fraction, int32_t num_tokens) const noexcept;
    double logit_of(double weight) const noexcept;

    const Row &row_;
    const Maxima &maxima_;
    const Exponent &exponent_;
    ChoiceBuffers &buffers_;
    KeptRow kept_;
    Candidates &list_;
    bool is_listed_ = false;
    double mass_;  // of what is kept, listed or not
};

// If tokens of this weight and less were left out, all num_tokens of them, the rest would still
// have the fraction of the mass.
double Chooser::thinnest(double fraction, int32_t num_tokens) const noexcept {
    return (1.0 - fraction) * mass_ / num_tokens;
}

double Chooser::logit_of(double weight) const noexcept {
    return static_cast<double>(exponent_.reference) + exponent_.temperature * std::log(weight);
}

void Chooser::list_best(int32_t n) {
    find_best_n(row_, maxima_, n, buffers_.best);
    std::vector<Ranked> &best = buffers_.best.best;
    std::sort(best.begin(), best.end(),
              [](const Ranked &a, const Ranked &b) { return a.id < b.id; });
    list_.clear();
    for (const Ranked &entry : best)
        list_.add(entry.id, entry.value);
    list_.weigh(exponent_);
    is_listed_ = true;
    mass_ = list_.mass();
}

// Tries to list tokens that have the fraction of the row's mass, no lighter than `thickest`: first
// as if few tokens shared what is left out, then more, at last all, which is certain to suffice.
void Chooser::list_until(double fraction, double thickest) {
    const double lowest = -static_cast<double>(std::numeric_limits<float>::max());
    for (int64_t n = 64; !is_listed_; n *= 4) {
        const int32_t num_tokens = static_cast<int32_t>(std::min<int64_t>(n, row_.num_vocab()));
        const double weight = std::min(thickest, thinnest(fraction, num_tokens));
        if (!kept_.list_above(static_cast<float>(std::max(logit_of(weight), lowest)), list_))
            return;
        list_.weigh(exponent_);
        is_listed_ = list_.size() > 0 && list_.mass() >= fraction * mass_;
        if (num_tokens == row_.num_vocab())
            return;
    }
}

void Chooser::keep(const Key &key, double fraction, double first, double range) {
    if (is_listed_) {
        list_.keep(key, fraction * mass_);
        mass_ = list_.mass();
    } else {
        kept_.keep(key, fraction, first, range);
        mass_ = kept_.mass();
    }
}

void Chooser::keep_best(int32_t n) {
    if (n <= max_listed_k) {
        list_best(n);
        return;
    }
    kept_.keep_best(n);
    mass_ = kept_.mass();
}

void Chooser::keep_top_p(double top_p) {
    if (!is_listed_)
        list_until(top_p, mass_);
    const double best = static_cast<double>(maxima_.best);
    const double range = best - logit_of(thinnest(top_p, row_.num_vocab()));
    keep(by_value, top_p, -best, range);
}

// The order is that of |-log p - H|, where H is the entropy, -sum p log p.
void Chooser::keep_typical(double typical_p) {
    const Moments sums = is_listed_ ? list_.moments(exponent_) : kept_.moments();
    const double log_mass = std::log(sums.mass);
    const double entropy = log_mass - sums.first / (sums.mass * exponent_.temperature);
    const double thinnest_weight =
        std::min(sums.mass * std::exp(-2.0 * entropy), thinnest(typical_p, row_.num_vocab()));
    // Down to the log-probability -2H every token is nearer to -H than those below.
    if (!is_listed_)
        list_until(typical_p, sums.mass * std::exp(-2.0 * entropy));
    const double reference = static_cast<double>(exponent_.reference);
    const Key key = {log_mass - entropy, reference, 1.0 / exponent_.temperature, true};
    keep(key, typical_p, 0.0, log_mass - std::log(thinnest_weight) - entropy);
}

void Chooser::keep(const Cut &cut) {
    if (is_listed_) {
        list_.keep(cut);
        mass_ = list_.mass();
    } else {
        kept_.keep(cut);
        mass_ = kept_.mass();
    }
}

// What no cut of this kind leaves empty: the best token is in it.
void Chooser::keep_above(const Cut &cut) {
    if (is_listed_ || !kept_.list_above(cut.after.low, list_)) {
        keep(cut);
        return;
    }
    list_.weigh(exponent_);
    is_listed_ = true;
    mass_ = list_.mass();
}

void Chooser::keep_min_p(double min_p) {
    const float best = is_listed_ ? list_.best() : kept_.best();
    keep_above(cut_below(std::log(min_p), static_cast<double>(best), exponent_.temperature));
}

Cut Chooser::cut_below_probability(double log_p) const noexcept {
    const double reference = static_cast<double>(exponent_.reference);
    return cut_below(std::log(mass_) + log_p, reference, exponent_.temperature);
}

// All tokens with this probability go but the last of them.
void Chooser::exclude_top(double threshold) {
    const float lowest = cut_below_probability(std::log(threshold)).after.low;
    const LastAbove last = is_listed_ ? list_.last_above(lowest) : kept_.last_above(lowest);
    if (last.num > 1)
        keep(cut_before(last.value, last.id));
}

// Tokens of no more than this surprise, and the best one in any case.
void Chooser::keep_surprise(double max_surprise) {
    const Cut cut = cut_below_probability(-max_surprise);
    if (cut.after.low > maxima_.best)
        list_best(1);
    else
        keep_above(cut);
}

void Chooser::keep_zipf(const Mirostat &mirostat) {
    find_best_n(row_, maxima_, Mirostat::num_estimated, buffers_.best);
    const int32_t n =
        mirostat.num_kept(buffers_.best.best, exponent_.temperature, row_.num_vocab());
    if (n < row_.num_vocab())
        keep_best(n);
}

double Chooser::surprise(int32_t id) const noexcept {
    GroupBuffer buffer;
    const int32_t group = id / group_size;
    const double x = static_cast<double>(row_.patched(group, buffer)[id - row_.start(group)]);
    const double reference = static_cast<double>(exponent_.reference);
    return (std::log(mass_) - (x - reference) / exponent_.temperature) / std::log(2.0);
}

void cut(Chooser &chooser, const SamplerParams &params, int32_t num_vocab, int64_t position) {
    if (is_cut_by_k(params, num_vocab))
        chooser.keep_best(params.top_k);
    if (params.top_p < 1.0f)
        chooser.keep_top_p(static_cast<double>(params.top_p));
    if (params.typical_p < 1.0f)
        chooser.keep_typical(static_cast<double>(params.typical_p));
    if (params.min_p > 0.0f)
        chooser.keep_min_p(static_cast<double>(params.min_p));
    if (params.xtc_probability > 0.0f &&
        coin_uniform(params.seed, position) < static_cast<double>(params.xtc_probability))
        chooser.exclude_top(std::max(static_cast<double>(params.xtc_threshold), min_threshold));
}

}  // namespace

bool needs_masses(const SamplerParams &params, int32_t num_vocab) noexcept {
    return params.mirostat != 0 || !is_cut_by_k(params, num_vocab) || params.top_k > max_listed_k;
}

Choice choose(const Row &row, RowSummary &summary, const Exponent &exponent,
              const SamplerParams &params, const Mirostat &mirostat, int64_t position,
              ChoiceBuffers &buffers) {
    Chooser chooser(row, summary, exponent, buffers);
    if (params.mirostat == 0)
        cut(chooser, params, row.num_vocab(), position);
    else if (params.mirostat == 1)
        chooser.keep_zipf(mirostat);
    else
        chooser.keep_surprise(mirostat.max_surprise());
    const int32_t id = chooser.draw(draw_uniform(params.seed, position));
    return {id, params.mirostat == 0 ? 0.0 : chooser.surprise(id)};
}

}  // namespace tgi

#include "candidates.h"

#include <algorithm>

namespace tgi {

void Candidates::clear() noexcept {
    ids_.clear();
    values_.clear();
    weights_.clear();
    mass_ = 0.0;
}

void Candidates::weigh(const Exponent &exponent) {
    weights_.resize(ids_.size());
    row_kernels().weights_in(values_.data(), size(), exponent, everything, weights_.data());
    filter([this](size_t i) { return weights_[i] > 0.0f; });
}

template <class Keeps>
void Candidates::filter(Keeps keeps) {
    size_t num_kept = 0;
    for (size_t i = 0; i < ids_.size(); ++i) {
        const bool is_kept = keeps(i);
        ids_[num_kept] = ids_[i];
        values_[num_kept] = values_[i];
        weights_[num_kept] = weights_[i];
        num_kept += is_kept ? 1 : 0;
    }
    ids_.resize(num_kept);
    values_.resize(num_kept);
    weights_.resize(num_kept);
    add_up();
}

void Candidates::add_up() noexcept {
    mass_ = 0.0;
    for (const float weight : weights_)
        mass_ += static_cast<double>(weight);
}

Moments Candidates::moments(const Exponent &exponent) const noexcept {
    const double reference = static_cast<double>(exponent.reference);
    Moments sums = {mass_, 0.0};
    for (size_t i = 0; i < ids_.size(); ++i)
        sums.first +=
            static_cast<double>(weights_[i]) * (static_cast<double>(values_[i]) - reference);
    return sums;
}

void Candidates::keep(const Key &key, double target) {
    if (ids_.empty())
        return;
    entries_.resize(ids_.size());
    for (size_t i = 0; i < ids_.size(); ++i)
        entries_[i] = {key(values_[i]), ids_[i], weights_[i]};
    const Rank last = locate(entries_, target);
    filter([&](size_t i) {
        const double at = key(values_[i]);
        return at < last.key || (at == last.key && ids_[i] <= last.id);
    });
}

void Candidates::keep(const Cut &cut) {
    filter([&](size_t i) { return cut.keeps(ids_[i], values_[i]); });
}

float Candidates::best() const noexcept {
    return *std::max_element(values_.begin(), values_.end());
}

LastAbove Candidates::last_above(float threshold) const noexcept {
    LastAbove last;
    for (size_t i = 0; i < ids_.size(); ++i)
        if (values_[i] >= threshold)
            last.add(ids_[i], values_[i]);
    return last;
}

int32_t Candidates::draw(double u) const noexcept {
    const double target = u * mass_;
    double before = 0.0;
    for (size_t i = 0; i < ids_.size(); ++i) {
        before += static_cast<double>(weights_[i]);
        if (before > target)
            return ids_[i];
    }
    return ids_.back();  // u * mass_ was rounded up to all of it
}

}  // namespace tgi

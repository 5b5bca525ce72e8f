// The few tokens that a row's distribution comes down to, ascending by id, cut and drawn from.
//
// Filled by kept_row.cpp or from the best of a row. May throw std::bad_alloc.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cut.h"
#include "row_kernels.h"

namespace tgi {

class Candidates {
  public:
    // Lists longer than this are slower than a histogram over the row.
    static constexpr int32_t max_size = 4096;

    void clear() noexcept;
    // Ids must come in ascending order.
    void add(int32_t id, float x) {
        ids_.push_back(id);
        values_.push_back(x);
    }
    int32_t size() const noexcept { return static_cast<int32_t>(ids_.size()); }

    // Fix the weights of what was added, and drop what weighs nothing.
    void weigh(const Exponent &exponent);

    double mass() const noexcept { return mass_; }
    Moments moments(const Exponent &exponent) const noexcept;

    // Keep the smallest prefix of the key's order with a mass of at least `target`.
    void keep(const Key &key, double target);
    void keep(const Cut &cut);

    // The largest logit; there must be one.
    float best() const noexcept;
    LastAbove last_above(float threshold) const noexcept;

    // The first token at which the cumulative mass exceeds u * mass(), 0 <= u < 1.
    int32_t draw(double u) const noexcept;

  private:
    template <class Keeps>
    void filter(Keeps keeps);
    void add_up() noexcept;

    std::vector<int32_t> ids_;
    std::vector<float> values_;
    std::vector<float> weights_;
    std::vector<Entry> entries_;
    double mass_ = 0.0;
};

}  // namespace tgi

// One row of logits, as the model gave it and after bias and penalties, in groups of 512.
//
// The penalised row exists only group by group: a group with a changed token is copied into the
// caller's buffer and patched there. row.cpp also holds what is computed once per row: maxima and
// masses. May throw std::bad_alloc.

#pragma once

#include <cstdint>
#include <vector>

#include "changes.h"
#include "row_kernels.h"

namespace tgi {

struct GroupBuffer {
    alignas(64) float values[group_size];
};

class Row {
  public:
    // `first_penalized` is memory that the row uses while it lives.
    Row(const float *logits, int32_t num_vocab, const PenalizedTokens &penalized,
        std::vector<int32_t> &first_penalized);

    int32_t num_vocab() const noexcept { return num_vocab_; }
    int32_t num_groups() const noexcept { return (num_vocab_ + group_size - 1) / group_size; }
    int32_t start(int32_t group) const noexcept { return group * group_size; }
    int32_t size(int32_t group) const noexcept {
        const int32_t rest = num_vocab_ - start(group);
        return rest < group_size ? rest : group_size;
    }

    // The group's penalised tokens: a half-open range of indexes into penalized().
    int32_t first_penalized(int32_t group) const noexcept;
    bool is_patched(int32_t group) const noexcept {
        return first_penalized(group) != first_penalized(group + 1);
    }
    const PenalizedTokens &penalized() const noexcept { return penalized_; }

    const float *raw(int32_t group) const noexcept { return logits_ + start(group); }
    // The group after the penalties; the pointer is into the row or into `buffer`.
    const float *patched(int32_t group, GroupBuffer &buffer) const noexcept;
    // The group with -inf in place of every penalised token; always copied.
    const float *unpenalized(int32_t group, GroupBuffer &buffer) const noexcept;

  private:
    const float *logits_;
    int32_t num_vocab_;
    const PenalizedTokens &penalized_;
    const std::vector<int32_t> &first_penalized_;  // empty where nothing is penalised
};

constexpr int32_t num_parts = 4;  // of a group, each of every fourth entry

// Upper bounds by which later passes skip most of the row. NaN is passed over; -inf where there is
// nothing else.
struct Maxima {
    std::vector<float> parts;  // num_parts for each group
    std::vector<float> groups;
    float best = 0.0f;
};

// What one row amounts to. Masses are sums of weights under the two exponents.
struct RowSummary {
    Maxima raw;
    Maxima patched;              // filled only where tokens are penalised: see maxima()
    std::vector<double> masses;  // of each group, patched
    double raw_mass = 0.0;
    double mass = 0.0;
    std::vector<float> raw_weights;  // of the penalised tokens
    std::vector<float> weights;

    const Maxima &maxima(const Row &row) const noexcept {
        return row.penalized().ids.empty() ? raw : patched;
    }
};

// Below this value an entry weighs too little to be worth adding, next to `best`: a vocabulary of
// such entries has less than 1e-10 of the mass.
float negligible_below(float best, const Exponent &exponent) noexcept;

// Whether a group whose best entry is `best` weighs so little that its sum may round to float.
inline bool weighs_little(float best, const Exponent &exponent) noexcept {
    return best - exponent.reference < 0.06f * exponent.cutoff;  // under e^-5
}

void find_maxima(const Row &row, RowSummary &summary);

// raw_mass under `raw`, and, unless `exponent` is null, masses and mass under `exponent`, which may
// be `raw` itself: that takes one pass instead of two.
void sum_masses(const Row &row, const Exponent &raw, const Exponent *exponent, RowSummary &summary);

// The index of the first entry of the patched row that equals its maximum.
int32_t find_best(const Row &row, const RowSummary &summary) noexcept;

}  // namespace tgi

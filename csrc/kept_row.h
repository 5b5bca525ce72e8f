// A row's distribution while many tokens are kept: all of them, or those that some cuts keep.
//
// Works on the whole row, a group at a time, and remembers cuts as intervals of logits, so that no
// list of tokens is built; what is certainly outside of a cut is passed over by the row's maxima.
// May throw std::bad_alloc.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "candidates.h"
#include "cut.h"
#include "row.h"

namespace tgi {

class KeptRow {
  public:
    // summary.masses and summary.mass are those of `exponent`; keep and keep_best change them.
    KeptRow(const Row &row, RowSummary &summary, const Exponent &exponent,
            std::vector<Entry> &entries) noexcept;

    double mass() const noexcept { return summary_.mass; }
    Moments moments() const noexcept;

    // Lists the tokens at or above the threshold; false, and no list, where they are too many.
    bool list_above(float threshold, Candidates &list) const;

    // Keep the smallest prefix of the key's order with `fraction` of the mass. The keys that come
    // into question are about [first, first + range]; a wrong guess costs time only.
    void keep(const Key &key, double fraction, double first, double range);
    // Keep the n best.
    void keep_best(int32_t n);
    void keep(const Cut &cut) noexcept;

    // The largest logit that is kept.
    float best() const noexcept;
    LastAbove last_above(float threshold) const noexcept;

    // The first token at which the cumulative mass exceeds u * mass(), 0 <= u < 1.
    int32_t draw(double u) const noexcept;

  private:
    struct Histogram;

    // Calls each(ids from, pointer to their logits, how many, interval of what is kept).
    template <class Each>
    void for_each_segment(int32_t group, Each each) const;
    bool is_kept(int32_t id, float x) const noexcept;
    bool list_group(int32_t group, float threshold, Candidates &list) const;
    void fill(Histogram &histogram) const noexcept;
    void cut_at_target(const Histogram &histogram, double target);
    void collect(const Histogram &histogram, int32_t bucket);
    void collect_group(const Histogram &histogram, int32_t bucket, Interval band, int32_t group);

    const Row &row_;
    RowSummary &summary_;
    const Maxima &maxima_;
    const Exponent &exponent_;
    std::vector<Entry> &entries_;
    std::array<Cut, 5> cuts_;  // one for each kind
    size_t num_cuts_ = 0;
    float floor_;  // what is below weighs nothing or is not kept
};

}  // namespace tgi

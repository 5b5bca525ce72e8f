// What a cut keeps: a prefix of some order of the tokens, and how that prefix looks along the row.
//
// Orders are by a key, smallest first, and by id among equal keys. Knows keys and weights only;
// choice.cpp decides which cut is made.

#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "row_kernels.h"

namespace tgi {

inline Interval intersect(Interval a, Interval b) noexcept {
    return {a.low > b.low ? a.low : b.low, a.high < b.high ? a.high : b.high};
}

// A place in an order: every entry with a smaller key, or the same key and no larger id, is before
// it or at it.
struct Rank {
    double key;
    int32_t id;
};

struct Entry {
    double key;
    int32_t id;
    float weight;
};

// The entry at which the weights, summed in order, reach the target; the last one if they never do.
// Takes linear time and leaves the entries in another order. There must be one entry at least.
Rank locate(std::vector<Entry> &entries, double target);

// What a cut keeps, for a scan by ascending id: ids up to last_id in one interval of logits, later
// ids in another, which lacks the values that tie with the last token kept.
struct Cut {
    Interval through;
    Interval after;
    int32_t last_id;

    bool keeps(int32_t id, float x) const noexcept {
        const Interval interval = id <= last_id ? through : after;
        return x >= interval.low && x <= interval.high;
    }
};

// What is at or above a threshold: how many tokens, and the last of them in the order of logits.
struct LastAbove {
    int64_t num = 0;
    float value = std::numeric_limits<float>::infinity();
    int32_t id = -1;

    // Ids must come in ascending order.
    void add(int32_t the_id, float x) noexcept {
        ++num;
        if (x <= value) {
            value = x;
            id = the_id;
        }
    }
};

// The logits with keys <= bound, and those with keys < bound.
Interval at_most(const Key &key, double bound) noexcept;
Interval below(const Key &key, double bound) noexcept;

inline Cut cut_at(const Key &key, const Rank &last) noexcept {
    return {at_most(key, last.key), below(key, last.key), last.id};
}

// The plain descending order of logits.
constexpr Key by_value = {0.0, 0.0, 1.0, false};

// Every token with (x - reference) / temperature >= log_weight.
Cut cut_below(double log_weight, double reference, double temperature) noexcept;
// This token and those after it in the order of logits.
Cut cut_before(float value, int32_t id) noexcept;

}  // namespace tgi

// The best n logits of a row, found by way of its maxima. May throw std::bad_alloc.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "row.h"

namespace tgi {

struct Ranked {
    float value;  // -inf for NaN
    int32_t id;
};

// Memory that outlives the row; it only grows.
struct BestBuffers {
    std::vector<Ranked> best;
    std::vector<float> bounds;
};

// Into buffers.best: the first n >= 1 entries of the patched row, by descending value and ascending
// id; all of them where the row is shorter. `maxima` are those of the patched row.
void find_best_n(const Row &row, const Maxima &maxima, int32_t n, BestBuffers &buffers);

}  // namespace tgi

// Chooses the token of one row: applies top-k, top-p and typical-p to its distribution and draws.
//
// Called by sampler.cpp for positive temperatures. May throw std::bad_alloc.

#pragma once

#include <cstdint>
#include <vector>

#include "best.h"
#include "candidates.h"
#include "row.h"
#include "sampler.h"

namespace tgi {

// Memory that outlives the row; it only grows.
struct ChoiceBuffers {
    Candidates list;
    BestBuffers best;
    std::vector<Entry> entries;
};

// Whether choose() looks at summary.masses: not where top-k makes the list of candidates.
bool needs_masses(const SamplerParams &params, int32_t num_vocab) noexcept;

// The token at u, 0 <= u < 1, of the cumulative distribution of what is kept, by ascending id.
// summary.masses are those of `exponent`, and are overwritten.
int32_t choose(const Row &row, RowSummary &summary, const Exponent &exponent,
               const SamplerParams &params, double u, ChoiceBuffers &buffers);

}  // namespace tgi

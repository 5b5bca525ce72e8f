// Chooses the token of one row: cuts its distribution and draws. The cuts are top-k, top-p,
// typical-p, min-p and XTC, or mirostat's.
//
// Called by sampler.cpp for positive temperatures. May throw std::bad_alloc.

#pragma once

#include <cstdint>
#include <vector>

#include "best.h"
#include "candidates.h"
#include "mirostat.h"
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

struct Choice {
    int32_t id;
    double surprise;  // in bits, within what is kept; of use to mirostat, 0 without
};

// The token at draw_uniform(seed, position) of the cumulative distribution of what is kept, by
// ascending id. summary.masses are those of `exponent`, and are overwritten.
Choice choose(const Row &row, RowSummary &summary, const Exponent &exponent,
              const SamplerParams &params, const Mirostat &mirostat, int64_t position,
              ChoiceBuffers &buffers);

}  // namespace tgi

// The logits of a row that are not the model's: bias, then the penalties, then DRY, as one sorted
// sparse list, and the state of the sequence that it follows from.
//
// Knows the kinds of change and their order; row.cpp reads the list, sampler.cpp drives it. May
// throw std::bad_alloc.

#pragma once

#include <cstdint>
#include <vector>

#include "dry.h"
#include "history.h"
#include "penalties.h"
#include "sampler.h"

namespace tgi {

// The tokens of one row whose logits are not the model's, ascending by id.
struct PenalizedTokens {
    std::vector<int32_t> ids;
    std::vector<float> raw;     // the model's logits
    std::vector<float> values;  // after all changes
};

class LogitChanges {
  public:
    // Start a sequence. The columns of ids that `params` points to are copied; ids from num_vocab
    // on are passed over.
    void reset(const SamplerParams &params, int32_t num_vocab, Ids prompt, Ids output);

    // One more output token. Does not throw after make_room().
    void count(int32_t id) noexcept;
    void make_room();

    // The changed tokens of this row; good until the next call. A logit is computed in float64 and
    // rounded to float32 once. DRY alone takes none to -inf.
    const PenalizedTokens &apply(const float *logits);

  private:
    struct Bias {
        int32_t id;
        float value;
    };

    void set_biases(const SamplerParams &params, int32_t num_vocab);
    void penalize(const float *logits);
    void merge(const float *logits, const std::vector<Dry::Repeat> &repeats);

    int64_t penalty_last_n_ = -1;
    int64_t dry_last_n_ = 0;
    std::vector<Bias> biases_;  // ascending by id
    History history_;
    Penalties penalties_;
    Dry dry_;
    const std::vector<Dry::Repeat> no_repeats_{};
    PenalizedTokens tokens_;
};

}  // namespace tgi

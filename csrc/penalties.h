// Counts the tokens of one sequence and computes the logits that its penalties change.
//
// Both are sparse: a sorted list of the tokens that occurred, not an array over the vocabulary.
// May throw std::bad_alloc; sampler.cpp catches it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sampler.h"

namespace tgi {

// The tokens of one row whose logits are not the model's, ascending by id.
struct PenalizedTokens {
    std::vector<int32_t> ids;
    std::vector<float> raw;     // the model's logits
    std::vector<float> values;  // after the penalties
};

class Penalties {
  public:
    // Forget what was counted, count these. Ids from num_vocab on are never sampled, so they are
    // passed over; none is negative.
    void reset(const SamplerParams &params, int32_t num_vocab, const int32_t *prompt_ids,
               int64_t num_prompt, const int32_t *output_ids, int64_t num_output);

    // Count one more output token. Does not throw after make_room().
    void count(int32_t id) noexcept;
    void make_room();

    // The penalised tokens of this row; good until the next call. A logit is computed in float64
    // and rounded to float32 once: repetition, then frequency, then presence.
    const PenalizedTokens &apply(const float *logits);

  private:
    struct Count {
        int32_t id;
        int32_t num;  // for frequency and presence; 0 where only repetition looks at the token
    };

    void add(const int32_t *ids, int64_t num_ids, int32_t num_vocab, int32_t weight);
    bool counts_output() const noexcept;
    bool counts_prompt() const noexcept;
    float penalized(float logit, int32_t num) const noexcept;

    SamplerParams params_;
    std::vector<Count> counts_;  // ascending by id
    PenalizedTokens tokens_;
};

}  // namespace tgi

// Counts the tokens of one sequence and penalises their logits: repetition, frequency, presence.
//
// Sparse: a sorted list of the tokens that occurred, not an array over the vocabulary. With a
// window, changes.cpp says which token leaves it. May throw std::bad_alloc; sampler.cpp catches it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "history.h"
#include "sampler.h"

namespace tgi {

class Penalties {
  public:
    struct Count {
        int32_t id;
        int32_t num;       // for frequency and presence; 0 where only repetition looks at the token
        int32_t num_seen;  // for whichever of the three
    };

    // Whether any of the three is on.
    static bool are_on(const SamplerParams &params) noexcept;

    // Forget what was counted, count the last params.penalty_last_n of these. Ids from num_vocab on
    // are never sampled, so they are passed over; none is negative.
    void reset(const SamplerParams &params, int32_t num_vocab, Ids prompt, Ids output);

    // Count one more output token. Does not throw after make_room().
    void count(int32_t id) noexcept;
    void make_room();
    // Count the oldest token of the window no more.
    void forget(int32_t id) noexcept;

    // The tokens that are counted, ascending by id; empty where all three are off.
    const std::vector<Count> &counts() const noexcept { return counts_; }
    // The logit of one of them after repetition, then frequency, then presence.
    double penalized(double logit, int32_t num) const noexcept {
        const double repeated = logit > 0.0 ? logit / repetition_ : logit * repetition_;
        const double value = repeated - frequency_ * num;
        return value - (num > 0 ? presence_ : 0.0);
    }

  private:
    void add(Ids ids, int32_t num_vocab, int32_t weight);
    void merge_counts();
    bool counts_prompt() const noexcept;
    std::vector<Count>::iterator find(int32_t id) noexcept;

    bool is_on_ = false;
    double repetition_ = 1.0;
    double frequency_ = 0.0;
    double presence_ = 0.0;
    bool penalizes_prompt_ = false;
    int64_t num_prompt_ = 0;  // tokens of the prompt that are in the window: the oldest
    std::vector<Count> counts_;
};

}  // namespace tgi

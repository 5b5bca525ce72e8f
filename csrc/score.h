// The model's log-probability of a token that is known already, from one row of logits.
//
// What the sampler reports for a token that it chose, without a choice: the two agree on equal
// rows. Knows no sequence and no parameters; called by native/_runner.pyx without the GIL. No
// exceptions leave it, and it does not allocate once its buffers grew.

#pragma once

#include <cstdint>
#include <memory>

#include "sampler.h"

namespace tgi {

// Memory for one row after the other; different scorers may run in different threads.
class Scorer {
  public:
    // num_vocab: logits in a row that take part, those of the ids [0, num_vocab).
    explicit Scorer(int32_t num_vocab) noexcept;
    ~Scorer() noexcept;
    Scorer(const Scorer &) = delete;
    Scorer &operator=(const Scorer &) = delete;

    // The log-softmax of `id` in logits[num_vocab]; -inf for padding, which is an id from num_vocab
    // on. top_ids and top_logprobs take the best num_top entries of the row, best first, at most
    // num_vocab, and may be null if that is 0. NaN counts as -inf, +inf as the largest float.
    SampleStatus score(const float *logits, int32_t id, int32_t num_top, float *logprob,
                       int32_t *top_ids, float *top_logprobs) noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tgi

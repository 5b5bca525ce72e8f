// Chooses the next token of one sequence from one row of logits.
//
// Order: repetition, frequency and presence penalty; temperature; top-k; top-p; typical-p; draw.
// The log-probability reported is the model's own log-softmax, before any of that.
// Knows no llama.cpp and no Python; called by native/_runner.pyx without the GIL. No exceptions
// leave it, nothing is printed, and no function of the hot path allocates once its buffers grew.
//
// The distribution is that of the plain definition (tests/native/reference_sampler.py), each
// probability within a relative 2e-7. A draw takes the first id, in ascending order, at which the
// cumulative probability of what is kept exceeds draw_uniform(seed, position).

#pragma once

#include <cstdint>
#include <memory>

namespace tgi {

// Plain parameters; the defaults are "off", and greedy. Each cut renormalises what it keeps; the
// token that reaches the wanted mass is kept, and among equals the lower id comes first.
struct SamplerParams {
    float temperature = 0.0f;         // 0: greedy, the argmax of the penalised logits
    int32_t top_k = 0;                // 0: off
    float top_p = 1.0f;               // 1: off; in [0, 1]: the smallest prefix with mass >= top_p
    float typical_p = 1.0f;           // 1: off; in [0, 1]: the same, nearest to the entropy first
    float repetition_penalty = 1.0f;  // 1: off; > 0; divides positive, multiplies negative logits
    float frequency_penalty = 0.0f;   // 0: off; times the count of the token
    float presence_penalty = 0.0f;    // 0: off
    bool penalize_prompt = false;     // frequency and presence count the prompt too
    uint64_t seed = 0;                // with the position, the only source of randomness
    int32_t num_top = 0;              // alternatives to report, by raw log-probability
};

struct SampledToken {
    int32_t id;
    float logprob;  // of the model, natural logarithm
};

enum class SampleStatus : int32_t {
    ok = 0,
    no_finite_logit = 1,  // every logit is NaN or -inf: there is nothing to choose
    out_of_memory = 2,
    bad_argument = 3,  // a negative id, or a parameter out of its range
};

const char *sample_status_message(SampleStatus status) noexcept;

// The uniform number in [0, 1) that the draw at `position` uses: a hash of both, 53 bits.
// `position` is the index of the token to be drawn in prompt + output.
double draw_uniform(uint64_t seed, int64_t position) noexcept;

// The state of one sequence: parameters and token counts. Different samplers may run in different
// threads. For a vocabulary of 150,000 one takes 10 KB, with penalties 16 KB and 30 bytes for each
// penalised token; lists of candidates can add 200 KB.
class Sampler {
  public:
    // num_vocab: logits in a row that may be sampled, those of the ids [0, num_vocab). What the
    // model has beyond is padding: such ids may stand in a prompt, and are not counted.
    explicit Sampler(int32_t num_vocab) noexcept;
    ~Sampler() noexcept;
    Sampler(const Sampler &) = delete;
    Sampler &operator=(const Sampler &) = delete;

    // Start a sequence: forget the last one's counts, count these. Without it: greedy, no counts.
    SampleStatus reset(const SamplerParams &params, const int32_t *prompt_ids, int64_t num_prompt,
                       const int32_t *output_ids, int64_t num_output) noexcept;

    // Choose from logits[num_vocab], which are not changed, and count the choice; nothing is
    // counted where the status is not ok. top_ids and top_logprobs take num_top() entries, best
    // first, and may be null if that is 0. NaN counts as -inf, +inf as the largest float.
    SampleStatus sample(const float *logits, int64_t position, SampledToken *out, int32_t *top_ids,
                        float *top_logprobs) noexcept;

    // Alternatives that a row reports: params.num_top, at most num_vocab.
    int32_t num_top() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tgi

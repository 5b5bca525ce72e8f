// Chooses the next token of one sequence from one row of logits.
//
// Order: bias; repetition, frequency and presence penalty; DRY; temperature; top-k; top-p;
// typical-p; min-p; XTC; draw. Mirostat takes the place of all cuts. What changes single logits
// comes before the temperature, so that its strength in logits does not depend on it. XTC comes
// last, since it takes away the tokens that every other cut measures by. The log-probability
// reported is the model's own log-softmax, before any of that. Knows no llama.cpp and no Python;
// called by native/_runner.pyx without the GIL. No exceptions leave it, nothing is printed, and no
// function of the hot path allocates once its buffers grew.
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
    float temperature = 0.0f;         // 0: greedy, the argmax of the changed logits
    int32_t top_k = 0;                // 0: off
    float top_p = 1.0f;               // 1: off; in [0, 1]: the smallest prefix with mass >= top_p
    float typical_p = 1.0f;           // 1: off; in [0, 1]: the same, nearest to the entropy first
    float repetition_penalty = 1.0f;  // 1: off; > 0; divides positive, multiplies negative logits
    float frequency_penalty = 0.0f;   // 0: off; times the count of the token
    float presence_penalty = 0.0f;    // 0: off
    bool penalize_prompt = false;     // frequency and presence count the prompt too
    uint64_t seed = 0;                // with the position, the only source of randomness
    int32_t num_top = 0;              // alternatives to report, by raw log-probability

    // The three penalties count what is in the last so many tokens; -1: all, 0: off.
    int32_t penalty_last_n = -1;

    // Added to logits; -inf bans. Ids out of the vocabulary are passed over, values of one id add
    // up. Read by reset() alone.
    const int32_t *bias_ids = nullptr;
    const float *bias_values = nullptr;
    int64_t num_biases = 0;

    float min_p = 0.0f;  // 0: off; in [0, 1]: what has this fraction of the best kept probability

    // XTC: all tokens of at least the threshold go, but the last of them in the order of logits.
    float xtc_probability = 0.0f;  // 0: off; in [0, 1]: that it happens, by coin_uniform
    float xtc_threshold = 0.1f;    // in [0, 1]; below 1e-6 it counts as that

    // DRY: a token that would extend a repetition of the last tokens, of at least the allowed
    // length, loses multiplier * base^(length - allowed length). A repetition has at least one
    // token, and no breaker; nor is a breaker penalised.
    float dry_multiplier = 0.0f;     // 0: off; >= 0
    float dry_base = 1.75f;          // >= 1
    int32_t dry_allowed_length = 2;  // >= 0
    int32_t dry_last_n = -1;         // repetitions within the last so many tokens; -1: all
    const int32_t *dry_breaker_ids = nullptr;  // read by reset() alone
    int64_t num_dry_breakers = 0;

    int32_t mirostat = 0;       // 0: off; 1 or 2: the version, in place of every cut
    float mirostat_tau = 5.0f;  // >= 0; the surprise aimed at, in bits
    float mirostat_eta = 0.1f;  // >= 0; how much of an error moves the bound
};

struct SampledToken {
    int32_t id;
    float logprob;  // of the model, natural logarithm
};

enum class SampleStatus : int32_t {
    ok = 0,
    no_finite_logit = 1,  // every logit is NaN or -inf: there is nothing to choose
    out_of_memory = 2,
    bad_argument = 3,  // a negative id in the sequence, or a parameter out of its range
};

const char *sample_status_message(SampleStatus status) noexcept;

// The uniform number in [0, 1) that the draw at `position` uses: a hash of both, 53 bits.
// `position` is the index of the token to be drawn in prompt + output.
double draw_uniform(uint64_t seed, int64_t position) noexcept;

// The uniform number of XTC's coin, independent of the draw's.
double coin_uniform(uint64_t seed, int64_t position) noexcept;

// The state of one sequence: parameters, token counts and mirostat's bound; the ids of the
// sequence, or the last of them, only with a window of penalties or with DRY. Different samplers
// may run in different threads. For a vocabulary of 150,000 one takes 10 KB, with penalties or
// biases 16 KB and 35 bytes for each token whose logit they change; lists of candidates can add 200
// KB. A window takes 8 bytes a token and less, DRY another 8 for each token that it looks at.
class Sampler {
  public:
    // num_vocab: logits in a row that may be sampled, those of the ids [0, num_vocab). What the
    // model has beyond is padding: such ids may stand in a prompt, and are not counted.
    explicit Sampler(int32_t num_vocab) noexcept;
    ~Sampler() noexcept;
    Sampler(const Sampler &) = delete;
    Sampler &operator=(const Sampler &) = delete;

    // Start a sequence: forget the last one's counts, count these. Without it: greedy, no counts.
    // Mirostat's bound starts anew also where there is output: the surprises of what was drawn
    // before are not known, so only with mirostat a resumed sequence may draw another continuation.
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

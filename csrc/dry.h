// DRY ("don't repeat yourself", p-e-w 2024): finds the tokens that would extend a repetition of the
// sequence's last tokens, and by how much each is to be penalised.
//
// A repetition is an earlier occurrence of the last tokens; its length does not count the token
// that extends it. Called by changes.cpp. May throw std::bad_alloc.

#pragma once

#include <cstdint>
#include <vector>

#include "history.h"
#include "sampler.h"

namespace tgi {

class Dry {
  public:
    struct Repeat {
        int32_t id;      // of the token that would extend
        int32_t length;  // of the longest repetition that it would extend
    };

    // Whether these parameters ask for it at all.
    static bool is_on(const SamplerParams &params) noexcept;

    // Start with the last params.dry_last_n ids of the sequence.
    void reset(const SamplerParams &params, int32_t num_vocab, Ids window);
    // One more token of the sequence.
    void count(int32_t id) noexcept;

    // The tokens that would extend a repetition within the window, ascending by id; good until the
    // next call. Takes time linear in the window, and for sorting what it found.
    const std::vector<Repeat> &find(Ids window);

    // What the logit loses: multiplier * base^(length - allowed length), at most multiplier * e^88.
    double penalty(int32_t length) const noexcept;

  private:
    bool is_breaker(int32_t id) const noexcept;
    void measure(Ids window);
    void keep_longest();

    float multiplier_ = 0.0f;
    float base_ = 1.0f;
    int32_t allowed_length_ = 0;
    int32_t num_vocab_ = 0;
    int64_t num_since_breaker_ = 0;  // tokens since the last breaker: none repeats more
    std::vector<int32_t> breakers_;  // ascending
    std::vector<int32_t> lengths_;
    std::vector<Repeat> repeats_;
};

}  // namespace tgi

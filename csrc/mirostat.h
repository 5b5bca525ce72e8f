// Mirostat (Basu et al. 2021), versions 1 and 2: keeps the surprise of what is drawn near a target
// by moving a bound, mu, against the error of every draw.
//
// Owns mu and the formulas; choice.cpp cuts and draws, sampler.cpp reports the surprise drawn.

#pragma once

#include <cstdint>
#include <vector>

#include "best.h"
#include "sampler.h"

namespace tgi {

class Mirostat {
  public:
    static constexpr int32_t num_estimated = 100;  // best tokens that version 1 fits Zipf's law to

    // mu starts at twice the target.
    void reset(const SamplerParams &params) noexcept;
    void learn(double surprise) noexcept { mu_ -= rate_ * (surprise - target_); }

    // Version 1: how many of the best are kept, 1 to num_vocab, from the best of the row.
    int32_t num_kept(const std::vector<Ranked> &best, double temperature,
                     int32_t num_vocab) const noexcept;
    // Version 2: the largest surprise that is kept, as a natural logarithm.
    double max_surprise() const noexcept;

  private:
    double target_ = 0.0;  // bits, as are surprises and mu
    double rate_ = 0.0;
    double mu_ = 0.0;
};

}  // namespace tgi

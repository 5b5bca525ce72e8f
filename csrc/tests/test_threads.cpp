// Samplers and scorers of different threads share nothing but the rows, which nobody writes: what
// each draws is what it draws alone. Under the thread sanitizer that is checked at every access.

#include <array>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "sampler.h"
#include "score.h"

namespace {

constexpr int32_t num_vocab = 5000;
constexpr int num_threads = 4;
constexpr int num_draws = 12;

using Ids = std::array<int32_t, 2 * num_draws>;

const std::vector<float> &shared_row() {
    static const std::vector<float> row = [] {
        std::mt19937 generator(3);
        std::normal_distribution<float> normal(0.0f, 3.0f);
        std::vector<float> logits(num_vocab);
        for (float &x : logits)
            x = normal(generator);
        return logits;
    }();
    return row;
}

// What differs by thread, so that every part of the sampler runs beside every other.
tgi::SamplerParams params_of(int thread) {
    tgi::SamplerParams params;
    params.temperature = 1.0f;
    params.seed = static_cast<uint64_t>(thread);
    params.num_top = 3;
    params.repetition_penalty = 1.1f;
    params.top_p = thread % 2 == 0 ? 0.9f : 1.0f;
    params.typical_p = thread % 3 == 0 ? 0.8f : 1.0f;
    params.dry_multiplier = thread % 4 == 1 ? 0.8f : 0.0f;
    params.mirostat = thread % 4 == 3 ? 2 : 0;
    return params;
}

void draw_all(int thread, Ids &ids) {
    const int32_t prompt[] = {1, 2, 3, 1, 2};
    tgi::Sampler sampler(num_vocab);
    tgi::Scorer scorer(num_vocab);
    sampler.reset(params_of(thread), prompt, 5, nullptr, 0);
    for (int i = 0; i < num_draws; ++i) {
        tgi::SampledToken token{-1, 0.0f};
        int32_t top_ids[3];
        float top_logprobs[3], logprob = 0.0f;
        sampler.sample(shared_row().data(), 5 + i, &token, top_ids, top_logprobs);
        scorer.score(shared_row().data(), token.id, 3, &logprob, top_ids, top_logprobs);
        ids[static_cast<size_t>(2 * i)] = token.id;
        ids[static_cast<size_t>(2 * i + 1)] = top_ids[2];
    }
}

}  // namespace

TEST(samplers_of_different_threads_draw_what_they_draw_alone) {
    std::array<Ids, num_threads> alone{}, together{};
    std::vector<std::thread> threads;
    for (int i = 0; i < num_threads; ++i)  // first, while nothing was used yet
        threads.emplace_back([i, &together] { draw_all(i, together[static_cast<size_t>(i)]); });
    for (std::thread &thread : threads)
        thread.join();
    for (int i = 0; i < num_threads; ++i)
        draw_all(i, alone[static_cast<size_t>(i)]);
    CHECK(alone == together);
    CHECK(alone[0] != alone[1]);
}

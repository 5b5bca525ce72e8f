// Time per row of the sampler: microseconds, the median of many rows.
//
// Rows are peaked, as a trained model's are, or flat (normal, deviation 1). 16 rows take turns, as
// the slots of a batch do, so that a row comes from the L3 cache and not from L1. Prints one JSON
// object for each case; benchmarks/bench_sampler.py makes the table.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "row_kernels.h"
#include "sampler.h"

namespace {

constexpr int num_slots = 16;

struct Case {
    const char *name;
    tgi::SamplerParams params;
    int num_prompt = 512;
};

using Rows = std::vector<std::vector<float>>;

// A few tokens stand out by up to 20 deviations, with gaps as a trained model has them.
Rows make_rows(int32_t num_vocab, bool is_peaked) {
    std::mt19937 generator(static_cast<unsigned>(num_vocab));
    std::normal_distribution<float> normal(0.0f, is_peaked ? 2.2f : 1.0f);
    Rows rows(num_slots, std::vector<float>(static_cast<size_t>(num_vocab)));
    for (std::vector<float> &row : rows) {
        for (float &logit : row)
            logit = normal(generator);
        for (int rank = 1; is_peaked && rank <= 200; ++rank) {
            const size_t id = generator() % static_cast<unsigned>(num_vocab);
            row[id] = 20.0f - 2.0f * std::log(static_cast<float>(rank)) + 0.3f * normal(generator);
        }
    }
    return rows;
}

std::vector<Case> make_cases() {
    std::vector<Case> cases(9);
    const char *names[] = {"greedy",
                           "temperature 1",
                           "temperature 0.7",
                           "top-p 0.95",
                           "temperature 0.7, top-p 0.95",
                           "top-p 0.95, repetition 1.1",
                           "top-k 40",
                           "typical 0.95",
                           "greedy, 20 alternatives"};
    for (size_t i = 0; i < cases.size(); ++i) {
        cases[i].name = names[i];
        cases[i].params.temperature = 1.0f;
        cases[i].params.seed = 7;
    }
    cases[0].params.temperature = 0.0f;
    cases[2].params.temperature = 0.7f;
    cases[3].params.top_p = 0.95f;
    cases[4].params.temperature = 0.7f;
    cases[4].params.top_p = 0.95f;
    cases[5].params.top_p = 0.95f;
    cases[5].params.repetition_penalty = 1.1f;
    cases[6].params.top_k = 40;
    cases[7].params.typical_p = 0.95f;
    cases[8].params.temperature = 0.0f;
    cases[8].params.num_top = 20;
    return cases;
}

// Of llama.cpp's samplers; `biases` outlive the cases.
std::vector<Case> make_further_cases(const std::vector<int32_t> &biased,
                                     const std::vector<float> &biases) {
    std::vector<Case> cases(7);
    for (Case &bench : cases) {
        bench.params.temperature = 1.0f;
        bench.params.seed = 7;
    }
    cases[0].name = "min-p 0.05";
    cases[0].params.min_p = 0.05f;
    cases[1].name = "XTC 0.5 of 0.1";
    cases[1].params.xtc_probability = 0.5f;
    cases[2].name = "top-p 0.95, 300 biases";
    cases[2].params.top_p = 0.95f;
    cases[2].params.bias_ids = biased.data();
    cases[2].params.bias_values = biases.data();
    cases[2].params.num_biases = static_cast<int64_t>(biased.size());
    cases[3].name = "repetition 1.1 of the last 64";
    cases[3].params.repetition_penalty = 1.1f;
    cases[3].params.penalty_last_n = 64;
    cases[4].name = "DRY, 32768 tokens";
    cases[4].params.dry_multiplier = 0.8f;
    cases[4].num_prompt = 32768;
    cases[5].name = "mirostat 1";
    cases[5].params.mirostat = 1;
    cases[6].name = "mirostat 2";
    cases[6].params.mirostat = 2;
    return cases;
}

std::vector<double> time_rows(const Case &bench, const Rows &rows, int num_rounds) {
    const int32_t num_vocab = static_cast<int32_t>(rows[0].size());
    std::mt19937 generator(3);
    std::vector<int32_t> prompt(static_cast<size_t>(bench.num_prompt));
    for (int32_t &id : prompt)
        id = static_cast<int32_t>(generator() % static_cast<unsigned>(num_vocab));
    std::vector<std::unique_ptr<tgi::Sampler>> samplers;
    for (int slot = 0; slot < num_slots; ++slot) {
        samplers.push_back(std::make_unique<tgi::Sampler>(num_vocab));
        tgi::SamplerParams params = bench.params;
        params.seed += static_cast<uint64_t>(slot);
        samplers.back()->reset(params, prompt.data(), bench.num_prompt, nullptr, 0);
    }
    std::vector<double> times_us;
    for (int round = 0; round < num_rounds; ++round)
        for (int slot = 0; slot < num_slots; ++slot) {
            const size_t at = static_cast<size_t>(slot);
            tgi::SampledToken token;
            int32_t top_ids[64];
            float top_logprobs[64];
            const auto start = std::chrono::steady_clock::now();
            const tgi::SampleStatus status = samplers[at]->sample(
                rows[at].data(), bench.num_prompt + round, &token, top_ids, top_logprobs);
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
            if (status != tgi::SampleStatus::ok)
                std::exit(1);
            times_us.push_back(took.count() * 1e6);
        }
    std::sort(times_us.begin(), times_us.end());
    return times_us;
}

}  // namespace

int main(int argc, char **argv) {
    const int num_rounds = argc > 1 ? std::atoi(argv[1]) : 40;
    const std::vector<float> biases(300, 1.0f);
    std::vector<int32_t> biased;
    for (int32_t i = 0; i < 300; ++i)
        biased.push_back(i * 150);
    std::vector<Case> cases = make_cases();
    for (const Case &bench : make_further_cases(biased, biases))
        cases.push_back(bench);
    for (const int32_t num_vocab : {49152, 151936})
        for (const bool is_peaked : {true, false}) {
            const Rows rows = make_rows(num_vocab, is_peaked);
            for (const Case &bench : cases) {
                const std::vector<double> times_us = time_rows(bench, rows, num_rounds);
                std::printf(
                    "{\"vocab\": %d, \"logits\": \"%s\", \"case\": \"%s\", "
                    "\"median_us\": %.1f, \"p10_us\": %.1f, \"kernels\": \"%s\"}\n",
                    num_vocab, is_peaked ? "peaked" : "flat", bench.name,
                    times_us[times_us.size() / 2], times_us[times_us.size() / 10],
                    tgi::row_kernels().name);
            }
        }
    return 0;
}

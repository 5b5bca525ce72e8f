// The sampler when memory runs out, and that it asks for none once its buffers grew.

#include <random>
#include <vector>

#include "check.h"
#include "limited_memory.h"
#include "sampler.h"

namespace {

constexpr int32_t num_vocab = 9000;
constexpr int32_t biased[] = {7, 8000};
constexpr float biases[] = {1.0f, -1.0f};

std::vector<float> normal_row(float deviation) {
    std::mt19937 generator(8);
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> row(num_vocab);
    for (float &x : row)
        x = normal(generator);
    return row;
}

tgi::SamplerParams params_of_all() {
    tgi::SamplerParams params;
    params.temperature = 1.0f;
    params.top_p = 0.9f;
    params.typical_p = 0.9f;
    params.frequency_penalty = 0.5f;
    params.min_p = 0.01f;
    params.xtc_probability = 1.0f;
    params.xtc_threshold = 0.01f;
    params.dry_multiplier = 0.5f;
    params.penalty_last_n = 20;
    params.bias_ids = biased;
    params.bias_values = biases;
    params.num_biases = 2;
    params.dry_breaker_ids = biased;
    params.num_dry_breakers = 1;
    params.num_top = 5;
    return params;
}

struct Sampled {
    tgi::SampleStatus status;
    tgi::SampledToken token;
};

Sampled sample(tgi::Sampler &sampler, const std::vector<float> &row, int64_t position) {
    int32_t ids[5];
    float logprobs[5];
    Sampled sampled = {tgi::SampleStatus::ok, {-1, 0.0f}};
    sampled.status = sampler.sample(row.data(), position, &sampled.token, ids, logprobs);
    return sampled;
}

}  // namespace

TEST(exhausted_memory_is_a_status_and_leaves_the_sequence_as_it_was) {
    const std::vector<int32_t> prompt(100, 5);
    for (const float deviation :
         {1.0f, 4.0f}) {  // a flat row, by a histogram; a peaked one, by a list
        const std::vector<float> row = normal_row(deviation);
        int num_failed = 0;
        int32_t expected = -1;
        for (int num_allowed = 100; num_allowed >= 0; --num_allowed) {
            limited_memory::allow(num_allowed);
            tgi::Sampler sampler(num_vocab);
            const tgi::SampleStatus status =
                sampler.reset(params_of_all(), prompt.data(), 100, nullptr, 0);
            const Sampled first = sample(sampler, row, 0);
            limited_memory::allow(-1);
            if (num_allowed == 100)
                expected = first.token.id;
            if (first.status == tgi::SampleStatus::ok) {
                CHECK(first.token.id == expected);
                continue;
            }
            ++num_failed;
            CHECK(first.status == tgi::SampleStatus::out_of_memory);
            if (status == tgi::SampleStatus::ok)
                CHECK(sample(sampler, row, 0).token.id == expected);
        }
        CHECK(num_failed > 10);
    }
}

TEST(windows_need_no_more_memory_once_they_are_full) {
    const std::vector<float> row = normal_row(4.0f);
    tgi::SamplerParams params = params_of_all();
    params.dry_last_n = 30;
    tgi::Sampler sampler(num_vocab);
    sampler.reset(params, nullptr, 0, nullptr, 0);
    for (int position = 0; position < 2000; ++position) {
        limited_memory::allow(position < 500 ? -1 : 0);
        const Sampled sampled = sample(sampler, row, position);
        limited_memory::allow(-1);
        CHECK(sampled.status == tgi::SampleStatus::ok);
    }
}

TEST(no_memory_is_allocated_once_the_buffers_grew) {
    for (const float deviation : {1.0f, 4.0f}) {
        const std::vector<float> row = normal_row(deviation);
        tgi::SamplerParams params = params_of_all();
        params.frequency_penalty = 0.0f;  // counts of new tokens need memory now and then, and
        params.dry_multiplier = 0.0f;     // so do the ids of the sequence
        tgi::Sampler sampler(num_vocab);
        sampler.reset(params, nullptr, 0, nullptr, 0);
        for (int position = 0; position < 50; ++position) {
            limited_memory::allow(position == 0 ? -1 : 0);
            const Sampled sampled = sample(sampler, row, position);
            limited_memory::allow(-1);
            CHECK(sampled.status == tgi::SampleStatus::ok);
        }
    }
}

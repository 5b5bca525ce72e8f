// The sampler at its edges: ties, NaN, infinities, bad arguments; and resumption.

#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "check.h"
#include "kept_row.h"
#include "plain_sampler.h"
#include "sampler.h"

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");

struct Sampled {
    tgi::SampleStatus status;
    tgi::SampledToken token;
    std::vector<int32_t> top_ids;
    std::vector<float> top_logprobs;
};

Sampled sample(tgi::Sampler &sampler, const std::vector<float> &row, int64_t position) {
    Sampled sampled = {tgi::SampleStatus::ok, {-1, 0.0f}, {}, {}};
    sampled.top_ids.resize(static_cast<size_t>(sampler.num_top()));
    sampled.top_logprobs.resize(static_cast<size_t>(sampler.num_top()));
    sampled.status = sampler.sample(row.data(), position, &sampled.token, sampled.top_ids.data(),
                                    sampled.top_logprobs.data());
    return sampled;
}

// The first token of a sequence without a prompt.
Sampled sample_once(const tgi::SamplerParams &params, const std::vector<float> &row) {
    tgi::Sampler sampler(static_cast<int32_t>(row.size()));
    CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == tgi::SampleStatus::ok);
    return sample(sampler, row, 0);
}

tgi::SamplerParams with_temperature(float temperature) {
    tgi::SamplerParams params;
    params.temperature = temperature;
    return params;
}

std::vector<float> normal_row(int n, float deviation, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> row(static_cast<size_t>(n));
    for (float &x : row)
        x = normal(generator);
    return row;
}

}  // namespace

TEST(greedy_takes_the_lowest_id_of_a_tie) {
    for (const size_t first : {0u, 17u, 511u, 512u, 1023u, 1500u}) {
        std::vector<float> row(1600, -1.0f);
        row[first] = row[first + 1] = row[first + 33] = row.back() = 2.5f;
        CHECK(sample_once({}, row).token.id == static_cast<int32_t>(first));
    }
}

TEST(greedy_takes_the_best_after_the_penalties) {
    tgi::SamplerParams params;
    params.repetition_penalty = 2.0f;
    const std::vector<float> row = {1.0f, 3.0f, -2.0f, 1.25f};
    const std::vector<int32_t> prompt = {1, 1};
    tgi::Sampler sampler(4);
    sampler.reset(params, prompt.data(), 2, nullptr, 0);
    CHECK(sample(sampler, row, 2).token.id == 1);  // 1.5, once, not 0.75
    params.repetition_penalty = 3.0f;
    sampler.reset(params, prompt.data(), 2, nullptr, 0);
    CHECK(sample(sampler, row, 2).token.id == 3);
    CHECK(sample(sampler, row, 3).token.id == 0);  // 3 is counted now; 0 ties with 1 and is lower
}

TEST(frequency_counts_and_presence_does_not) {
    const std::vector<float> row = {5.0f, 4.0f, 0.0f};
    tgi::SamplerParams params;
    params.frequency_penalty = 0.5f;
    tgi::Sampler sampler(3);
    sampler.reset(params, nullptr, 0, nullptr, 0);
    for (const int32_t expected :
         {0, 0, 0, 1, 0, 1, 0, 1})  // 5, 4.5, 4 (ties), 3.5: then 4 is best
        CHECK(sample(sampler, row, 0).token.id == expected);
    params.frequency_penalty = 0.0f;
    params.presence_penalty = 2.0f;
    sampler.reset(params, nullptr, 0, nullptr, 0);
    for (const int32_t expected : {0, 1, 0, 0, 0})
        CHECK(sample(sampler, row, 0).token.id == expected);
}

TEST(frequency_and_presence_see_the_prompt_only_when_told) {
    const std::vector<float> row = {5.0f, 4.0f};
    const int32_t prompt[] = {0, 0, 0};
    for (const bool penalize_prompt : {false, true}) {
        tgi::SamplerParams params;
        params.frequency_penalty = 0.5f;
        params.penalize_prompt = penalize_prompt;
        tgi::Sampler sampler(2);
        sampler.reset(params, prompt, 3, nullptr, 0);
        CHECK(sample(sampler, row, 3).token.id == (penalize_prompt ? 1 : 0));
        sampler.reset(params, nullptr, 0, prompt, 3);  // as output they always count
        CHECK(sample(sampler, row, 3).token.id == 1);
    }
}

TEST(the_logprob_is_the_models_own_whatever_the_parameters) {
    const std::vector<float> row = normal_row(2000, 2.0f, 1);
    tgi::SamplerParams params = with_temperature(0.4f);
    params.top_p = 0.3f;
    params.repetition_penalty = 1.8f;
    const std::vector<double> p = plain::softmax(row, 1.0);
    for (uint64_t seed = 0; seed < 50; ++seed) {
        params.seed = seed;
        const Sampled sampled = sample_once(params, row);
        const double exact = std::log(p[static_cast<size_t>(sampled.token.id)]);
        CHECK(std::fabs(static_cast<double>(sampled.token.logprob) - exact) < 2e-6);
    }
}

TEST(nan_counts_as_minus_infinity) {
    const std::vector<float> row = {nan_value, 1.0f, nan_value, -infinity, 1.0f};
    for (const float temperature : {0.0f, 1.0f, 1e6f})
        for (uint64_t seed = 0; seed < 40; ++seed) {
            tgi::SamplerParams params = with_temperature(temperature);
            params.seed = seed;
            params.num_top = 5;
            const Sampled sampled = sample_once(params, row);
            CHECK(sampled.token.id == 1 || (sampled.token.id == 4 && temperature > 0.0f));
            CHECK(std::fabs(sampled.token.logprob - std::log(0.5f)) < 1e-6f);
            CHECK((sampled.top_ids == std::vector<int32_t>{1, 4, 0, 2, 3}));
            CHECK(sampled.top_logprobs[2] == -infinity && sampled.top_logprobs[4] == -infinity);
        }
}

TEST(a_row_without_a_finite_logit_is_a_status) {
    for (const float value : {nan_value, -infinity})
        for (const float temperature : {0.0f, 1.0f}) {
            const std::vector<float> row(700, value);
            CHECK(sample_once(with_temperature(temperature), row).status ==
                  tgi::SampleStatus::no_finite_logit);
        }
}

TEST(plus_infinity_stands_for_the_largest_float) {
    std::vector<float> row = normal_row(1300, 2.0f, 2);
    row[900] = row[1100] = infinity;
    row[3] = nan_value;
    for (const float temperature : {0.0f, 0.5f, 1.0f, 1e6f}) {
        int num_first = 0;
        for (uint64_t seed = 0; seed < 100; ++seed) {
            tgi::SamplerParams params = with_temperature(temperature);
            params.seed = seed;
            const Sampled sampled = sample_once(params, row);
            CHECK(sampled.token.id == 900 || sampled.token.id == 1100);
            CHECK(std::fabs(sampled.token.logprob - std::log(0.5f)) < 1e-6f);
            num_first += sampled.token.id == 900 ? 1 : 0;
        }
        CHECK(temperature == 0.0f ? num_first == 100 : num_first > 20 && num_first < 80);
    }
}

TEST(extreme_temperatures_are_greedy_and_uniform) {
    const std::vector<float> row = normal_row(1000, 2.0f, 3);
    const int32_t best = plain::descending(row)[0];
    std::vector<int> counts(10);
    for (uint64_t seed = 0; seed < 2000; ++seed)
        for (const float temperature : {1e-45f, 1e-6f, 1e6f, 3e38f}) {
            tgi::SamplerParams params = with_temperature(temperature);
            params.seed = seed;
            const int32_t id = sample_once(params, row).token.id;
            if (temperature < 1.0f)
                CHECK(id == best);
            else
                ++counts[static_cast<size_t>(id / 100)];
        }
    for (const int count : counts)
        CHECK(std::abs(count - 400) < 100);
}

TEST(a_vocabulary_of_one_is_always_chosen) {
    for (const float temperature : {0.0f, 1.0f}) {
        tgi::SamplerParams params = with_temperature(temperature);
        params.top_p = 0.5f;
        params.typical_p = 0.5f;
        params.top_k = 7;
        params.num_top = 3;
        const Sampled sampled = sample_once(params, {-3.0f});
        CHECK(sampled.token.id == 0 && sampled.token.logprob == 0.0f);
        CHECK(sampled.top_ids.size() == 1 && sampled.top_ids[0] == 0);
    }
}

TEST(a_top_k_beyond_the_vocabulary_is_off) {
    const std::vector<float> row = normal_row(300, 2.0f, 4);
    for (uint64_t seed = 0; seed < 100; ++seed) {
        tgi::SamplerParams params = with_temperature(1.0f);
        params.seed = seed;
        const int32_t without = sample_once(params, row).token.id;
        params.top_k = 1 << 30;
        CHECK(sample_once(params, row).token.id == without);
    }
}

TEST(top_p_keeps_the_token_that_crosses_and_ties_by_id) {
    const std::vector<float> row = {0.0f, std::log(2.0f), 0.0f, 0.0f, 0.0f};  // 1/6, 2/6, 1/6, ...
    tgi::SamplerParams params = with_temperature(1.0f);
    std::vector<int> counts(5);
    params.top_p = 0.4f;  // 1 has 0.333, then 0 crosses
    for (params.seed = 0; params.seed < 3000; ++params.seed)
        ++counts[static_cast<size_t>(sample_once(params, row).token.id)];
    CHECK(counts[2] + counts[3] + counts[4] == 0);
    CHECK(std::abs(counts[0] - 1000) < 150);
    params.top_p = 0.0f;
    CHECK(sample_once(params, row).token.id == 1);
}

TEST(equal_logits_are_cut_by_id) {
    const std::vector<float> row(20000, 1.5f);
    for (int cut = 0; cut < 4; ++cut) {
        tgi::SamplerParams params = with_temperature(1.0f);
        params.top_k = cut == 0 ? 5000 : cut == 3 ? 500 : 0;
        params.top_p = cut == 1 ? 0.25f : 1.0f;
        params.typical_p = cut == 2 ? 0.25f : 1.0f;
        const int32_t num_kept = cut == 3 ? 500 : 5000;
        int32_t highest = 0;
        for (params.seed = 0; params.seed < 300; ++params.seed)
            highest = std::max(highest, sample_once(params, row).token.id);
        CHECK(highest < num_kept);
        CHECK(highest > num_kept * 9 / 10);
    }
}

TEST(the_last_token_that_is_kept_can_be_the_first_of_a_group) {
    const std::vector<float> row(20000, 1.5f);
    tgi::SamplerParams params = with_temperature(1.0f);
    params.top_k = 3 * tgi::group_size + 1;
    int num_last = 0;
    for (params.seed = 0; num_last < 5; ++params.seed) {
        if (tgi::draw_uniform(params.seed, 0) < 1.0 - 0.9 / params.top_k)
            continue;
        CHECK(sample_once(params, row).token.id == 3 * tgi::group_size);
        ++num_last;
    }
}

TEST(a_penalty_may_take_the_best_token_far_below_the_rest) {
    std::vector<float> row = normal_row(3000, 2.0f, 15);
    const std::vector<int32_t> prompt = {700, 1500};
    for (const float boost : {30.0f, 60.0f, 300.0f})
        for (const float repetition : {0.001f, 100.0f})
            for (const float top_p : {1.0f, 0.9f}) {
                tgi::SamplerParams params = with_temperature(1.0f);
                params.top_p = top_p;
                params.repetition_penalty = repetition;
                row[700] = boost;
                tgi::Sampler sampler(3000);
                for (params.seed = 0; params.seed < 40; ++params.seed) {
                    sampler.reset(params, prompt.data(), 2, nullptr, 0);
                    const plain::Choice choice = plain::sample(params, row, prompt, {}, 2);
                    const Sampled sampled = sample(sampler, row, 2);
                    CHECK(sampled.token.id == choice.id || choice.margin < 2e-7);
                    CHECK(std::fabs(static_cast<double>(sampled.token.logprob) - choice.logprob) <
                          1e-5 + 1e-7 * std::fabs(choice.logprob));
                }
            }
}

TEST(a_flat_row_overflows_the_list_and_is_still_exact) {
    const std::vector<float> row = normal_row(40000, 1.0f, 5);
    const std::vector<double> p = plain::softmax(row, 1.0);
    const tgi::PenalizedTokens none;
    std::vector<int32_t> scratch;
    const tgi::Row view(row.data(), 40000, none, scratch);
    tgi::RowSummary summary;
    tgi::find_maxima(view, summary);
    const tgi::Exponent exponent(summary.raw.best, 1.0);
    tgi::sum_masses(view, exponent, &exponent, summary);
    std::vector<tgi::Entry> entries;
    const tgi::KeptRow kept(view, summary, exponent, entries);
    tgi::Candidates list;
    CHECK(!kept.list_above(0.0f, list));  // half of the row: too many for a list
    CHECK(kept.list_above(3.0f, list));

    for (const bool is_typical : {false, true})
        for (uint64_t seed = 0; seed < 60; ++seed) {
            tgi::SamplerParams params = with_temperature(1.0f);
            params.seed = seed;
            (is_typical ? params.typical_p : params.top_p) = 0.999f;
            const plain::Choice choice = plain::sample(params, row, {}, {}, 0);
            const Sampled sampled = sample_once(params, row);
            CHECK(sampled.token.id == choice.id || choice.margin < 1e-8);
        }
}

TEST(a_resumed_sequence_goes_on_as_if_it_had_never_stopped) {
    std::mt19937 generator(6);
    const int32_t num_vocab = 700;
    const std::vector<int32_t> prompt = {3, 9, 9, 600};
    for (int round = 0; round < 20; ++round) {
        tgi::SamplerParams params = with_temperature(round % 4 == 0 ? 0.0f : 1.3f);
        params.seed = generator();
        params.top_p = round % 2 == 0 ? 0.9f : 1.0f;
        params.repetition_penalty = round % 3 == 0 ? 1.3f : 1.0f;
        params.frequency_penalty = 0.7f;
        params.presence_penalty = 0.3f;
        params.penalize_prompt = round % 5 == 0;
        tgi::Sampler whole(num_vocab), resumed(num_vocab);
        whole.reset(params, prompt.data(), 4, nullptr, 0);
        std::vector<int32_t> output;
        for (unsigned step = 0; step < 40; ++step) {
            const std::vector<float> row = normal_row(num_vocab, 3.0f, step);
            resumed.reset(params, prompt.data(), 4, output.data(),
                          static_cast<int64_t>(output.size()));
            const Sampled a = sample(whole, row, 4 + step);
            const Sampled b = sample(resumed, row, 4 + step);
            CHECK(a.token.id == b.token.id && a.token.logprob == b.token.logprob);
            output.push_back(a.token.id);
        }
    }
}

TEST(reset_forgets_the_last_sequence) {
    const std::vector<float> row = normal_row(900, 2.0f, 7);
    tgi::SamplerParams params;
    params.presence_penalty = 100.0f;
    tgi::Sampler sampler(900);
    sampler.reset(params, nullptr, 0, nullptr, 0);
    const int32_t first = sample(sampler, row, 0).token.id;
    CHECK(sample(sampler, row, 1).token.id != first);
    sampler.reset(params, nullptr, 0, nullptr, 0);
    CHECK(sample(sampler, row, 0).token.id == first);
}

TEST(bad_arguments_are_a_status) {
    tgi::Sampler sampler(10);
    const int32_t good[] = {0, 9}, low[] = {-1};
    const auto bad = tgi::SampleStatus::bad_argument;
    CHECK(sampler.reset({}, good, 2, good, 2) == tgi::SampleStatus::ok);
    CHECK(sampler.reset({}, nullptr, 0, low, 1) == bad);
    CHECK(sampler.reset({}, nullptr, 1, nullptr, 0) == bad);
    for (const float value : {-0.1f, nan_value, infinity, 1.1f}) {
        tgi::SamplerParams params;
        params.top_p = value;
        CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == bad);
        params = {};
        params.typical_p = value;
        CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == bad);
        if (value == 1.1f)
            continue;
        params = {};
        params.temperature = value;
        CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == bad);
        params = {};
        params.repetition_penalty = value;
        CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == bad);
    }
    tgi::SamplerParams params;
    params.num_top = -1;
    CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == bad);
    params.num_top = 2;
    CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == tgi::SampleStatus::ok);
    tgi::SampledToken token;
    const std::vector<float> row(10);
    CHECK(sampler.sample(row.data(), 0, &token, nullptr, nullptr) == bad);
    CHECK(sampler.sample(nullptr, 0, &token, nullptr, nullptr) == bad);
    CHECK(tgi::Sampler(0).reset({}, nullptr, 0, nullptr, 0) == bad);
}

TEST(padding_in_a_prompt_is_passed_over) {
    tgi::SamplerParams params;
    params.repetition_penalty = 2.0f;
    params.presence_penalty = 1.0f;
    params.penalize_prompt = true;
    const int32_t with_padding[] = {3, 10, 1 << 30, 3}, without[] = {3, 3};
    std::vector<float> row(10, 1.0f);
    row[3] = 1.5f;
    tgi::Sampler padded(10), plain(10);
    CHECK(padded.reset(params, with_padding, 4, with_padding, 3) == tgi::SampleStatus::ok);
    CHECK(plain.reset(params, without, 2, without, 1) == tgi::SampleStatus::ok);
    CHECK(sample(padded, row, 4).token.id == sample(plain, row, 4).token.id);
    CHECK(sample(padded, row, 5).token.id == 1);
}

TEST(every_status_has_a_sentence) {
    for (int32_t status = 0; status < 4; ++status)
        CHECK(tgi::sample_status_message(static_cast<tgi::SampleStatus>(status))[0] != '\0');
}

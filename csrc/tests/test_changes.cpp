// What changes single logits: DRY against a comparison of token after token, windows, biases; and
// the limits of the parameters that came with them.

#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "dry.h"
#include "history.h"
#include "plain_changes.h"
#include "sampler.h"

namespace {

using plain::Ids;

constexpr float infinity = std::numeric_limits<float>::infinity();

tgi::Ids view(const Ids &ids) {
    return {ids.data(), static_cast<int64_t>(ids.size())};
}

int32_t below(std::mt19937 &generator, int32_t limit) {
    return static_cast<int32_t>(generator() % static_cast<unsigned>(limit));
}

// The longest repetition of at least `shortest` tokens that each token extends; 0: none.
std::vector<int32_t> longest_by_id(const Ids &window, const Ids &breakers, int32_t num_vocab,
                                   int32_t shortest) {
    const std::vector<int32_t> lengths = plain::repetitions(window, breakers);
    std::vector<int32_t> longest(static_cast<size_t>(num_vocab));
    for (size_t i = 0; i < window.size(); ++i)
        if (window[i] < num_vocab && lengths[i] >= shortest) {
            int32_t &length = longest[static_cast<size_t>(window[i])];
            length = std::max(length, lengths[i]);
        }
    return longest;
}

void check_repeats(tgi::Dry &dry, const Ids &window, const std::vector<int32_t> &expected) {
    std::vector<int32_t> found(expected.size());
    int32_t previous = -1;
    for (const tgi::Dry::Repeat &repeat : dry.find(view(window))) {
        CHECK(repeat.id > previous && repeat.id < static_cast<int32_t>(expected.size()));
        previous = repeat.id;
        found[static_cast<size_t>(repeat.id)] = repeat.length;
    }
    CHECK(found == expected);
}

tgi::SampleStatus reset(const tgi::SamplerParams &params) {
    tgi::Sampler sampler(10);
    return sampler.reset(params, nullptr, 0, nullptr, 0);
}

// What comes of the same row at every position.
Ids sample_many(tgi::Sampler &sampler, const std::vector<float> &row, int64_t first, int num) {
    Ids ids;
    for (int64_t position = first; position < first + num; ++position) {
        tgi::SampledToken token = {-1, 0.0f};
        CHECK(sampler.sample(row.data(), position, &token, nullptr, nullptr) ==
              tgi::SampleStatus::ok);
        ids.push_back(token.id);
    }
    return ids;
}

}  // namespace

TEST(dry_finds_the_repetitions_that_comparing_every_token_finds) {
    std::mt19937 generator(21);
    for (int round = 0; round < 4000; ++round) {
        const int32_t num_vocab = 1 + below(generator, 4);
        tgi::SamplerParams params;
        params.dry_multiplier = 1.0f;
        params.dry_allowed_length = below(generator, 4);
        params.dry_last_n = below(generator, 2) == 0 ? -1 : 1 + below(generator, 25);
        Ids breakers;
        while (generator() % 3 == 0)
            breakers.push_back(below(generator, num_vocab + 1));
        params.dry_breaker_ids = breakers.data();
        params.num_dry_breakers = static_cast<int64_t>(breakers.size());
        Ids sequence(generator() % 40);
        for (int32_t &id : sequence)
            id = below(generator, num_vocab + (round % 5 == 0 ? 1 : 0));  // padding now and then
        tgi::Dry dry;
        dry.reset(params, num_vocab, view(plain::last(sequence, params.dry_last_n)));
        for (int step = 0; step < 12; ++step) {
            const Ids window = plain::last(sequence, params.dry_last_n);
            const int32_t shortest = std::max(params.dry_allowed_length, 1);
            check_repeats(dry, window, longest_by_id(window, breakers, num_vocab, shortest));
            sequence.push_back(below(generator, num_vocab));
            dry.count(sequence.back());
        }
    }
}

TEST(dry_takes_linear_time_where_all_is_one_repetition) {
    tgi::SamplerParams params;
    params.dry_multiplier = 1.0f;
    for (const int32_t period : {1, 2, 1000}) {
        Ids window(400000);  // comparing every token would take minutes
        for (size_t i = 0; i < window.size(); ++i)
            window[i] = static_cast<int32_t>(i) % period;
        tgi::Dry dry;
        dry.reset(params, 1000, view(window));
        const std::vector<tgi::Dry::Repeat> &repeats = dry.find(view(window));
        CHECK(repeats.size() == 1 && repeats[0].id == 400000 % period);
        CHECK(repeats[0].length == 400000 - period);
    }
}

TEST(dry_grows_by_its_base_and_stays_finite) {
    tgi::SamplerParams params;
    params.dry_multiplier = 0.5f;
    params.dry_base = 2.0f;
    tgi::Dry dry;
    dry.reset(params, 10, {});
    CHECK(dry.penalty(2) == 0.5 && dry.penalty(3) == 1.0 && dry.penalty(12) == 512.0);
    params.dry_multiplier = 3e38f;
    for (const float base : {1.0f, 1.0000001f, 1.75f, 3e38f}) {
        params.dry_base = base;
        dry.reset(params, 10, {});
        CHECK(std::isfinite(dry.penalty(1 << 30)) && dry.penalty(1 << 30) >= 3e38);
    }
}

TEST(dry_bans_nothing_even_where_it_is_strongest) {
    tgi::SamplerParams params;
    params.dry_multiplier = 3e38f;
    params.dry_base = 3e38f;
    params.dry_allowed_length = 1;
    tgi::Sampler sampler(1);
    for (const float temperature : {0.0f, 1.0f}) {
        params.temperature = temperature;
        sampler.reset(params, nullptr, 0, nullptr, 0);
        for (const int32_t id : sample_many(sampler, {4.0f}, 0, 50))
            CHECK(id == 0);
    }
}

TEST(dry_leaves_a_banned_token_banned) {
    const Ids prompt = {0, 0, 0, 0}, banned = {0, 1};
    const std::vector<float> bans = {-infinity, -infinity};
    tgi::SamplerParams params;
    params.dry_multiplier = 1.0f;
    params.bias_ids = banned.data();
    params.bias_values = bans.data();
    params.num_biases = 2;
    tgi::Sampler sampler(2);
    sampler.reset(params, prompt.data(), 4, nullptr, 0);
    const float row[] = {1.0f, 2.0f};
    tgi::SampledToken token;
    CHECK(sampler.sample(row, 4, &token, nullptr, nullptr) == tgi::SampleStatus::no_finite_logit);
}

TEST(a_history_keeps_what_was_asked_for_and_in_order) {
    for (const int64_t num_kept : {-1, 0, 1, 7, 200})
        for (const int num_output : {0, 3, 50}) {
            Ids all(60);
            for (size_t i = 0; i < all.size(); ++i)
                all[i] = static_cast<int32_t>(i);
            const Ids prompt(all.begin(), all.end() - num_output);
            const Ids output(all.end() - num_output, all.end());
            tgi::History history;
            history.reset(num_kept, view(prompt), view(output));
            for (int32_t id = 60; id < 2000; ++id) {
                const tgi::Ids kept = history.last(num_kept);
                const Ids expected = plain::last(all, num_kept);
                CHECK(Ids(kept.data, kept.data + kept.size) == expected);
                history.make_room();
                history.append(id);
                all.push_back(id);
            }
        }
}

TEST(long_sequences_with_windows_can_be_resumed_at_any_token) {
    std::mt19937 generator(22);
    const Ids prompt = {0, 1, 0, 1, 12, 3};  // 12 is padding
    const std::vector<float> row = {2.0f, 1.0f, 1.5f, 1.0f, 0.5f};
    for (int round = 0; round < 12; ++round) {
        tgi::SamplerParams params;
        params.temperature = round % 3 == 0 ? 0.0f : 1.0f;
        params.repetition_penalty = round % 2 == 0 ? 1.3f : 1.0f;
        params.presence_penalty = 0.4f;
        params.frequency_penalty = 0.1f;
        params.penalize_prompt = round % 4 < 2;
        params.penalty_last_n = below(generator, 9) - 1;
        params.dry_multiplier = round % 5 == 0 ? 0.0f : 0.7f;
        params.dry_last_n = below(generator, 30) - 1;
        params.seed = generator();
        tgi::Sampler whole(5), resumed(5);
        whole.reset(params, prompt.data(), 6, nullptr, 0);
        const Ids ids = sample_many(whole, row, 6, 500);
        for (const int num_done : {1, 2, 7, 63, 200, 463, 499}) {
            resumed.reset(params, prompt.data(), 6, ids.data(), num_done);
            const Ids rest = sample_many(resumed, row, 6 + num_done, 500 - num_done);
            CHECK(rest == Ids(ids.begin() + num_done, ids.end()));
        }
    }
}

TEST(biases_of_one_token_add_up_and_those_of_unknown_tokens_are_passed_over) {
    const Ids ids = {2, -5, 1, 2, 10, 1 << 30};
    const std::vector<float> values = {2.0f, 99.0f, 3.0f, 2.0f, 99.0f, -infinity};
    tgi::SamplerParams params;
    params.bias_ids = ids.data();
    params.bias_values = values.data();
    params.num_biases = 6;
    tgi::Sampler sampler(10);
    CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == tgi::SampleStatus::ok);
    std::vector<float> row(10);
    CHECK(sample_many(sampler, row, 0, 3) == (Ids{2, 2, 2}));
    row[1] = 1.5f;
    CHECK(sample_many(sampler, row, 0, 3) == (Ids{1, 1, 1}));
}

TEST(parameters_out_of_their_range_are_a_status) {
    const auto bad = tgi::SampleStatus::bad_argument;
    for (float tgi::SamplerParams::*fraction :
         {&tgi::SamplerParams::min_p, &tgi::SamplerParams::xtc_probability,
          &tgi::SamplerParams::xtc_threshold})
        for (const float value : {-0.1f, 1.1f, std::nanf(""), infinity}) {
            tgi::SamplerParams params;
            params.*fraction = value;
            CHECK(reset(params) == bad);
        }
    for (float tgi::SamplerParams::*positive :
         {&tgi::SamplerParams::dry_multiplier, &tgi::SamplerParams::dry_base,
          &tgi::SamplerParams::mirostat_tau, &tgi::SamplerParams::mirostat_eta})
        for (const float value : {-0.1f, std::nanf(""), infinity}) {
            tgi::SamplerParams params;
            params.*positive = value;
            CHECK(reset(params) == bad);
        }
    for (int32_t tgi::SamplerParams::*number :
         {&tgi::SamplerParams::penalty_last_n, &tgi::SamplerParams::dry_last_n,
          &tgi::SamplerParams::dry_allowed_length, &tgi::SamplerParams::mirostat}) {
        tgi::SamplerParams params;
        params.*number = -2;
        CHECK(reset(params) == bad);
    }
    tgi::SamplerParams params;
    params.mirostat = 3;
    CHECK(reset(params) == bad);
    params = {};
    params.dry_base = 0.99f;
    CHECK(reset(params) == bad);
}

TEST(columns_that_cannot_be_are_a_status) {
    const auto bad = tgi::SampleStatus::bad_argument;
    const int32_t id = 3;
    for (const float value : {infinity, std::nanf("")}) {
        tgi::SamplerParams params;
        params.bias_ids = &id;
        params.bias_values = &value;
        params.num_biases = 1;
        CHECK(reset(params) == bad);
        params.bias_values = nullptr;
        CHECK(reset(params) == bad);
        params.num_biases = -1;
        CHECK(reset(params) == bad);
    }
    tgi::SamplerParams params;
    params.num_dry_breakers = 1;
    CHECK(reset(params) == bad);
    params.num_dry_breakers = -1;
    CHECK(reset(params) == bad);
}

TEST(the_largest_parameters_are_no_undefined_behaviour) {
    const float largest = std::numeric_limits<float>::max();
    const std::vector<float> row = {1.0f, largest, -largest, 0.0f, std::nanf("")};
    for (const int32_t mirostat : {0, 1, 2})
        for (const float temperature : {0.0f, 1e-45f, 1.0f, largest})
            for (const float tau : {0.0f, 1e-45f, 1.0f, largest})
                for (const float size : {0.0f, 1e-45f, largest}) {
                    tgi::SamplerParams params;
                    params.temperature = temperature;
                    params.mirostat = mirostat;
                    params.mirostat_tau = tau;
                    params.mirostat_eta = size;
                    params.dry_multiplier = size;
                    params.dry_base = largest;
                    params.dry_allowed_length = 0;
                    params.dry_last_n = std::numeric_limits<int32_t>::max();
                    params.penalty_last_n = std::numeric_limits<int32_t>::max();
                    params.presence_penalty = 0.1f;
                    params.min_p = std::min(size, 1.0f);
                    params.xtc_probability = 1.0f;
                    params.xtc_threshold = std::min(tau, 1.0f);
                    tgi::Sampler sampler(5);
                    CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == tgi::SampleStatus::ok);
                    for (const int32_t id : sample_many(sampler, row, 0, 20))
                        CHECK(id >= 0 && id < 4);
                }
}

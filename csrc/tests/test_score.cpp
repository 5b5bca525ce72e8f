// Scores of known tokens: the plain log-softmax, and to the last bit what the sampler reports.

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "sampler.h"
#include "score.h"

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> random_row(uint32_t seed, size_t num_vocab) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(3.0f, 4.0f);
    std::vector<float> row(num_vocab);
    for (float &x : row)
        x = normal(generator);
    return row;
}

double plain_logprob(const std::vector<float> &row, size_t id) {
    double best = -std::numeric_limits<double>::infinity(), mass = 0.0;
    for (const float x : row)
        best = std::isnan(x) ? best : std::max(best, static_cast<double>(x));
    for (const float x : row)
        mass += std::isnan(x) ? 0.0 : std::exp(static_cast<double>(x) - best);
    return static_cast<double>(row[id]) - best - std::log(mass);
}

float score(const std::vector<float> &row, int32_t id) {
    tgi::Scorer scorer(static_cast<int32_t>(row.size()));
    float logprob = 1.0f;
    CHECK(scorer.score(row.data(), id, 0, &logprob, nullptr, nullptr) == tgi::SampleStatus::ok);
    return logprob;
}

TEST(a_score_is_the_log_softmax) {
    for (const size_t num_vocab : {1u, 7u, 512u, 513u, 5000u, 151936u}) {
        const std::vector<float> row = random_row(static_cast<uint32_t>(num_vocab), num_vocab);
        for (size_t id = 0; id < num_vocab; id += num_vocab / 5 + 1) {
            const double wanted = plain_logprob(row, id);
            const double got = static_cast<double>(score(row, static_cast<int32_t>(id)));
            CHECK(std::fabs(got - wanted) <= 2e-7 * std::max(1.0, std::fabs(wanted)));
        }
    }
}

TEST(a_score_has_the_bits_that_the_sampler_reports) {
    for (uint32_t seed = 0; seed < 40; ++seed) {
        const std::vector<float> row = random_row(seed, 3000);
        tgi::SamplerParams params;
        params.num_top = 6;
        params.temperature = seed % 2 == 0 ? 0.0f : 1.0f;
        params.seed = seed;
        tgi::Sampler sampler(3000);
        CHECK(sampler.reset(params, nullptr, 0, nullptr, 0) == tgi::SampleStatus::ok);
        tgi::SampledToken token = {-1, 0.0f};
        std::vector<int32_t> ids(6), wanted_ids(6);
        std::vector<float> tops(6), wanted_tops(6);
        CHECK(sampler.sample(row.data(), 0, &token, wanted_ids.data(), wanted_tops.data()) ==
              tgi::SampleStatus::ok);
        tgi::Scorer scorer(3000);
        float logprob = 1.0f;
        CHECK(scorer.score(row.data(), token.id, 6, &logprob, ids.data(), tops.data()) ==
              tgi::SampleStatus::ok);
        CHECK(logprob == token.logprob);
        CHECK(ids == wanted_ids);
        CHECK(tops == wanted_tops);
    }
}

TEST(a_scorer_forgets_the_row_before) {
    tgi::Scorer scorer(2000);
    float logprob = 1.0f;
    for (const uint32_t seed : {1u, 2u, 1u}) {
        const std::vector<float> row = random_row(seed, 2000);
        CHECK(scorer.score(row.data(), 5, 0, &logprob, nullptr, nullptr) == tgi::SampleStatus::ok);
        CHECK(logprob == score(row, 5));
    }
}

TEST(tokens_without_a_logit_score_minus_infinity) {
    const std::vector<float> row = {1.0f, std::nanf(""), -infinity, 2.0f};
    CHECK(score(row, 1) == -infinity);
    CHECK(score(row, 2) == -infinity);
    CHECK(score(row, 4) == -infinity);  // padding
    CHECK(score(row, 1 << 30) == -infinity);
    CHECK(std::fabs(score(row, 3) - std::log(1.0f / (1.0f + std::exp(-1.0f)))) < 1e-6f);
}

TEST(an_infinite_logit_scores_as_the_largest_float) {
    const std::vector<float> row = {1.0f, infinity, 2.0f};
    CHECK(score(row, 1) == 0.0f);
    CHECK(score(row, 0) == -std::numeric_limits<float>::max());
}

TEST(a_row_without_a_finite_logit_has_no_score) {
    const std::vector<float> row = {std::nanf(""), -infinity};
    tgi::Scorer scorer(2);
    float logprob = 1.0f;
    CHECK(scorer.score(row.data(), 0, 0, &logprob, nullptr, nullptr) ==
          tgi::SampleStatus::no_finite_logit);
}

TEST(bad_arguments_of_a_score_are_refused) {
    const std::vector<float> row = {1.0f, 2.0f};
    tgi::Scorer scorer(2), none(0);
    float logprob = 1.0f;
    constexpr tgi::SampleStatus bad = tgi::SampleStatus::bad_argument;
    CHECK(scorer.score(row.data(), -1, 0, &logprob, nullptr, nullptr) == bad);
    CHECK(scorer.score(row.data(), 0, -1, &logprob, nullptr, nullptr) == bad);
    CHECK(scorer.score(row.data(), 0, 1, &logprob, nullptr, nullptr) == bad);
    CHECK(scorer.score(row.data(), 0, 0, nullptr, nullptr, nullptr) == bad);
    CHECK(scorer.score(nullptr, 0, 0, &logprob, nullptr, nullptr) == bad);
    CHECK(none.score(row.data(), 0, 0, &logprob, nullptr, nullptr) == bad);
}

TEST(more_alternatives_than_tokens_are_all_of_them) {
    const std::vector<float> row = {1.0f, 2.0f};
    tgi::Scorer scorer(2);
    float logprob = 1.0f;
    std::vector<int32_t> ids(5, -7);
    std::vector<float> tops(5, -7.0f);
    CHECK(scorer.score(row.data(), 0, 5, &logprob, ids.data(), tops.data()) ==
          tgi::SampleStatus::ok);
    CHECK(ids == std::vector<int32_t>({1, 0, -7, -7, -7}));
    CHECK(tops[1] == logprob);
    CHECK(tops[2] == -7.0f);
}

}  // namespace

// The sampler against its plain definition: the very same tokens, and the right frequencies.

#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "plain_sampler.h"
#include "sampler.h"

namespace {

using plain::Ids;

// The fast sampler's sums are right to some 1e-8; the widest error of a decision is well below
// this.
constexpr double tolerance = 2e-7;

struct Comparison {
    int num_rows = 0;
    int num_excused = 0;  // differ, but by a decision within the tolerance
};

template <class T>
T pick(std::mt19937 &generator, std::initializer_list<T> values) {
    return values.begin()[generator() % values.size()];
}

tgi::SamplerParams random_params(std::mt19937 &generator) {
    tgi::SamplerParams params;
    params.temperature =
        pick(generator, {0.0f, 1e-6f, 0.3f, 0.7f, 1.0f, 1.0f, 1.0f, 1.5f, 8.0f, 1e6f});
    params.top_k = pick(generator, {0, 0, 0, 1, 2, 40, 1000, 1500, 3000, 1 << 30});
    params.top_p = pick(generator, {1.0f, 1.0f, 0.0f, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f, 0.9999999f});
    params.typical_p = pick(generator, {1.0f, 1.0f, 1.0f, 0.05f, 0.5f, 0.95f, 0.999f});
    params.repetition_penalty = pick(generator, {1.0f, 1.0f, 1.1f, 1.7f, 0.8f, 40.0f});
    params.frequency_penalty = pick(generator, {0.0f, 0.0f, 0.4f, -0.3f, 2.0f});
    params.presence_penalty = pick(generator, {0.0f, 0.0f, 0.6f, -1.5f, 50.0f});
    params.penalize_prompt = generator() % 2 == 0;
    params.seed = generator();
    params.num_top = pick(generator, {0, 0, 1, 5, 20});
    params.penalty_last_n = pick(generator, {-1, -1, 0, 1, 5, 64});
    params.min_p = pick(generator, {0.0f, 0.0f, 1e-5f, 0.05f, 0.5f, 1.0f});
    params.xtc_probability = pick(generator, {0.0f, 0.0f, 0.5f, 1.0f});
    params.xtc_threshold = pick(generator, {0.0f, 0.001f, 0.05f, 0.1f, 0.4f, 1.0f});
    params.dry_multiplier = pick(generator, {0.0f, 0.0f, 0.8f, 5.0f, 3e38f});
    params.dry_base = pick(generator, {1.0f, 1.0000002f, 1.75f, 1e20f});
    params.dry_allowed_length = pick(generator, {0, 1, 2, 4, 1 << 30});
    params.dry_last_n = pick(generator, {-1, -1, 0, 1, 2, 30});
    params.mirostat = pick(generator, {0, 0, 0, 1, 2});
    params.mirostat_tau = pick(generator, {0.0f, 0.5f, 3.0f, 5.0f, 3e38f});
    params.mirostat_eta = pick(generator, {0.0f, 0.1f, 2.0f});
    return params;
}

// What the parameters point to.
struct Columns {
    Ids bias_ids;
    std::vector<float> bias_values;
    Ids breaker_ids;

    Columns(std::mt19937 &generator, int32_t num_vocab) {
        const unsigned range = static_cast<unsigned>(num_vocab) + 4;
        for (int i = pick(generator, {0, 0, 1, 3, 8}); i > 0; --i) {
            bias_ids.push_back(static_cast<int32_t>(generator() % range) - 2);
            bias_values.push_back(
                pick(generator, {0.5f, -2.0f, 9.0f, -100.0f, 3e38f,
                                 i == 1 ? -std::numeric_limits<float>::infinity() : -1.0f}));
        }
        for (int i = pick(generator, {0, 1, 2}); i > 0; --i)
            breaker_ids.push_back(static_cast<int32_t>(generator() % range) - 2);
    }

    void set(tgi::SamplerParams &params) const {
        params.bias_ids = bias_ids.data();
        params.bias_values = bias_values.data();
        params.num_biases = static_cast<int64_t>(bias_ids.size());
        params.dry_breaker_ids = breaker_ids.data();
        params.num_dry_breakers = static_cast<int64_t>(breaker_ids.size());
    }
};

std::vector<float> random_row(std::mt19937 &generator, int32_t num_vocab) {
    std::vector<float> row(static_cast<size_t>(num_vocab));
    std::normal_distribution<float> normal(pick(generator, {0.0f, -3.0f, 25.0f}),
                                           pick(generator, {0.01f, 1.0f, 2.5f, 6.0f}));
    const bool has_ties = generator() % 4 == 0;
    for (float &x : row) {
        x = normal(generator);
        if (has_ties)
            x = std::round(2.0f * x) / 2.0f;
    }
    for (int32_t i = 0; i < num_vocab / 100 && generator() % 2 == 0; ++i)
        row[generator() % row.size()] += 8.0f;
    if (generator() % 4 == 0)
        for (int32_t i = 0; i < num_vocab / 3; ++i)
            row[generator() % row.size()] = pick(
                generator, {std::nanf(""), -std::numeric_limits<float>::infinity(), -1e30f, -0.0f});
    if (generator() % 20 == 0)
        row[generator() % row.size()] = std::numeric_limits<float>::infinity();
    row[generator() % row.size()] = 0.5f;  // one at least is finite
    return row;
}

Ids random_ids(std::mt19937 &generator, int32_t num_vocab, unsigned max_size) {
    Ids ids(generator() % (max_size + 1));
    for (int32_t &id : ids)
        id = static_cast<int32_t>(generator() % static_cast<unsigned>(num_vocab));
    return ids;
}

void check_top(const std::vector<float> &row, int32_t num_top, const int32_t *ids,
               const float *logprobs, double log_mass) {
    std::vector<float> raw;
    for (const float x : row)
        raw.push_back(plain::finite_or_lowest(x));
    const Ids order = plain::descending(raw);
    for (int32_t i = 0; i < num_top; ++i) {
        CHECK(ids[i] == order[static_cast<size_t>(i)]);
        const double exact = static_cast<double>(raw[static_cast<size_t>(ids[i])]) - log_mass;
        CHECK(logprobs[i] == static_cast<float>(exact) ||
              std::fabs(static_cast<double>(logprobs[i]) - exact) < 1e-6 + 1e-7 * std::fabs(exact));
    }
}

double log_mass_of(const std::vector<float> &row) {
    float best = -std::numeric_limits<float>::infinity();
    for (const float x : row)
        best = std::max(best, plain::finite_or_lowest(x));
    double sum = 0.0;
    for (const float x : row)
        sum +=
            std::exp(static_cast<double>(plain::finite_or_lowest(x)) - static_cast<double>(best));
    return static_cast<double>(best) + std::log(sum);
}

void print_difference(const tgi::SamplerParams &params, int32_t num_vocab, int32_t id,
                      const plain::Choice &choice) {
    std::printf("vocab %d T %g k %d p %g typ %g rep %g", num_vocab,
                static_cast<double>(params.temperature), params.top_k,
                static_cast<double>(params.top_p), static_cast<double>(params.typical_p),
                static_cast<double>(params.repetition_penalty));
    std::printf(" min %g xtc %g of %g dry %g mirostat %d tau %g eta %g: %d for %d, margin %g\n",
                static_cast<double>(params.min_p), static_cast<double>(params.xtc_probability),
                static_cast<double>(params.xtc_threshold),
                static_cast<double>(params.dry_multiplier), params.mirostat,
                static_cast<double>(params.mirostat_tau), static_cast<double>(params.mirostat_eta),
                id, choice.id, choice.margin);
}

// One sequence of num_steps rows; what either sampler chose goes into the output of both.
void compare(std::mt19937 &generator, int32_t num_vocab, int num_steps, Comparison &comparison) {
    tgi::SamplerParams params = random_params(generator);
    const Columns columns(generator, num_vocab);
    columns.set(params);
    // A few tokens repeat themselves; num_vocab + 1 is padding.
    const int32_t num_ids = pick(generator, {3, 5, num_vocab, num_vocab + 1});
    const Ids prompt = random_ids(generator, num_ids, 60);
    Ids output = random_ids(generator, num_ids, 10);
    double mu = plain::first_mu(params);
    tgi::Sampler sampler(num_vocab);
    CHECK(sampler.reset(params, prompt.data(), static_cast<int64_t>(prompt.size()), output.data(),
                        static_cast<int64_t>(output.size())) == tgi::SampleStatus::ok);
    for (int step = 0; step < num_steps; ++step) {
        const std::vector<float> row = random_row(generator, num_vocab);
        const int64_t position = static_cast<int64_t>(prompt.size() + output.size());
        tgi::SampledToken token = {-1, 0.0f};
        int32_t top_ids[64];
        float top_logprobs[64];
        const tgi::SampleStatus status =
            sampler.sample(row.data(), position, &token, top_ids, top_logprobs);
        if (status != tgi::SampleStatus::ok) {  // a ban of what was left
            const std::vector<float> left = plain::change(params, row, prompt, output);
            for (const float x : left)
                CHECK(!(x > -std::numeric_limits<float>::infinity()));
            return;
        }
        const plain::Choice choice = plain::sample(params, row, prompt, output, position, mu);
        ++comparison.num_rows;
        if (token.id != choice.id) {
            ++comparison.num_excused;
            CHECK(choice.margin < tolerance);
            if (choice.margin >= tolerance)
                print_difference(params, num_vocab, token.id, choice);
        }
        const double log_mass = log_mass_of(row);
        const size_t id = static_cast<size_t>(token.id);
        const double logprob = static_cast<double>(plain::finite_or_lowest(row[id])) - log_mass;
        CHECK(std::fabs(static_cast<double>(token.logprob) - logprob) <=
              1e-6 + 1e-7 * std::fabs(logprob));
        check_top(row, sampler.num_top(), top_ids, top_logprobs, log_mass);
        output.push_back(token.id);
        mu -= static_cast<double>(params.mirostat_eta) *
              (choice.surprise - static_cast<double>(params.mirostat_tau));
        if (token.id != choice.id)  // mu and the output part here
            return;
    }
}

void compare_many(int32_t num_vocab, int num_sequences, int num_steps) {
    std::mt19937 generator(static_cast<unsigned>(num_vocab));
    Comparison comparison;
    for (int i = 0; i < num_sequences; ++i)
        compare(generator, num_vocab, num_steps, comparison);
    if (comparison.num_excused > 0)
        std::printf("vocab %d: %d of %d rows within rounding of a boundary\n", num_vocab,
                    comparison.num_excused, comparison.num_rows);
    CHECK(comparison.num_excused <= 2 + comparison.num_rows / 50);
}

// Chi-square of draws at many positions against the plain probabilities. Rare tokens share a bin.
double chi_square_excess(const tgi::SamplerParams &params, const std::vector<float> &row,
                         const Ids &prompt, int num_draws) {
    const std::vector<double> p =
        plain::distribute(params, row, prompt, {}, 0, plain::first_mu(params)).p;
    std::vector<int> counts(p.size());
    tgi::Sampler sampler(static_cast<int32_t>(row.size()));
    // Counting the choices would change the distribution: start again for every draw.
    const bool is_stateful = params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f;
    for (int i = 0; i < num_draws; ++i) {
        tgi::SampledToken token;
        if (i == 0 || is_stateful)
            sampler.reset(params, prompt.data(), static_cast<int64_t>(prompt.size()), nullptr, 0);
        sampler.sample(row.data(), i, &token, nullptr, nullptr);
        ++counts[static_cast<size_t>(token.id)];
    }
    double chi = 0.0, rest_expected = 0.0, rest_count = 0.0;
    int num_bins = 0;
    const auto add = [&](double count, double expected) {
        chi += (count - expected) * (count - expected) / expected;
        ++num_bins;
    };
    for (size_t i = 0; i < p.size(); ++i) {
        const double expected = p[i] * num_draws;
        if (!(p[i] > 0))
            CHECK(counts[i] == 0);
        if (expected >= 8.0) {
            add(counts[i], expected);
        } else {
            rest_expected += expected;
            rest_count += counts[i];
        }
    }
    if (rest_expected >= 8.0)
        add(rest_count, rest_expected);
    const double freedom = std::max(num_bins - 1, 1);
    return (chi - freedom) / std::sqrt(2.0 * freedom);  // in standard deviations
}

}  // namespace

TEST(chooses_what_the_plain_definition_chooses_tiny) {
    compare_many(3, 300, 4);
}
TEST(chooses_what_the_plain_definition_chooses_small) {
    compare_many(100, 600, 4);
}
TEST(chooses_what_the_plain_definition_chooses_one_group) {
    compare_many(512, 300, 3);
}
TEST(chooses_what_the_plain_definition_chooses_some_groups) {
    compare_many(3001, 400, 3);
}
TEST(chooses_what_the_plain_definition_chooses_many_groups) {
    compare_many(20011, 80, 2);
}
TEST(chooses_what_the_plain_definition_chooses_a_vocabulary) {
    compare_many(151936, 8, 2);
}

TEST(draws_follow_the_plain_distribution) {
    std::mt19937 generator(11);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    std::vector<float> row(160);
    for (float &x : row)
        x = normal(generator);
    const Ids prompt = {1, 5, 5, 77, 120, 159};
    for (const float temperature : {0.5f, 1.0f, 2.0f})
        for (const int32_t top_k : {0, 30})
            for (const float top_p : {1.0f, 0.8f})
                for (const float typical_p : {1.0f, 0.7f})
                    for (const float repetition : {1.0f, 1.5f}) {
                        tgi::SamplerParams params;
                        params.temperature = temperature;
                        params.top_k = top_k;
                        params.top_p = top_p;
                        params.typical_p = typical_p;
                        params.repetition_penalty = repetition;
                        params.seed = generator();
                        const int num_draws = repetition == 1.0f ? 100000 : 20000;
                        CHECK(std::fabs(chi_square_excess(params, row, prompt, num_draws)) < 5.0);
                    }
}

TEST(draws_of_the_further_cuts_follow_the_plain_distribution) {
    std::mt19937 generator(12);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    std::vector<float> row(160);
    for (float &x : row)
        x = normal(generator);
    for (int i = 0; i < 10; ++i) {
        tgi::SamplerParams params;
        params.temperature = 1.3f;
        params.min_p = i % 2 == 0 ? 0.0f : 0.02f;
        params.xtc_probability = i / 2 % 2 == 0 ? 0.0f : 1.0f;
        params.xtc_threshold = 0.02f;
        params.top_p = i / 4 % 2 == 0 ? 1.0f : 0.9f;
        params.mirostat = i < 8 ? 0 : i - 7;
        params.mirostat_tau = 4.0f;
        params.mirostat_eta = 0.0f;  // else every draw would change the distribution
        params.seed = generator();
        CHECK(std::fabs(chi_square_excess(params, row, {}, 50000)) < 5.0);
    }
}

TEST(draw_uniform_is_uniform_over_positions_and_over_seeds) {
    for (const bool over_seeds : {false, true}) {
        std::vector<int> counts(256);
        double previous = 0.5, product = 0.0;
        for (int i = 0; i < 256000; ++i) {
            const double u = over_seeds ? tgi::draw_uniform(static_cast<uint64_t>(i), 9)
                                        : tgi::draw_uniform(9, i);
            CHECK(u >= 0.0 && u < 1.0);
            ++counts[static_cast<size_t>(u * 256.0)];
            product += (u - 0.5) * (previous - 0.5);
            previous = u;
        }
        double chi = 0.0;
        for (const int count : counts)
            chi += (count - 1000.0) * (count - 1000.0) / 1000.0;
        CHECK(std::fabs(chi - 255.0) < 5.0 * std::sqrt(510.0));
        CHECK(std::fabs(product / 256000.0) < 5.0 / 12.0 / std::sqrt(256000.0));
    }
}

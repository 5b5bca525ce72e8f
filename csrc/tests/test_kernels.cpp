// Every instruction set's kernels against float64 and against each other.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "cut.h"
#include "row_kernels.h"

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");

std::vector<float> normal_row(int n, float deviation, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> row(static_cast<size_t>(n));
    for (float &x : row)
        x = normal(generator);
    return row;
}

template <class Each>
void for_each_variant(Each each) {
    for (int32_t i = 0; tgi::row_kernels_variant(i) != nullptr; ++i)
        each(*tgi::row_kernels_variant(i));
}

int32_t size_of(const std::vector<float> &row) {
    return static_cast<int32_t>(row.size());
}

}  // namespace

TEST(a_weight_is_within_2e_7_of_exp) {
    for (const double temperature : {1e-6, 0.01, 0.7, 1.0, 1.3, 7.0, 1e6}) {
        const float reference = 17.25f;
        const tgi::Exponent exponent(reference, temperature);
        std::vector<float> row;
        for (int i = 0; i <= 200000; ++i)
            row.push_back(static_cast<float>(17.25 - 86.0 * temperature * i / 200000.0));
        std::vector<float> weights(row.size());
        for_each_variant([&](const tgi::RowKernels &kernels) {
            kernels.weights_in(row.data(), size_of(row), exponent, tgi::everything, weights.data());
            double worst = 0.0;
            for (size_t i = 0; i < row.size(); ++i) {
                const double t = static_cast<double>(row[i] - reference);
                const double exact = std::exp(t / temperature);
                worst = std::max(worst, std::fabs(static_cast<double>(weights[i]) / exact - 1.0));
            }
            CHECK(worst < 2e-7);
            CHECK(weights[0] == 1.0f);
        });
    }
}

TEST(nan_and_minus_infinity_weigh_nothing) {
    std::vector<float> row = {nan_value, -infinity, 1.0f, -200.0f, nan_value};
    row.resize(37, nan_value);
    const tgi::Exponent exponent(1.0f, 1.0);
    for_each_variant([&](const tgi::RowKernels &kernels) {
        std::vector<float> weights(row.size(), 9.0f);
        float lanes[tgi::num_lanes];
        kernels.weights_in(row.data(), size_of(row), exponent, tgi::everything, weights.data());
        kernels.lane_max(row.data(), size_of(row), lanes);
        for (size_t i = 0; i < row.size(); ++i)
            CHECK(weights[i] == (i == 2 ? 1.0f : 0.0f));
        for (int i = 0; i < tgi::num_lanes; ++i)
            CHECK(lanes[i] == (i == 2 ? 1.0f : i == 3 ? -200.0f : -infinity));
        CHECK(kernels.mass(row.data(), size_of(row), exponent) == 1.0);
        CHECK(kernels.mass_in(row.data(), size_of(row), exponent, tgi::everything) == 1.0);
        CHECK(kernels.moments(row.data(), size_of(row), exponent).first == 0.0);
        CHECK(kernels.moments_in(row.data(), size_of(row), exponent, tgi::everything).first == 0.0);
    });
}

TEST(sums_and_maxima_are_right_for_every_length) {
    const std::vector<float> row = normal_row(700, 2.0f, 5);
    const tgi::Exponent exponent(6.0f, 0.9);
    const tgi::Interval interval = {-1.0f, 3.0f};
    for (int32_t n = 0; n <= 700; n = n < 150 ? n + 1 : n + 37) {
        double mass = 0.0, mass_in = 0.0, first = 0.0;
        float lanes[tgi::num_lanes];
        std::fill(lanes, lanes + tgi::num_lanes, -infinity);
        for (int32_t i = 0; i < n; ++i) {
            const float x = row[static_cast<size_t>(i)];
            const double w = std::exp((static_cast<double>(x) - 6.0) / 0.9);
            mass += w;
            mass_in += x >= interval.low && x <= interval.high ? w : 0.0;
            first += w * (static_cast<double>(x) - 6.0);
            lanes[i % tgi::num_lanes] = std::max(lanes[i % tgi::num_lanes], x);
        }
        for_each_variant([&](const tgi::RowKernels &kernels) {
            float found[tgi::num_lanes];
            kernels.lane_max(row.data(), n, found);
            CHECK(std::memcmp(found, lanes, sizeof lanes) == 0);
            CHECK(std::fabs(kernels.mass(row.data(), n, exponent) - mass) <= 3e-7 * mass);
            CHECK(std::fabs(kernels.mass_in(row.data(), n, exponent, interval) - mass_in) <=
                  3e-7 * mass_in);
            const tgi::Moments moments = kernels.moments(row.data(), n, exponent);
            const tgi::Moments precise =
                kernels.moments_in(row.data(), n, exponent, tgi::everything);
            CHECK(std::fabs(moments.mass - mass) <= 3e-7 * mass);
            CHECK(std::fabs(moments.first - first) <= -5e-7 * first);
            CHECK(std::fabs(precise.first - first) <= -5e-7 * first);
        });
    }
}

TEST(find_in_finds_every_entry_of_the_interval) {
    std::vector<float> row = normal_row(700, 2.0f, 12);
    row[3] = row[699] = nan_value;
    row[4] = -infinity;
    row[5] = 1.5f;
    for (const tgi::Interval interval : {tgi::Interval{-0.5f, 1.5f}, tgi::everything,
                                         tgi::Interval{1.5f, 1.5f}, tgi::Interval{2.0f, 1.0f}})
        for (int32_t n = 0; n <= 700; n += 7) {
            std::vector<int32_t> expected;
            for (int32_t i = 0; i < n; ++i)
                if (row[static_cast<size_t>(i)] >= interval.low &&
                    row[static_cast<size_t>(i)] <= interval.high)
                    expected.push_back(i);
            for_each_variant([&](const tgi::RowKernels &kernels) {
                std::vector<int32_t> found(700);
                found.resize(
                    static_cast<size_t>(kernels.find_in(row.data(), n, interval, found.data())));
                CHECK(found == expected);
            });
        }
}

TEST(widths_agree_to_the_last_bit) {
    const std::vector<float> row = normal_row(700, 3.0f, 6);
    const tgi::Exponent exponent(9.0f, 0.8);
    const tgi::RowKernels *first = tgi::row_kernels_variant(1);
    const tgi::RowKernels *second = tgi::row_kernels_variant(2);
    if (first == nullptr || second == nullptr)
        return;
    for (int32_t n = 0; n <= 700; n += 7) {
        const tgi::Interval some = {-2.0f, 2.0f};
        CHECK(first->mass(row.data(), n, exponent) == second->mass(row.data(), n, exponent));
        CHECK(first->mass_in(row.data(), n, exponent, some) ==
              second->mass_in(row.data(), n, exponent, some));
        CHECK(first->moments(row.data(), n, exponent).first ==
              second->moments(row.data(), n, exponent).first);
    }
}

TEST(buckets_grow_with_the_key) {
    std::vector<float> row = normal_row(301, 3.0f, 7);
    row[17] = nan_value;
    row[18] = -infinity;
    row[19] = 1e30f;
    for (const bool is_distance : {false, true}) {
        const tgi::Key key = {1.25, 0.5, 0.75, is_distance};
        const tgi::Buckets buckets = {key, -1.0, 10.0, 64};
        for_each_variant([&](const tgi::RowKernels &kernels) {
            std::vector<int32_t> found(row.size());
            kernels.buckets_of(row.data(), size_of(row), buckets, found.data());
            for (size_t i = 0; i < row.size(); ++i) {
                const double at = (key(row[i]) + 1.0) * 10.0;
                CHECK(found[i] == (at > 0.0 ? static_cast<int32_t>(std::min(at, 63.0)) : 0));
            }
        });
    }
}

TEST(intervals_hold_exactly_the_logits_of_a_cut) {
    const std::vector<float> row = normal_row(400, 3.0f, 8);
    for (const bool is_distance : {false, true})
        for (const float last : row) {
            const tgi::Key key = {0.3, 1.5, 1.0 / 0.7, is_distance};
            const tgi::Interval through = tgi::at_most(key, key(last));
            const tgi::Interval before = tgi::below(key, key(last));
            for (const float x : row) {
                CHECK((x >= through.low && x <= through.high) == (key(x) <= key(last)));
                CHECK((x >= before.low && x <= before.high) == (key(x) < key(last)));
            }
        }
}

TEST(locate_finds_the_entry_that_a_sort_finds) {
    std::mt19937 generator(9);
    for (int n : {1, 2, 31, 32, 33, 500, 3000})
        for (int round = 0; round < 20; ++round) {
            std::vector<tgi::Entry> entries;
            for (int32_t id = 0; id < n; ++id)  // whole numbers: sums are exact, and keys tie
                entries.push_back({static_cast<double>(generator() % 50), id,
                                   static_cast<float>(generator() % 4)});
            std::vector<tgi::Entry> sorted = entries;
            std::stable_sort(sorted.begin(), sorted.end(),
                             [](const auto &a, const auto &b) { return a.key < b.key; });
            const double target = static_cast<double>(generator() % static_cast<unsigned>(2 * n));
            double sum = 0.0;
            size_t at = 0;
            for (; at + 1 < sorted.size(); ++at)
                if ((sum += static_cast<double>(sorted[at].weight)) >= target)
                    break;
            const tgi::Rank found = tgi::locate(entries, target);
            CHECK(found.key == sorted[at].key && found.id == sorted[at].id);
        }
}

// The vectorised loops over floats that everything else in the sampler is made of.
//
// Knows neither tokens nor penalties. One table of functions for each instruction set, compiled
// from row_kernels_body.h; row_kernels() picks the best that this CPU runs. Tables that fuse
// multiply-adds (AVX2, AVX-512, NEON) agree to the last bit, whatever their width.

#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace tgi {

constexpr int32_t group_size =
    512;  // floats that are summarised together: 2 KB, so that they stay in L1
constexpr int32_t num_lanes = 16;  // of lane_max: lane i is that of offsets i modulo 16

// Closed at both ends.
struct Interval {
    float low;
    float high;
};

// All but NaN.
constexpr Interval everything = {-std::numeric_limits<float>::infinity(),
                                 std::numeric_limits<float>::infinity()};

// The weight of a logit, exp((x - reference) / temperature), as 2^((x - reference) * scale).
// The scale is split in two, the first part of 12 bits, so that the exponent is exact to about 36.
struct Exponent {
    Exponent(float reference, double temperature) noexcept;

    double temperature;  // 1e-30 and above: no two floats are so near that less would matter
    float reference;
    float scale_high;
    float scale_low;
    float cutoff;  // below it x - reference weighs 0: 2^-125 and less
};

// Sums over an interval: of weights, and of weights times (x - reference).
struct Moments {
    double mass;
    double first;
};

// The key of a logit, by which cuts order tokens, smallest first: offset - (x - reference) * scale,
// or its absolute value. The first falls as x grows, so the best logit comes first; the second is
// the distance from a wanted log-probability.
struct Key {
    double offset;
    double reference;
    double scale;
    bool is_distance;

    // Not inline: all callers must see the same rounding.
    double operator()(float x) const noexcept;
};

// Equal parts of a range of keys; what lies outside is in the first or the last bucket.
struct Buckets {
    Key key;
    double first;
    double num_per_key;
    int32_t num;
};

// NaN and -inf have weight 0. A weight is within 2e-7 of exact, relatively, and 1 at the reference.
struct RowKernels {
    const char *name;
    // lanes[num_lanes]; NaN is passed over, an empty lane is -inf.
    void (*lane_max)(const float *x, int32_t n, float *lanes) noexcept;
    // Sum of weights. Rounds to float within 128 entries: for sums that matter little, see mass_in.
    double (*mass)(const float *x, int32_t n, const Exponent &exponent) noexcept;
    // Sum of weights in the interval, in float64.
    double (*mass_in)(const float *x, int32_t n, const Exponent &exponent,
                      Interval interval) noexcept;
    // Sums as mass and as mass_in are.
    Moments (*moments)(const float *x, int32_t n, const Exponent &exponent) noexcept;
    Moments (*moments_in)(const float *x, int32_t n, const Exponent &exponent,
                          Interval interval) noexcept;
    // Weights, 0 outside the interval.
    void (*weights_in)(const float *x, int32_t n, const Exponent &exponent, Interval interval,
                       float *weights) noexcept;
    // The indexes of the entries in the interval, ascending; returns how many.
    int32_t (*find_in)(const float *x, int32_t n, Interval interval, int32_t *indexes) noexcept;
    // The bucket of each key; NaN is in the first one.
    void (*buckets_of)(const float *x, int32_t n, const Buckets &buckets, int32_t *out) noexcept;
};

const RowKernels &row_kernels() noexcept;

// For tests and benches: the tables that were compiled in and that this CPU runs, plainest first;
// null past the last one.
const RowKernels *row_kernels_variant(int32_t index) noexcept;

}  // namespace tgi

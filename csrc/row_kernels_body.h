// The bodies of RowKernels for one instruction set; has no include guard on purpose.
//
// row_kernels.cpp includes it inside a namespace, with TGI_WIDTH (floats in a register) defined
// and, where there is such an instruction, TGI_FUSED(a, b, c) for a * b + c rounded once. Vectors
// are GCC's and Clang's vector_size types. The order of all sums is that of 16 lanes, whatever the
// width, so that widths agree.

using Floats = float __attribute__((vector_size(TGI_WIDTH * 4)));
using Masks = int32_t __attribute__((vector_size(TGI_WIDTH * 4)));
using Words = uint32_t __attribute__((vector_size(TGI_WIDTH * 4)));
using Halves = float __attribute__((vector_size(TGI_WIDTH * 2)));
using HalfInts = int32_t __attribute__((vector_size(TGI_WIDTH * 2)));
using Doubles = double __attribute__((vector_size(TGI_WIDTH * 4)));

constexpr int block_size = 128;
constexpr int per_row = num_lanes / TGI_WIDTH;  // registers that hold 16 lanes

inline Floats load(const float *x) {
    Floats v;
    std::memcpy(&v, x, sizeof v);
    return v;
}

inline Floats spread(float x) {
    return Floats{} + x;
}

inline Floats multiply_add(Floats a, Floats b, Floats c) {
#ifdef TGI_FUSED
    return TGI_FUSED(a, b, c);
#else
    return a * b + c;
#endif
}

// t * scale - n without the rounding error of the product.
inline Floats reduce(Floats t, const Exponent &exponent, Floats n) {
#ifdef TGI_FUSED
    const Floats high = TGI_FUSED(t, spread(exponent.scale_high), -n);
    return TGI_FUSED(t, spread(exponent.scale_low), high);
#else
    const Floats t_high = (Floats)((Words)t & (Words{} + 0xfffff000u));
    const Floats t_low = t - t_high;
    return ((t_high * exponent.scale_high - n) + t_low * exponent.scale_high) +
           t * exponent.scale_low;
#endif
}

// 2^r, |r| <= 0.52: the polynomial with the least relative error (3e-9) among those that are 1 at
// 0.
inline Floats power_of_two(Floats r) {
    Floats p = multiply_add(r, spread(0x1.41e4f0p-13f), spread(0x1.5f619ap-10f));
    p = multiply_add(p, r, spread(0x1.3b2dbep-7f));
    p = multiply_add(p, r, spread(0x1.c6aea2p-5f));
    p = multiply_add(p, r, spread(0x1.ebfbdcp-3f));
    p = multiply_add(p, r, spread(0x1.62e430p-1f));
    return multiply_add(p, r, spread(1.0f));
}

inline Floats weight(Floats x, const Exponent &exponent) {
    const Floats t = x - exponent.reference;
    // Adding 1.5 * 2^23 rounds to an integer, which the low bits of the sum then hold.
    const Floats shifted = t * exponent.scale_high + 12582912.0f;
    const Floats r = reduce(t, exponent, shifted - 12582912.0f);
    const Floats w = (Floats)((Words)power_of_two(r) + ((Words)shifted << 23));
    return t > exponent.cutoff ? w : Floats{};  // false for NaN
}

inline Floats weight_in(Floats x, const Exponent &exponent, Interval interval) {
    const Floats w = weight(x, exponent);
    return ((x >= interval.low) & (x <= interval.high)) ? w : Floats{};
}

// 16 lanes of float64.
struct LaneSums {
    Doubles parts[per_row][2] = {};

    inline void add(int row_part, Floats v) {
        Halves halves[2];
        std::memcpy(halves, &v, sizeof v);
        parts[row_part][0] += __builtin_convertvector(halves[0], Doubles);
        parts[row_part][1] += __builtin_convertvector(halves[1], Doubles);
    }

    inline double total() const {
        double lanes[num_lanes];
        std::memcpy(lanes, parts, sizeof lanes);
        double sums[4] = {lanes[0], lanes[1], lanes[2], lanes[3]};
        for (int i = 4; i < num_lanes; i += 4)
            for (int j = 0; j < 4; ++j)
                sums[j] += lanes[i + j];
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
};

// Calls each(pointer to block_size floats) for all of x; the last block is filled up with -inf.
template <class Each>
inline void for_each_block(const float *x, int32_t n, Each each) {
    int32_t i = 0;
    for (; i + block_size <= n; i += block_size)
        each(x + i);
    if (i == n)
        return;
    float rest[block_size];
    for (int j = 0; j < block_size; ++j)
        rest[j] = i + j < n ? x[i + j] : -std::numeric_limits<float>::infinity();
    each(rest);
}

void lane_max(const float *x, int32_t n, float *lanes) noexcept {
    const Floats lowest = spread(-std::numeric_limits<float>::infinity());
    Floats best[2 * per_row];
    for (Floats &v : best)
        v = lowest;
    for_each_block(x, n, [&best](const float *block) {
        for (int i = 0; i < block_size; i += 2 * num_lanes)
            for (int j = 0; j < 2 * per_row; ++j) {
                const Floats v = load(block + i + j * TGI_WIDTH);
                best[j] = v > best[j] ? v : best[j];  // false for NaN
            }
    });
    for (int j = 0; j < per_row; ++j) {
        const Floats v = best[j] > best[j + per_row] ? best[j] : best[j + per_row];
        std::memcpy(lanes + j * TGI_WIDTH, &v, sizeof v);
    }
}

double mass(const float *x, int32_t n, const Exponent &argument) noexcept {
    const Exponent exponent = argument;
    LaneSums sums;
    for_each_block(x, n, [&sums, &exponent](const float *block) {
        Floats partial[2 * per_row] = {};
#pragma GCC unroll 32
        for (int i = 0; i < block_size / TGI_WIDTH; ++i)
            partial[i % (2 * per_row)] += weight(load(block + i * TGI_WIDTH), exponent);
        for (int j = 0; j < per_row; ++j)
            sums.add(j, partial[j] + partial[j + per_row]);
    });
    return sums.total();
}

double mass_in(const float *x, int32_t n, const Exponent &argument, Interval interval) noexcept {
    const Exponent exponent = argument;
    LaneSums sums;
    for_each_block(x, n, [&sums, &exponent, interval](const float *block) {
        for (int i = 0; i < block_size; i += num_lanes)
            for (int j = 0; j < per_row; ++j)
                sums.add(j, weight_in(load(block + i + j * TGI_WIDTH), exponent, interval));
    });
    return sums.total();
}

// w times (x - reference), where 0 times -inf is 0.
inline Floats weighted(Floats w, Floats x, const Exponent &exponent) {
    return w > 0.0f ? w * (x - exponent.reference) : Floats{};
}

Moments moments(const float *x, int32_t n, const Exponent &argument) noexcept {
    const Exponent exponent = argument;
    LaneSums sums;
    LaneSums firsts;
    for_each_block(x, n, [&sums, &firsts, &exponent](const float *block) {
        Floats partial[per_row] = {};
        Floats partial_first[per_row] = {};
#pragma GCC unroll 32
        for (int i = 0; i < block_size / TGI_WIDTH; ++i) {
            const Floats v = load(block + i * TGI_WIDTH);
            const Floats w = weight(v, exponent);
            partial[i % per_row] += w;
            partial_first[i % per_row] += weighted(w, v, exponent);
        }
        for (int j = 0; j < per_row; ++j) {
            sums.add(j, partial[j]);
            firsts.add(j, partial_first[j]);
        }
    });
    return {sums.total(), firsts.total()};
}

Moments moments_in(const float *x, int32_t n, const Exponent &argument,
                   Interval interval) noexcept {
    const Exponent exponent = argument;
    LaneSums sums;
    LaneSums firsts;
    for_each_block(x, n, [&sums, &firsts, &exponent, interval](const float *block) {
        for (int i = 0; i < block_size; i += num_lanes)
            for (int j = 0; j < per_row; ++j) {
                const Floats v = load(block + i + j * TGI_WIDTH);
                const Floats w = weight_in(v, exponent, interval);
                sums.add(j, w);
                firsts.add(j, weighted(w, v, exponent));
            }
    });
    return {sums.total(), firsts.total()};
}

void weights_in(const float *x, int32_t n, const Exponent &argument, Interval interval,
                float *weights) noexcept {
    const Exponent exponent = argument;
    int32_t i = 0;
    for (; i + TGI_WIDTH <= n; i += TGI_WIDTH) {
        const Floats w = weight_in(load(x + i), exponent, interval);
        std::memcpy(weights + i, &w, sizeof w);
    }
    if (i == n)
        return;
    float rest[TGI_WIDTH] = {};
    std::memcpy(rest, x + i, static_cast<size_t>(n - i) * sizeof(float));
    const Floats w = weight_in(load(rest), exponent, interval);
    std::memcpy(weights + i, &w, static_cast<size_t>(n - i) * sizeof(float));
}

inline HalfInts buckets_of(Halves x, const Buckets &buckets) {
    const Key &key = buckets.key;
    Doubles at = key.offset - (__builtin_convertvector(x, Doubles) - key.reference) * key.scale;
    if (key.is_distance)
        at = at < 0.0 ? -at : at;
    at = (at - buckets.first) * buckets.num_per_key;
    at = at > 0.0 ? at : Doubles{};  // false for NaN
    const Doubles last = Doubles{} + static_cast<double>(buckets.num - 1);
    return __builtin_convertvector(at < last ? at : last, HalfInts);
}

void buckets_of(const float *x, int32_t n, const Buckets &argument, int32_t *out) noexcept {
    const Buckets buckets = argument;
    constexpr int width = TGI_WIDTH / 2;
    Halves v;
    int32_t i = 0;
    for (; i + width <= n; i += width) {
        std::memcpy(&v, x + i, sizeof v);
        const HalfInts bucket = buckets_of(v, buckets);
        std::memcpy(out + i, &bucket, sizeof bucket);
    }
    if (i == n)
        return;
    float rest[width] = {};
    std::memcpy(rest, x + i, static_cast<size_t>(n - i) * sizeof(float));
    std::memcpy(&v, rest, sizeof v);
    const HalfInts bucket = buckets_of(v, buckets);
    std::memcpy(out + i, &bucket, static_cast<size_t>(n - i) * sizeof(int32_t));
}

// One bit for each entry of the mask, which is all ones or all zeros.
inline uint32_t bits_of(Masks mask) {
#ifdef TGI_MASK_BITS
    return static_cast<uint32_t>(TGI_MASK_BITS(mask));
#else
    uint32_t bits = 0;
    for (int i = 0; i < TGI_WIDTH; ++i)
        bits |= (mask[i] != 0 ? 1u : 0u) << i;
    return bits;
#endif
}

int32_t find_in(const float *x, int32_t n, Interval interval, int32_t *indexes) noexcept {
    int32_t num_found = 0;
    int32_t i = 0;
    for (; i + TGI_WIDTH <= n; i += TGI_WIDTH) {
        const Floats v = load(x + i);
        const Masks mask = (v >= interval.low) & (v <= interval.high);
        for (uint32_t bits = bits_of(mask); bits != 0; bits &= bits - 1)
            indexes[num_found++] = i + __builtin_ctz(bits);
    }
    for (; i < n; ++i)
        if (x[i] >= interval.low && x[i] <= interval.high)
            indexes[num_found++] = i;
    return num_found;
}

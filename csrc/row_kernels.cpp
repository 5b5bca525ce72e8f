// Compiles row_kernels_body.h for the instruction sets of this architecture and picks one.
//
// Where the compiler's flags already allow AVX2 or AVX-512 there is one table, of that width. Else,
// with GCC on x86-64, there are three, and the CPU decides at run time (TGI_NO_DISPATCH: only the
// plain one, for tests of it).

#include "row_kernels.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TGI_FUSED_512(a, b, c) ((Floats)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define TGI_FUSED_256(a, b, c) ((Floats)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define TGI_MASK_BITS_512(mask) _mm512_movepi32_mask((__m512i)(mask))
#define TGI_MASK_BITS_256(mask) _mm256_movemask_ps((__m256)(mask))

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define TGI_BASE_NAME "avx512"
#define TGI_WIDTH 16
#define TGI_FUSED TGI_FUSED_512
#define TGI_MASK_BITS TGI_MASK_BITS_512
#elif defined(__AVX2__) && defined(__FMA__)
#define TGI_BASE_NAME "avx2"
#define TGI_WIDTH 8
#define TGI_FUSED TGI_FUSED_256
#define TGI_MASK_BITS TGI_MASK_BITS_256
#elif defined(__aarch64__)
#define TGI_BASE_NAME "neon"
#define TGI_WIDTH 4
#define TGI_FUSED(a, b, c) ((Floats)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
#define TGI_BASE_NAME "portable"
#define TGI_WIDTH 4
#if defined(__x86_64__)
#define TGI_MASK_BITS(mask) _mm_movemask_ps((__m128)(mask))
#if defined(__GNUC__) && !defined(__clang__) && !defined(TGI_NO_DISPATCH)
#define TGI_DISPATCH
#endif
#endif
#endif

#define TGI_KERNELS(name)                                                                \
    constexpr RowKernels kernels = {name,       lane_max,   mass,    mass_in,   moments, \
                                    moments_in, weights_in, find_in, buckets_of}

namespace tgi {

namespace base {
#include "row_kernels_body.h"
TGI_KERNELS(TGI_BASE_NAME);
}  // namespace base

#ifdef TGI_DISPATCH

#undef TGI_WIDTH
#undef TGI_MASK_BITS
#define TGI_WIDTH 8
#define TGI_FUSED TGI_FUSED_256
#define TGI_MASK_BITS TGI_MASK_BITS_256
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "row_kernels_body.h"
TGI_KERNELS("avx2");
}  // namespace avx2
#pragma GCC pop_options

#undef TGI_WIDTH
#undef TGI_FUSED
#undef TGI_MASK_BITS
#define TGI_WIDTH 16
#define TGI_FUSED TGI_FUSED_512
#define TGI_MASK_BITS TGI_MASK_BITS_512
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq")
namespace avx512 {
#include "row_kernels_body.h"
TGI_KERNELS("avx512");
}  // namespace avx512
#pragma GCC pop_options

#endif

Exponent::Exponent(float the_reference, double the_temperature) noexcept
    : temperature(std::fmax(the_temperature, 1e-30)), reference(the_reference) {
    const double scale = 1.4426950408889634 / temperature;
    scale_high = static_cast<float>(scale);
    uint32_t bits;
    std::memcpy(&bits, &scale_high, sizeof bits);
    bits &= 0xfffff000;
    std::memcpy(&scale_high, &bits, sizeof bits);
    scale_low = static_cast<float>(scale - static_cast<double>(scale_high));
    const double lowest = -static_cast<double>(std::numeric_limits<float>::max());
    cutoff = static_cast<float>(std::fmax(-125.0 / scale, lowest));
}

const RowKernels *row_kernels_variant(int32_t index) noexcept {
    if (index == 0)
        return &base::kernels;
#ifdef TGI_DISPATCH
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (index == 1 && has_avx2)
        return &avx2::kernels;
    if (index == 2 && has_avx2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq"))
        return &avx512::kernels;
#endif
    return nullptr;
}

const RowKernels &row_kernels() noexcept {
    static const RowKernels *const best = [] {
        int32_t index = 0;
        while (row_kernels_variant(index + 1) != nullptr)
            ++index;
        return row_kernels_variant(index);
    }();
    return *best;
}

}  // namespace tgi

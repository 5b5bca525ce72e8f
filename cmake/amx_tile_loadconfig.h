// Included before every source of ggml's CPU backend, see llamacpp_build.cmake.
//
// GCC before 12.4 and 13.3 tells its optimizer that _tile_loadconfig reads 8 bytes. The instruction reads 64:
// the optimizer drops the stores of the other 56, ldtilecfg loads what lay on the stack, and the process dies.
// This definition names all 64 bytes as the input.

#pragma once

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>

struct tgi_tile_config {
    unsigned char bytes[64];
};

static inline __attribute__((always_inline)) void tgi_load_tile_config(const void *config) {
    __asm__ volatile("ldtilecfg\t%0" : : "m"(*(const struct tgi_tile_config *)config));
}

#undef _tile_loadconfig
#define _tile_loadconfig(config) tgi_load_tile_config(config)

#endif

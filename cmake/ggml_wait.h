// Put before every C source of ggml's CPU backend: threads that wait let other processes run.
//
// ggml's threads meet after each operation, and who comes first spins until the last one is there.
// Where that one has no CPU, since another process has it, the others spin through their own time:
// beside two busy processes on two CPUs a token takes up to a hundred times as long. Here a thread
// that has spun for some microseconds offers its CPU to others, which costs less than a microsecond
// where there are none.
//
// ggml_thread_cpu_relax is one instruction, a pause, that ggml-cpu.c defines and calls. The
// definition has the argument `void` and keeps its body under another name; the calls have none.

#pragma once

#include <sched.h>

enum { TGI_SPINS = 128 }; // pauses of 15 to 70 ns each, so 2 to 9 us

static __thread unsigned tgi_num_spins __attribute__((unused)); // of all waits together

#define TGI_RELAX_void tgi_pause(void)
#define TGI_RELAX_ (++tgi_num_spins % TGI_SPINS ? tgi_pause() : (void)sched_yield())
#define TGI_RELAX(argument) TGI_RELAX_##argument
#define ggml_thread_cpu_relax(argument) TGI_RELAX(argument)

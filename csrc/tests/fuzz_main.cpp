// Feeds the fuzzer seeded random bytes, where there is no libFuzzer: fuzz_sampler [RUNS [FIRST]].
//
// Input i depends on i alone, so that a failure is repeated by `fuzz_sampler 1 i`, which is printed
// when the program ends by a signal; the sanitizers are told to end it so. An input that takes
// longer than the limit ends it too.

#ifndef LIBFUZZER

#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern uint64_t num_fuzzed_tokens;

extern "C" const char *__asan_default_options() {
    return "abort_on_error=1:handle_segv=0:handle_abort=0";
}
extern "C" const char *__ubsan_default_options() {
    return "abort_on_error=1:print_stacktrace=1";
}

namespace {

constexpr unsigned longest_s = 20;  // a thousand times what an input takes under sanitizers
char last_words[100];
int num_last_words = 0;

void on_death(int number) {
    const ssize_t ignored = write(STDERR_FILENO, last_words, static_cast<size_t>(num_last_words));
    static_cast<void>(ignored);
    std::signal(number, SIG_DFL);
    std::raise(number);
}

std::vector<uint8_t> input(uint64_t number) {
    std::mt19937_64 generator(number);
    std::vector<uint8_t> bytes(generator() % 4000);
    for (uint8_t &byte : bytes)
        byte = static_cast<uint8_t>(generator());
    return bytes;
}

}  // namespace

int main(int argc, char **argv) {
    const uint64_t num_runs = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000;
    const uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
    for (int number : {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL})
        std::signal(number, on_death);
    for (uint64_t run = first; run < first + num_runs; ++run) {
        num_last_words =
            std::snprintf(last_words, sizeof last_words, "again: fuzz_sampler 1 %llu\n",
                          static_cast<unsigned long long>(run));
        alarm(longest_s);
        const std::vector<uint8_t> bytes = input(run);
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%llu inputs, %llu tokens drawn\n", static_cast<unsigned long long>(num_runs),
                static_cast<unsigned long long>(num_fuzzed_tokens));
    return num_runs > 100 && num_fuzzed_tokens < num_runs / 2 ? 1 : 0;  // else it tries nothing
}

#endif

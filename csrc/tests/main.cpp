// Runs the tests whose names contain the argument, all without one; exit status 1 if any fails.

#include <cstring>

#include "check.h"

int main(int argc, char **argv) {
    const char *wanted = argc > 1 ? argv[1] : "";
    for (const check::Test &test : check::tests()) {
        if (std::strstr(test.name, wanted) == nullptr)
            continue;
        const int num_before = check::num_failures();
        test.run();
        std::printf("%s %s\n", check::num_failures() == num_before ? "ok  " : "FAIL", test.name);
        std::fflush(stdout);
    }
    std::printf("%d failures\n", check::num_failures());
    return check::num_failures() == 0 ? 0 : 1;
}

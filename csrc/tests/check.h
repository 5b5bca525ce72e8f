// All there is of a test framework: TEST(name) { CHECK(condition) } and a main that runs them.

#pragma once

#include <cstdio>
#include <vector>

namespace check {

struct Test {
    const char *name;
    void (*run)();
};

inline std::vector<Test> &tests() {
    static std::vector<Test> all;
    return all;
}

inline int &num_failures() {
    static int count = 0;
    return count;
}

struct Registration {
    Registration(const char *name, void (*run)()) { tests().push_back({name, run}); }
};

inline void fail(const char *file, int line, const char *condition) {
    if (++num_failures() <= 50)
        std::printf("%s:%d: not true: %s\n", file, line, condition);
}

}  // namespace check

#define TEST(name)                                             \
    static void name();                                        \
    static const check::Registration name##_test(#name, name); \
    static void name()

#define CHECK(condition)                                 \
    do {                                                 \
        if (!(condition))                                \
            check::fail(__FILE__, __LINE__, #condition); \
    } while (false)

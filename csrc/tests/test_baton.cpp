// Slices of a job: the owner and the worker never run at once, and a job ends when it is told to.

#include <cstdint>

#include "baton.h"
#include "check.h"

namespace {

struct Counting {
    tgi::Baton *baton;
    int64_t num_parts;
    int64_t num_done = 0;
};

void count(void *argument) {
    auto &work = *static_cast<Counting *>(argument);
    while (work.num_done < work.num_parts) {
        ++work.num_done;
        if (!work.baton->pause())
            return;
    }
}

}  // namespace

TEST(a_job_goes_on_from_pause_to_pause_where_there_is_no_time) {
    tgi::Baton baton;
    Counting work{&baton, 3};
    CHECK(baton.start(count, &work));
    CHECK(work.num_done == 0);
    for (int64_t part = 1; part <= 3; ++part) {
        CHECK(!baton.run(0));
        CHECK(work.num_done == part);
    }
    CHECK(baton.run(0));
    CHECK(!baton.is_active());
}

TEST(a_job_that_has_time_comes_to_its_end_and_another_can_start) {
    tgi::Baton baton;
    for (int round = 0; round < 3; ++round) {
        Counting work{&baton, 1000};
        CHECK(baton.start(count, &work));
        CHECK(baton.run(60'000'000));
        CHECK(work.num_done == 1000);
    }
}

TEST(a_cancelled_job_ends_at_its_pause_and_one_that_never_ran_does_nothing) {
    tgi::Baton baton;
    Counting work{&baton, 1000};
    baton.cancel();
    CHECK(baton.start(count, &work));
    baton.cancel();
    CHECK(work.num_done == 0);
    CHECK(baton.start(count, &work));
    CHECK(!baton.run(0));
    baton.cancel();
    CHECK(work.num_done == 1);
    CHECK(!baton.is_active());
    CHECK(baton.run(0));
}

// One long computation that is done in slices of its owner's time, on a thread of its own.
//
// The owner and the worker never run at once: `run` hands the baton over and waits until the worker
// has come to a pause after the time was up, or to its end. Knows nothing of what is computed.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace tgi {

class Baton {
  public:
    using Job = void (*)(void *argument);

    Baton() = default;
    ~Baton() { cancel(); }
    Baton(const Baton &) = delete;
    Baton &operator=(const Baton &) = delete;

    // Owner: a new job, which waits for its first `run`. There must be none. False: no thread.
    bool start(Job job, void *argument) noexcept;
    // Owner: let the job go on for so long, or to its end, which is `true`.
    bool run(int64_t max_us) noexcept;
    // Owner: every pause says "no more" from now on; returns when the job has ended.
    void cancel() noexcept;
    bool is_active() const noexcept { return thread_.joinable(); }

    // Worker: between two parts of its work. False: it shall end.
    bool pause() noexcept;
    bool is_cancelled() const noexcept { return is_cancelled_; }

  private:
    void work(Job job, void *argument) noexcept;
    void await_turn(std::unique_lock<std::mutex> &lock, bool of_worker) noexcept;

    std::thread thread_;
    std::mutex mutex_;
    std::condition_variable changed_;
    // Each is written by the one who has the baton.
    bool is_workers_ = false;
    bool is_done_ = false;
    bool is_cancelled_ = false;
    std::chrono::steady_clock::time_point until_{};
};

}  // namespace tgi

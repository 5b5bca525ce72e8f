#include "baton.h"

#include <system_error>

namespace tgi {

bool Baton::start(Job job, void *argument) noexcept {
    is_workers_ = is_done_ = is_cancelled_ = false;
    try {
        thread_ = std::thread(&Baton::work, this, job, argument);
    } catch (const std::system_error &) {
        return false;
    }
    return true;
}

void Baton::work(Job job, void *argument) noexcept {
    {
        std::unique_lock<std::mutex> lock(mutex_);
        await_turn(lock, true);
    }
    if (!is_cancelled_)
        job(argument);
    std::unique_lock<std::mutex> lock(mutex_);
    is_done_ = true;
    is_workers_ = false;
    changed_.notify_all();
}

void Baton::await_turn(std::unique_lock<std::mutex> &lock, bool of_worker) noexcept {
    changed_.wait(lock, [&] { return is_workers_ == of_worker; });
}

bool Baton::run(int64_t max_us) noexcept {
    if (!is_active())
        return true;
    {
        std::unique_lock<std::mutex> lock(mutex_);
        until_ = std::chrono::steady_clock::now() + std::chrono::microseconds(max_us);
        is_workers_ = true;
        changed_.notify_all();
        await_turn(lock, false);
    }
    if (is_done_)
        thread_.join();
    return is_done_;
}

void Baton::cancel() noexcept {
    is_cancelled_ = true;
    run(0);
}

bool Baton::pause() noexcept {
    if (!is_cancelled_ && std::chrono::steady_clock::now() >= until_) {
        std::unique_lock<std::mutex> lock(mutex_);
        is_workers_ = false;
        changed_.notify_all();
        await_turn(lock, true);
    }
    return !is_cancelled_;
}

}  // namespace tgi

#include "history.h"

#include <algorithm>

namespace tgi {

void History::reset(int64_t num_kept, Ids prompt, Ids output) {
    num_kept_ = num_kept;
    ids_.clear();
    const Ids last_output = output.last(num_kept);
    const Ids last_prompt = prompt.last(num_kept < 0 ? -1 : num_kept - last_output.size);
    ids_.reserve(static_cast<size_t>(last_prompt.size + last_output.size));
    ids_.insert(ids_.end(), last_prompt.data, last_prompt.data + last_prompt.size);
    ids_.insert(ids_.end(), last_output.data, last_output.data + last_output.size);
}

void History::make_room() {
    if (num_kept_ == 0 || ids_.size() < ids_.capacity())
        return;
    const int64_t num_old = static_cast<int64_t>(ids_.size()) - num_kept_;
    // Dropped only when they are half of it, so that an id moves once on average.
    if (num_kept_ > 0 && num_old >= num_kept_ && num_old >= 64)
        ids_.erase(ids_.begin(), ids_.begin() + num_old);
    else
        ids_.reserve(2 * ids_.size() + 64);
}

void History::append(int32_t id) noexcept {
    if (num_kept_ != 0)
        ids_.push_back(id);
}

Ids History::last(int64_t n) const noexcept {
    return Ids{ids_.data(), static_cast<int64_t>(ids_.size())}.last(n);
}

}  // namespace tgi

// The last ids of one sequence, for what looks at their order: a window of the penalties, and DRY.
//
// Empty, and free of cost, unless one of them is on. May throw std::bad_alloc.

#pragma once

#include <cstdint>
#include <vector>

namespace tgi {

// Ids of a sequence, oldest first; not owned.
struct Ids {
    const int32_t *data = nullptr;
    int64_t size = 0;

    // The last `n` of them, fewer where there are not so many; all if n is negative.
    Ids last(int64_t n) const noexcept {
        const int64_t num = n < 0 || n > size ? size : n;
        return num == 0 ? Ids{} : Ids{data + (size - num), num};
    }
};

class History {
  public:
    // Keep the last `num_kept` ids of prompt and output, or a few more; all if that is negative.
    void reset(int64_t num_kept, Ids prompt, Ids output);

    // One more output token. Does not throw after make_room().
    void append(int32_t id) noexcept;
    void make_room();

    // The last n ids; n must not exceed num_kept. Good until the next append or make_room.
    Ids last(int64_t n) const noexcept;

  private:
    int64_t num_kept_ = 0;
    std::vector<int32_t> ids_;
};

}  // namespace tgi

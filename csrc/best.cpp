#include "best.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

namespace tgi {

namespace {

bool is_better(const Ranked &a, const Ranked &b) noexcept {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// Keeps the best n of what it is offered, in a heap with the worst of them on top.
class Keeper {
  public:
    Keeper(int32_t n, std::vector<Ranked> &heap) : size_(static_cast<size_t>(n)), heap_(heap) {
        heap_.clear();
        heap_.reserve(size_);
    }

    bool is_full() const noexcept { return heap_.size() == size_; }
    float worst() const noexcept { return heap_.front().value; }

    void offer(float x, int32_t id) {
        const Ranked entry = {x == x ? x : -std::numeric_limits<float>::infinity(), id};
        if (is_full()) {
            if (!is_better(entry, heap_.front()))
                return;
            std::pop_heap(heap_.begin(), heap_.end(), is_better);
            heap_.pop_back();
        }
        heap_.push_back(entry);
        std::push_heap(heap_.begin(), heap_.end(), is_better);
    }

    void sort() { std::sort_heap(heap_.begin(), heap_.end(), is_better); }

  private:
    size_t size_;
    std::vector<Ranked> &heap_;
};

// A lower bound of the n-th best: that of n maxima of different entries.
float nth_best_bound(const Maxima &maxima, int32_t n, std::vector<float> &scratch) {
    const size_t nth = static_cast<size_t>(n) - 1;
    const std::vector<float> &bounds = nth < maxima.groups.size() ? maxima.groups : maxima.parts;
    if (nth >= bounds.size())
        return -std::numeric_limits<float>::infinity();
    scratch = bounds;
    const auto at = scratch.begin() + static_cast<std::ptrdiff_t>(nth);
    std::nth_element(scratch.begin(), at, scratch.end(), std::greater<float>());
    return *at;
}

}  // namespace

void find_best_n(const Row &row, const Maxima &maxima, int32_t n, BestBuffers &buffers) {
    Keeper keeper(std::min(n, row.num_vocab()), buffers.best);
    const float bound = nth_best_bound(maxima, std::min(n, row.num_vocab()), buffers.bounds);
    GroupBuffer buffer;
    int32_t found[group_size];
    for (int32_t group = 0; group < row.num_groups(); ++group) {
        const float group_best = maxima.groups[static_cast<size_t>(group)];
        // A tie with the worst that is kept loses: its id is larger.
        if (group_best < bound || (keeper.is_full() && group_best <= keeper.worst()))
            continue;
        const float *x = row.patched(group, buffer);
        const float low = keeper.is_full() ? std::max(bound, keeper.worst()) : bound;
        int32_t num_found = row.size(group);
        if (low > -std::numeric_limits<float>::infinity())
            num_found = row_kernels().find_in(x, num_found, {low, everything.high}, found);
        else  // even NaN may be needed, as -inf
            std::iota(found, found + num_found, 0);
        for (int32_t i = 0; i < num_found; ++i)
            keeper.offer(x[found[i]], row.start(group) + found[i]);
    }
    keeper.sort();
}

}  // namespace tgi

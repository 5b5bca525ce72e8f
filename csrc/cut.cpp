#include "cut.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tgi {

namespace {

constexpr int32_t largest_index = 0x7f7fffff;

// Floats in their order, by consecutive integers; 0 is 0.
float float_at(int32_t index) noexcept {
    const uint32_t magnitude = static_cast<uint32_t>(index < 0 ? -index : index);
    const uint32_t bits = index < 0 ? magnitude | 0x80000000u : magnitude;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// The index of the first finite float of which `holds` is true; it must stay true from there on.
// largest_index + 1 if there is none.
template <class Holds>
int32_t first_that(Holds holds) noexcept {
    int64_t low = -static_cast<int64_t>(largest_index);
    int64_t high = static_cast<int64_t>(largest_index) + 1;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (holds(float_at(static_cast<int32_t>(middle))))
            high = middle;
        else
            low = middle + 1;
    }
    return static_cast<int32_t>(low);
}

float from_index(int32_t index) noexcept {
    if (index > largest_index)
        return std::numeric_limits<float>::infinity();
    if (index < -largest_index)
        return -std::numeric_limits<float>::infinity();
    return float_at(index);
}

bool is_before(const Entry &a, const Entry &b) noexcept {
    return a.key < b.key || (a.key == b.key && a.id < b.id);
}

}  // namespace

double Key::operator()(float x) const noexcept {
    const double key = offset - (static_cast<double>(x) - reference) * scale;
    return is_distance && key < 0.0 ? -key : key;
}

Interval at_most(const Key &key, double bound) noexcept {
    const Key line = {key.offset, key.reference, key.scale, false};
    const int32_t low = first_that([&](float x) { return line(x) <= bound; });
    if (!key.is_distance)
        return {from_index(low), everything.high};
    const int32_t beyond = first_that([&](float x) { return line(x) < -bound; });
    return {from_index(low), from_index(beyond - 1)};
}

Interval below(const Key &key, double bound) noexcept {
    const Key line = {key.offset, key.reference, key.scale, false};
    const int32_t low = first_that([&](float x) { return line(x) < bound; });
    if (!key.is_distance)
        return {from_index(low), everything.high};
    const int32_t beyond = first_that([&](float x) { return line(x) <= -bound; });
    return {from_index(low), from_index(beyond - 1)};
}

// By differences, for a small one may vanish next to a large reference.
Cut cut_below(double log_weight, double reference, double temperature) noexcept {
    const Interval kept = at_most({0.0, reference, 1.0 / temperature, false}, -log_weight);
    return {kept, kept, -1};
}

Cut cut_before(float value, int32_t id) noexcept {
    const Interval below_it = {everything.low, std::nextafter(value, everything.low)};
    return {below_it, {everything.low, value}, id - 1};
}

Rank locate(std::vector<Entry> &entries, double target) {
    auto first = entries.begin();
    auto last = entries.end();
    double before = 0.0;
    while (last - first > 32) {
        const auto middle = first + (last - first) / 2;
        std::nth_element(first, middle, last, is_before);
        double half = 0.0;
        for (auto entry = first; entry != middle; ++entry)
            half += static_cast<double>(entry->weight);
        if (before + half >= target) {
            last = middle;
        } else {
            before += half;
            first = middle;
        }
    }
    std::sort(first, last, is_before);
    auto at = first;
    before += static_cast<double>(at->weight);
    while (before < target && at + 1 != last) {
        ++at;
        before += static_cast<double>(at->weight);
    }
    return {at->key, at->id};
}

}  // namespace tgi

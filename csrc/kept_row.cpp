#include "kept_row.h"

#include <algorithm>
#include <cmath>

namespace tgi {

namespace {

constexpr int32_t num_buckets = 1024;
constexpr size_t max_idle_entries = 8192;
constexpr Interval nothing = {0.0f, -1.0f};

// The logits whose keys are in a bucket, and maybe a few more; two intervals where keys are
// distances.
std::array<Interval, 2> bands_of(const Buckets &buckets, int32_t bucket) noexcept {
    constexpr double slack = 1e-6;
    Interval through = everything;
    Interval before = nothing;
    if (bucket < buckets.num - 1)
        through = at_most(buckets.key, buckets.first + (bucket + 1 + slack) / buckets.num_per_key);
    if (bucket > 0)
        before = below(buckets.key, buckets.first + (bucket - slack) / buckets.num_per_key);
    if (before.low > before.high)
        return {through, nothing};
    return {Interval{through.low, std::nextafter(before.low, everything.low)},
            Interval{std::nextafter(before.high, everything.high), through.high}};
}

}  // namespace

// Mass, or number, of the kept tokens in each bucket.
struct KeptRow::Histogram {
    Buckets buckets;
    bool by_weight;
    double sums[num_buckets];
};

KeptRow::KeptRow(const Row &row, RowSummary &summary, const Exponent &exponent,
                 std::vector<Entry> &entries) noexcept
    : row_(row),
      summary_(summary),
      maxima_(summary.maxima(row)),
      exponent_(exponent),
      entries_(entries),
      floor_(negligible_below(maxima_.best, exponent)) {}

template <class Each>
void KeptRow::for_each_segment(int32_t group, Each each) const {
    if (maxima_.groups[static_cast<size_t>(group)] < floor_)
        return;
    GroupBuffer buffer;
    const float *x = row_.patched(group, buffer);
    const int32_t start = row_.start(group);
    const int32_t end = start + row_.size(group);
    for (int32_t from = start, to; from < end; from = to) {
        to = end;
        Interval interval = everything;
        for (size_t i = 0; i < num_cuts_; ++i) {
            const bool is_through = from <= cuts_[i].last_id;
            if (is_through && cuts_[i].last_id + 1 < to)
                to = cuts_[i].last_id + 1;
            interval = intersect(interval, is_through ? cuts_[i].through : cuts_[i].after);
        }
        each(from, x + (from - start), to - from, interval);
    }
}

Moments KeptRow::moments() const noexcept {
    Moments sums = {0.0, 0.0};
    for (int32_t group = 0; group < row_.num_groups(); ++group) {
        const float best = maxima_.groups[static_cast<size_t>(group)];
        const bool is_light = num_cuts_ == 0 && weighs_little(best, exponent_);
        for_each_segment(group, [&](int32_t, const float *x, int32_t n, Interval interval) {
            const Moments part = is_light ? row_kernels().moments(x, n, exponent_)
                                          : row_kernels().moments_in(x, n, exponent_, interval);
            sums.mass += part.mass;
            sums.first += part.first;
        });
    }
    return sums;
}

bool KeptRow::list_above(float threshold, Candidates &list) const {
    list.clear();
    for (int32_t group = 0; group < row_.num_groups(); ++group)
        if (maxima_.groups[static_cast<size_t>(group)] >= threshold &&
            !list_group(group, threshold, list))
            return false;
    return true;
}

bool KeptRow::list_group(int32_t group, float threshold, Candidates &list) const {
    GroupBuffer buffer;
    int32_t found[group_size];
    const float *x = row_.patched(group, buffer);
    const Interval wanted = {threshold, everything.high};
    const int32_t num_found = row_kernels().find_in(x, row_.size(group), wanted, found);
    for (int32_t i = 0; i < num_found; ++i) {
        const int32_t id = row_.start(group) + found[i];
        if (is_kept(id, x[found[i]]))
            list.add(id, x[found[i]]);
    }
    return list.size() <= Candidates::max_size;
}

bool KeptRow::is_kept(int32_t id, float x) const noexcept {
    for (size_t i = 0; i < num_cuts_; ++i)
        if (!cuts_[i].keeps(id, x))
            return false;
    return true;
}

void KeptRow::fill(Histogram &histogram) const noexcept {
    // Neighbours go to different copies: adding to one sum twice in a row would wait for it.
    constexpr int32_t num_copies = 4;
    double sums[num_buckets][num_copies] = {};
    const auto add_segment = [&](int32_t, const float *x, int32_t n, Interval interval) {
        GroupBuffer weights;
        int32_t buckets[group_size];
        row_kernels().weights_in(x, n, exponent_, interval, weights.values);
        row_kernels().buckets_of(x, n, histogram.buckets, buckets);
        if (!histogram.by_weight)
            for (int32_t i = 0; i < n; ++i)
                weights.values[i] = weights.values[i] > 0.0f ? 1.0f : 0.0f;
        for (int32_t i = 0; i < n; ++i)
            sums[buckets[i]][i % num_copies] += static_cast<double>(weights.values[i]);
    };
    for (int32_t group = 0; group < row_.num_groups(); ++group)
        for_each_segment(group, add_segment);
    for (int32_t bucket = 0; bucket < num_buckets; ++bucket)
        for (const double sum : sums[bucket])
            histogram.sums[bucket] += sum;
}

void KeptRow::collect(const Histogram &histogram, int32_t bucket) {
    entries_.clear();
    for (const Interval &band : bands_of(histogram.buckets, bucket))
        for (int32_t group = 0; group < row_.num_groups(); ++group)
            if (maxima_.groups[static_cast<size_t>(group)] >= band.low && band.low <= band.high)
                collect_group(histogram, bucket, band, group);
}

void KeptRow::collect_group(const Histogram &histogram, int32_t bucket, Interval band,
                            int32_t group) {
    for_each_segment(group, [&](int32_t from, const float *x, int32_t n, Interval kept) {
        int32_t found[group_size];
        const int32_t num_found = row_kernels().find_in(x, n, intersect(band, kept), found);
        for (int32_t i = 0; i < num_found; ++i) {
            const float value = x[found[i]];
            int32_t at;
            float weight;
            row_kernels().buckets_of(&value, 1, histogram.buckets, &at);
            row_kernels().weights_in(&value, 1, exponent_, everything, &weight);
            if (at != bucket || !(weight > 0.0f))
                continue;
            const double key = histogram.buckets.key(value);
            entries_.push_back({key, from + found[i], histogram.by_weight ? weight : 1.0f});
        }
    });
}

void KeptRow::cut_at_target(const Histogram &histogram, double target) {
    double before = 0.0;
    for (int32_t bucket = 0; bucket < num_buckets; ++bucket) {
        const double through = before + histogram.sums[bucket];
        if (through >= target) {
            collect(histogram, bucket);
            if (!entries_.empty())
                keep(cut_at(histogram.buckets.key, locate(entries_, target - before)));
            if (entries_.capacity() > max_idle_entries)  // a row of ties: not worth keeping
                std::vector<Entry>().swap(entries_);
            return;
        }
        before = through;
    }
}

void KeptRow::keep(const Key &key, double fraction, double first, double range) {
    Histogram histogram = {{key, first, num_buckets / range, num_buckets}, true, {}};
    fill(histogram);
    double sum = 0.0;
    for (const double part : histogram.sums)
        sum += part;
    cut_at_target(histogram, fraction * sum);
}

void KeptRow::keep_best(int32_t n) {
    double sum = 0.0;
    int32_t num_groups = 0;
    for (const float best : maxima_.groups)
        if (best >= floor_) {
            sum += static_cast<double>(best);
            ++num_groups;
        }
    // The best of a group lies some three deviations above the mean of a row like most.
    const double best = static_cast<double>(maxima_.best);
    const double guess = 8.0 * (best - sum / num_groups);
    const double range = guess > 0.0 ? guess : 1.0;
    Histogram histogram = {{by_value, -best, num_buckets / range, num_buckets}, false, {}};
    fill(histogram);
    cut_at_target(histogram, n);
}

void KeptRow::keep(const Cut &cut) noexcept {
    cuts_[num_cuts_++] = cut;
    const float low = std::min(cut.through.low, cut.after.low);
    floor_ = std::max(floor_, low);
    summary_.mass = 0.0;
    for (int32_t group = 0; group < row_.num_groups(); ++group) {
        double sum = 0.0;
        for_each_segment(group, [&](int32_t, const float *x, int32_t n, Interval interval) {
            sum += row_kernels().mass_in(x, n, exponent_, interval);
        });
        summary_.masses[static_cast<size_t>(group)] = sum;
        summary_.mass += sum;
    }
}

float KeptRow::best() const noexcept {
    if (num_cuts_ == 0)
        return maxima_.best;
    float best = everything.low;
    for (int32_t group = 0; group < row_.num_groups(); ++group) {
        if (maxima_.groups[static_cast<size_t>(group)] <= best)
            continue;
        for_each_segment(group, [&](int32_t, const float *x, int32_t n, Interval kept) {
            for (int32_t i = 0; i < n; ++i)
                if (x[i] > best && x[i] >= kept.low && x[i] <= kept.high)
                    best = x[i];
        });
    }
    return best;
}

LastAbove KeptRow::last_above(float threshold) const noexcept {
    LastAbove last;
    for (int32_t group = 0; group < row_.num_groups(); ++group) {
        if (maxima_.groups[static_cast<size_t>(group)] < threshold)
            continue;
        for_each_segment(group, [&](int32_t from, const float *x, int32_t n, Interval kept) {
            GroupBuffer weights;  // what weighs nothing is not kept
            const Interval wanted = intersect(kept, {threshold, everything.high});
            row_kernels().weights_in(x, n, exponent_, wanted, weights.values);
            for (int32_t i = 0; i < n; ++i)
                if (weights.values[i] > 0.0f)
                    last.add(from + i, x[i]);
        });
    }
    return last;
}

int32_t KeptRow::draw(double u) const noexcept {
    const double target = u * summary_.mass;
    double before = 0.0;
    int32_t group = 0;
    int32_t chosen_group = 0;
    for (; group < row_.num_groups(); ++group) {
        const double mass = summary_.masses[static_cast<size_t>(group)];
        if (mass > 0.0)
            chosen_group = group;
        if (before + mass > target)
            break;
        before += mass;
    }
    int32_t chosen = -1;
    bool is_found = false;
    for_each_segment(chosen_group, [&](int32_t from, const float *x, int32_t n, Interval interval) {
        GroupBuffer weights;
        row_kernels().weights_in(x, n, exponent_, interval, weights.values);
        for (int32_t i = 0; i < n && !is_found; ++i) {
            if (!(weights.values[i] > 0.0f))
                continue;
            // The last token with a weight is chosen where rounding lets none exceed the target.
            chosen = from + i;
            before += static_cast<double>(weights.values[i]);
            is_found = before > target;
        }
    });
    return chosen;
}

}  // namespace tgi

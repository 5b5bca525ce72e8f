#include "row.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace tgi {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

void resize(Maxima &maxima, const Row &row) {
    maxima.groups.resize(static_cast<size_t>(row.num_groups()));
    maxima.parts.resize(static_cast<size_t>(row.num_groups() * num_parts));
    maxima.best = -infinity;
}

void set_group(Maxima &maxima, int32_t group, const float *x, int32_t n) noexcept {
    float lanes[num_lanes];
    row_kernels().lane_max(x, n, lanes);
    float *parts = maxima.parts.data() + group * num_parts;
    for (int32_t part = 0; part < num_parts; ++part) {
        parts[part] = lanes[part];
        for (int32_t lane = part + num_parts; lane < num_lanes; lane += num_parts)
            parts[part] = lanes[lane] > parts[part] ? lanes[lane] : parts[part];
    }
    const float best = *std::max_element(parts, parts + num_parts);
    maxima.groups[static_cast<size_t>(group)] = best;
    maxima.best = best > maxima.best ? best : maxima.best;
}

void copy_group(const Maxima &from, int32_t group, Maxima &to) noexcept {
    std::copy_n(from.parts.data() + group * num_parts, num_parts,
                to.parts.data() + group * num_parts);
    const float best = from.groups[static_cast<size_t>(group)];
    to.groups[static_cast<size_t>(group)] = best;
    to.best = best > to.best ? best : to.best;
}

double group_mass(const float *x, int32_t n, float best, const Exponent &exponent) noexcept {
    if (weighs_little(best, exponent))
        return row_kernels().mass(x, n, exponent);
    return row_kernels().mass_in(x, n, exponent, everything);
}

void add_raw(const Row &row, int32_t group, const Exponent &exponent,
             RowSummary &summary) noexcept {
    const float best = summary.raw.groups[static_cast<size_t>(group)];
    summary.raw_mass += group_mass(row.raw(group), row.size(group), best, exponent);
}

void add_patched(const Row &row, int32_t group, const Exponent &exponent, GroupBuffer &buffer,
                 RowSummary &summary) noexcept {
    const float best = summary.maxima(row).groups[static_cast<size_t>(group)];
    const float *x = row.patched(group, buffer);
    const double mass = group_mass(x, row.size(group), best, exponent);
    summary.masses[static_cast<size_t>(group)] = mass;
    summary.mass += mass;
}

// Both masses of a group in one pass: what is not penalised is common to them. (Taking the
// penalised tokens out of one sum again would cancel where they hold most of it.)
void add_shared(const Row &row, int32_t group, const Exponent &exponent, GroupBuffer &buffer,
                RowSummary &summary) noexcept {
    const float best = summary.raw.groups[static_cast<size_t>(group)];
    const float *x = row.is_patched(group) ? row.unpenalized(group, buffer) : row.raw(group);
    double raw_mass = group_mass(x, row.size(group), best, exponent);
    double mass = raw_mass;
    for (int32_t i = row.first_penalized(group); i < row.first_penalized(group + 1); ++i) {
        raw_mass += static_cast<double>(summary.raw_weights[static_cast<size_t>(i)]);
        mass += static_cast<double>(summary.weights[static_cast<size_t>(i)]);
    }
    summary.masses[static_cast<size_t>(group)] = mass;
    summary.mass += mass;
    summary.raw_mass += raw_mass;
}

void weigh_penalized(const Row &row, const Exponent &exponent, RowSummary &summary) {
    const PenalizedTokens &tokens = row.penalized();
    const int32_t n = static_cast<int32_t>(tokens.ids.size());
    summary.raw_weights.resize(tokens.ids.size());
    summary.weights.resize(tokens.ids.size());
    row_kernels().weights_in(tokens.raw.data(), n, exponent, everything,
                             summary.raw_weights.data());
    row_kernels().weights_in(tokens.values.data(), n, exponent, everything, summary.weights.data());
}

}  // namespace

Row::Row(const float *logits, int32_t num_vocab, const PenalizedTokens &penalized,
         std::vector<int32_t> &first_penalized)
    : logits_(logits),
      num_vocab_(num_vocab),
      penalized_(penalized),
      first_penalized_(first_penalized) {
    first_penalized.clear();
    if (penalized.ids.empty())
        return;
    for (size_t i = 0; i < penalized.ids.size(); ++i)
        while (static_cast<int32_t>(first_penalized.size()) * group_size <= penalized.ids[i])
            first_penalized.push_back(static_cast<int32_t>(i));
    first_penalized.resize(static_cast<size_t>(num_groups()) + 1,
                           static_cast<int32_t>(penalized.ids.size()));
}

int32_t Row::first_penalized(int32_t group) const noexcept {
    return first_penalized_.empty() ? 0 : first_penalized_[static_cast<size_t>(group)];
}

const float *Row::patched(int32_t group, GroupBuffer &buffer) const noexcept {
    if (!is_patched(group))
        return raw(group);
    std::memcpy(buffer.values, raw(group), static_cast<size_t>(size(group)) * sizeof(float));
    for (int32_t i = first_penalized(group); i < first_penalized(group + 1); ++i) {
        const size_t at = static_cast<size_t>(i);
        buffer.values[penalized_.ids[at] - start(group)] = penalized_.values[at];
    }
    return buffer.values;
}

const float *Row::unpenalized(int32_t group, GroupBuffer &buffer) const noexcept {
    std::memcpy(buffer.values, raw(group), static_cast<size_t>(size(group)) * sizeof(float));
    for (int32_t i = first_penalized(group); i < first_penalized(group + 1); ++i)
        buffer.values[penalized_.ids[static_cast<size_t>(i)] - start(group)] = -infinity;
    return buffer.values;
}

float negligible_below(float best, const Exponent &exponent) noexcept {
    return best +
           0.427f * exponent.cutoff;  // 37 temperatures: 5e-17 of the best's weight, 2^18 times
}

void find_maxima(const Row &row, RowSummary &summary) {
    const bool is_penalized = !row.penalized().ids.empty();
    GroupBuffer buffer;
    resize(summary.raw, row);
    if (is_penalized)
        resize(summary.patched, row);
    for (int32_t group = 0; group < row.num_groups(); ++group) {
        set_group(summary.raw, group, row.raw(group), row.size(group));
        if (row.is_patched(group))
            set_group(summary.patched, group, row.patched(group, buffer), row.size(group));
        else if (is_penalized)
            copy_group(summary.raw, group, summary.patched);
    }
}

void sum_masses(const Row &row, const Exponent &raw, const Exponent *exponent,
                RowSummary &summary) {
    const bool is_shared = exponent == &raw;
    GroupBuffer buffer;
    summary.raw_mass = 0.0;
    summary.mass = 0.0;
    const Maxima &maxima = summary.maxima(row);
    const float raw_floor = negligible_below(summary.raw.best, raw);
    const float floor = exponent == nullptr ? infinity : negligible_below(maxima.best, *exponent);
    if (is_shared)
        weigh_penalized(row, raw, summary);
    if (exponent != nullptr)
        summary.masses.assign(static_cast<size_t>(row.num_groups()), 0.0);
    for (int32_t group = 0; group < row.num_groups(); ++group) {
        const bool matters_raw = summary.raw.groups[static_cast<size_t>(group)] >= raw_floor;
        const bool matters = maxima.groups[static_cast<size_t>(group)] >= floor;
        if (is_shared && (matters_raw || matters)) {
            add_shared(row, group, raw, buffer, summary);
            continue;
        }
        if (matters_raw)
            add_raw(row, group, raw, summary);
        if (matters)
            add_patched(row, group, *exponent, buffer, summary);
    }
}

int32_t find_best(const Row &row, const RowSummary &summary) noexcept {
    const Maxima &maxima = summary.maxima(row);
    GroupBuffer buffer;
    for (int32_t group = 0; group < row.num_groups(); ++group) {
        if (maxima.groups[static_cast<size_t>(group)] != maxima.best)
            continue;
        const float *x = row.patched(group, buffer);
        for (int32_t i = 0; i < row.size(group); ++i)
            if (x[i] == maxima.best)
                return row.start(group) + i;
    }
    return -1;  // cannot be: the maximum is somewhere
}

}  // namespace tgi

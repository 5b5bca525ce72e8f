// What the sampler and the scorer hold for any parameters, ids and logits whatever: the bytes of
// the input are read as those. Entry point of libFuzzer, and of fuzz_main.cpp where there is none.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "sampler.h"
#include "score.h"

#define HOLDS(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                                  \
        }                                                                                  \
    } while (false)

uint64_t num_fuzzed_tokens = 0;  // drawn so far, in all inputs: valid ones must be among them

namespace {

using tgi::SampleStatus;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float special_floats[] = {
    0.0f,  -0.0f,  1.0f,    -1.0f,  0.5f,  infinity, -infinity, not_a_number, largest, -largest,
    1e-6f, 1e-45f, -1e-45f, 1e-38f, 1e30f, -1e30f,   100.0f,    -100.0f,      2.0f,    0.999999f};
constexpr int32_t special_ints[] = {0,  1,   2,    -1,        5,         -2,           64,
                                    63, 512, 8192, INT32_MAX, INT32_MIN, INT32_MAX - 1};

// Values from the bytes of an input; zeros when they are used up.
class Bytes {
  public:
    Bytes(const uint8_t *data, size_t size) : data_(data), end_(data + size) {}

    template <typename T>
    T raw() {
        T value{};
        const size_t num_left = std::min(sizeof(T), static_cast<size_t>(end_ - data_));
        if (num_left > 0)  // an empty input has no address
            std::memcpy(&value, data_, num_left);
        data_ += num_left;
        return value;
    }
    uint8_t byte() { return raw<uint8_t>(); }
    bool coin() { return (byte() & 1) != 0; }
    int32_t below(int32_t bound) {
        return static_cast<int32_t>(raw<uint32_t>() % static_cast<uint32_t>(bound));
    }
    // A usual value, a special one, or any bits.
    float number(float low, float high) {
        const uint8_t kind = byte();
        if (kind < 240)
            return low + (high - low) * static_cast<float>(byte()) / 255.0f;
        if (kind < 253)
            return special_floats[byte() % std::size(special_floats)];
        return raw<float>();
    }
    int32_t integer(int32_t usual) {
        const uint8_t kind = byte();
        if (kind < 240)
            return below(usual + 1);
        if (kind < 253)
            return special_ints[byte() % std::size(special_ints)];
        return raw<int32_t>();
    }
    // Ids, a few of them out of the vocabulary; negative ones now and then.
    std::vector<int32_t> ids(int32_t num_vocab) {
        std::vector<int32_t> found(static_cast<size_t>(below(coin() ? 8 : 120)));
        const int32_t num_kinds = 1 + below(num_vocab);
        const bool may_be_wild = byte() < 16;
        for (int32_t &id : found)
            id = may_be_wild && byte() < 30 ? integer(num_vocab) : below(num_kinds + 1);
        return found;
    }

  private:
    const uint8_t *data_;
    const uint8_t *end_;
};

int32_t vocabulary(Bytes &bytes) {
    const uint8_t kind = bytes.byte();
    if (kind < 140)
        return 1 + bytes.below(70);
    return kind < 240 ? 1 + bytes.below(2000) : 4096 + bytes.below(6000);
}

// A row of some shape, with some entries that are anything.
std::vector<float> logits(Bytes &bytes, int32_t num_vocab) {
    std::vector<float> row(static_cast<size_t>(num_vocab));
    const float base = bytes.number(-20.0f, 20.0f), spread = bytes.number(0.0f, 20.0f);
    uint64_t state = bytes.raw<uint64_t>() | 1;
    for (float &x : row) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x = base + spread * static_cast<float>(state >> 40) * 0x1p-24f;
    }
    for (int32_t num_wild = bytes.below(20); num_wild > 0; --num_wild)
        row[static_cast<size_t>(bytes.below(num_vocab))] = bytes.number(-30.0f, 30.0f);
    return row;
}

// Parameters with what their pointers point to.
struct Parameters {
    Parameters(Bytes &bytes, int32_t num_vocab)
        : bias_ids(bytes.coin() ? bytes.ids(num_vocab) : std::vector<int32_t>()),
          breakers(bytes.coin() ? bytes.ids(num_vocab) : std::vector<int32_t>()) {
        for (size_t i = 0; i < bias_ids.size(); ++i)
            bias_values.push_back(bytes.number(-100.0f, 100.0f));
        std::sort(breakers.begin(), breakers.end());
        plain.bias_ids = bias_ids.data();
        plain.bias_values = bias_values.data();
        plain.num_biases = static_cast<int64_t>(bias_ids.size());
        plain.dry_breaker_ids = breakers.data();
        plain.num_dry_breakers = static_cast<int64_t>(breakers.size());
        plain.seed = bytes.raw<uint64_t>();
        plain.penalize_prompt = bytes.coin();
        read(bytes);
    }

    // Each is off more often than not, so that most sets of them are valid.
    void read(Bytes &bytes) {
        const uint32_t chosen = bytes.raw<uint32_t>() & bytes.raw<uint32_t>();
        int bit = 0;
        const auto number = [&](float &to, float low, float high) {
            if (chosen >> bit++ & 1)
                to = bytes.number(low, high);
        };
        const auto integer = [&](int32_t &to, int32_t usual) {
            if (chosen >> bit++ & 1)
                to = bytes.integer(usual);
        };
        plain.temperature = bytes.coin() ? bytes.number(0.0f, 2.0f) : 1.0f;
        integer(plain.top_k, 100);
        number(plain.top_p, 0.0f, 1.0f);
        number(plain.typical_p, 0.0f, 1.0f);
        number(plain.repetition_penalty, 0.01f, 3.0f);
        number(plain.frequency_penalty, -2.0f, 2.0f);
        number(plain.presence_penalty, -2.0f, 2.0f);
        integer(plain.num_top, 20);
        integer(plain.penalty_last_n, 100);
        number(plain.min_p, 0.0f, 1.0f);
        number(plain.xtc_probability, 0.0f, 1.0f);
        number(plain.xtc_threshold, 0.0f, 1.0f);
        number(plain.dry_multiplier, 0.0f, 5.0f);
        number(plain.dry_base, 1.0f, 4.0f);
        integer(plain.dry_allowed_length, 8);
        integer(plain.dry_last_n, 100);
        integer(plain.mirostat, 2);
        number(plain.mirostat_tau, 0.0f, 10.0f);
        number(plain.mirostat_eta, 0.0f, 1.0f);
    }

    bool bans(int32_t id) const {
        for (size_t i = 0; i < bias_ids.size(); ++i)
            if (bias_ids[i] == id && bias_values[i] == -infinity)
                return true;
        return false;
    }

    std::vector<int32_t> bias_ids;
    std::vector<float> bias_values;
    std::vector<int32_t> breakers;
    tgi::SamplerParams plain;
};

bool is_status(SampleStatus status) {
    return static_cast<int32_t>(status) >= 0 && static_cast<int32_t>(status) <= 3;
}

bool is_logprob(float x) {
    return x <= 1e-3f;  // neither NaN nor a probability above one
}

// The best, with room for one more than asked: that one must stay as it was.
struct Top {
    explicit Top(int32_t num) : ids(static_cast<size_t>(num) + 1, -7), logprobs(ids.size(), 7.0f) {}

    void check(int32_t num_vocab) const {
        HOLDS(ids.back() == -7 && logprobs.back() == 7.0f);
        for (size_t i = 0; i + 1 < ids.size(); ++i) {
            HOLDS(ids[i] >= 0 && ids[i] < num_vocab && is_logprob(logprobs[i]));
            HOLDS(i == 0 || logprobs[i] <= logprobs[i - 1]);
        }
        std::vector<int32_t> sorted(ids);
        std::sort(sorted.begin(), sorted.end());
        HOLDS(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
    }

    std::vector<int32_t> ids;
    std::vector<float> logprobs;
};

void check_scorer(Bytes &bytes, const std::vector<float> &row) {
    const int32_t num_vocab = static_cast<int32_t>(row.size());
    tgi::Scorer scorer(num_vocab);
    const int32_t id = bytes.integer(num_vocab);
    const int32_t num_top = std::min(bytes.below(30), num_vocab);
    Top top(num_top);
    float logprob = 7.0f;
    const SampleStatus status =
        scorer.score(row.data(), id, num_top, &logprob, top.ids.data(), top.logprobs.data());
    HOLDS(is_status(status));
    if (status == SampleStatus::ok) {
        HOLDS(is_logprob(logprob));
        top.check(num_vocab);
    }
}

// One draw of two samplers with the same history; both say the same.
SampleStatus draw(tgi::Sampler &one, tgi::Sampler &other, const std::vector<float> &row,
                  int64_t position, const Parameters &parameters, tgi::SampledToken &token) {
    const int32_t num_vocab = static_cast<int32_t>(row.size());
    Top top(one.num_top()), same_top(other.num_top());
    tgi::SampledToken same{-1, 7.0f};
    token = same;
    const SampleStatus status =
        one.sample(row.data(), position, &token, top.ids.data(), top.logprobs.data());
    HOLDS(is_status(status) && tgi::sample_status_message(status) != nullptr);
    HOLDS(status ==
          other.sample(row.data(), position, &same, same_top.ids.data(), same_top.logprobs.data()));
    HOLDS(token.id == same.id && std::memcmp(&token.logprob, &same.logprob, sizeof(float)) == 0);
    if (status != SampleStatus::ok)
        return status;
    HOLDS(token.id >= 0 && token.id < num_vocab && is_logprob(token.logprob));
    const float logit = row[static_cast<size_t>(token.id)];
    HOLDS(!std::isnan(logit) && logit != -infinity && !parameters.bans(token.id));
    top.check(num_vocab);
    return status;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Bytes bytes(data, size);
    const int32_t num_vocab = vocabulary(bytes);
    const Parameters parameters(bytes, num_vocab);
    const std::vector<int32_t> prompt = bytes.ids(num_vocab);
    std::vector<int32_t> output = bytes.ids(num_vocab);
    tgi::Sampler sampler(num_vocab), resumed(num_vocab);
    const auto reset = [&](tgi::Sampler &which) {
        return which.reset(parameters.plain, prompt.data(), static_cast<int64_t>(prompt.size()),
                           output.data(), static_cast<int64_t>(output.size()));
    };
    if (bytes.coin())  // what another sequence left behind
        resumed.reset(Parameters(bytes, num_vocab).plain, nullptr, 0, nullptr, 0);
    const SampleStatus status = reset(sampler);
    HOLDS(is_status(status));
    HOLDS(reset(resumed) == status);
    const std::vector<float> row = logits(bytes, num_vocab);
    check_scorer(bytes, row);
    if (status != SampleStatus::ok)
        return 0;
    const bool can_resume = parameters.plain.mirostat == 0;
    for (int32_t num_draws = bytes.below(12); num_draws > 0; --num_draws) {
        tgi::SampledToken token;
        const int64_t position = bytes.coin() ? bytes.raw<int64_t>() : num_draws;
        if (draw(sampler, resumed, row, position, parameters, token) != SampleStatus::ok)
            break;
        output.push_back(token.id);
        ++num_fuzzed_tokens;
        if (can_resume && bytes.coin())
            HOLDS(reset(resumed) == SampleStatus::ok);
    }
    return 0;
}

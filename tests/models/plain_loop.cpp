// What the server is compared with: a plain loop over llama.cpp's C API, without slots, cache or
// batches, for one model. plain_loop.py compiles, starts and asks it.
//
//     plain_loop MODEL NUM_CELLS NUM_THREADS
//
// Says "ready" and the size of the trained context, then answers each line of its input with one:
//
//     tokenize ADD_SPECIAL HEX      ids of the text whose UTF-8 is HEX ("-": empty)
//     greedy COUNT ID...            the COUNT likeliest tokens after these, fewer where the model
//                                   ends: for each its id, the HEX of its text and by how much its
//                                   logit leads, alone in a pass or with others, whichever is less
//     score ID...                   the log-probability of each id after those before it

#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr int kStepTokens = 512;

void fail(const std::string & sentence) {
    std::cerr << sentence << std::endl;
    std::exit(1);
}

void quiet(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::cerr << text;
    }
}

std::string from_hex(const std::string & hex) {
    std::string bytes;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
        bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    return bytes;
}

std::string to_hex(const std::string & bytes) {
    std::string hex;
    char digits[3];
    for (unsigned char byte : bytes) {
        std::snprintf(digits, sizeof digits, "%02x", byte);
        hex += digits;
    }
    return hex.empty() ? "-" : hex;
}

class PlainLoop {
  public:
    PlainLoop(const char * path, int num_cells, int num_threads) {
        llama_log_set(quiet, nullptr);
        llama_backend_init();
        model_ = llama_model_load_from_file(path, llama_model_default_params());
        if (model_ == nullptr) {
            fail("the model cannot be loaded");
        }
        vocab_ = llama_model_get_vocab(model_);
        llama_context_params params = llama_context_default_params();
        params.n_ctx = num_cells;
        params.n_batch = kStepTokens;
        params.n_ubatch = kStepTokens;
        params.n_threads = num_threads;
        params.n_threads_batch = num_threads;
        params.type_k = GGML_TYPE_BF16;
        params.type_v = GGML_TYPE_BF16;
        context_ = llama_init_from_model(model_, params);
        if (context_ == nullptr) {
            fail("no context can be made");
        }
        std::cout << "ready " << llama_model_n_ctx_train(model_) << std::endl;
    }

    void tokenize(std::istringstream & words) {
        bool adds_special = false;
        std::string hex;
        words >> adds_special >> hex;
        const std::string text = from_hex(hex);
        std::vector<llama_token> ids(text.size() + 8);
        const int count = llama_tokenize(vocab_, text.data(), static_cast<int>(text.size()), ids.data(),
                                         static_cast<int>(ids.size()), adds_special, true);
        if (count < 0) {
            fail("more tokens than bytes");
        }
        for (int i = 0; i < count; ++i) {
            std::cout << ids[i] << ' ';
        }
        std::cout << std::endl;
    }

    void greedy(std::istringstream & words) {
        int count = 0;
        words >> count;
        const std::vector<llama_token> prompt = ids_of(words);
        const float * logits = read(prompt, nullptr);
        std::vector<llama_token> ids;
        std::vector<float> leads;
        while (true) {
            const int size = llama_vocab_n_tokens(vocab_);
            ids.push_back(static_cast<llama_token>(std::max_element(logits, logits + size) - logits));
            leads.push_back(lead(logits, ids.back()));
            if (static_cast<int>(ids.size()) == count || llama_vocab_is_eog(vocab_, ids.back())) {
                break;
            }
            logits = decode({ids.back()}, nullptr);
        }
        read_at_once(static_cast<llama_pos>(prompt.size()), ids, leads);
        for (size_t i = 0; i < ids.size(); ++i) {
            std::cout << ids[i] << ' ' << to_hex(piece(ids[i])) << ' ' << leads[i] << ' ';
        }
        std::cout << std::endl;
    }

    void score(std::istringstream & words) {
        std::vector<float> scores;
        read(ids_of(words), &scores);
        for (float score : scores) {
            std::cout << score << ' ';
        }
        std::cout << std::endl;
    }

  private:
    static std::vector<llama_token> ids_of(std::istringstream & words) {
        std::vector<llama_token> ids;
        for (llama_token id; words >> id;) {
            ids.push_back(id);
        }
        return ids;
    }

    // Reads a prompt and returns the logits after its last token. What it begins with alike with the
    // one before stays, unless scores are asked for: three thousand tokens take half a minute.
    const float * read(const std::vector<llama_token> & ids, std::vector<float> * scores) {
        size_t start = 0;
        while (scores == nullptr && start + 1 < ids.size() && start < read_.size() && ids[start] == read_[start]) {
            ++start;
        }
        if (!llama_memory_seq_rm(llama_get_memory(context_), 0, start, -1)) {
            llama_memory_clear(llama_get_memory(context_), true);  // a recurrent state cannot be cut
            start = 0;
        }
        read_ = ids;
        position_ = static_cast<llama_pos>(start);
        next_.assign(ids.begin() + 1, ids.end());
        const float * logits = nullptr;
        for (; start < ids.size(); start += kStepTokens) {
            const size_t end = std::min(ids.size(), start + kStepTokens);
            logits = decode({ids.begin() + start, ids.begin() + end}, scores);
        }
        return logits;
    }

    const float * decode(const std::vector<llama_token> & ids, std::vector<float> * scores) {
        const int count = static_cast<int>(ids.size());
        llama_batch batch = llama_batch_init(count, 0, 1);
        batch.n_tokens = count;
        for (int i = 0; i < count; ++i) {
            batch.token[i] = ids[i];
            batch.pos[i] = position_ + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = scores != nullptr || i + 1 == count;
        }
        if (llama_decode(context_, batch) != 0) {
            fail("llama_decode failed");
        }
        llama_batch_free(batch);
        for (int i = 0; scores != nullptr && i < count; ++i) {
            if (static_cast<size_t>(position_ + i) < next_.size()) {
                scores->push_back(log_probability(llama_get_logits_ith(context_, i), next_[position_ + i]));
            }
        }
        position_ += count;
        return llama_get_logits_ith(context_, -1);
    }

    // Kernels for several rows round differently from those for one, so a token leads by the lesser
    // of what both say. The tokens were decoded one by one; here they are read in one pass.
    void read_at_once(llama_pos start, const std::vector<llama_token> & ids, std::vector<float> & leads) {
        const int count = static_cast<int>(ids.size()) - 1;
        if (count < 1 || !llama_memory_seq_rm(llama_get_memory(context_), 0, start, -1)) {
            return;  // a recurrent state cannot be cut
        }
        position_ = start;
        next_.clear();
        std::vector<float> unused;
        decode({ids.begin(), ids.end() - 1}, &unused);
        for (int i = 0; i < count; ++i) {
            const float * logits = llama_get_logits_ith(context_, i);
            leads[i + 1] = std::min(leads[i + 1], lead(logits, ids[i + 1]));
        }
    }

    float lead(const float * logits, llama_token of) const {
        float second = -INFINITY;
        for (llama_token id = 0; id < llama_vocab_n_tokens(vocab_); ++id) {
            if (id != of) {
                second = std::max(second, logits[id]);
            }
        }
        return logits[of] - second;
    }

    float log_probability(const float * logits, llama_token id) const {
        const int size = llama_vocab_n_tokens(vocab_);
        const double largest = *std::max_element(logits, logits + size);
        double sum = 0;
        for (int i = 0; i < size; ++i) {
            sum += std::exp(logits[i] - largest);
        }
        return static_cast<float>(logits[id] - largest - std::log(sum));
    }

    std::string piece(llama_token id) const {
        std::string text(256, '\0');
        const int size = llama_token_to_piece(vocab_, id, text.data(), static_cast<int>(text.size()), 0, false);
        return text.substr(0, std::max(0, size));
    }

    llama_model * model_ = nullptr;
    llama_context * context_ = nullptr;
    const llama_vocab * vocab_ = nullptr;
    llama_pos position_ = 0;
    std::vector<llama_token> read_;
    std::vector<llama_token> next_;
};

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 4) {
        fail("usage: plain_loop MODEL NUM_CELLS NUM_THREADS");
    }
    PlainLoop loop(argv[1], std::atoi(argv[2]), std::atoi(argv[3]));
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string verb;
        words >> verb;
        if (verb == "tokenize") {
            loop.tokenize(words);
        } else if (verb == "greedy") {
            loop.greedy(words);
        } else if (verb == "score") {
            loop.score(words);
        } else {
            fail("there is no verb " + verb);
        }
    }
}

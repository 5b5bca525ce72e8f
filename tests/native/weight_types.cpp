// A child process over llama.h for test_weight_types.py: it writes a model in another weight type, and
// prints the logits of a model. Both may abort, which is a result too.
//
//   weight_types quantize IN OUT FTYPE     the types that need one get an importance matrix of ones
//   weight_types logits MODEL REPACK ROWS...   float32, rows x vocabulary for each number of rows

#include "gguf.h"
#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int num_threads = 2;
constexpr int num_cells = 128;

void log_errors(ggml_log_level level, const char *text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

int quantize(const char *from, const char *to, int ftype) {
    ggml_context *tensors = nullptr;
    gguf_context *file = gguf_init_from_file(from, {/*no_alloc*/ true, &tensors});
    if (file == nullptr) {
        return 1;
    }
    std::vector<std::vector<float>> ones;
    std::vector<llama_model_imatrix_data> importance;
    for (ggml_tensor *tensor = ggml_get_first_tensor(tensors); tensor != nullptr;
         tensor = ggml_get_next_tensor(tensors, tensor)) {
        ones.emplace_back(tensor->ne[0], 1.0f);
        importance.push_back({tensor->name, ones.back().data(), ones.back().size()});
    }
    importance.push_back({nullptr, nullptr, 0});
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = static_cast<llama_ftype>(ftype);
    params.nthread = num_threads;
    params.pure = true;
    params.allow_requantize = true;
    params.imatrix = importance.data();
    const int status = static_cast<int>(llama_model_quantize(from, to, &params));
    gguf_free(file);
    ggml_free(tensors);
    return status;
}

bool print_logits(llama_model *model, int num_rows) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = num_cells;
    params.n_threads = params.n_threads_batch = num_threads;
    params.type_k = params.type_v = GGML_TYPE_F32;
    llama_context *context = llama_init_from_model(model, params);
    if (context == nullptr) {
        return false;
    }
    const int num_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_batch batch = llama_batch_init(num_rows, 0, 1);
    batch.n_tokens = num_rows;
    for (int row = 0; row < num_rows; ++row) {
        batch.token[row] = (17 + 37 * row) % num_vocab;
        batch.pos[row] = row;
        batch.n_seq_id[row] = 1;
        batch.seq_id[row][0] = 0;
        batch.logits[row] = 1;
    }
    const bool is_good = llama_decode(context, batch) == 0;
    for (int row = 0; is_good && row < num_rows; ++row) {
        fwrite(llama_get_logits_ith(context, row), sizeof(float), num_vocab, stdout);
    }
    llama_batch_free(batch);
    llama_free(context);
    return is_good;
}

int logits(const char *path, bool is_repacked, const std::vector<int> &row_counts) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.use_extra_bufts = is_repacked;
    llama_model *model = llama_model_load_from_file(path, params);
    bool is_good = model != nullptr;
    for (const int num_rows : row_counts) {
        is_good = is_good && print_logits(model, num_rows);
    }
    llama_model_free(model);
    return is_good ? 0 : 1;
}

} // namespace

int main(int argc, char **argv) {
    llama_log_set(log_errors, nullptr);
    if (const char *folder = getenv("BACKENDS")) { // where a package has one for each kind of CPU
        ggml_backend_load_all_from_path(folder);
    }
    llama_backend_init();
    if (argc == 5 && strcmp(argv[1], "quantize") == 0) {
        return quantize(argv[2], argv[3], atoi(argv[4]));
    }
    if (argc > 4 && strcmp(argv[1], "logits") == 0) {
        std::vector<int> row_counts;
        for (int i = 4; i < argc; ++i) {
            row_counts.push_back(atoi(argv[i]));
        }
        return logits(argv[2], atoi(argv[3]) != 0, row_counts);
    }
    return 2;
}

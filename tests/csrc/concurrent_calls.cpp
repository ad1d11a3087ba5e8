// Several threads call the library at once, each with arguments of its own over the same samples; for ThreadSanitizer.
//
// Tables of every FFT size are built while others want them, errors are interleaved with results, and the instruction set
// changes under way. Results must be those of a quiet process, and an error text that of the thread's own call.

#include <thread>
#include <vector>

#include "exact_buffer.h"

namespace {

constexpr int kThreads = 6, kTurns = 6, kSamples = 9000;

struct Shared {
    ExactBuffer<float> wave{kSamples}, window{4096}, bank{2049 * 12};

    Shared() {
        for (int i = 0; i < kSamples; ++i) wave[i] = float(i * 37 % 101) / 101 - 0.5f;
        for (size_t i = 0; i < window.size; ++i) window[i] = 1;
        for (size_t i = 0; i < bank.size; ++i) bank[i] = float(i % 7);
    }
};

// Chroma of all samples, by an FFT size and a hop of the thread's own.
ExactBuffer<float> chroma_of(const Shared &shared, int thread) {
    duotok_mel_chroma_args args = {};
    args.wave = shared.wave.data, args.batch = 1, args.channels = 1, args.samples = kSamples;
    args.window = shared.window.data, args.n_fft = 256 << thread % 5, args.hop = 100 + thread, args.pad = args.n_fft / 2;
    args.power = 2, args.num_threads = 2;
    args.chroma_bank = shared.bank.data, args.chroma_bins = args.n_fft / 2 + 1;
    args.chroma_size = 12 * num_frames(args, kSamples);
    ExactBuffer<float> out(args.chroma_size);
    args.chroma = out.data;
    REQUIRE(duotok_mel_chroma(&args) == DUOTOK_OK, "%s", duotok_last_error());
    return out;
}

void fail_with(int pad) {
    ExactBuffer<float> one(1);
    duotok_mel_chroma_args args = {};
    args.chroma = one.data;
    args.channels = args.samples = args.hop = args.power = 1, args.n_fft = 256, args.pad = pad;
    char expected[64];
    snprintf(expected, sizeof expected, "pad: expected 0 to n_fft = 256; got %d", pad);
    REQUIRE(duotok_mel_chroma(&args) == DUOTOK_INVALID, "success");
    REQUIRE(!strcmp(duotok_last_error(), expected), "%s", duotok_last_error());
}

bool equal(const ExactBuffer<float> &a, const ExactBuffer<float> &b) {
    return a.size == b.size && !memcmp(a.data, b.data, a.size * sizeof(float));
}

template <class Function>
void at_once(Function function) {
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) threads.emplace_back(function, thread);
    for (std::thread &thread : threads) thread.join();
}

}  // namespace

int main() {
    const Shared shared;
    std::vector<std::vector<ExactBuffer<float>>> results(kThreads);
    at_once([&](int thread) {
        for (int turn = 0; turn < kTurns; ++turn) {
            results[thread].push_back(chroma_of(shared, thread));
            fail_with(1000 * (thread + 1) + turn);
        }
    });
    for (int thread = 0; thread < kThreads; ++thread)
        for (const auto &result : results[thread]) REQUIRE(equal(result, chroma_of(shared, thread)), "other values");
    at_once([&](int thread) {
        for (int turn = 0; turn < kTurns; ++turn) {
            duotok_use_cpu_isa(turn % 2 ? nullptr : "plain");
            REQUIRE(strlen(duotok_cpu_isa()), "no name");
            chroma_of(shared, thread);
        }
    });
    puts("no call was disturbed by another");
}

// The CUDA kernel of mel_chroma_cuda.cu on a CPU: the same phases, one thread after another, a block after another.
//
// Threads run forward, backward or in a fixed shuffle, so that a phase whose threads depend on one another gives different
// results; shared memory and registers begin as NaN, so that what nobody wrote shows. All memory is of its exact size, for
// the sanitizers that the tests build this with.

#include <assert.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "arguments.h"
#include "cuda_call.h"
#include "framing.h"

namespace duotok {
namespace {

#define DUOTOK_PHASE inline
#define DUOTOK_UNROLL
#define DUOTOK_NO_UNROLL
#include "cuda_block.h"

enum Order { kForward, kBackward, kShuffled };

class HostThreads {
public:
    HostThreads(int count, Order order) : order_(count), registers_(count) {
        std::iota(order_.begin(), order_.end(), 0);
        if (order == kBackward) std::reverse(order_.begin(), order_.end());
        if (order == kShuffled) std::shuffle(order_.begin(), order_.end(), std::mt19937(1));
        for (Registers &own : registers_) {
            for (Complex &point : own.points) point = {NAN, NAN};
            for (float &power : own.power) power = NAN;
        }
    }

    template <class Phase>
    void operator()(Phase phase) {
        for (const int thread : order_) phase(thread, registers_[thread]);
    }

private:
    std::vector<int> order_;
    std::vector<Registers> registers_;
};

template <int kPoints>
void run_grid(const CudaCall &call, int64_t batch, Order order) {
    using S = Sizes<kPoints>;
    for (int64_t clip = 0; clip < batch; ++clip)
        for (int64_t frame = 0; frame < call.frames; frame += S::kFrames) {
            std::vector<float> shared(S::kSharedFloats, NAN);
            HostThreads threads(S::kThreads, order);
            run_block<kPoints>(call, clip, frame, shared.data(), threads);
        }
}

template <int kPoints>
void get_sizes(int32_t *sizes) {
    using S = Sizes<kPoints>;
    sizes[0] = S::kFrames, sizes[1] = S::kThreads, sizes[2] = S::kSharedFloats * int(sizeof(float));
}

}  // namespace
}  // namespace duotok

extern "C" {

// Frames, threads and bytes of shared memory of a block.
DUOTOK_API void block_sizes(int32_t n_fft, int32_t *sizes) {
    switch (n_fft) {
        case 256: return duotok::get_sizes<128>(sizes);
        case 512: return duotok::get_sizes<256>(sizes);
        case 1024: return duotok::get_sizes<512>(sizes);
        case 2048: return duotok::get_sizes<1024>(sizes);
        default: return duotok::get_sizes<2048>(sizes);
    }
}

DUOTOK_API const char *duotok_last_error(void) { return duotok::last_error(); }

// As duotok_mel_chroma_cuda, but for the host's memory.
DUOTOK_API int32_t run_phases(const duotok_mel_chroma_args *args, int32_t order) {
    if (const int32_t status = duotok::check(args, false)) return status;
    const duotok::PackedTables tables(*args);
    const duotok::CudaCall call = tables.call(*args, tables.bytes().data());
    const auto thread_order = duotok::Order(order);
    switch (args->n_fft) {
        case 256: duotok::run_grid<128>(call, args->batch, thread_order); break;
        case 512: duotok::run_grid<256>(call, args->batch, thread_order); break;
        case 1024: duotok::run_grid<512>(call, args->batch, thread_order); break;
        case 2048: duotok::run_grid<1024>(call, args->batch, thread_order); break;
        default: duotok::run_grid<2048>(call, args->batch, thread_order);
    }
    return DUOTOK_OK;
}

}  // extern "C"

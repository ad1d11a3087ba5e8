// Log-Mel and chroma on the CPU: the choice of instruction set, and threads over blocks of frames.
//
// A block is the frames of one clip that fill the lanes of a vector register; it is loaded, transformed and reduced to its
// bands in a working set that fits the second-level cache. Which frames form a block is fixed by the clip alone, and lanes
// never mix, so results depend neither on the threads nor on the batch.

#include "mel_chroma_cpu.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <new>
#include <thread>
#include <vector>

#include "fft_tables.h"
#include "framing.h"
#include "spectrum_job.h"

#if defined(__GNUC__)
#define DUOTOK_INLINE static inline __attribute__((always_inline))
#else
#define DUOTOK_INLINE static inline
#endif

// Vector registers need __builtin_shufflevector (g++ 12, any clang).
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define DUOTOK_HAS_VECTORS 1
#if defined(__x86_64__)
#define DUOTOK_HAS_X86 1
#endif
#endif
#endif

namespace duotok {
namespace {

// One instruction set's entry points; see cpu_block.h.
struct BlockFunctions {
    int lanes;
    void (*process_block)(
        const SpectrumJob &, const float *const *samples, const Output &mel, const Output &chroma, int num_rows, void *scratch);
    float (*silent_band)(const SpectrumJob &);
};

constexpr int kMaxLanes = 16, kAlignment = 64, kMaxThreads = 1024;

namespace plain {
#define DUOTOK_LANES 1
#include "cpu_block.h"
}  // namespace plain

#if DUOTOK_HAS_VECTORS
namespace simd128 {
#define DUOTOK_LANES 4
#include "cpu_block.h"
}  // namespace simd128
#endif

#if DUOTOK_HAS_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define DUOTOK_LANES 8
#include "cpu_block.h"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx2,fma")
#endif
namespace avx512 {
#define DUOTOK_LANES 16
#include "cpu_block.h"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#if DUOTOK_HAS_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

struct InstructionSet {
    const char *name;
    const BlockFunctions *functions;
    bool (*runs_here)();
};

// Best first.
const InstructionSet kInstructionSets[] = {
#if DUOTOK_HAS_X86
    {"avx512", &avx512::functions, has_avx512},
    {"avx2", &avx2::functions, has_avx2},
#endif
#if DUOTOK_HAS_VECTORS
    {"simd128", &simd128::functions, [] { return true; }},
#endif
    {"plain", &plain::functions, [] { return true; }},
};

std::atomic<const InstructionSet *> chosen_set{nullptr};

const InstructionSet *best_set() {
    const InstructionSet *set = kInstructionSets;
    while (!set->runs_here()) ++set;  // the last one always does
    return set;
}

const InstructionSet *current_set() {
    const InstructionSet *chosen = chosen_set.load();
    return chosen ? chosen : best_set();
}

// One call: its constants, and what a thread needs to work on a block.
class Call {
public:
    Call(const duotok_mel_chroma_args &args, const BlockFunctions &functions);
    void run();

private:
    void work();
    void process(int64_t block, float *stage, void *scratch) const;
    void place_samples(int64_t clip, int64_t frame, int count, float *stage, const float *rows[]) const;
    void stage_samples(int64_t clip, int64_t begin, int64_t end, float *out) const;
    Output output(float *data, int num_bands, int64_t clip, int64_t frame) const;
    int64_t size_of(int64_t clip) const { return args_.lengths ? args_.lengths[clip] : args_.samples; }

    const duotok_mel_chroma_args &args_;
    const BlockFunctions &functions_;
    const int64_t frames_, blocks_per_clip_, num_blocks_;
    std::vector<Pair> window_;
    SpectrumJob job_;
    std::atomic<int64_t> next_block_{0};
};

Call::Call(const duotok_mel_chroma_args &args, const BlockFunctions &functions)
    : args_(args),
      functions_(functions),
      frames_(num_frames(args.samples, args.pad, args.n_fft, args.hop)),
      blocks_per_clip_((frames_ + functions.lanes - 1) / functions.lanes),
      num_blocks_(args.batch * blocks_per_clip_),
      window_(scaled_window(args)),
      job_(spectrum_job(args)) {
    job_.window = window_.data();
    job_.fft = fft_tables(args.n_fft);
}

void Call::run() {
    std::vector<std::thread> helpers;
    const int64_t num_helpers = std::min<int64_t>({args_.num_threads, num_blocks_, kMaxThreads}) - 1;
    try {
        helpers.reserve(std::max<int64_t>(num_helpers, 0));
        for (int64_t i = 0; i < num_helpers; ++i) helpers.emplace_back(&Call::work, this);
    } catch (const std::exception &) {
        // The system has no more threads to give: those there are share the blocks.
    }
    work();
    for (std::thread &helper : helpers) helper.join();
    if (next_block_ < num_blocks_) throw std::bad_alloc();
}

void Call::work() {
    const size_t lanes = functions_.lanes, stage_size = args_.n_fft * lanes, scratch_size = scratch_lanes(args_.n_fft) * lanes;
    const auto alignment = std::align_val_t(kAlignment);
    float *memory = static_cast<float *>(operator new((stage_size + scratch_size) * sizeof(float), alignment, std::nothrow));
    if (!memory) return;
    for (int64_t block; (block = next_block_++) < num_blocks_;) process(block, memory, memory + stage_size);
    operator delete(memory, alignment);
}

// Where the frames of a clip from `frame` on go.
Output Call::output(float *data, int num_bands, int64_t clip, int64_t frame) const {
    const int64_t frame_stride = args_.bands_first ? 1 : num_bands, band_stride = args_.bands_first ? frames_ : 1;
    return {data ? data + clip * frames_ * num_bands + frame * frame_stride : nullptr, frame_stride, band_stride};
}

void fill(const Output &out, int num_bands, int begin, int end, float value) {
    for (int row = begin; out.data && row < end; ++row)
        for (int band = 0; band < num_bands; ++band) out.data[row * out.frame_stride + band * out.band_stride] = value;
}

void Call::process(int64_t block, float *stage, void *scratch) const {
    const int64_t clip = block / blocks_per_clip_, frame = block % blocks_per_clip_ * functions_.lanes;
    const int64_t clip_frames = num_frames(size_of(clip), args_.pad, args_.n_fft, args_.hop);
    const int rows = int(std::min<int64_t>(functions_.lanes, frames_ - frame));
    const int valid = int(std::max<int64_t>(0, std::min<int64_t>(rows, clip_frames - frame)));
    const Output mel = output(args_.mel, args_.num_bands, clip, frame);
    const Output chroma = output(args_.chroma, kPitchClasses, clip, frame);
    if (valid) {
        const float *samples[kMaxLanes];
        place_samples(clip, frame, valid, stage, samples);
        functions_.process_block(job_, samples, mel, chroma, valid, scratch);
    }
    if (valid < rows) {
        fill(mel, args_.num_bands, valid, rows, functions_.silent_band(job_));
        fill(chroma, kPitchClasses, valid, rows, 0.0f);
    }
}

// Point rows at the samples of `count` frames: in place where they lie within the clip, else staged.
void Call::place_samples(int64_t clip, int64_t frame, int count, float *stage, const float *rows[]) const {
    const int n_fft = args_.n_fft;
    const int64_t hop = args_.hop, begin = frame * hop - args_.pad, end = begin + (count - 1) * hop + n_fft;
    if (args_.sample_type == DUOTOK_FLOAT32 && args_.channels == 1 && begin >= 0 && end <= size_of(clip)) {
        const float *wave = static_cast<const float *>(args_.wave) + clip * args_.row_stride;
        for (int row = 0; row < count; ++row) rows[row] = wave + begin + row * hop;
    } else {
        // Frames that overlap are staged as one run, so that each sample is converted once.
        const int64_t step = std::min<int64_t>(hop, n_fft);
        for (int row = 0; row < count; ++row) {
            rows[row] = stage + row * step;
            const int64_t shared = row ? n_fft - step : 0;
            stage_samples(clip, begin + row * hop + shared, begin + row * hop + n_fft, stage + row * step + shared);
        }
    }
    std::fill(rows + count, rows + functions_.lanes, rows[0]);
}

// Add samples begin .. end - 1 of a padded channel.
template <class Sample>
void add_channel(const Sample *wave, int64_t size, int32_t pad_mode, int64_t begin, int64_t end, float *out) {
    const int64_t inside_begin = std::min(std::max<int64_t>(begin, 0), end);
    const int64_t inside_end = std::max(std::min(end, size), inside_begin);
    const auto add_padded = [&](int64_t i) {
        const int64_t source = padded_position(i, size, pad_mode);
        if (source >= 0) out[i - begin] += float(wave[source]);
    };
    for (int64_t i = begin; i < inside_begin; ++i) add_padded(i);
    for (int64_t i = inside_begin; i < inside_end; ++i) out[i - begin] += float(wave[i]);
    for (int64_t i = inside_end; i < end; ++i) add_padded(i);
}

void Call::stage_samples(int64_t clip, int64_t begin, int64_t end, float *out) const {
    const int64_t size = size_of(clip);
    std::fill(out, out + (end - begin), 0.0f);
    for (int64_t channel = 0; channel < args_.channels; ++channel) {
        const int64_t offset = clip * args_.row_stride + channel * args_.channel_stride;
        if (args_.sample_type == DUOTOK_INT16)
            add_channel(static_cast<const int16_t *>(args_.wave) + offset, size, args_.pad_mode, begin, end, out);
        else
            add_channel(static_cast<const float *>(args_.wave) + offset, size, args_.pad_mode, begin, end, out);
    }
    if (args_.channels > 1)
        for (int64_t i = 0; i < end - begin; ++i) out[i] /= float(args_.channels);
}

}  // namespace

const char *cpu_isa() { return current_set()->name; }

bool use_cpu_isa(const char *name) {
    if (!name) {
        chosen_set = nullptr;
        return true;
    }
    for (const InstructionSet &set : kInstructionSets) {
        if (strcmp(set.name, name) || !set.runs_here()) continue;
        chosen_set = &set;
        return true;
    }
    return false;
}

void mel_chroma_cpu(const duotok_mel_chroma_args &args) { Call(args, *current_set()->functions).run(); }

}  // namespace duotok

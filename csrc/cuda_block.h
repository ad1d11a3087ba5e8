// One block of the CUDA kernel: kFrames consecutive frames of a clip, as phases of its threads.
//
// What lies between two barriers is one function of a thread's index, so this file is also plain C++: the tests run it on
// a CPU, phase by phase and thread by thread in any order. Shared memory holds, one after another in time, the samples of
// all frames (each once where frames overlap), the points of their FFTs, and their spectra with the sums of chroma.
//
// Included once, with DUOTOK_PHASE set, and DUOTOK_UNROLL and DUOTOK_NO_UNROLL to what goes before a loop that indexes
// registers, or that is long and rarely run; Lane is float.

#define DUOTOK_LANES 1
#include "lanes.h"
#include "fft.h"
#include "mel_chroma.h"
#undef DUOTOK_LANES

// A bin of four consecutive frames.
struct alignas(16) Quad {
    float of[4];
};

DUOTOK_PHASE void operator+=(Quad &a, const Quad &b) {
    for (int i = 0; i < 4; ++i) a.of[i] += b.of[i];
}

DUOTOK_PHASE Quad operator+(Quad a, const Quad &b) {
    a += b;
    return a;
}

DUOTOK_PHASE Quad operator*(Quad a, float b) {
    for (int i = 0; i < 4; ++i) a.of[i] *= b;
    return a;
}

// Read or write a T in one access; its address must be aligned as a T is.
template <class T>
DUOTOK_PHASE T load(const float *from) {
    assert(reinterpret_cast<uintptr_t>(from) % alignof(T) == 0);
    return *reinterpret_cast<const T *>(from);
}

template <class T>
DUOTOK_PHASE void store(float *to, const T &value) {
    assert(reinterpret_cast<uintptr_t>(to) % alignof(T) == 0);
    *reinterpret_cast<T *>(to) = value;
}

#include "cuda_fft.h"

// What a thread keeps from one phase to the next.
struct Registers {
    Complex points[16];
    float power[18];
};

// A block's place in its call.
struct Block {
    const CudaCall &call;
    float *shared;
    int64_t clip, first_frame, size;  // size: samples of the clip
    int rows, valid_rows;             // frames within (B, T), and those within the clip
};

DUOTOK_PHASE Block make_block(const CudaCall &call, int64_t clip, int64_t first_frame, int num_frames, float *shared) {
    const int64_t size = call.lengths ? call.lengths[clip] : call.samples;
    const int64_t left = call.frames - first_frame;
    const int rows = left < num_frames ? int(left) : num_frames;
    int valid_rows = 0;
    if (size >= 1 && size <= call.samples) {
        const int64_t room = size + 2 * call.pad - call.n_fft - first_frame * call.hop;
        while (valid_rows < rows && valid_rows * call.hop <= room) ++valid_rows;
    }
    return {call, shared, clip, first_frame, size, rows, valid_rows};
}

// The mean of all channels at a position of the padded clip.
template <class Sample>
DUOTOK_PHASE float padded_sample(const Block &block, const Sample *wave, int64_t position) {
    const CudaCall &call = block.call;
    const int64_t source = padded_position(position, block.size, call.pad_mode);
    if (source < 0) return 0.0f;
    float sum = 0.0f;
    for (int64_t c = 0; c < call.channels; ++c) sum += float(wave[c * call.channel_stride + source]);
    return sum / float(call.channels);
}

template <int kPoints, class Sample>
DUOTOK_PHASE void load_samples_as(const Block &block, int thread) {
    using S = Sizes<kPoints>;
    constexpr int kSamples = 2 * kPoints;
    const CudaCall &call = block.call;
    const Sample *wave = static_cast<const Sample *>(call.wave) + block.clip * call.row_stride;
    const int step = sample_step(call), valid = kSamples + (block.valid_rows - 1) * step;
    const int64_t begin = block.first_frame * call.hop - call.pad;
    if (call.channels == 1 && call.hop <= kSamples && begin >= 0 && begin + valid <= block.size) {
        for (int i = thread; i < valid; i += S::kThreads) block.shared[i] = float(wave[begin + i]);
    } else {
        DUOTOK_NO_UNROLL
        for (int i = thread; i < valid; i += S::kThreads) {
            const int64_t from_begin = call.hop <= kSamples ? i : i / kSamples * call.hop + i % kSamples;
            block.shared[i] = padded_sample(block, wave, begin + from_begin);
        }
    }
    for (int i = valid + thread; i < kSamples + (S::kFrames - 1) * step; i += S::kThreads) block.shared[i] = 0.0f;
}

// Phase: bring the samples of all frames to shared memory; zeros for frames behind the clip.
template <int kPoints>
DUOTOK_PHASE void load_samples(const Block &block, int thread) {
    block.call.is_int16 ? load_samples_as<kPoints, int16_t>(block, thread) : load_samples_as<kPoints, float>(block, thread);
}

// The frames of a block in an output.
DUOTOK_PHASE Output block_output(const Block &block, float *data, int num_bands) {
    const CudaCall &call = block.call;
    const int64_t frame_stride = call.bands_first ? 1 : num_bands, band_stride = call.bands_first ? call.frames : 1;
    return {data + block.clip * call.frames * num_bands + block.first_frame * frame_stride, frame_stride, band_stride};
}

// Part of a phase: Mel bands from the spectra to memory.
template <int kPoints>
DUOTOK_PHASE void store_mel(const Block &block, int thread) {
    using S = Sizes<kPoints>;
    const SpectrumJob &job = block.call.job;
    const Output out = block_output(block, block.call.mel, job.num_bands);
    const Quad *spectra = reinterpret_cast<const Quad *>(block.shared);
    for (int i = thread; i < job.num_bands * (S::kFrames / 4); i += S::kThreads) {
        const int four = i / job.num_bands, band = i % job.num_bands;
        const Quad sum = band_sum(spectra + four * S::kBins, job, band);
        for (int f = 0; f < 4; ++f)
            if (4 * four + f < block.valid_rows)
                out.data[(4 * four + f) * out.frame_stride + band * out.band_stride] = band_value(sum.of[f], job);
    }
}

// Part of a phase: every slice's sums of four pitch classes of four frames.
template <int kPoints>
DUOTOK_PHASE void sum_chroma_slices(const Block &block, int thread) {
    using S = Sizes<kPoints>;
    const Quad *spectra = reinterpret_cast<const Quad *>(block.shared);
    Quad *partials = reinterpret_cast<Quad *>(block.shared + S::kPartials);
    for (int i = thread; i < 3 * S::kSlices * (S::kFrames / 4); i += S::kThreads) {
        const int third = i % 3, slice = i / 3 % S::kSlices, four = i / 3 / S::kSlices;
        Quad classes[4] = {};
        for (int k = slice; k < S::kBins; k += S::kSlices) {
            const Quad weights = load<Quad>(block.call.job.chroma_bank + k * kPitchClasses + 4 * third);
            add_bin(spectra[four * S::kBins + k], weights.of, 4, classes);
        }
        for (int c = 0; c < 4; ++c) partials[(four * S::kSlices + slice) * kPitchClasses + 4 * third + c] = classes[c];
    }
}

// Phase: the sum over slices of each pitch class of each frame.
template <int kPoints>
DUOTOK_PHASE void sum_chroma(float *shared, int thread) {
    using S = Sizes<kPoints>;
    for (int i = thread; i < S::kFrames * kPitchClasses; i += S::kThreads) {
        const int four = i / 4 / kPitchClasses, c = i / 4 % kPitchClasses, f = i % 4;
        const float *partials = shared + S::kPartials + 4 * (four * S::kSlices * kPitchClasses + c) + f;
        float sum = 0.0f;
        for (int slice = 0; slice < S::kSlices; ++slice) sum += partials[4 * slice * kPitchClasses];
        shared[S::kClasses + (4 * four + f) * kPitchClasses + c] = sum;
    }
}

// Phase: pitch classes, divided by their largest if wanted, to memory.
template <int kPoints>
DUOTOK_PHASE void store_chroma(const Block &block, int thread) {
    const Output out = block_output(block, block.call.chroma, kPitchClasses);
    for (int i = thread; i < block.valid_rows * kPitchClasses; i += Sizes<kPoints>::kThreads) {
        const int frame = i / kPitchClasses, c = i % kPitchClasses;
        const float *classes = block.shared + Sizes<kPoints>::kClasses + frame * kPitchClasses;
        const float divisor = block.call.job.chroma_normalize ? chroma_divisor(classes) : 1.0f;
        out.data[frame * out.frame_stride + c * out.band_stride] = classes[c] / divisor;
    }
}

// Part of a phase: frames behind the clip's own end; NaN for a clip whose length is out of range, for no host has seen it.
template <int kPoints>
DUOTOK_PHASE void store_silence(const Block &block, int thread, float *data, int num_bands, float value) {
    const Output out = block_output(block, data, num_bands);
    const float filling = block.size < 1 || block.size > block.call.samples ? NAN : value;
    for (int row = block.valid_rows; row < block.rows; ++row)
        for (int band = thread; band < num_bands; band += Sizes<kPoints>::kThreads)
            out.data[row * out.frame_stride + band * out.band_stride] = filling;
}

// Phase: all that the spectra give at once.
template <int kPoints>
DUOTOK_PHASE void use_spectra(const Block &block, int thread) {
    const CudaCall &call = block.call;
    if (call.mel) {
        if (block.valid_rows) store_mel<kPoints>(block, thread);
        store_silence<kPoints>(block, thread, call.mel, call.job.num_bands, band_value(0.0f, call.job));
    }
    if (call.chroma) {
        if (block.valid_rows) sum_chroma_slices<kPoints>(block, thread);
        store_silence<kPoints>(block, thread, call.chroma, kPitchClasses, 0.0f);
    }
}

// Compute the block of a clip that begins at first_frame. each_thread(phase) calls phase(thread, registers) for every thread,
// in any order or at once, and returns when all have returned.
template <int kPoints, class EachThread>
DUOTOK_PHASE void run_block(const CudaCall &call, int64_t clip, int64_t first_frame, float *shared, EachThread &each_thread) {
    // Made again where it is needed: kept, it would take registers from the FFT.
    const auto block = [&] { return make_block(call, clip, first_frame, Sizes<kPoints>::kFrames, shared); };
    const bool any = block().valid_rows > 0;
    if (any) {
        each_thread([&](int thread, Registers &) { load_samples<kPoints>(block(), thread); });
        each_thread([&](int thread, Registers &own) { first_pass<kPoints>(shared, call, thread, own.points); });
        each_thread([&](int thread, Registers &own) { store_first_pass<kPoints>(shared, thread, own.points); });
        if constexpr (Sizes<kPoints>::kMiddle > 1)
            each_thread([&](int thread, Registers &) { middle_pass<kPoints>(shared, call.job, thread); });
        each_thread([&](int thread, Registers &own) { split_bins<kPoints>(shared, call.job, thread, own.power); });
        each_thread([&](int thread, Registers &own) { store_bins<kPoints>(shared, thread, own.power); });
    }
    each_thread([&](int thread, Registers &) { use_spectra<kPoints>(block(), thread); });
    if (call.chroma && any) {
        each_thread([&](int thread, Registers &) { sum_chroma<kPoints>(shared, thread); });
        each_thread([&](int thread, Registers &) { store_chroma<kPoints>(block(), thread); });
    }
}

// What the phases of fft.h and mel_chroma.h read: plain data, the same on a CPU and on a GPU.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "duotok_native.h"

namespace duotok {

constexpr int kPitchClasses = 12;

// Working memory of one frame, in floats: the points of its FFT, then its spectrum.
constexpr size_t scratch_lanes(int n_fft) { return size_t(n_fft) + n_fft / 2 + 1; }

// A complex constant, or what two neighbouring samples are multiplied by. Aligned so that a GPU reads it in one access.
struct alignas(8) Pair {
    float of[2];
};

// Tables of the real FFT of n_fft samples as a complex FFT of `points` = n_fft / 2.
struct FftTables {
    int points;
    // Of each radix-4 pass in turn, w^j for all butterflies j, then w^2j, then w^3j; w = exp(-2 pi i / size), and size goes
    // from `points` to 8 or 16.
    const Pair *twiddles;
    int num_twiddles;
    // exp(-2 pi i k / n_fft) for k = 0 .. points / 2.
    const Pair *split;
    // Where the passes leave bin k: (points,).
    const int32_t *position;
};

enum class Log : int32_t { kNone, kDecibel, kNatural, kDecimal };

// Where the bands of some frames go: band f of frame t at data[t * frame_stride + f * band_stride]. One stride is 1.
struct Output {
    float *data;
    int64_t frame_stride, band_stride;
};

// One call's constants; the arrays are those of duotok_mel_chroma_args.
struct SpectrumJob {
    FftTables fft;
    // (n_fft / 2,): the window times 1/2, which the split of the real FFT needs, and times 1/32768 for int16.
    const Pair *window;
    bool magnitude;

    int num_bands;
    const int32_t *band_first;
    const int64_t *band_offset;
    const float *band_weights;
    Log log;
    float floor, mean, scale;

    const float *chroma_bank;
    bool chroma_normalize;
};

// The window as SpectrumJob wants it.
inline std::vector<Pair> scaled_window(const duotok_mel_chroma_args &args) {
    const float factor = args.sample_type == DUOTOK_INT16 ? 0.5f / 32768 : 0.5f;
    std::vector<Pair> window(args.n_fft / 2);
    for (int n = 0; n < args.n_fft / 2; ++n) window[n] = {{factor * args.window[2 * n], factor * args.window[2 * n + 1]}};
    return window;
}

// The job of a call, without its window and its tables.
inline SpectrumJob spectrum_job(const duotok_mel_chroma_args &args) {
    SpectrumJob job = {};
    job.magnitude = args.power == 1;
    job.num_bands = args.num_bands;
    job.band_first = args.band_first;
    job.band_offset = args.band_offset;
    job.band_weights = args.band_weights;
    job.log = Log(args.log_mode);
    job.floor = args.floor;
    job.mean = args.mean;
    job.scale = args.scale;
    job.chroma_bank = args.chroma_bank;
    job.chroma_normalize = args.chroma_normalize != 0;
    return job;
}

}  // namespace duotok

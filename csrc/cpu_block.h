// One block of kLanes consecutive frames of a clip on a CPU: the loops and the memory around what fft.h and mel_chroma.h do
// in registers.
//
// Included once per instruction set; see lanes.h.

#define DUOTOK_PHASE DUOTOK_INLINE
#include "lanes.h"
#include "fft.h"
#include "mel_chroma.h"
#undef DUOTOK_PHASE

// Point n of a frame is the pair data[2n], data[2n + 1].
DUOTOK_INLINE Complex load_point(const Lane *data, int n) { return {data[2 * n], data[2 * n + 1]}; }

DUOTOK_INLINE void store_point(Lane *data, int n, Complex x) {
    data[2 * n] = x.re;
    data[2 * n + 1] = x.im;
}

// Transform `size` points of each lane depth first, so that all but the first passes run in the nearest cache.
static void transform(Lane *data, int size, const Pair *twiddles) {
    Complex x[4];
    if (size == 2) {
        for (int n = 0; n < 2; ++n) x[n] = load_point(data, n);
        transform2(x);
        for (int n = 0; n < 2; ++n) store_point(data, n, x[n]);
        return;
    }
    const int quarter = size / 4;
    for (int j = 0; j < quarter; ++j) {
        for (int q = 0; q < 4; ++q) x[q] = load_point(data, j + q * quarter);
        size == 4 ? transform4(x) : butterfly4(x, size, j, twiddles);
        for (int q = 0; q < 4; ++q) store_point(data, j + q * quarter, x[q]);
    }
    if (size == 4) return;
    for (int q = 0; q < 4; ++q) transform(data + 2 * q * quarter, quarter, next_twiddles(twiddles, size));
}

static void transform_frames(const float *const rows[kLanes], const SpectrumJob &job, Lane *data) {
    const int size = job.fft.points, quarter = size / 4;
    for (int j = 0; j < quarter; j += 2) {
        Complex pair[2][4];
        for (int q = 0; q < 4; ++q) {
            Lane samples[4];
            load_quads(rows, 2 * (j + q * quarter), samples);
            pair[0][q] = windowed({samples[0], samples[1]}, job.window[j + q * quarter]);
            pair[1][q] = windowed({samples[2], samples[3]}, job.window[j + 1 + q * quarter]);
        }
        for (int i = 0; i < 2; ++i) {
            butterfly4(pair[i], size, j + i, job.fft.twiddles);
            for (int q = 0; q < 4; ++q) store_point(data, j + i + q * quarter, pair[i][q]);
        }
    }
    for (int q = 0; q < 4; ++q) transform(data + 2 * q * quarter, quarter, next_twiddles(job.fft.twiddles, size));
}

static void compute_spectrum(const Lane *data, const SpectrumJob &job, Lane *spectrum) {
    const FftTables &fft = job.fft;
    const int end = fft.points, middle = end / 2;
    const auto point = [&](int bin) { return load_point(data, fft.position[bin]); };
    split_ends(point(0), point(middle), &spectrum[0], &spectrum[middle], &spectrum[end]);
    for (int k = 1; k < middle; ++k) split_pair(point(k), point(end - k), fft, k, &spectrum[k], &spectrum[end - k]);
    for (int k = 0; job.magnitude && k <= end; ++k) spectrum[k] = square_root(spectrum[k]);
}

// Write four bands of num_rows frames; where a band's frames are neighbours in memory, lanes already have their order.
static void store_bands(const Lane values[4], const Output &out, int band, int num_rows) {
    if (out.frame_stride != 1) return store_quads(values, out.data + band, out.frame_stride, num_rows);
    for (int i = 0; i < 4; ++i) memcpy(out.data + (band + i) * out.band_stride, values + i, num_rows * sizeof(float));
}

static void store_mel(const Lane *spectrum, const SpectrumJob &job, const Output &out, int num_rows) {
    int band = 0;
    for (; band + 4 <= job.num_bands; band += 4) {
        Lane values[4];
        for (int i = 0; i < 4; ++i) values[i] = band_value(band_sum(spectrum, job, band + i), job);
        store_bands(values, out, band, num_rows);
    }
    for (; band < job.num_bands; ++band) {
        const Lane value = band_value(band_sum(spectrum, job, band), job);
        for (int row = 0; row < num_rows; ++row)
            out.data[row * out.frame_stride + band * out.band_stride] = ((const float *)&value)[row];
    }
}

static void store_chroma(const Lane *spectrum, const SpectrumJob &job, const Output &out, int num_rows) {
    // Runs keep the rounding of a long sum small.
    constexpr int kRun = 64;
    const int num_bins = job.fft.points + 1;
    Lane values[kPitchClasses] = {};
    for (int begin = 0; begin < num_bins; begin += kRun) {
        Lane run[kPitchClasses] = {};
        for (int k = begin; k < num_bins && k < begin + kRun; ++k)
            add_bin(spectrum[k], job.chroma_bank + k * kPitchClasses, kPitchClasses, run);
        for (int c = 0; c < kPitchClasses; ++c) values[c] += run[c];
    }
    if (job.chroma_normalize) {
        const Lane divisor = chroma_divisor(values);
        for (int c = 0; c < kPitchClasses; ++c) values[c] = values[c] / divisor;
    }
    for (int c = 0; c < kPitchClasses; c += 4) store_bands(values + c, out, c, num_rows);
}

// Compute num_rows frames of the block.
//
// samples: kLanes rows of n_fft samples, all readable, those from num_rows on ignored. mel, chroma: without data where not
// wanted. scratch: scratch_lanes(n_fft) Lanes, aligned to a Lane.
static void process_block(
    const SpectrumJob &job, const float *const samples[], const Output &mel, const Output &chroma, int num_rows, void *scratch
) {
    Lane *data = (Lane *)scratch, *spectrum = data + 2 * job.fft.points;
    transform_frames(samples, job, data);
    compute_spectrum(data, job, spectrum);
    if (mel.data) store_mel(spectrum, job, mel, num_rows);
    if (chroma.data) store_chroma(spectrum, job, chroma, num_rows);
}

// The Mel value of silence, the same for every band.
static float silent_band(const SpectrumJob &job) {
    const Lane value = band_value(Lane{}, job);
    return ((const float *)&value)[0];
}

static const BlockFunctions functions = {kLanes, process_block, silent_band};
#undef DUOTOK_LANES

// One block of kLanes consecutive frames of a clip on a CPU: the loops around the steps of fft.h and mel_chroma.h.
//
// Included once per instruction set; see lanes.h.

#define DUOTOK_PHASE DUOTOK_INLINE
#include "lanes.h"
#include "fft.h"
#include "mel_chroma.h"
#undef DUOTOK_PHASE

// Transform `size` points of each lane depth first, so that all but the first passes run in the nearest cache.
static void transform(Lane *data, int size, const float *twiddles) {
    if (size <= 4) {
        size == 4 ? last_radix4(data) : last_radix2(data);
        return;
    }
    const int quarter = size / 4;
    for (int j = 0; j < quarter; ++j) radix4(data, size, j, twiddles);
    for (int q = 0; q < 4; ++q) transform(data + 2 * q * quarter, quarter, twiddles + 6 * quarter);
}

static void load_frames(const float *const rows[kLanes], const SpectrumJob &job, Lane *data) {
    const int quarter = job.fft.points / 4;
    for (int j = 0; j < quarter; j += 2) {
        Complex pair[2][4];
        for (int q = 0; q < 4; ++q) {
            Lane samples[4];
            load_quads(rows, 2 * (j + q * quarter), samples);
            pair[0][q] = {samples[0], samples[1]};
            pair[1][q] = {samples[2], samples[3]};
        }
        for (int i = 0; i < 2; ++i) finish_first_radix4(pair[i], data, job.fft, j + i, job.window);
    }
    for (int q = 0; q < 4; ++q) transform(data + 2 * q * quarter, quarter, job.fft.twiddles + 6 * quarter);
}

static void compute_spectrum(const Lane *data, const SpectrumJob &job, Lane *spectrum) {
    split_ends(data, job.fft, spectrum);
    for (int k = 1; k < job.fft.points / 2; ++k) split_pair(data, job.fft, k, spectrum);
    for (int k = 0; job.magnitude && k <= job.fft.points; ++k) spectrum[k] = square_root(spectrum[k]);
}

static void store_mel(const Lane *spectrum, const SpectrumJob &job, float *const rows[kLanes], int num_rows) {
    int band = 0;
    for (; band + 4 <= job.num_bands; band += 4) {
        Lane values[4];
        for (int i = 0; i < 4; ++i) values[i] = log_band(band_sum(spectrum, job, band + i), job);
        store_quads(values, rows, num_rows, band);
    }
    for (; band < job.num_bands; ++band) {
        const Lane value = log_band(band_sum(spectrum, job, band), job);
        for (int row = 0; row < num_rows; ++row) rows[row][band] = ((const float *)&value)[row];
    }
}

static void store_chroma(const Lane *spectrum, const SpectrumJob &job, float *const rows[kLanes], int num_rows) {
    // Runs keep the rounding of a long sum small.
    constexpr int kRun = 64;
    const int num_bins = job.fft.points + 1;
    Lane values[kPitchClasses] = {};
    for (int k = 0; k < num_bins; k += kRun)
        add_chroma(spectrum, job, k, k + kRun < num_bins ? k + kRun : num_bins, values);
    if (job.chroma_normalize) normalize_chroma(values);
    for (int c = 0; c < kPitchClasses; c += 4) store_quads(values + c, rows, num_rows, c);
}

// Compute num_rows frames of the block.
//
// samples: kLanes rows of n_fft samples, all readable, those from num_rows on ignored. mel, chroma: kLanes output rows, NULL
// where not wanted. scratch: scratch_lanes(n_fft) Lanes, aligned to a Lane.
static void process_block(
    const SpectrumJob &job, const float *const samples[], float *const mel[], float *const chroma[], int num_rows, void *scratch
) {
    Lane *data = (Lane *)scratch, *spectrum = data + 2 * job.fft.points;
    load_frames(samples, job, data);
    compute_spectrum(data, job, spectrum);
    if (mel) store_mel(spectrum, job, mel, num_rows);
    if (chroma) store_chroma(spectrum, job, chroma, num_rows);
}

// The Mel row of silence: (F,) written to out.
static void silent_mel(const SpectrumJob &job, float *out) {
    const Lane value = log_band(Lane{}, job);
    for (int band = 0; band < job.num_bands; ++band) out[band] = ((const float *)&value)[0];
}

static const BlockFunctions functions = {kLanes, process_block, silent_mel};
#undef DUOTOK_LANES

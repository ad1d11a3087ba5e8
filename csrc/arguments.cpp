#include "arguments.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "framing.h"
#include "spectrum_job.h"

namespace duotok {
namespace {

thread_local char message[512] = "";

}  // namespace

const char *last_error() { return message; }

int32_t fail(int32_t status, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    return status;
}

namespace {

// The largest number of elements, far from any overflow of its size in bytes or of a sum of a few.
constexpr int64_t kMaxCount = int64_t(1) << 58;

// So many bands of a block's frames can still be counted in an int.
constexpr int32_t kMaxBands = 1 << 20;

// a * b; -1 if a factor or the product is negative or above kMaxCount.
int64_t checked_product(int64_t a, int64_t b) {
    if (a < 0 || b < 0 || a > kMaxCount || b > kMaxCount) return -1;
    return b && a > kMaxCount / b ? -1 : a * b;
}

int32_t check_shape(const duotok_mel_chroma_args &a) {
    if (a.batch < 0 || a.samples < 1 || a.row_stride < 0 || checked_product(a.batch, a.samples) < 0 ||
        checked_product(a.batch, a.row_stride) < 0)
        return fail(
            DUOTOK_INVALID,
            "expected batch >= 0, samples >= 1, row_stride >= 0 and their products in range; got %lld, %lld, %lld",
            (long long)a.batch, (long long)a.samples, (long long)a.row_stride);
    if (a.channels < 1 || a.channel_stride < 0 || checked_product(a.channels, a.channel_stride) < 0)
        return fail(
            DUOTOK_INVALID, "expected channels >= 1, channel_stride >= 0 and their product in range; got %lld, %lld",
            (long long)a.channels, (long long)a.channel_stride);
    return DUOTOK_OK;
}

int32_t check_signal(const duotok_mel_chroma_args &a) {
    if (a.sample_type != DUOTOK_FLOAT32 && a.sample_type != DUOTOK_INT16)
        return fail(DUOTOK_INVALID, "sample_type: expected 0 (float32) or 1 (int16); got %d", a.sample_type);
    if (a.n_fft < 256 || a.n_fft > 4096 || (a.n_fft & (a.n_fft - 1)))
        return fail(DUOTOK_INVALID, "n_fft: expected a power of two from 256 to 4096; got %d", a.n_fft);
    if (a.hop < 1) return fail(DUOTOK_INVALID, "hop: expected at least 1; got %lld", (long long)a.hop);
    if (a.pad < 0 || a.pad > a.n_fft)
        return fail(DUOTOK_INVALID, "pad: expected 0 to n_fft = %d; got %lld", a.n_fft, (long long)a.pad);
    if (a.pad_mode != DUOTOK_PAD_REFLECT && a.pad_mode != DUOTOK_PAD_ZERO)
        return fail(DUOTOK_INVALID, "pad_mode: expected 0 (reflect) or 1 (zero); got %d", a.pad_mode);
    if (a.bands_first != 0 && a.bands_first != 1)
        return fail(DUOTOK_INVALID, "bands_first: expected 0 or 1; got %d", a.bands_first);
    if (a.power != 1 && a.power != 2) return fail(DUOTOK_INVALID, "power: expected 1 or 2; got %d", a.power);
    if (!a.window || (!a.wave && a.batch)) return fail(DUOTOK_INVALID, "wave, window: expected arrays; got NULL");
    return DUOTOK_OK;
}

int32_t check_mel(const duotok_mel_chroma_args &a, int64_t num_rows) {
    const int num_bins = a.n_fft / 2 + 1;
    if (a.num_bands < 1 || a.band_bins != num_bins || a.band_size < 0)
        return fail(
            DUOTOK_INVALID, "bank: expected at least 1 band over %d bins and band_size >= 0; got %d over %d, %lld", num_bins,
            a.num_bands, a.band_bins, (long long)a.band_size);
    if (a.num_bands > kMaxBands)
        return fail(DUOTOK_INVALID, "num_bands: expected at most %d; got %d", kMaxBands, a.num_bands);
    const int64_t size = checked_product(num_rows, a.num_bands);
    if (size < 0) return fail(DUOTOK_INVALID, "mel_size: expected B * T * F in range; got an overflow");
    if (size != a.mel_size)
        return fail(DUOTOK_INVALID, "mel_size: expected B * T * F = %lld; got %lld", (long long)size, (long long)a.mel_size);
    if (a.log_mode < DUOTOK_LOG_NONE || a.log_mode > DUOTOK_LOG_LOG10 || a.floor != a.floor)
        return fail(DUOTOK_INVALID, "expected log_mode 0, 1, 2 or 3 and a floor; got %d, %g", a.log_mode, double(a.floor));
    if (!isfinite(a.mean) || !isfinite(a.scale))
        return fail(DUOTOK_INVALID, "mean, scale: expected finite numbers; got %g, %g", double(a.mean), double(a.scale));
    if (!a.band_first || !a.band_offset || (!a.band_weights && a.band_size))
        return fail(DUOTOK_INVALID, "band_first, band_offset, band_weights: expected arrays; got NULL");
    if (a.band_offset[0] != 0 || a.band_offset[a.num_bands] != a.band_size)
        return fail(DUOTOK_INVALID, "band_offset: expected to run from 0 to band_size = %lld", (long long)a.band_size);
    for (int band = 0; band < a.num_bands; ++band) {
        // Offsets are checked in order, so none before this band leaves 0 .. band_size.
        const int64_t first = a.band_first[band], begin = a.band_offset[band], end = a.band_offset[band + 1];
        if (end < begin || end > a.band_size || first < 0 || first > num_bins || end - begin > num_bins - first)
            return fail(
                DUOTOK_INVALID, "bank: expected band %d within %d bins; got weights %lld to %lld from bin %lld", band, num_bins,
                (long long)begin, (long long)end, (long long)first);
    }
    return DUOTOK_OK;
}

int32_t check_chroma(const duotok_mel_chroma_args &a, int64_t num_rows) {
    const int num_bins = a.n_fft / 2 + 1;
    const int64_t size = checked_product(num_rows, kPitchClasses);
    if (size < 0 || size != a.chroma_size)
        return fail(
            DUOTOK_INVALID, "chroma_size: expected B * T * 12 = %lld; got %lld", (long long)size, (long long)a.chroma_size);
    if (a.chroma_bins != num_bins)
        return fail(DUOTOK_INVALID, "chroma_bank: expected %d bins; got %d", num_bins, a.chroma_bins);
    if (!a.chroma_bank) return fail(DUOTOK_INVALID, "chroma_bank: expected an array; got NULL");
    return DUOTOK_OK;
}

// A processor may trap on such an address; a GPU ends its whole context.
int32_t check_alignment(const duotok_mel_chroma_args &a) {
    const struct {
        const char *name;
        const void *address;
        size_t size;
    } arrays[] = {
        {"wave", a.wave, a.sample_type == DUOTOK_INT16 ? sizeof(int16_t) : sizeof(float)},
        {"lengths", a.lengths, sizeof *a.lengths},
        {"window", a.window, sizeof *a.window},
        {"mel", a.mel, sizeof *a.mel},
        {"band_first", a.mel ? a.band_first : nullptr, sizeof *a.band_first},
        {"band_offset", a.mel ? a.band_offset : nullptr, sizeof *a.band_offset},
        {"band_weights", a.mel ? a.band_weights : nullptr, sizeof *a.band_weights},
        {"chroma", a.chroma, sizeof *a.chroma},
        {"chroma_bank", a.chroma ? a.chroma_bank : nullptr, sizeof *a.chroma_bank},
    };
    for (const auto &array : arrays)
        if (reinterpret_cast<uintptr_t>(array.address) % array.size)
            return fail(
                DUOTOK_INVALID, "%s: expected an address that is a multiple of %d; got %p", array.name, int(array.size),
                array.address);
    return DUOTOK_OK;
}

// Read after everything that a wrong batch contradicts.
int32_t check_lengths(const duotok_mel_chroma_args &a) {
    for (int64_t clip = 0; a.lengths && clip < a.batch; ++clip)
        if (a.lengths[clip] < 1 || a.lengths[clip] > a.samples)
            return fail(
                DUOTOK_INVALID, "lengths: expected 1 to %lld samples; got %lld for clip %lld", (long long)a.samples,
                (long long)a.lengths[clip], (long long)clip);
    return DUOTOK_OK;
}

}  // namespace

int32_t check(const duotok_mel_chroma_args *args, bool host_lengths) {
    if (!args) return fail(DUOTOK_INVALID, "args: expected a structure; got NULL");
    if (!args->mel && !args->chroma) return fail(DUOTOK_INVALID, "mel, chroma: expected at least one output; got NULL twice");
    if (const int32_t status = check_shape(*args)) return status;
    if (const int32_t status = check_signal(*args)) return status;
    if (const int32_t status = check_alignment(*args)) return status;
    const int64_t num_rows = checked_product(args->batch, num_frames(args->samples, args->pad, args->n_fft, args->hop));
    if (num_rows < 0) return fail(DUOTOK_INVALID, "expected batch * frames in range; got an overflow");
    if (args->mel)
        if (const int32_t status = check_mel(*args, num_rows)) return status;
    if (args->chroma)
        if (const int32_t status = check_chroma(*args, num_rows)) return status;
    return host_lengths ? check_lengths(*args) : DUOTOK_OK;
}

}  // namespace duotok

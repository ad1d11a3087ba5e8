#include "cuda_call.h"

#include <string.h>

#include "fft_tables.h"
#include "framing.h"

namespace duotok {

PackedTables::PackedTables(const duotok_mel_chroma_args &args) {
    const FftTables &fft = fft_tables(args.n_fft);
    const std::vector<Pair> window = scaled_window(args);
    const int32_t header[4] = {args.n_fft, args.mel ? args.num_bands : 0, args.chroma ? 1 : 0, 0};
    append(header, 4);
    twiddles_ = append(fft.twiddles, fft.num_twiddles);
    split_ = append(fft.split, fft.points / 2 + 1);
    position_ = append(fft.position, fft.points);
    window_ = append(window.data(), window.size());
    band_first_ = append(args.band_first, args.mel ? args.num_bands : 0);
    band_offset_ = append(args.band_offset, args.mel ? args.num_bands + 1 : 0);
    band_weights_ = append(args.band_weights, args.mel ? args.band_size : 0);
    chroma_bank_ = append(args.chroma_bank, args.chroma ? (fft.points + 1) * kPitchClasses : 0);
}

// Returns where the values begin: at a multiple of 16.
template <class T>
size_t PackedTables::append(const T *values, size_t count) {
    const size_t begin = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(begin + count * sizeof(T));
    if (count) memcpy(bytes_.data() + begin, values, count * sizeof(T));
    return begin;
}

CudaCall PackedTables::call(const duotok_mel_chroma_args &args, const char *copy) const {
    CudaCall call = {};
    call.job = spectrum_job(args);
    call.job.fft.points = args.n_fft / 2;
    call.job.fft.twiddles = reinterpret_cast<const Pair *>(copy + twiddles_);
    call.job.fft.split = reinterpret_cast<const Pair *>(copy + split_);
    call.job.fft.position = reinterpret_cast<const int32_t *>(copy + position_);
    call.job.window = reinterpret_cast<const Pair *>(copy + window_);
    call.job.band_first = reinterpret_cast<const int32_t *>(copy + band_first_);
    call.job.band_offset = reinterpret_cast<const int64_t *>(copy + band_offset_);
    call.job.band_weights = reinterpret_cast<const float *>(copy + band_weights_);
    call.job.chroma_bank = reinterpret_cast<const float *>(copy + chroma_bank_);
    call.wave = args.wave;
    call.lengths = args.lengths;
    call.frames = num_frames(args.samples, args.pad, args.n_fft, args.hop);
    call.channels = args.channels;
    call.samples = args.samples;
    call.row_stride = args.row_stride;
    call.channel_stride = args.channel_stride;
    call.hop = args.hop;
    call.pad = args.pad;
    call.n_fft = args.n_fft;
    call.pad_mode = args.pad_mode;
    call.is_int16 = args.sample_type == DUOTOK_INT16;
    call.bands_first = args.bands_first != 0;
    call.mel = args.mel;
    call.chroma = args.chroma;
    return call;
}

}  // namespace duotok

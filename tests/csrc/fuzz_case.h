// From a fuzzer's bytes to one call of duotok_mel_chroma, its buffers exactly as long as promised.
#pragma once

#include <math.h>

#include <algorithm>
#include <limits>

#include "exact_buffer.h"

using Args = duotok_mel_chroma_args;

// A number that is not from low to high: x if it will do.
template <class Integer>
Integer outside(Integer low, Integer high, int64_t x) {
    const Integer value = Integer(x);
    if (value < low || value > high) return value;
    return x % 2 && high < std::numeric_limits<Integer>::max() ? high + 1 : low - 1;
}

// Numbers off the input; zeros when it is used up.
class Bytes {
public:
    Bytes(const uint8_t *data, size_t size) : data_(data), end_(data + size) {}

    uint64_t bits(int count) {
        uint64_t out = 0;
        for (; count && data_ < end_; --count) out = out << 8 | *data_++;
        return out;
    }

    // low to high, both included.
    int64_t between(int64_t low, int64_t high) {
        const uint64_t range = uint64_t(high) - uint64_t(low), value = bits(range < 256 ? 1 : range < 65536 ? 2 : 8);
        return int64_t(uint64_t(low) + (range == UINT64_MAX ? value : value % (range + 1)));
    }

    bool one_in(int count) { return between(1, count) == count; }

private:
    const uint8_t *data_, *end_;
};

// Samples, windows and weights: noise, and if wanted every now and then a value that arithmetic does not survive.
class Noise {
public:
    explicit Noise(Bytes &in) : state_(in.bits(4) << 1 | 1), special_(in.between(0, 3) == 3 ? in.between(1, 255) : 0) {}

    float next() {
        static const float kSpecial[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e38f, 1e30f, -1e30f, 1e-40f, 1e-20f};
        state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
        const uint64_t random = state_ >> 16;
        if (special_ && random % 256 < special_ / 16 + 1u) return kSpecial[random / 256 % 10];
        return float(int32_t(random)) / 2147483648.0f;
    }

private:
    uint64_t state_;
    const unsigned special_;
};

constexpr int64_t kMaxWork = 1 << 16;  // samples in all frames of a call

struct Case {
    explicit Case(Bytes &in);

    Args args = {};  // all but the outputs
    bool mel, chroma;
    bool bank_fits = true;
    ExactBuffer<float> wave, window, weights, chroma_bank;
    ExactBuffer<int16_t> pcm;
    ExactBuffer<int64_t> lengths, offset;
    ExactBuffer<int32_t> first;

    int64_t length(int64_t clip) const { return args.lengths ? lengths[clip] : args.samples; }

private:
    void set_shape(Bytes &in);
    void set_wave(Bytes &in, Noise &noise);
    void set_bank(Bytes &in, Noise &noise);
    void spoil_bank(Bytes &in);
    bool fits() const;
};

inline Case::Case(Bytes &in) {
    Noise noise(in);
    const int64_t outputs = in.between(1, 3);
    mel = outputs & 1, chroma = outputs & 2;
    set_shape(in);
    const int num_bins = args.n_fft / 2 + 1;
    window = ExactBuffer<float>(args.n_fft, in.between(0, 3));
    for (size_t i = 0; i < window.size; ++i) window[i] = noise.next();
    chroma_bank = ExactBuffer<float>(num_bins * 12, in.between(0, 3));
    for (size_t i = 0; i < chroma_bank.size; ++i) chroma_bank[i] = fabsf(noise.next());
    args.window = window.data, args.chroma_bank = chroma_bank.data;
    args.chroma_bins = num_bins, args.chroma_normalize = in.between(0, 1);
    set_wave(in, noise);
    set_bank(in, noise);
}

inline void Case::set_shape(Bytes &in) {
    args.n_fft = 256 << in.between(0, 4);
    args.sample_type = in.between(0, 1);
    args.power = in.between(1, 2);
    args.num_threads = in.between(1, 4);
    args.pad_mode = in.between(0, 1);
    args.bands_first = in.between(0, 1);
    args.batch = in.between(0, 3);
    args.channels = in.one_in(2) ? in.between(2, 4) : 1;
    args.samples = in.one_in(4) ? in.between(1, 8) : in.between(1, 3 * args.n_fft);
    args.channel_stride = in.one_in(4) ? in.between(0, 300) : args.samples;
    args.row_stride = in.one_in(4) ? in.between(0, 300) : args.channels * args.channel_stride;
    args.pad = in.one_in(2) ? args.n_fft / 2 : in.between(0, args.n_fft);
    args.hop = in.one_in(8) ? in.between(1, INT64_MAX) : in.between(1, 2 * args.n_fft);
    while (args.batch * num_frames(args, args.samples) * args.n_fft > kMaxWork) args.hop *= 2;
}

inline void Case::set_wave(Bytes &in, Noise &noise) {
    lengths = ExactBuffer<int64_t>(args.batch);
    for (size_t i = 0; i < lengths.size; ++i) lengths[i] = in.between(1, args.samples);
    args.lengths = in.one_in(2) ? lengths.data : nullptr;
    int64_t size = 0;  // what lies behind a clip's own end is not promised
    for (int64_t clip = 0; clip < args.batch; ++clip)
        size = std::max(size, clip * args.row_stride + (args.channels - 1) * args.channel_stride + length(clip));
    if (args.sample_type == DUOTOK_INT16) {
        pcm = ExactBuffer<int16_t>(size, in.between(0, 3));
        for (size_t i = 0; i < pcm.size; ++i) pcm[i] = int16_t(Output::bits(noise.next()));
        args.wave = pcm.data;
    } else {
        wave = ExactBuffer<float>(size, in.between(0, 3));
        for (size_t i = 0; i < wave.size; ++i) wave[i] = noise.next();
        args.wave = wave.data;
    }
}

inline void Case::set_bank(Bytes &in, Noise &noise) {
    const int num_bins = args.n_fft / 2 + 1;
    args.num_bands = in.one_in(8) ? in.between(1, 300) : in.between(1, 13);
    args.band_bins = num_bins;
    first = ExactBuffer<int32_t>(args.num_bands);
    offset = ExactBuffer<int64_t>(args.num_bands + 1);
    for (int band = 0; band < args.num_bands; ++band) {
        first[band] = in.between(0, num_bins);
        const int64_t room = num_bins - first[band];
        offset[band + 1] = offset[band] + (in.one_in(8) ? room : in.between(0, std::min<int64_t>(room, 20)));
    }
    args.band_size = offset[args.num_bands];
    weights = ExactBuffer<float>(args.band_size, in.between(0, 3));
    for (size_t i = 0; i < weights.size; ++i) weights[i] = noise.next();
    args.band_first = first.data, args.band_offset = offset.data, args.band_weights = weights.data;
    if (in.one_in(8)) spoil_bank(in);
    bank_fits = !mel || fits();
    args.log_mode = in.between(0, 3);
    args.floor = in.one_in(4) ? -noise.next() : 1e-10f;
    if (isnan(args.floor)) args.floor = 0;
    args.mean = in.between(-2, 2), args.scale = in.between(-2, 2);
}

// Move a band to where it just fits or just does not, or set a number to anything.
inline void Case::spoil_bank(Bytes &in) {
    const int64_t band = in.between(0, args.num_bands - 1), kind = in.between(0, 2);
    const int64_t value = in.one_in(2) ? in.between(INT64_MIN, INT64_MAX) : in.between(-3, args.band_bins + 3);
    if (kind == 0) first[band] = args.band_bins - (offset[band + 1] - offset[band]) + in.between(-1, 2);
    if (kind == 1) first[band] = int32_t(value);
    if (kind == 2) offset[band + in.between(0, 1)] = value;
}

// The contract of the bank, written down once more.
inline bool Case::fits() const {
    if (offset[0] != 0 || offset[args.num_bands] != args.band_size) return false;
    for (int band = 0; band < args.num_bands; ++band) {
        if (offset[band] > offset[band + 1] || offset[band + 1] > args.band_size) return false;
        if (first[band] < 0 || first[band] + (offset[band + 1] - offset[band]) > args.band_bins) return false;
    }
    return true;
}

// Fuzz target of duotok_mel_chroma.
//
// A call that is malformed on purpose must return DUOTOK_INVALID, leave a sentence and write nothing. After any other call
// every output must be written, frames beyond a clip's end must be silent, and one relation must hold to the bit: the same
// with other threads, for a clip alone, padded by hand, in the other layout, for one output at a time, and for samples that
// are staged instead of read in place.

#include <iterator>

#include "fuzz_outputs.h"

namespace {

void with_other_threads(const Case &c, const Outputs &out, Bytes &in) {
    Args args = c.args;
    args.num_threads = in.between(1, 5);
    require_same(c.args, out, args, run(args, c.mel, c.chroma, duotok_mel_chroma), c.mel, c.chroma);
}

void one_output_at_a_time(const Case &c, const Outputs &out, Bytes &) {
    if (c.mel) require_same(c.args, out, c.args, run(c.args, true, false, duotok_mel_chroma), true, false);
    if (c.chroma) require_same(c.args, out, c.args, run(c.args, false, true, duotok_mel_chroma), false, true);
}

void in_the_other_layout(const Case &c, const Outputs &out, Bytes &) {
    Args args = c.args;
    args.bands_first = !args.bands_first;
    require_same(c.args, out, args, run(args, c.mel, c.chroma, duotok_mel_chroma), c.mel, c.chroma);
}

// The mean of two equal channels is either of them, but is not read in place.
void staged(const Case &c, const Outputs &out, Bytes &) {
    if (c.args.channels > 1) return;
    Args args = c.args;
    args.channels = 2, args.channel_stride = 0;
    require_same(c.args, out, args, run(args, c.mel, c.chroma, duotok_mel_chroma), c.mel, c.chroma);
}

// Where sample `position` of a padded clip comes from: it walks back from an end as often as it passes one.
int64_t reflected(int64_t position, int64_t size) {
    while (size > 1 && (position < 0 || position >= size)) position = position < 0 ? -position : 2 * (size - 1) - position;
    return size > 1 ? position : 0;
}

// All channels of a clip, `pad` samples more at both ends.
template <class Sample>
ExactBuffer<Sample> padded(const Case &c, int64_t clip, int64_t pad, const ExactBuffer<Sample> &wave) {
    const int64_t length = c.length(clip), padded_length = length + 2 * pad;
    ExactBuffer<Sample> out(c.args.channels * padded_length);
    for (int64_t channel = 0; channel < c.args.channels; ++channel)
        for (int64_t i = 0; i < padded_length; ++i) {
            const int64_t from = c.args.pad_mode == DUOTOK_PAD_REFLECT ? reflected(i - pad, length) : i - pad;
            if (from < 0 || from >= length) continue;  // zero
            out[channel * padded_length + i] = wave[clip * c.args.row_stride + channel * c.args.channel_stride + from];
        }
    return out;
}

// The clip is cut out of the batch; half of the time its padding is done by hand.
void a_clip_alone(const Case &c, const Outputs &out, Bytes &in) {
    if (!c.args.batch) return;
    const int64_t clip = in.between(0, c.args.batch - 1), pad = in.one_in(2) ? c.args.pad : 0;
    const bool is_int16 = c.args.sample_type == DUOTOK_INT16;
    const ExactBuffer<int16_t> pcm = is_int16 ? padded(c, clip, pad, c.pcm) : ExactBuffer<int16_t>();
    const ExactBuffer<float> wave = is_int16 ? ExactBuffer<float>() : padded(c, clip, pad, c.wave);
    Args args = c.args;
    args.batch = 1, args.samples = c.length(clip) + 2 * pad, args.lengths = nullptr, args.pad -= pad;
    args.channel_stride = args.samples;
    args.wave = is_int16 ? (const void *)pcm.data : wave.data;
    const Outputs alone = run(args, c.mel, c.chroma, duotok_mel_chroma);
    const int64_t frames = num_frames(args, args.samples);
    if (c.mel) require_same({c.args, out.mel, args.num_bands, clip}, {args, alone.mel, args.num_bands, 0}, frames);
    if (c.chroma) require_same({c.args, out.chroma, 12, clip}, {args, alone.chroma, 12, 0}, frames);
}

constexpr void (*kRelations[])(const Case &, const Outputs &, Bytes &) = {
    with_other_threads, one_output_at_a_time, in_the_other_layout, staged, a_clip_alone};

template <class Integer>
Integer not_the_same(Integer value, int64_t x) {
    return outside(value, value, x);
}

template <class Integer>
Integer negative(int64_t x) {
    return outside<Integer>(0, std::numeric_limits<Integer>::max(), x);
}

template <class Integer>
Integer not_positive(int64_t x) {
    return outside<Integer>(1, std::numeric_limits<Integer>::max(), x);
}

int64_t huge(int64_t x) { return (int64_t(1) << 59) + (x & 0xffff); }

bool has_rows(const Case &c) { return c.args.batch * num_frames(c.args, c.args.samples) > 0; }

// Each breaks one promise; false if nothing is wrong with the call then.
constexpr bool (*kMalformations[])(Case &, int64_t x) = {
    [](Case &c, int64_t) { return c.args.wave = nullptr, c.args.batch > 0; },
    [](Case &c, int64_t) { return c.args.window = nullptr, true; },
    [](Case &c, int64_t) { return c.args.band_first = nullptr, c.mel; },
    [](Case &c, int64_t) { return c.args.band_offset = nullptr, c.mel; },
    [](Case &c, int64_t) { return c.args.band_weights = nullptr, c.mel && c.args.band_size; },
    [](Case &c, int64_t) { return c.args.chroma_bank = nullptr, c.chroma; },
    [](Case &c, int64_t) { return c.args.mel = c.args.chroma = nullptr, true; },
    [](Case &c, int64_t) { return c.args.wave = (const char *)c.args.wave + 1, true; },
    [](Case &c, int64_t x) { return c.args.window = (const float *)((const char *)c.args.window + 1 + (x & 1)), true; },
    [](Case &c, int64_t x) { return c.args.batch = negative<int64_t>(x), true; },
    [](Case &c, int64_t x) { return c.args.batch = huge(x), true; },
    [](Case &c, int64_t x) { return has_rows(c) && (c.args.batch += 1 + (x & 0xffff), true); },
    [](Case &c, int64_t x) { return c.args.channels = not_positive<int64_t>(x), true; },
    [](Case &c, int64_t x) { return c.args.channels = huge(x), true; },
    [](Case &c, int64_t x) { return c.args.samples = not_positive<int64_t>(x), true; },
    [](Case &c, int64_t x) { return c.args.samples = huge(x), true; },
    [](Case &c, int64_t x) { return c.args.row_stride = negative<int64_t>(x), true; },
    [](Case &c, int64_t x) { return c.args.row_stride = huge(x), true; },
    [](Case &c, int64_t x) { return c.args.channel_stride = negative<int64_t>(x), true; },
    [](Case &c, int64_t x) { return c.args.channel_stride = huge(x), true; },
    [](Case &c, int64_t x) { return c.args.hop = not_positive<int64_t>(x), true; },
    [](Case &c, int64_t x) { return c.args.pad = outside<int64_t>(0, c.args.n_fft, x), true; },
    [](Case &c, int64_t x) { return c.args.n_fft = not_the_same(c.args.n_fft, x), true; },
    [](Case &c, int64_t x) { return c.args.sample_type = outside<int32_t>(0, 1, x), true; },
    [](Case &c, int64_t x) { return c.args.power = outside<int32_t>(1, 2, x), true; },
    [](Case &c, int64_t x) { return c.args.num_threads = not_positive<int32_t>(x), true; },
    [](Case &c, int64_t x) { return c.args.pad_mode = outside<int32_t>(0, 1, x), true; },
    [](Case &c, int64_t x) { return c.args.bands_first = outside<int32_t>(0, 1, x), true; },
    [](Case &c, int64_t x) { return c.args.mel_size = not_the_same(c.args.mel_size, x), c.mel; },
    [](Case &c, int64_t x) { return c.bank_fits && (c.args.band_size = not_the_same(c.args.band_size, x), c.mel); },
    [](Case &c, int64_t x) { return c.args.num_bands = not_positive<int32_t>(x), c.mel; },
    [](Case &c, int64_t x) { return c.args.num_bands = (1 << 20) + 1 + (x & 0xffff), c.mel; },
    [](Case &c, int64_t x) { return has_rows(c) && (c.args.num_bands += 1 + (x & 0xffff), c.mel); },
    [](Case &c, int64_t x) { return c.args.band_bins = not_the_same(c.args.band_bins, x), c.mel; },
    [](Case &c, int64_t x) { return c.args.log_mode = outside<int32_t>(0, 3, x), c.mel; },
    [](Case &c, int64_t) { return c.args.floor = NAN, c.mel; },
    [](Case &c, int64_t x) { return c.args.mean = x % 2 ? NAN : -INFINITY, c.mel; },
    [](Case &c, int64_t x) { return c.args.scale = x % 2 ? NAN : INFINITY, c.mel; },
    [](Case &c, int64_t x) { return c.args.chroma_size = not_the_same(c.args.chroma_size, x), c.chroma; },
    [](Case &c, int64_t x) { return c.args.chroma_bins = not_the_same(c.args.chroma_bins, x), c.chroma; },
    [](Case &c, int64_t x) {
        if (!c.args.lengths || !c.args.batch) return false;
        c.lengths[(x & 0xff) % c.args.batch] = outside<int64_t>(1, c.args.samples, x);
        return true;
    },
};

// Whether the call, with one promise broken if x is not 0, is malformed; then it must be refused and write nothing.
bool refused(Case &c, size_t malformation, int64_t x) {
    const Outputs out = outputs_of(c.args, c.mel, c.chroma, 0);
    const bool broken = x && kMalformations[malformation](c, x);
    if (!broken && c.bank_fits) return false;
    const int32_t status = duotok_mel_chroma(&c.args);
    REQUIRE(status == DUOTOK_INVALID && strstr(duotok_last_error(), "expected"), "%d: %s", status, duotok_last_error());
    REQUIRE(out.mel.unwritten() == out.mel.size && out.chroma.unwritten() == out.chroma.size, "outputs written");
    return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const kIsas[] = {"plain", "simd128", "avx2", "avx512"};
    Bytes in(data, size);
    duotok_use_cpu_isa(nullptr);
    duotok_use_cpu_isa(kIsas[in.between(0, 3)]);  // the best one where the processor does not have it
    const auto relation = kRelations[in.between(0, std::size(kRelations) - 1)];
    const size_t malformation = in.between(0, std::size(kMalformations) - 1);
    // Most numbers up to 255 are within what is allowed, so the next one that is not stands in for them.
    const int64_t broken = !in.one_in(3) ? 0 : in.one_in(2) ? in.between(1, 255) : in.between(INT64_MIN, INT64_MAX);
    Case c(in);
    if (refused(c, malformation, broken)) return 0;
    const Outputs out = run(c.args, c.mel, c.chroma, duotok_mel_chroma);
    require_silence(c, out);
    relation(c, out, in);
    return 0;
}

// Fuzz target of duotok_mel_chroma.
//
// A call that is malformed on purpose must return DUOTOK_INVALID, leave a sentence and write nothing. After any other call
// every output must be written, frames beyond a clip's end must be silent, and one relation must hold to the bit: the same
// with other threads, for a clip alone, in the other layout, for one output at a time, and for samples that are staged
// instead of read in place.

#include "fuzz_case.h"

namespace {

struct Outputs {
    Output mel, chroma;
};

// Memory for what the arguments ask for.
Outputs outputs_of(Args &args, bool mel, bool chroma, size_t skew) {
    const int64_t rows = args.batch * num_frames(args, args.samples);
    args.mel_size = rows * args.num_bands, args.chroma_size = rows * 12;
    Outputs out{Output(mel ? args.mel_size : 0, skew), Output(chroma ? args.chroma_size : 0, skew)};
    args.mel = mel ? out.mel.data : nullptr;
    args.chroma = chroma ? out.chroma.data : nullptr;
    return out;
}

Outputs run(Args args, bool mel, bool chroma) {
    Outputs out = outputs_of(args, mel, chroma, 1);
    const int32_t status = duotok_mel_chroma(&args);
    REQUIRE(status == DUOTOK_OK, "%d: %s", status, duotok_last_error());
    REQUIRE(out.mel.unwritten() == 0 && out.chroma.unwritten() == 0, "%zu, %zu", out.mel.unwritten(), out.chroma.unwritten());
    return out;
}

bool same(float a, float b) { return Output::bits(a) == Output::bits(b) || (isnan(a) && isnan(b)); }

// Where frame t of a clip holds a band.
size_t at(const Args &args, int num_bands, int64_t clip, int64_t frame, int band) {
    const int64_t frames = num_frames(args, args.samples);
    return clip * frames * num_bands + (args.bands_first ? band * frames + frame : frame * num_bands + band);
}

// Frames first .. end - 1 of clip `clip` of a are those of clip `other` of b.
void require_same(const Args &a, const Output &of_a, int64_t clip, const Args &b, const Output &of_b, int64_t other, int num_bands,
                  int64_t end) {
    for (int64_t frame = 0; frame < end; ++frame)
        for (int band = 0; band < num_bands; ++band) {
            const float left = of_a[at(a, num_bands, clip, frame, band)], right = of_b[at(b, num_bands, other, frame, band)];
            REQUIRE(same(left, right), "%.9g and %.9g: clip %lld, frame %lld, band %d", left, right, (long long)clip, (long long)frame, band);
        }
}

void require_silence(const Case &c, const Outputs &out) {
    for (int64_t clip = 0; clip < c.args.batch; ++clip)
        for (int64_t frame = num_frames(c.args, c.length(clip)); frame < num_frames(c.args, c.args.samples); ++frame) {
            for (int band = 0; c.mel && band < c.args.num_bands; ++band) {
                const float value = out.mel[at(c.args, c.args.num_bands, clip, frame, band)];
                REQUIRE(same(value, out.mel[at(c.args, c.args.num_bands, clip, frame, 0)]), "%g", value);
            }
            for (int band = 0; c.chroma && band < 12; ++band) REQUIRE(out.chroma[at(c.args, 12, clip, frame, band)] == 0, "sound");
        }
}

void with_other_threads(const Case &c, const Outputs &out, Bytes &in) {
    Args args = c.args;
    args.num_threads = in.between(1, 5);
    require_same_call(c, out, args, c.mel, c.chroma);
}

void one_output_at_a_time(const Case &c, const Outputs &out, Bytes &) {
    if (c.mel) require_same_call(c, out, c.args, true, false);
    if (c.chroma) require_same_call(c, out, c.args, false, true);
}

void in_the_other_layout(const Case &c, const Outputs &out, Bytes &) {
    Args args = c.args;
    args.bands_first = !args.bands_first;
    require_same_call(c, out, args, c.mel, c.chroma);
}

// The mean of two equal channels is either of them, but is not read in place.
void staged(const Case &c, const Outputs &out, Bytes &) {
    if (c.args.channels > 1) return;
    Args args = c.args;
    args.channels = 2, args.channel_stride = 0;
    require_same_call(c, out, args, c.mel, c.chroma);
}

void a_clip_alone(const Case &c, const Outputs &out, Bytes &in) {
    if (!c.args.batch) return;
    const int64_t clip = in.between(0, c.args.batch - 1);
    const size_t offset = clip * c.args.row_stride;
    Args args = c.args;
    args.batch = 1, args.samples = c.length(clip), args.lengths = nullptr;
    args.wave = c.args.sample_type == DUOTOK_INT16 ? (const void *)(c.pcm.data + offset) : c.wave.data + offset;
    const Outputs alone = run(args, c.mel, c.chroma);
    const int64_t frames = num_frames(args, args.samples);
    if (c.mel) require_same(c.args, out.mel, clip, args, alone.mel, 0, args.num_bands, frames);
    if (c.chroma) require_same(c.args, out.chroma, clip, args, alone.chroma, 0, 12, frames);
}

constexpr void (*kRelations[])(const Case &, const Outputs &, Bytes &) = {
    with_other_threads, one_output_at_a_time, in_the_other_layout, staged, a_clip_alone};

// A number below a limit, above it, or anything but it.
int64_t below(int64_t limit, int64_t x) { return limit - 1 - (x & INT64_MAX) % (uint64_t(limit) + (uint64_t(1) << 63)); }
int64_t above(int64_t limit, int64_t x) { return limit + 1 + (x & INT64_MAX) % (INT64_MAX - limit); }
int32_t below32(int32_t limit, int64_t x) { return int32_t(limit - 1 - (x & INT64_MAX) % (int64_t(limit) - INT32_MIN)); }
int32_t above32(int32_t limit, int64_t x) { return int32_t(limit + 1 + (x & INT64_MAX) % (INT32_MAX - limit)); }

// Each breaks one promise; false if the call is none the worse for it.
constexpr bool (*kMalformations[])(Case &, int64_t x) = {
    [](Case &c, int64_t) { return c.args.wave = nullptr, c.args.batch > 0; },
    [](Case &c, int64_t) { return c.args.window = nullptr, true; },
    [](Case &c, int64_t) { return c.args.band_first = nullptr, c.mel; },
    [](Case &c, int64_t) { return c.args.band_offset = nullptr, c.mel; },
    [](Case &c, int64_t) { return c.args.band_weights = nullptr, c.mel && c.args.band_size; },
    [](Case &c, int64_t) { return c.args.chroma_bank = nullptr, c.chroma; },
    [](Case &c, int64_t) { return c.args.mel = c.args.chroma = nullptr, true; },
    [](Case &c, int64_t x) { return c.args.batch = below(0, x), true; },
    [](Case &c, int64_t x) { return c.args.batch = above(c.args.batch, x), c.args.lengths == nullptr && false; },
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
}

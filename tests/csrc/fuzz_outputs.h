// What the fuzz targets expect of a call's outputs.
#pragma once

#include "fuzz_case.h"

using Function = int32_t (*)(const Args *);

struct Outputs {
    Output mel, chroma;
};

// Memory for what the arguments ask for.
inline Outputs outputs_of(Args &args, bool mel, bool chroma, size_t skew) {
    const int64_t rows = args.batch * num_frames(args, args.samples);
    args.mel_size = mel ? rows * args.num_bands : 0, args.chroma_size = chroma ? rows * 12 : 0;
    Outputs out{Output(args.mel_size, skew), Output(args.chroma_size, skew)};
    args.mel = mel ? out.mel.data : nullptr;
    args.chroma = chroma ? out.chroma.data : nullptr;
    return out;
}

inline Outputs run(Args args, bool mel, bool chroma, Function function) {
    Outputs out = outputs_of(args, mel, chroma, 1);
    const int32_t status = function(&args);
    REQUIRE(status == DUOTOK_OK, "%d: %s", status, duotok_last_error());
    REQUIRE(out.mel.unwritten() == 0 && out.chroma.unwritten() == 0, "%zu, %zu", out.mel.unwritten(), out.chroma.unwritten());
    return out;
}

inline bool same(float a, float b) { return Output::bits(a) == Output::bits(b) || (isnan(a) && isnan(b)); }

// Where frame t of a clip holds a band.
inline size_t at(const Args &args, int num_bands, int64_t clip, int64_t frame, int band) {
    const int64_t frames = num_frames(args, args.samples);
    return clip * frames * num_bands + (args.bands_first ? band * frames + frame : frame * num_bands + band);
}

// One output of one clip of a call.
struct Clip {
    const Args &args;
    const Output &out;
    int num_bands;
    int64_t index;

    float value(int64_t frame, int band) const { return out[at(args, num_bands, index, frame, band)]; }
};

inline void require_same(const Clip &a, const Clip &b, int64_t frames) {
    for (int64_t frame = 0; frame < frames; ++frame)
        for (int band = 0; band < a.num_bands; ++band)
            REQUIRE(
                same(a.value(frame, band), b.value(frame, band)), "%.9g, %.9g in frame %d, band %d of clip %d",
                a.value(frame, band), b.value(frame, band), int(frame), band, int(a.index));
}

inline void require_same(const Args &a, const Outputs &of_a, const Args &b, const Outputs &of_b, bool mel, bool chroma) {
    for (int64_t clip = 0; clip < a.batch; ++clip) {
        const int64_t frames = num_frames(a, a.samples);
        if (mel) require_same({a, of_a.mel, a.num_bands, clip}, {b, of_b.mel, b.num_bands, clip}, frames);
        if (chroma) require_same({a, of_a.chroma, 12, clip}, {b, of_b.chroma, 12, clip}, frames);
    }
}

inline void require_silence(const Case &c, const Outputs &out) {
    for (int64_t clip = 0; clip < c.args.batch; ++clip)
        for (int64_t frame = num_frames(c.args, c.length(clip)); frame < num_frames(c.args, c.args.samples); ++frame) {
            const Clip mel{c.args, out.mel, c.args.num_bands, clip}, chroma{c.args, out.chroma, 12, clip};
            for (int band = 0; c.mel && band < mel.num_bands; ++band)
                REQUIRE(same(mel.value(frame, band), mel.value(frame, 0)), "%g", mel.value(frame, band));
            for (int band = 0; c.chroma && band < 12; ++band)
                REQUIRE(chroma.value(frame, band) == 0, "%g", chroma.value(frame, band));
        }
}

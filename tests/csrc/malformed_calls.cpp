// Calls at the edges of the C ABI, one line a case: malformed ones must be refused with the text given and write nothing,
// unusual ones must give what the header says.
//
//   malformed_calls _native.so             on every instruction set of this processor
//   malformed_calls _native_cuda.so cuda   what the host checks, for which no GPU is needed

#include <dlfcn.h>

#include <functional>
#include <iterator>
#include <string>

#include "exact_buffer.h"

namespace {

using Args = duotok_mel_chroma_args;

constexpr int kSamples = 1000, kSize = 512, kBins = kSize / 2 + 1, kFrames = 11, kBands = 4;

struct Buffers {
    ExactBuffer<float> wave{2 * kSamples}, window{kSize}, weights{10 * kBands}, bank{kBins * 12};
    ExactBuffer<int16_t> pcm{2 * kSamples};
    ExactBuffer<int64_t> lengths{2}, offset{kBands + 1};
    ExactBuffer<int32_t> first{kBands};
    Output mel{2 * kFrames * kBands}, chroma{2 * kFrames * 12};
};

// A valid call: two clips of 11 frames; bands of 10 bins, a quarter of the spectrum apart.
struct Call : Args {
    Buffers own;

    Call() : Args() {
        for (int i = 0; i < 2 * kSamples; ++i) own.pcm[i] = int16_t(i * 7919 + 4000), own.wave[i] = own.pcm[i] / 32768.0f;
        for (int i = 0; i < kSize; ++i) own.window[i] = 1;
        for (size_t i = 0; i < own.weights.size; ++i) own.weights[i] = 0.1f;
        for (size_t i = 0; i < own.bank.size; ++i) own.bank[i] = float(i % 5 + 1);
        for (int band = 0; band < kBands; ++band)
            own.first[band] = band * kBins / kBands, own.offset[band + 1] = 10 * (band + 1);
        own.lengths[0] = own.lengths[1] = kSamples;
        wave = own.wave.data, batch = 2, channels = 1, samples = kSamples, row_stride = kSamples, hop = 100, pad = kSize / 2;
        window = own.window.data, n_fft = kSize, power = 2, num_threads = 2;
        mel = own.mel.data, mel_size = own.mel.size, num_bands = kBands, band_bins = kBins, scale = 1;
        band_first = own.first.data, band_offset = own.offset.data, band_weights = own.weights.data;
        band_size = own.weights.size, log_mode = DUOTOK_LOG_DB, floor = 1e-10f;
        chroma = own.chroma.data, chroma_size = own.chroma.size, chroma_bank = own.bank.data, chroma_bins = kBins;
    }

    void set_lengths(int64_t first, int64_t second) {
        own.lengths[0] = first, own.lengths[1] = second;
        lengths = own.lengths.data;
    }

    // The outputs shall have so many frames in all.
    void set_rows(int64_t rows) { mel_size = rows * kBands, chroma_size = rows * 12; }

    bool wrote_rows(size_t rows) const {
        return own.mel.size - own.mel.unwritten() == rows * kBands && own.chroma.size - own.chroma.unwritten() == rows * 12;
    }

    // All values of a frame of a clip satisfy a condition.
    bool every(int clip, int frame, bool (*condition)(float)) const {
        bool all = true;
        for (int band = 0; band < kBands; ++band) all &= condition(own.mel[(clip * kFrames + frame) * kBands + band]);
        for (int band = 0; band < 12; ++band) all &= condition(own.chroma[(clip * kFrames + frame) * 12 + band]);
        return all;
    }

    // The frames of a clip that satisfy a condition are these and no others.
    bool just_frames(int clip, int begin, int end, bool (*condition)(float)) const {
        for (int frame = 0; frame < kFrames; ++frame)
            if (every(clip, frame, condition) != (frame >= begin && frame < end)) return false;
        return true;
    }
};

template <class T>
void shift(T *&pointer, int bytes) {
    pointer = (T *)((const char *)pointer + bytes);
}

struct Malformed {
    void (*change)(Call &);
    const char *text;
    bool cpu_only = false;
};

const Malformed kMalformed[] = {
    {[](Call &c) { c.mel = c.chroma = nullptr; }, "mel, chroma: expected at least one output; got NULL twice"},
    {[](Call &c) { c.wave = nullptr; }, "wave, window: expected arrays; got NULL"},
    {[](Call &c) { c.window = nullptr; }, "wave, window: expected arrays; got NULL"},
    {[](Call &c) { c.band_first = nullptr; }, "band_first, band_offset, band_weights: expected arrays; got NULL"},
    {[](Call &c) { c.band_offset = nullptr; }, "band_first, band_offset, band_weights: expected arrays; got NULL"},
    {[](Call &c) { c.band_weights = nullptr; }, "band_first, band_offset, band_weights: expected arrays; got NULL"},
    {[](Call &c) { c.chroma_bank = nullptr; }, "chroma_bank: expected an array; got NULL"},
    {[](Call &c) { shift(c.wave, 2); }, "wave: expected an address that is a multiple of 4; got 0x"},
    {[](Call &c) { c.sample_type = DUOTOK_INT16, shift(c.wave, 1); }, "wave: expected an address that is a multiple of 2"},
    {[](Call &c) { c.set_lengths(1, 1), shift(c.lengths, 4); }, "lengths: expected an address that is a multiple of 8"},
    {[](Call &c) { shift(c.window, 1); }, "window: expected an address that is a multiple of 4"},
    {[](Call &c) { shift(c.mel, 3); }, "mel: expected an address that is a multiple of 4"},
    {[](Call &c) { shift(c.chroma, 2); }, "chroma: expected an address that is a multiple of 4"},
    {[](Call &c) { shift(c.band_first, 2); }, "band_first: expected an address that is a multiple of 4"},
    {[](Call &c) { shift(c.band_offset, 4); }, "band_offset: expected an address that is a multiple of 8"},
    {[](Call &c) { shift(c.band_weights, 1); }, "band_weights: expected an address that is a multiple of 4"},
    {[](Call &c) { shift(c.chroma_bank, 2); }, "chroma_bank: expected an address that is a multiple of 4"},
    {[](Call &c) { c.batch = -1; }, "expected batch >= 0, samples >= 1, row_stride >= 0"},
    {[](Call &c) { c.batch = INT64_MIN; }, "got -9223372036854775808, 1000, 1000"},
    {[](Call &c) { c.batch = INT64_MAX; }, "their products in range; got 9223372036854775807, 1000, 1000"},
    {[](Call &c) { c.batch = 3; }, "mel_size: expected B * T * F = 132; got 88"},
    {[](Call &c) { c.batch = 3, c.set_lengths(1, 1); }, "mel_size: expected B * T * F = 132; got 88"},
    {[](Call &c) { c.samples = 0; }, "samples >= 1"},
    {[](Call &c) { c.samples = INT64_MIN; }, "samples >= 1"},
    {[](Call &c) { c.samples = INT64_MAX, c.hop = 1; }, "their products in range"},
    {[](Call &c) { c.samples = int64_t(1) << 55, c.hop = 1; }, "mel_size: expected B * T * F in range; got an overflow"},
    {[](Call &c) { c.samples = int64_t(1) << 57, c.hop = 1; }, "batch * frames in range"},
    {[](Call &c) { c.row_stride = -1; }, "row_stride >= 0"},
    {[](Call &c) { c.row_stride = INT64_MAX; }, "their products in range"},
    {[](Call &c) { c.channels = 0; }, "expected channels >= 1, channel_stride >= 0 and their product in range; got 0, 0"},
    {[](Call &c) { c.channels = INT64_MIN; }, "expected channels >= 1"},
    {[](Call &c) { c.channels = INT64_MAX; }, "channel_stride >= 0 and their product in range"},
    {[](Call &c) { c.channel_stride = -1; }, "expected channels >= 1, channel_stride >= 0"},
    {[](Call &c) { c.channel_stride = INT64_MAX; }, "their product in range; got 1, 9223372036854775807"},
    {[](Call &c) { c.hop = 0; }, "hop: expected at least 1; got 0"},
    {[](Call &c) { c.hop = INT64_MIN; }, "hop: expected at least 1; got -9223372036854775808"},
    {[](Call &c) { c.hop = 60; }, "mel_size: expected B * T * F = 136; got 88"},
    {[](Call &c) { c.hop = INT64_MAX; }, "mel_size: expected B * T * F = 8; got 88"},
    {[](Call &c) { c.pad = -1; }, "pad: expected 0 to n_fft = 512; got -1"},
    {[](Call &c) { c.pad = kSize + 1; }, "pad: expected 0 to n_fft = 512; got 513"},
    {[](Call &c) { c.pad = INT64_MAX; }, "pad: expected 0 to n_fft = 512; got 9223372036854775807"},
    {[](Call &c) { c.n_fft = 0; }, "n_fft: expected a power of two from 256 to 4096; got 0"},
    {[](Call &c) { c.n_fft = INT32_MIN; }, "n_fft: expected a power of two from 256 to 4096; got -2147483648"},
    {[](Call &c) { c.n_fft = 128; }, "n_fft: expected a power of two from 256 to 4096; got 128"},
    {[](Call &c) { c.n_fft = 8192; }, "n_fft: expected a power of two from 256 to 4096; got 8192"},
    {[](Call &c) { c.n_fft = 768; }, "n_fft: expected a power of two from 256 to 4096; got 768"},
    {[](Call &c) { c.n_fft = 1024; }, "bank: expected at least 1 band over 513 bins and band_size >= 0; got 4 over 257"},
    {[](Call &c) { c.sample_type = 2; }, "sample_type: expected 0 (float32) or 1 (int16); got 2"},
    {[](Call &c) { c.sample_type = -1; }, "sample_type: expected 0 (float32) or 1 (int16); got -1"},
    {[](Call &c) { c.power = 0; }, "power: expected 1 or 2; got 0"},
    {[](Call &c) { c.pad_mode = 2; }, "pad_mode: expected 0 (reflect) or 1 (zero); got 2"},
    {[](Call &c) { c.bands_first = -1; }, "bands_first: expected 0 or 1; got -1"},
    {[](Call &c) { c.num_threads = 0; }, "num_threads: expected at least 1; got 0", true},
    {[](Call &c) { c.num_threads = INT32_MIN; }, "num_threads: expected at least 1; got -2147483648", true},
    {[](Call &c) { c.num_bands = 0; }, "bank: expected at least 1 band"},
    {[](Call &c) { c.num_bands = 5; }, "mel_size: expected B * T * F = 110; got 88"},
    {[](Call &c) { c.num_bands = INT32_MAX; }, "num_bands: expected at most 1048576; got 2147483647"},
    {[](Call &c) { c.num_bands = 3, c.mel_size = 66; }, "band_offset: expected to run from 0 to band_size = 40"},
    {[](Call &c) { c.band_bins = kBins - 1; }, "over 257 bins and band_size >= 0; got 4 over 256"},
    {[](Call &c) { c.band_size = -1; }, "band_size >= 0; got 4 over 257, -1"},
    {[](Call &c) { c.band_size = 39; }, "band_offset: expected to run from 0 to band_size = 39"},
    {[](Call &c) { c.own.offset[0] = 1; }, "band_offset: expected to run from 0 to band_size = 40"},
    {[](Call &c) { c.own.offset[2] = 9; }, "bank: expected band 1 within 257 bins; got weights 10 to 9 from bin 64"},
    {[](Call &c) { c.own.offset[1] = 50, c.own.offset[2] = -7; }, "bank: expected band 0 within 257 bins; got weights 0 to 50"},
    {[](Call &c) { c.own.offset[2] = INT64_MIN; }, "expected band 1 within 257 bins; got weights 10 to -9223372036854775808"},
    {[](Call &c) { c.own.first[0] = -1; }, "bank: expected band 0 within 257 bins; got weights 0 to 10 from bin -1"},
    {[](Call &c) { c.own.first[3] = kBins - 9; }, "bank: expected band 3 within 257 bins; got weights 30 to 40 from bin 248"},
    {[](Call &c) { c.own.first[3] = INT32_MAX; }, "within 257 bins; got weights 30 to 40 from bin 2147483647"},
    {[](Call &c) { c.mel_size = 87; }, "mel_size: expected B * T * F = 88; got 87"},
    {[](Call &c) { c.mel_size = -88; }, "mel_size: expected B * T * F = 88; got -88"},
    {[](Call &c) { c.log_mode = 4; }, "expected log_mode 0, 1, 2 or 3 and a floor; got 4"},
    {[](Call &c) { c.floor = NAN; }, "expected log_mode 0, 1, 2 or 3 and a floor; got 1, nan"},
    {[](Call &c) { c.mean = INFINITY; }, "mean, scale: expected finite numbers; got inf, 1"},
    {[](Call &c) { c.scale = NAN; }, "mean, scale: expected finite numbers; got 0, nan"},
    {[](Call &c) { c.chroma_size = 263; }, "chroma_size: expected B * T * 12 = 264; got 263"},
    {[](Call &c) { c.chroma_bins = kBins + 1; }, "chroma_bank: expected 257 bins; got 258"},
    {[](Call &c) { c.set_lengths(1, 0); }, "lengths: expected 1 to 1000 samples; got 0 for clip 1", true},
    {[](Call &c) { c.set_lengths(1001, 1); }, "lengths: expected 1 to 1000 samples; got 1001 for clip 0", true},
    {[](Call &c) { c.set_lengths(1, INT64_MIN); }, "got -9223372036854775808 for clip 1", true},
};

struct Unusual {
    const char *name;
    void (*change)(Call &);
    bool (*holds)(const Call &);
};

bool is_nan(float x) { return isnan(x); }
bool not_finite(float x) { return !isfinite(x); }
bool is_finite(float x) { return isfinite(x); }
bool silent(float x) { return x == 0 || fabsf(x + 100) < 1e-4f; }  // no chroma, or the floor in decibels
bool complete(const Call &c) { return c.wrote_rows(2 * kFrames); }
bool finite(const Call &c) { return c.just_frames(0, 0, kFrames, is_finite) && c.just_frames(1, 0, kFrames, is_finite); }

// Frame t covers samples 100 t - 256 to 100 t + 255.
const Unusual kUnusual[] = {
    {"nothing", [](Call &) {}, finite},
    {"NaN", [](Call &c) { c.own.wave[550] = NAN; }, [](const Call &c) { return c.just_frames(0, 3, 9, is_nan); }},
    {"NaN elsewhere", [](Call &c) { c.own.wave[550] = NAN; }, [](const Call &c) { return c.just_frames(1, 0, 11, is_finite); }},
    {"inf", [](Call &c) { c.own.wave[550] = HUGE_VALF; }, [](const Call &c) { return c.just_frames(0, 3, 9, not_finite); }},
    {"overflow", [](Call &c) { c.own.wave[550] = 3e38f; }, [](const Call &c) { return c.just_frames(0, 3, 9, not_finite); }},
    {"NaN window", [](Call &c) { c.own.window[0] = NAN; }, [](const Call &c) { return c.just_frames(1, 0, 11, is_nan); }},
    {"NaN reflected", [](Call &c) { c.own.wave[1] = NAN; }, [](const Call &c) { return c.just_frames(0, 0, 3, is_nan); }},
    {"NaN behind the end", [](Call &c) { c.set_lengths(550, 1000), c.own.wave[550] = NAN; }, finite},
    {"short clip", [](Call &c) { c.set_lengths(550, 1000); }, [](const Call &c) { return c.just_frames(0, 6, 11, silent); }},
    {"one sample", [](Call &c) { c.set_lengths(1, 1); }, [](const Call &c) { return c.just_frames(1, 1, 11, silent); }},
    {"clips overlap", [](Call &c) { c.row_stride = 1; }, finite},
    {"largest row stride", [](Call &c) { c.batch = 1, c.row_stride = int64_t(1) << 58, c.set_rows(kFrames); },
     [](const Call &c) { return c.wrote_rows(kFrames); }},
    {"largest hop", [](Call &c) { c.hop = INT64_MAX, c.set_rows(2); }, [](const Call &c) { return c.wrote_rows(2); }},
    {"largest pad", [](Call &c) { c.pad = kSize, c.hop = 1513, c.set_rows(2); }, [](const Call &c) { return c.wrote_rows(2); }},
    {"no frames", [](Call &c) { c.pad = 0, c.samples = 511, c.set_rows(0); }, [](const Call &c) { return c.wrote_rows(0); }},
    {"no clips", [](Call &c) { c.batch = 0, c.wave = nullptr, c.set_rows(0); }, [](const Call &c) { return c.wrote_rows(0); }},
    {"most threads", [](Call &c) { c.num_threads = INT32_MAX; }, complete},
    {"no Mel, its fields ignored", [](Call &c) { c.mel = nullptr, c.band_first = nullptr, c.num_bands = -7; },
     [](const Call &c) { return c.own.mel.unwritten() == c.own.mel.size && !c.own.chroma.unwritten(); }},
    {"no chroma, its fields ignored", [](Call &c) { c.chroma = nullptr, c.chroma_bank = nullptr, c.chroma_size = -1; },
     [](const Call &c) { return c.own.chroma.unwritten() == c.own.chroma.size && !c.own.mel.unwritten(); }},
    {"band without a bin", [](Call &c) { c.own.first[3] = kBins, c.own.offset[3] = 40; },
     [](const Call &c) { return silent(c.own.mel[3]) && !silent(c.own.mel[2]); }},
    {"no weights", [](Call &c) { c.band_weights = nullptr, c.band_size = 0, memset(c.own.offset.data, 0, 8 * (kBands + 1)); },
     [](const Call &c) { return silent(c.own.mel[0]) && silent(c.own.mel[2 * kFrames * kBands - 1]); }},
    {"infinite floor", [](Call &c) { c.floor = INFINITY; }, [](const Call &c) { return c.own.mel[0] == INFINITY; }},
    {"channels at one address", [](Call &c) { c.channels = 2; }, finite},
    {"int16", [](Call &c) { c.wave = c.own.pcm.data, c.sample_type = 1, c.own.pcm[0] = INT16_MIN; }, finite},
};

int failures = 0;

void expect(bool holds, const char *what, const char *found) {
    if (!holds) ++failures, fprintf(stderr, "expected: %s; got: %s\n", what, found);
}

// What both libraries have.
struct Library {
    const char *(*last_error)();
    std::function<int32_t(const Args *)> compute;

    void refuse(const Malformed &malformed) const {
        Call call;
        malformed.change(call);
        expect(compute(&call) == DUOTOK_INVALID && call.wrote_rows(0), malformed.text, "success, or an output written");
        expect(strstr(last_error(), malformed.text), malformed.text, last_error());
    }
};

template <class Function>
Function *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    REQUIRE(found, "no %s", name);
    return reinterpret_cast<Function *>(found);
}

void check_cpu(const Library &library, void *handle) {
    const auto use_isa = symbol<int32_t(const char *)>(handle, "duotok_use_cpu_isa");
    for (const std::string &name : {std::string(), std::string("AVX2"), std::string(100'000, 'x')}) {
        expect(use_isa(name.c_str()) == DUOTOK_INVALID, "an unknown instruction set", "success");
        expect(strstr(library.last_error(), "instruction set: expected one"), "its error", library.last_error());
    }
    for (const char *name : {"plain", "simd128", "avx2", "avx512"}) {
        if (use_isa(name)) continue;
        for (const Unusual &unusual : kUnusual) {
            Call call;
            unusual.change(call);
            expect(library.compute(&call) == DUOTOK_OK, unusual.name, library.last_error());
            expect(unusual.holds(call), unusual.name, name);
        }
    }
}

// No device has these numbers, with a driver or without.
void check_cuda(const Library &library, void *handle) {
    const auto compute = symbol<int32_t(const Args *, int32_t, void *)>(handle, "duotok_mel_chroma_cuda");
    for (const int32_t device : {-1, 12345}) {
        const std::string text = "on device " + std::to_string(device);
        Call call;
        expect(compute(&call, device, nullptr) == DUOTOK_CUDA_ERROR, "an error of CUDA", "none");
        expect(strstr(library.last_error(), text.c_str()), text.c_str(), library.last_error());
        call.batch = 0, call.set_rows(0);
        expect(compute(&call, device, nullptr) == DUOTOK_OK, "no work for no clips", library.last_error());
    }
}

}  // namespace

int main(int argc, char **argv) {
    REQUIRE(argc >= 2, "no library; see the head of this file");
    const bool cuda = argc > 2;
    void *handle = dlopen(argv[1], RTLD_NOW);
    REQUIRE(handle, "%s", dlerror());
    Library library{symbol<const char *()>(handle, "duotok_last_error"), nullptr};
    if (cuda) {
        const auto compute = symbol<int32_t(const Args *, int32_t, void *)>(handle, "duotok_mel_chroma_cuda");
        library.compute = [=](const Args *args) { return compute(args, 0, nullptr); };
    } else {
        library.compute = symbol<int32_t(const Args *)>(handle, "duotok_mel_chroma");
    }
    expect(!strcmp(library.last_error(), ""), "no error before the first", library.last_error());
    expect(library.compute(nullptr) == DUOTOK_INVALID, "args: expected a structure", library.last_error());
    for (const Malformed &malformed : kMalformed)
        if (!cuda || !malformed.cpu_only) library.refuse(malformed);
    cuda ? check_cuda(library, handle) : check_cpu(library, handle);
    printf("%zu malformed and %zu unusual calls, %d failures\n", std::size(kMalformed), std::size(kUnusual), failures);
    return failures != 0;
}

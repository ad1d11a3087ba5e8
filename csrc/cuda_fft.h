// The FFT of one block of the CUDA kernel: phases from samples in shared memory to the spectra of kFrames frames.
//
// A frame's points lie in shared memory between the passes and 16 at a time in a thread's registers within a pass. The last
// pass and the split are one phase: the butterfly that makes bins k, k + M / kLast .. meets the one that makes their mirrors,
// so bins never go to memory as complex numbers. slot() and kStride spread the points that a half-warp wants over the banks:
// accesses take 1.03 times as long as without conflicts for 1024 points, 1.25 for 2048, 1.5 to 2.7 for fewer; bins have none.
//
// Part of cuda_block.h.

// Where point p of a frame lies, in Complex. slot(a + b) = slot(a) + slot(b) where b is a multiple of a power of two above a:
// so the points of a butterfly lie at constants from its first.
DUOTOK_HOST_DEVICE constexpr int slot(int p) { return p + p / 16 + p / 256; }

// The sizes of a block for frames of 2 * kPoints samples.
template <int kPoints>
struct Sizes {
    static constexpr int kFrames = kPoints < 1024 ? 4096 / kPoints : 4;
    static constexpr int kFrameThreads = kPoints / 16;
    static constexpr int kThreads = kFrames * kFrameThreads;
    // From one frame to the next, in Complex; what is left modulo the 16 banks of a Complex was found by trying all.
    static constexpr int kLeft = kPoints == 128 ? 8 : kPoints == 256 ? 1 : kPoints == 512 ? 2 : kPoints == 1024 ? 4 : 3;
    static constexpr int kStride = (slot(kPoints) + 15 - kLeft) / 16 * 16 + kLeft;
    // Radix of the passes behind the first one of 16; the last is 8 where log2(kPoints) is odd.
    static constexpr int kLast = kPoints == 128 || kPoints == 512 || kPoints == 2048 ? 8 : 4;
    static constexpr int kMiddle = kPoints / 16 / kLast;
    static constexpr int kBins = kPoints + 1;
    // Pairs of last butterflies in a frame, and those that a thread splits.
    static constexpr int kPairs = kPoints / kLast / 2, kOwnPairs = kFrames * kPairs / kThreads;
    // Threads that share the bins of a frame's chroma, and where their sums lie behind the spectra.
    static constexpr int kSlices = kThreads / kFrames;
    static constexpr int kPartials = kFrames * kBins, kClasses = kPartials + kSlices * kFrames * kPitchClasses;
    static constexpr int kSharedFloats = kFrames * kStride * 2;
    static_assert(kMiddle == 1 || kMiddle == 4 || kMiddle == 16, "passes of radix 16, kMiddle and kLast");
    static_assert(kClasses + kFrames * kPitchClasses <= kSharedFloats, "spectra and chroma fit where points were");
};

DUOTOK_PHASE Complex load_point(const float *from) {
    const Pair pair = load<Pair>(from);
    return {pair.of[0], pair.of[1]};
}

DUOTOK_PHASE void store_point(float *to, Complex x) { store(to, Pair{{x.re, x.im}}); }

// Two passes of radix 4 over `size` points: x[i] is point j + i * size / 16.
DUOTOK_PHASE void butterfly16(Complex x[16], int size, int j, const Pair *twiddles) {
    for (int r = 0; r < 4; ++r) {
        Complex y[4] = {x[r], x[r + 4], x[r + 8], x[r + 12]};
        butterfly4(y, size, j + r * (size / 16), twiddles);
        for (int q = 0; q < 4; ++q) x[r + 4 * q] = y[q];
    }
    for (int q = 0; q < 4; ++q) butterfly4(x + 4 * q, size / 4, j, next_twiddles(twiddles, size));
}

// Frames begin this far apart in shared memory: as in the clip where they overlap there.
DUOTOK_PHASE int sample_step(const CudaCall &call) { return call.hop < call.n_fft ? int(call.hop) : call.n_fft; }

// Phase: the first pass, of radix 16, from samples to registers.
template <int kPoints>
DUOTOK_PHASE void first_pass(const float *shared, const CudaCall &call, int thread, Complex x[16]) {
    using S = Sizes<kPoints>;
    const SpectrumJob &job = call.job;
    const int frame = thread / S::kFrameThreads, j = thread % S::kFrameThreads;
    const float *samples = shared + frame * sample_step(call) + 2 * j;
    if (frame * sample_step(call) % 2 == 0)
        for (int i = 0; i < 16; ++i) x[i] = load_point(samples + 2 * i * S::kFrameThreads);
    else
        for (int i = 0; i < 16; ++i) x[i] = {samples[2 * i * S::kFrameThreads], samples[2 * i * S::kFrameThreads + 1]};
    for (int i = 0; i < 16; ++i) x[i] = windowed(x[i], job.window[j + i * S::kFrameThreads]);
    butterfly16(x, kPoints, j, job.fft.twiddles);
}

// Phase: from registers to the places of the points, where samples were.
template <int kPoints>
DUOTOK_PHASE void store_first_pass(float *shared, int thread, const Complex x[16]) {
    using S = Sizes<kPoints>;
    float *first = shared + 2 * (thread / S::kFrameThreads * S::kStride + slot(thread % S::kFrameThreads));
    for (int i = 0; i < 16; ++i) store_point(first + 2 * slot(i * S::kFrameThreads), x[i]);
}

// Phase: the passes between the first and the last, 16 points of one frame in place.
template <int kPoints>
DUOTOK_PHASE void middle_pass(float *shared, const SpectrumJob &job, int thread) {
    using S = Sizes<kPoints>;
    constexpr int kSize = kPoints / 16, kRadix = S::kMiddle, kStep = kSize / kRadix;
    const Pair *twiddles = next_twiddles(next_twiddles(job.fft.twiddles, kPoints), kPoints / 4);
    float *points = shared + thread / S::kFrameThreads * 2 * S::kStride;
    for (int i = 0; i < 16 / kRadix; ++i) {
        const int butterfly = thread % S::kFrameThreads + i * S::kFrameThreads;
        const int j = butterfly % kStep;
        float *first = points + 2 * slot(butterfly / kStep * kSize + j);
        Complex x[kRadix];
        for (int p = 0; p < kRadix; ++p) x[p] = load_point(first + 2 * slot(p * kStep));
        if constexpr (kRadix == 16)
            butterfly16(x, kSize, j, twiddles);
        else
            butterfly4(x, kSize, j, twiddles);
        for (int p = 0; p < kRadix; ++p) store_point(first + 2 * slot(p * kStep), x[p]);
    }
}

// The twiddles of the pass over 8 points.
template <int kPoints>
DUOTOK_PHASE const Pair *twiddles_of_8(const Pair *twiddles) {
    for (int size = kPoints; size > 8; size /= 4) twiddles = next_twiddles(twiddles, size);
    return twiddles;
}

// The last pass of a frame: x[q] is bin k + q * kPoints / kLast, k < kPoints / kLast.
template <int kPoints>
DUOTOK_PHASE void last_pass(const float *points, const FftTables &fft, int k, Complex x[Sizes<kPoints>::kLast]) {
    const float *from = points + 2 * slot(fft.position[k]);
    if constexpr (Sizes<kPoints>::kLast == 4) {
        for (int p = 0; p < 4; ++p) x[p] = load_point(from + 2 * p);
        transform4(x);
    } else {
        Complex halves[2][4];
        for (int p = 0; p < 8; ++p) halves[p % 2][p / 2] = load_point(from + 2 * p);
        for (int j = 0; j < 2; ++j) butterfly4(halves[j], 8, j, twiddles_of_8<kPoints>(fft.twiddles));
        for (int q = 0; q < 4; ++q) {
            Complex pair[2] = {halves[0][q], halves[1][q]};
            transform2(pair);
            x[q] = pair[0], x[q + 4] = pair[1];
        }
    }
}

// Two last butterflies of a frame that make each other's mirrors, bins `first` and `second` modulo kPoints / kLast; where
// second is 0, both make their own mirrors. The threads of a warp take four frames of eight pairs, as bins lie in memory.
struct MirrorPair {
    int frame, first, second;
};

template <int kPoints>
DUOTOK_PHASE MirrorPair mirror_pair(int thread, int i) {
    constexpr int kPairs = Sizes<kPoints>::kPairs;
    const int index = thread + i * Sizes<kPoints>::kThreads, k = index / 4 % kPairs;
    return {index / 4 / kPairs * 4 + index % 4, k ? k : kPairs, k ? 2 * kPairs - k : 0};
}

// Split bins k + q * kPoints / kLast, q < kLast / 2, of a, whose mirrors are b backwards, to power[2q] and power[2q + 1].
template <int kPoints>
DUOTOK_PHASE void split_half(const Complex *a, const Complex *b, const FftTables &fft, int k, float *power) {
    constexpr int kLast = Sizes<kPoints>::kLast;
    for (int q = 0; q < kLast / 2; ++q)
        split_pair(a[q], b[kLast - 1 - q], fft, k + q * (kPoints / kLast), &power[2 * q], &power[2 * q + 1]);
}

// Phase: the last pass and the split, to the power or magnitude of the bins in registers: (kOwnPairs, 2 * kLast + 1), where
// the bins of `first` come before those of `second`, each before its mirror, and the middle of the spectrum last.
template <int kPoints>
DUOTOK_PHASE void split_bins(const float *shared, const SpectrumJob &job, int thread, float *power) {
    using S = Sizes<kPoints>;
    constexpr int kLast = S::kLast;
    const FftTables &fft = job.fft;
    DUOTOK_UNROLL
    for (int i = 0; i < S::kOwnPairs; ++i, power += 2 * kLast + 1) {
        const MirrorPair pair = mirror_pair<kPoints>(thread, i);
        const float *points = shared + pair.frame * 2 * S::kStride;
        Complex a[kLast], b[kLast];
        last_pass<kPoints>(points, fft, pair.first, a);
        last_pass<kPoints>(points, fft, pair.second, b);
        if (pair.second) {
            split_half<kPoints>(a, b, fft, pair.first, power);
            split_half<kPoints>(b, a, fft, pair.second, power + kLast);
            power[2 * kLast] = 0.0f;
        } else {
            split_half<kPoints>(a, a, fft, pair.first, power);
            split_ends(b[0], b[kLast / 2], &power[kLast], &power[2 * kLast], &power[kLast + 1]);
            for (int q = 1; q < kLast / 2; ++q) {
                float *at = power + kLast + 2 * q;
                split_pair(b[q], b[kLast - q], fft, q * (kPoints / kLast), &at[0], &at[1]);
            }
        }
        if (job.magnitude)
            for (int bin = 0; bin <= 2 * kLast; ++bin) power[bin] = square_root(power[bin]);
    }
}

// Phase: from registers to the spectra, (kFrames / 4, kBins) Quads, where points were.
template <int kPoints>
DUOTOK_PHASE void store_bins(float *shared, int thread, const float *power) {
    using S = Sizes<kPoints>;
    constexpr int kLast = S::kLast;
    DUOTOK_UNROLL
    for (int i = 0; i < S::kOwnPairs; ++i, power += 2 * kLast + 1) {
        const MirrorPair pair = mirror_pair<kPoints>(thread, i);
        float *spectrum = shared + pair.frame / 4 * 4 * S::kBins + pair.frame % 4;
        const auto put = [&](int bin, float value) { spectrum[4 * bin] = value; };
        for (int q = 0; q < kLast; ++q) {
            const int bin = (q < kLast / 2 ? pair.first : pair.second) + q % (kLast / 2) * (kPoints / kLast);
            put(bin, power[2 * q]);
            put(kPoints - bin, power[2 * q + 1]);
        }
        if (!pair.second) put(kPoints / 2, power[2 * kLast]);
    }
}

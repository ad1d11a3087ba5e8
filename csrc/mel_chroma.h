// From a spectrum to Mel bands and chroma, in registers.
//
// Included once per instruction set; see lanes.h. Spectrum bins are Lanes, or what else can be added and multiplied by a float.

// Sum of one band; spectrum[k] holds bin k. Two chains of additions, so that their latencies overlap and rounding grows more
// slowly.
template <class Bin>
DUOTOK_PHASE Bin band_sum(const Bin *spectrum, const SpectrumJob &job, int band) {
    const Bin *bin = spectrum + job.band_first[band];
    const float *weight = job.band_weights + job.band_offset[band];
    const int count = int(job.band_offset[band + 1] - job.band_offset[band]);
    Bin even = {}, odd = {};
    for (int i = 0; i + 1 < count; i += 2) {
        even += bin[i] * weight[i];
        odd += bin[i + 1] * weight[i + 1];
    }
    if (count % 2) odd += bin[count - 1] * weight[count - 1];
    return even + odd;
}

// A band's value from its sum. The comparison keeps a NaN, as torch.clamp does.
DUOTOK_PHASE Lane band_value(Lane sum, const SpectrumJob &job) {
    Lane value = sum;
    if (job.log != Log::kNone) {
        const Lane raised = sum < job.floor ? Lane{} + job.floor : sum;
        if (job.log == Log::kDecibel) value = decibels(raised);
        if (job.log == Log::kNatural) value = natural_log(raised);
        if (job.log == Log::kDecimal) value = decimal_log(raised);
    }
    return (value - job.mean) * job.scale;
}

// Add a bin to `count` pitch classes, whose weights for that bin are given.
template <class Bin>
DUOTOK_PHASE void add_bin(Bin bin, const float *weights, int count, Bin *classes) {
    for (int c = 0; c < count; ++c) classes[c] += bin * weights[c];
}

// What the pitch classes are divided by: the largest; a NaN is the largest of all, as for torch.amax.
DUOTOK_PHASE Lane chroma_divisor(const Lane x[kPitchClasses]) {
    Lane peak = x[0];
    for (int c = 1; c < kPitchClasses; ++c) peak = ((x[c] > peak) | (x[c] != x[c])) ? x[c] : peak;
    return peak < 1e-10f ? Lane{} + 1.0f : peak;
}

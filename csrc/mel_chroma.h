// From a spectrum to Mel bands and chroma: the steps, each a function of the index of its band or run of bins.
//
// Included once per instruction set; see lanes.h. spectrum[k] holds bin k.

// Sum of one band. Two chains of additions, so that their latencies overlap and rounding grows more slowly.
DUOTOK_PHASE Lane band_sum(const Lane *spectrum, const SpectrumJob &job, int band) {
    const Lane *bin = spectrum + job.band_first[band];
    const float *weight = job.band_weights + job.band_offset[band];
    const int64_t count = job.band_offset[band + 1] - job.band_offset[band];
    Lane even = {}, odd = {};
    for (int64_t i = 0; i + 1 < count; i += 2) {
        even += bin[i] * weight[i];
        odd += bin[i + 1] * weight[i + 1];
    }
    return count % 2 ? even + odd + bin[count - 1] * weight[count - 1] : even + odd;
}

// A band's value from its sum. The comparison keeps a NaN, as torch.clamp does.
DUOTOK_PHASE Lane band_value(Lane sum, const SpectrumJob &job) {
    Lane value = sum;
    if (job.log != Log::kNone) {
        const Lane raised = sum < job.floor ? Lane{} + job.floor : sum;
        value = job.log == Log::kDecibel ? decibels(raised) : job.log == Log::kNatural ? natural_log(raised) : decimal_log(raised);
    }
    return (value - job.mean) * job.scale;
}

// Add bins begin .. end - 1 to the twelve pitch classes.
DUOTOK_PHASE void add_chroma(const Lane *spectrum, const SpectrumJob &job, int begin, int end, Lane out[kPitchClasses]) {
    Lane sum[kPitchClasses] = {};
    for (int k = begin; k < end; ++k)
        for (int c = 0; c < kPitchClasses; ++c) sum[c] += spectrum[k] * job.chroma_bank[k * kPitchClasses + c];
    for (int c = 0; c < kPitchClasses; ++c) out[c] += sum[c];
}

// Divide by the largest; a NaN is the largest of all, as for torch.amax.
DUOTOK_PHASE void normalize_chroma(Lane x[kPitchClasses]) {
    Lane peak = x[0];
    for (int c = 1; c < kPitchClasses; ++c) peak = ((x[c] > peak) | (x[c] != x[c])) ? x[c] : peak;
    const Lane divisor = peak < 1e-10f ? Lane{} + 1.0f : peak;
    for (int c = 0; c < kPitchClasses; ++c) x[c] = x[c] / divisor;
}

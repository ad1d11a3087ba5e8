// What the CUDA kernel is given: plain data whose pointers are the device's, and how its constant tables get there.
#pragma once

#include <vector>

#include "spectrum_job.h"

namespace duotok {

// duotok_mel_chroma_args as the kernel reads them.
struct CudaCall {
    SpectrumJob job;
    const void *wave;
    const int64_t *lengths;
    int64_t frames;  // T
    int64_t channels, samples, row_stride, channel_stride, hop, pad;
    int32_t n_fft, pad_mode;
    bool is_int16, bands_first;
    float *mel, *chroma;
};

// The constant tables of a call as one run of bytes that can be copied to a device: equal bytes, equal tables.
class PackedTables {
public:
    // Throws std::bad_alloc.
    explicit PackedTables(const duotok_mel_chroma_args &args);

    const std::vector<char> &bytes() const { return bytes_; }

    // The call with its tables in a copy of the bytes at an address that is a multiple of 16.
    CudaCall call(const duotok_mel_chroma_args &args, const char *copy) const;

private:
    template <class T>
    size_t append(const T *values, size_t count);

    std::vector<char> bytes_;
    size_t twiddles_, split_, position_, window_, band_first_, band_offset_, band_weights_, chroma_bank_;
};

}  // namespace duotok

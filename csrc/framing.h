// From a clip to its frames: how many there are, and which sample a position before, in or behind the clip stands for.
//
// The same on a CPU and on a GPU.
#pragma once

#include <stdint.h>

#include "duotok_native.h"

#if defined(__CUDACC__)
#define DUOTOK_HOST_DEVICE __host__ __device__ inline
#else
#define DUOTOK_HOST_DEVICE inline
#endif

namespace duotok {

// Frames of a clip of `samples` with `pad` more at both ends.
DUOTOK_HOST_DEVICE int64_t num_frames(int64_t samples, int64_t pad, int64_t n_fft, int64_t hop) {
    const int64_t room = samples + 2 * pad - n_fft;
    return room < 0 ? 0 : room / hop + 1;
}

// Fold a position of any sign into [0, size) by reflection that does not repeat the end samples.
DUOTOK_HOST_DEVICE int64_t reflect(int64_t position, int64_t size) {
    const int64_t period = size > 1 ? 2 * (size - 1) : 1;
    const int64_t remainder = position % period, folded = remainder < 0 ? remainder + period : remainder;
    return folded < period - folded ? folded : period - folded;
}

// The sample that stands at a position of a clip padded by duotok_pad; -1 for a zero.
DUOTOK_HOST_DEVICE int64_t padded_position(int64_t position, int64_t size, int32_t pad_mode) {
    if (position >= 0 && position < size) return position;
    return pad_mode == DUOTOK_PAD_REFLECT ? reflect(position, size) : -1;
}

}  // namespace duotok

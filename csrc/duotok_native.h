/* duotok's compiled libraries: the plain C ABI. No torch, no Python and no C++ on this side of it.
 *
 * The CPU library has all functions but duotok_mel_chroma_cuda; the CUDA library has that one, duotok_abi_version and
 * duotok_last_error, links the CUDA runtime statically and loads on a machine without a driver.
 *
 * Every function may be called from several threads at once. Functions that can fail return a code out of duotok_status
 * and leave a sentence for duotok_last_error(); they write nothing through a pointer they have not checked against NULL.
 */
#ifndef DUOTOK_NATIVE_H
#define DUOTOK_NATIVE_H

#include <stdint.h>

#if defined(_WIN32)
#define DUOTOK_API __declspec(dllexport)
#else
#define DUOTOK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a structure or the meaning of an argument changes; callers refuse any other version. */
#define DUOTOK_ABI_VERSION 2

enum duotok_status {
    DUOTOK_OK = 0,
    DUOTOK_INVALID = 1,
    DUOTOK_OUT_OF_MEMORY = 2,
    DUOTOK_SYSTEM_ERROR = 3,
    DUOTOK_CUDA_ERROR = 4
};
enum duotok_sample_type { DUOTOK_FLOAT32 = 0, DUOTOK_INT16 = 1 };
enum duotok_pad { DUOTOK_PAD_REFLECT = 0, DUOTOK_PAD_ZERO = 1 };
enum duotok_log { DUOTOK_LOG_NONE = 0, DUOTOK_LOG_DB = 1, DUOTOK_LOG_LN = 2, DUOTOK_LOG_LOG10 = 3 };

/* Return DUOTOK_ABI_VERSION of the built library. */
DUOTOK_API int32_t duotok_abi_version(void);

/* Return the instruction set in use: "avx512", "avx2", "simd128" (SSE2, NEON) or "plain" (one frame at a time). Static text. */
DUOTOK_API const char *duotok_cpu_isa(void);

/* Use the named instruction set in the whole process instead of the best one; NULL returns to the best. For tests and
 * measurements: results of two instruction sets agree to rounding, not to the bit.
 * Returns DUOTOK_INVALID for a name this build or this processor does not have. */
DUOTOK_API int32_t duotok_use_cpu_isa(const char *name);

/* Return the calling thread's last error as a sentence ("" before the first). Valid until that thread's next call. */
DUOTOK_API const char *duotok_last_error(void);

/* Arguments of duotok_mel_chroma. B clips of S samples in C channels; a clip with `pad` samples more at both of its own
 * ends has T = (S + 2 pad - n_fft) / hop + 1 frames, none if it is shorter than n_fft; frame t begins `pad` samples before
 * sample t * hop. K = n_fft / 2 + 1 frequency bins; F bands. Arrays are aligned for their type and, unless said,
 * contiguous. */
typedef struct duotok_mel_chroma_args {
    const void *wave;            /* (B, C, S) float32, or int16 read as sample / 32768 */
    const int64_t *lengths;      /* (B,) valid samples of each clip, 1 to S; NULL if all S are */
    int64_t batch;               /* B, 0 or more */
    int64_t channels;            /* C, 1 or more; a clip is the mean of its channels */
    int64_t samples;             /* S, 1 or more */
    int64_t row_stride;          /* from one clip to the next, in samples, 0 or more */
    int64_t channel_stride;      /* from one channel to the next, in samples, 0 or more */
    int64_t hop;                 /* samples, 1 or more */
    int64_t pad;                 /* samples, 0 to n_fft; n_fft / 2 centres frame t on sample t * hop */
    const float *window;         /* (n_fft,) */
    int32_t n_fft;               /* power of two, 256 to 4096 */
    int32_t sample_type;         /* duotok_sample_type */
    int32_t power;               /* 2: |X|^2, 1: |X| */
    int32_t num_threads;         /* 1 or more; results do not depend on it */
    int32_t pad_mode;            /* duotok_pad: reflection that does not repeat the end, as often as needed, or zeros */
    int32_t bands_first;         /* layout of both outputs; 0: (B, T, F), (B, T, 12); 1: (B, F, T), (B, 12, T) */

    /* Log-Mel, or any other bank whose bands are runs of bins; mel NULL if not wanted. Band f sums
     * band_weights[band_offset[f] + i] * spectrum[band_first[f] + i] over i < band_offset[f + 1] - band_offset[f]. */
    float *mel;                  /* output; frames beyond a clip's own end hold the value of silence */
    int64_t mel_size;            /* floats in mel, must be B * T * F */
    const int32_t *band_first;   /* (F,) lowest bin of each band */
    const int64_t *band_offset;  /* (F + 1,) into band_weights, ascending from 0 to band_size */
    const float *band_weights;   /* (band_size,) */
    int64_t band_size;           /* floats in band_weights */
    int32_t num_bands;           /* F, 1 to 2^20 */
    int32_t band_bins;           /* bins the bank was made for, must be K */
    int32_t log_mode;            /* duotok_log: the sums themselves, 10 log10, the natural logarithm, log10 */
    float floor;                 /* sums are raised to it before a logarithm; not NaN */
    float mean;                  /* finite; last of all, values become (value - mean) * scale: 0 and 1 leave them */
    float scale;                 /* finite */

    /* Chroma; NULL if not wanted. */
    float *chroma;               /* output; frames beyond a clip's own end are 0 */
    int64_t chroma_size;         /* floats in chroma, must be B * T * 12 */
    const float *chroma_bank;    /* (K, 12) */
    int32_t chroma_bins;         /* bins the bank was made for, must be K */
    int32_t chroma_normalize;    /* not 0: divide each frame by its maximum where that is at least 1e-10 */
} duotok_mel_chroma_args;

/* Compute log-Mel bands, chroma, or both, of a batch in one pass over one spectrum.
 *
 * Arithmetic is float32. A frame's values depend on its samples alone: not on the batch, the other frames, their lengths or
 * the number of threads. A frame that touches a NaN sample gives NaN in every band that has a bin and in every pitch
 * class, as a dense product would; an infinite sample, or one whose power overflows, gives values that are not finite. Other
 * frames are not affected.
 *
 * Returns DUOTOK_OK; DUOTOK_INVALID for a NULL or misaligned pointer, a size that is negative, out of range or overflows, a
 * bank whose bands leave the spectrum, a length outside 1 to S (nothing is computed then); DUOTOK_OUT_OF_MEMORY and
 * DUOTOK_SYSTEM_ERROR if the system gives no memory or another resource. */
DUOTOK_API int32_t duotok_mel_chroma(const duotok_mel_chroma_args *args);

/* Compute the same on a GPU.
 *
 * wave, lengths, mel and chroma are addresses of the device's memory; window and the banks are the host's, and are read
 * before the call returns. num_threads is ignored. The work is queued on `stream` (a cudaStream_t of that device) and the
 * call does not wait for it; the calling thread's current device is left as it was.
 *
 * Device copies of window and banks are kept, the 32 last used on each device. A call with new ones allocates and waits
 * for the stream, so before a stream is captured into a graph, call once with the same window and banks.
 *
 * Lengths cannot be checked without waiting: a clip whose length is outside 1 to S gives NaN in all of its frames.
 *
 * Returns as duotok_mel_chroma does, or DUOTOK_CUDA_ERROR where a function of the CUDA runtime fails, which may also be the
 * fault of work queued earlier; DUOTOK_OUT_OF_MEMORY is the device's or the host's. */
DUOTOK_API int32_t duotok_mel_chroma_cuda(const duotok_mel_chroma_args *args, int32_t device, void *stream);

#ifdef __cplusplus
}
#endif

#endif

// Checks of what crosses the C ABI, and the sentence that is left where one fails.
#pragma once

#include "duotok_native.h"

namespace duotok {

// Keep a sentence for last_error() of this thread; returns status.
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int32_t fail(int32_t status, const char *format, ...);

// This thread's last sentence; see duotok_last_error.
const char *last_error();

// Check every argument of a call but num_threads: DUOTOK_OK, or DUOTOK_INVALID and a sentence. Lengths are read only where
// they are the host's.
int32_t check(const duotok_mel_chroma_args *args, bool host_lengths);

}  // namespace duotok

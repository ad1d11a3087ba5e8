// The tables that an FFT reads, computed once per process.
#pragma once

#include "spectrum_job.h"

namespace duotok {

// Tables of an n_fft out of 256, 512 .. 4096. They live as long as the process. Throws std::bad_alloc.
const FftTables &fft_tables(int n_fft);

}  // namespace duotok

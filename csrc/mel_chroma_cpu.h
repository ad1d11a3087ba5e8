// What mel_chroma_cpu.cpp offers to the C ABI.
#pragma once

#include "duotok_native.h"

namespace duotok {

// Name of the instruction set in use; see duotok_cpu_isa.
const char *cpu_isa();

// Choose an instruction set by name, NULL for the best; false if there is none of that name that runs here.
bool use_cpu_isa(const char *name);

// Compute what the checked arguments ask for. Throws std::bad_alloc and other std::exceptions for want of resources.
void mel_chroma_cpu(const duotok_mel_chroma_args &args);

}  // namespace duotok

// The C ABI of duotok_native.h: lets checked arguments through, turns exceptions into error codes, computes nothing itself.

#include "duotok_native.h"

#include <exception>
#include <new>

#include "arguments.h"
#include "mel_chroma_cpu.h"

extern "C" {

int32_t duotok_abi_version(void) { return DUOTOK_ABI_VERSION; }

const char *duotok_cpu_isa(void) { return duotok::cpu_isa(); }

int32_t duotok_use_cpu_isa(const char *name) {
    if (duotok::use_cpu_isa(name)) return DUOTOK_OK;
    return duotok::fail(DUOTOK_INVALID, "instruction set: expected one that this build and processor have; got '%.40s'", name);
}

const char *duotok_last_error(void) { return duotok::last_error(); }

int32_t duotok_mel_chroma(const duotok_mel_chroma_args *args) {
    if (const int32_t status = duotok::check(args, true)) return status;
    if (args->num_threads < 1)
        return duotok::fail(DUOTOK_INVALID, "num_threads: expected at least 1; got %d", args->num_threads);
    try {
        duotok::mel_chroma_cpu(*args);
        return DUOTOK_OK;
    } catch (const std::bad_alloc &) {
        return duotok::fail(
            DUOTOK_OUT_OF_MEMORY, "expected memory for n_fft %d and %d bands; got none", args->n_fft, args->num_bands);
    } catch (const std::exception &error) {
        return duotok::fail(DUOTOK_SYSTEM_ERROR, "expected the system to serve; got: %.200s", error.what());
    }
}

}  // extern "C"

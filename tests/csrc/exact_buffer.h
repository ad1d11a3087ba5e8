// Buffers and canaries for the programs of this folder, which call the compiled library as any C++ program would.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>

#include "duotok_native.h"

// Stop with a sentence where an expectation fails; a fuzzer keeps the input that led here.
#define REQUIRE(condition, ...) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: expected %s; got: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
            abort(); \
        } \
    } while (0)

// `size` values on the heap that end where their memory ends, so that AddressSanitizer sees any access behind them. With
// `skew` they begin that many values into it: aligned for their type, but for no vector.
template <class T>
struct ExactBuffer {
    explicit ExactBuffer(size_t size = 0, size_t skew = 0)
        : size(size), memory(new T[size + skew]()), data(memory.get() + skew) {}

    T &operator[](size_t i) { return data[i]; }
    const T &operator[](size_t i) const { return data[i]; }

    size_t size;
    std::unique_ptr<T[]> memory;
    T *data;
};

// An output before the call: a NaN with bits that no arithmetic here gives.
class Output : public ExactBuffer<float> {
public:
    explicit Output(size_t size = 0, size_t skew = 0) : ExactBuffer(size, skew) {
        for (size_t i = 0; i < size; ++i) memcpy(data + i, &kCanary, sizeof kCanary);
    }

    // How many values the library has not written.
    size_t unwritten() const {
        size_t count = 0;
        for (size_t i = 0; i < size; ++i) count += bits(data[i]) == kCanary;
        return count;
    }

    bool all_nan() const {
        for (size_t i = 0; i < size; ++i)
            if (!isnan(data[i])) return false;
        return true;
    }

    static uint32_t bits(float value) {
        uint32_t out;
        memcpy(&out, &value, sizeof out);
        return out;
    }

private:
    static constexpr uint32_t kCanary = 0x7fc0ca9a;
};

// T of duotok_mel_chroma_args.
inline int64_t num_frames(const duotok_mel_chroma_args &args, int64_t samples) {
    const int64_t room = samples + 2 * args.pad - args.n_fft;
    return room < 0 ? 0 : room / args.hop + 1;
}

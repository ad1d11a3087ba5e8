// Lane: one float of each of kLanes frames, and what the phases do with it beyond arithmetic.
//
// Included once per instruction set, inside a namespace of its own and with DUOTOK_LANES set, so no include guard and no
// templates or library functions that the linker could merge across instruction sets (the idea of Highway's
// foreach_target). With DUOTOK_LANES 1 a Lane is a float: what a GPU thread works on, and the path of any other compiler.

constexpr int kLanes = DUOTOK_LANES;

#if DUOTOK_LANES == 1

typedef float Lane;
typedef bool LaneMask;

DUOTOK_PHASE Lane square_root(Lane x) { return sqrtf(x); }
DUOTOK_PHASE Lane natural_log(Lane x) { return logf(x); }
DUOTOK_PHASE Lane decimal_log(Lane x) { return log10f(x); }
DUOTOK_PHASE Lane decibels(Lane x) { return 10.0f * log10f(x); }
DUOTOK_PHASE void transpose_quads(Lane[4]) {}

DUOTOK_PHASE void load_quads(const float *const rows[kLanes], int64_t offset, Lane out[4]) {
    for (int i = 0; i < 4; ++i) out[i] = rows[0][offset + i];
}

DUOTOK_PHASE void store_quads(const Lane in[4], float *row, int64_t, int) {
    for (int i = 0; i < 4; ++i) row[i] = in[i];
}

#else

typedef float Lane __attribute__((vector_size(4 * DUOTOK_LANES)));
typedef int32_t LaneMask __attribute__((vector_size(4 * DUOTOK_LANES)));
typedef float Quad __attribute__((vector_size(16)));

DUOTOK_PHASE Lane square_root(Lane x) {
    Lane out;
    for (int i = 0; i < kLanes; ++i) out[i] = __builtin_sqrtf(x[i]);
    return out;
}

// factor * ln x = e * (high + low) + factor * ln m with m in [sqrt(1/2), sqrt(2)) and high + low = factor * ln 2, of which
// e * high is exact (Cody and Waite 1980). ln m = 2 artanh(s) with s = (m - 1) / (m + 1): |s| < 0.172, so the first term left
// out of the odd series is below 1e-9. Zero, subnormal, infinite, NaN and negative x are as in logf.
DUOTOK_PHASE Lane scaled_log(Lane x, float factor, float high, float low) {
    const LaneMask tiny = x < 1.17549435e-38f;
    const LaneMask bits = (LaneMask)(tiny ? x * 16777216.0f : x);
    const LaneMask shifted = bits - 0x3f3504f3;  // the bits of sqrt(1/2): m just below sqrt(2) still counts as e
    const LaneMask exponent = shifted >> 23;     // arithmetic: rounds towards minus infinity
    const Lane m = (Lane)(bits - (exponent << 23));
    const Lane e = __builtin_convertvector(exponent - (tiny & 24), Lane);
    const Lane s = (m - 1.0f) / (m + 1.0f);
    const Lane z = s * s;
    const Lane series = z * (0.666666667f + z * (0.4f + z * (0.285714286f + z * 0.222222222f)));
    const Lane out = e * high + (e * low + factor * (s * series + (s + s)));
    const Lane special = x == 0.0f ? Lane{} - __builtin_inff() : (x < 0.0f ? Lane{} + __builtin_nanf("") : x);
    return ((x > 0.0f) & (x < __builtin_inff())) ? out : special;
}

DUOTOK_PHASE Lane natural_log(Lane x) { return scaled_log(x, 1.0f, 0.693115234375f, 3.1946185e-5f); }
DUOTOK_PHASE Lane decimal_log(Lane x) { return scaled_log(x, 0.4342944819f, 0.301025390625f, 4.60503898e-6f); }
DUOTOK_PHASE Lane decibels(Lane x) { return scaled_log(x, 4.342944819f, 3.009765625f, 5.34331640e-4f); }

// In every run of four lanes, exchange lane j of v[i] with lane i of v[j].
#if DUOTOK_LANES == 4
#define DUOTOK_RUNS(run) run(0)
#elif DUOTOK_LANES == 8
#define DUOTOK_RUNS(run) run(0), run(4)
#else
#define DUOTOK_RUNS(run) run(0), run(4), run(8), run(12)
#endif
#define DUOTOK_LOW(b) b, b + kLanes, b + 1, b + 1 + kLanes
#define DUOTOK_HIGH(b) b + 2, b + 2 + kLanes, b + 3, b + 3 + kLanes
#define DUOTOK_LOW_PAIR(b) b, b + 1, b + kLanes, b + 1 + kLanes
#define DUOTOK_HIGH_PAIR(b) b + 2, b + 3, b + 2 + kLanes, b + 3 + kLanes

DUOTOK_PHASE void transpose_quads(Lane v[4]) {
    const Lane low01 = __builtin_shufflevector(v[0], v[1], DUOTOK_RUNS(DUOTOK_LOW));
    const Lane high01 = __builtin_shufflevector(v[0], v[1], DUOTOK_RUNS(DUOTOK_HIGH));
    const Lane low23 = __builtin_shufflevector(v[2], v[3], DUOTOK_RUNS(DUOTOK_LOW));
    const Lane high23 = __builtin_shufflevector(v[2], v[3], DUOTOK_RUNS(DUOTOK_HIGH));
    v[0] = __builtin_shufflevector(low01, low23, DUOTOK_RUNS(DUOTOK_LOW_PAIR));
    v[1] = __builtin_shufflevector(low01, low23, DUOTOK_RUNS(DUOTOK_HIGH_PAIR));
    v[2] = __builtin_shufflevector(high01, high23, DUOTOK_RUNS(DUOTOK_LOW_PAIR));
    v[3] = __builtin_shufflevector(high01, high23, DUOTOK_RUNS(DUOTOK_HIGH_PAIR));
}

#undef DUOTOK_RUNS
#undef DUOTOK_LOW
#undef DUOTOK_HIGH
#undef DUOTOK_LOW_PAIR
#undef DUOTOK_HIGH_PAIR

DUOTOK_PHASE Quad load_quad(const float *from) {
    Quad out;
    __builtin_memcpy(&out, from, sizeof out);
    return out;
}

// Read four consecutive samples of every lane's row: out[i] holds sample offset + i.
DUOTOK_PHASE void load_quads(const float *const rows[kLanes], int64_t offset, Lane out[4]) {
    for (int i = 0; i < 4; ++i) {
        // Lane 4 g + i of out[.] comes from row 4 g + i, so one 16-byte load per row is all that crosses lanes.
#if DUOTOK_LANES == 4
        out[i] = load_quad(rows[i] + offset);
#else
        const auto low = __builtin_shufflevector(
            load_quad(rows[i] + offset), load_quad(rows[i + 4] + offset), 0, 1, 2, 3, 4, 5, 6, 7);
#if DUOTOK_LANES == 8
        out[i] = low;
#else
        const auto high = __builtin_shufflevector(
            load_quad(rows[i + 8] + offset), load_quad(rows[i + 12] + offset), 0, 1, 2, 3, 4, 5, 6, 7);
        out[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
#endif
    }
    transpose_quads(out);
}

// The inverse for the first num_rows lanes: write in[0 .. 3] of each to its row, the rows row_stride apart.
DUOTOK_PHASE void store_quads(const Lane in[4], float *rows, int64_t row_stride, int num_rows) {
    Lane v[4] = {in[0], in[1], in[2], in[3]};
    transpose_quads(v);
    for (int row = 0; row < num_rows; ++row)
        __builtin_memcpy(rows + row * row_stride, (const float *)&v[row & 3] + (row & ~3), sizeof(Quad));
}

#endif

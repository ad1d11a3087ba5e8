// Fuzz target of the CUDA kernel's phases on the CPU (phases.cpp): every output must be written, silence be silent, and the
// results be the same to the bit whatever the order of a phase's threads; a clip of impossible length must be NaN.

#include "fuzz_outputs.h"

extern "C" int32_t run_phases(const duotok_mel_chroma_args *args, int32_t order);

namespace {

int32_t forward(const Args *args) { return run_phases(args, 0); }
int32_t backward(const Args *args) { return run_phases(args, 1); }
int32_t shuffled(const Args *args) { return run_phases(args, 2); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Bytes in(data, size);
    const Function other_order = in.one_in(2) ? backward : shuffled;
    const int64_t impossible = in.one_in(4) ? in.between(INT64_MIN, INT64_MAX) : 0;
    Case c(in);
    if (!c.bank_fits) return 0;  // refused, as on the CPU
    const Outputs out = run(c.args, c.mel, c.chroma, forward);
    require_silence(c, out);
    require_same(c.args, out, c.args, run(c.args, c.mel, c.chroma, other_order), c.mel, c.chroma);
    if (!impossible || !c.args.batch) return 0;
    for (size_t clip = 0; clip < c.lengths.size; ++clip) c.lengths[clip] = outside<int64_t>(1, c.args.samples, impossible);
    c.args.lengths = c.lengths.data;
    const Outputs none = run(c.args, c.mel, c.chroma, forward);
    REQUIRE(none.mel.all_nan() && none.chroma.all_nan(), "numbers");
    return 0;
}

#include "fft_tables.h"

#include <math.h>

#include <functional>
#include <mutex>
#include <vector>

namespace duotok {
namespace {

struct OwnedTables {
    std::once_flag once;
    std::vector<Pair> twiddles, split;
    std::vector<int32_t> position;
    FftTables view;
};

Pair root_of_unity(int numerator, int denominator) {
    const double angle = -2.0 * 3.14159265358979323846 * numerator / denominator;
    return {{float(cos(angle)), float(sin(angle))}};
}

// Where the passes of fft.h leave bin k of `size` points.
int32_t position_of_bin(int k, int size) {
    if (size == 1) return 0;
    const int radix = size == 2 ? 2 : 4;
    return k % radix * (size / radix) + position_of_bin(k / radix, size / radix);
}

void build_tables(OwnedTables &tables, int n_fft) {
    const int points = n_fft / 2;
    // Empty unless an earlier attempt ran out of memory.
    tables.twiddles.clear(), tables.split.clear(), tables.position.clear();
    for (int size = points; size > 4; size /= 4)
        for (int q = 1; q < 4; ++q)
            for (int j = 0; j < size / 4; ++j) tables.twiddles.push_back(root_of_unity(q * j, size));
    for (int k = 0; k <= points / 2; ++k) tables.split.push_back(root_of_unity(k, n_fft));
    for (int k = 0; k < points; ++k) tables.position.push_back(position_of_bin(k, points));
    const int num_twiddles = int(tables.twiddles.size());
    tables.view = {points, tables.twiddles.data(), num_twiddles, tables.split.data(), tables.position.data()};
}

}  // namespace

const FftTables &fft_tables(int n_fft) {
    static OwnedTables all[5];
    OwnedTables &tables = all[n_fft == 256 ? 0 : n_fft == 512 ? 1 : n_fft == 1024 ? 2 : n_fft == 2048 ? 3 : 4];
    std::call_once(tables.once, build_tables, std::ref(tables), n_fft);
    return tables.view;
}

}  // namespace duotok

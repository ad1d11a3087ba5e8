// The fuzz target without libFuzzer, for any compiler: replay files, then random inputs.
//
//   random_calls SECONDS SEED [FILE...]
//
// Half of the random inputs are fresh bytes, half are a file with some bytes changed.

#include <chrono>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "exact_buffer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

Input read(const char *path) {
    std::ifstream file(path, std::ios::binary);
    REQUIRE(file.good(), "%s, which does not open", path);
    return Input(std::istreambuf_iterator<char>(file), {});
}

Input random_input(const std::vector<Input> &files, std::mt19937_64 &random) {
    Input input(random() % 200);
    for (uint8_t &byte : input) byte = uint8_t(random());
    if (files.empty() || random() % 2) return input;
    input = files[random() % files.size()];
    for (size_t changes = 1 + random() % 4; changes && !input.empty(); --changes)
        input[random() % input.size()] = uint8_t(random());
    return input;
}

}  // namespace

int main(int argc, char **argv) {
    REQUIRE(argc >= 3, "%d arguments; see the head of this file", argc - 1);
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(atof(argv[1]));
    std::mt19937_64 random(strtoull(argv[2], nullptr, 10));
    std::vector<Input> files;
    for (int i = 3; i < argc; ++i) {
        files.push_back(read(argv[i]));
        LLVMFuzzerTestOneInput(files.back().data(), files.back().size());
    }
    long long calls = 0;
    for (; std::chrono::steady_clock::now() < end; ++calls) {
        const Input input = random_input(files, random);
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    printf("%zu files, %lld random inputs\n", files.size(), calls);
}

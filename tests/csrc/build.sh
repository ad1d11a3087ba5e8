#!/usr/bin/env bash
# Build the compiled library and the programs of this folder with sanitizers.
#
#   build.sh address OUT [CSRC]   OUT/_native.so under AddressSanitizer and UndefinedBehaviorSanitizer, every instruction set;
#                                 OUT/malformed_calls, OUT/random_calls
#   build.sh thread OUT [CSRC]    OUT/_native.so under ThreadSanitizer; OUT/concurrent_calls
#   build.sh fuzzer OUT [CSRC]    OUT/fuzz_mel_chroma: libFuzzer with the first two; needs clang
#
# CXX names the compiler: g++ unless set, clang++ for the fuzzer. CSRC is another folder of sources than this checkout's.
set -euo pipefail
kind=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
csrc=${3:-$here/../../csrc}
mkdir -p "$out"

# What changes results is as in setup.py; -O1 and -g make reports readable.
flags=(-std=c++17 -O1 -g -ffp-contract=fast -fno-math-errno -fno-omit-frame-pointer -fvisibility=hidden
       -fvisibility-inlines-hidden -Wall -Wno-psabi -pthread -fno-sanitize-recover=all -I "$csrc")
library=("$csrc"/{native,arguments,fft_tables,mel_chroma_cpu}.cpp)

shared_library() { "${CXX:-g++}" "${flags[@]}" "$@" -fPIC -shared "${library[@]}" -o "$out/_native.so"; }
program() { # its name, its sources, then the compiler's flags
  local name=$1 sources=$2
  shift 2
  "${CXX:-g++}" "${flags[@]}" "$@" $(printf "$here/%s.cpp " $sources) "$out/_native.so" -Wl,-rpath,"$out" -ldl -o "$out/$name"
}

case $kind in
  address)
    shared_library -fsanitize=address,undefined
    program malformed_calls malformed_calls -fsanitize=address,undefined
    program random_calls "random_calls fuzz_mel_chroma" -fsanitize=address,undefined ;;
  thread)
    shared_library -fsanitize=thread
    program concurrent_calls concurrent_calls -fsanitize=thread ;;
  fuzzer)
    "${CXX:-clang++}" "${flags[@]}" -fsanitize=fuzzer,address,undefined "${library[@]}" "$here/fuzz_mel_chroma.cpp" \
      -o "$out/fuzz_mel_chroma" ;;
  *) echo "expected address, thread or fuzzer; got $kind" >&2; exit 2 ;;
esac

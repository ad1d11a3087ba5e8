#!/usr/bin/env bash
# Build the CPU library and the programs of this folder with sanitizers.
#
#   build.sh address OUT [CSRC]   OUT/_native.so under AddressSanitizer and UndefinedBehaviorSanitizer, every instruction set;
#                                 OUT/random_calls and OUT/malformed_calls likewise
#   build.sh thread OUT [CSRC]    OUT/concurrent_calls under ThreadSanitizer
#   build.sh fuzzer OUT [CSRC]    OUT/fuzz_mel_chroma, OUT/fuzz_phases: libFuzzer with the first two; needs clang
#
# CXX names the compiler: g++ unless set, clang++ for the fuzzer. CSRC is another folder of sources than this checkout's.
set -euo pipefail
kind=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
csrc=${3:-$here/../../csrc}
mkdir -p "$out"

case $kind in
  address) compiler=${CXX:-g++} sanitizers=address,undefined ;;
  thread) compiler=${CXX:-g++} sanitizers=thread ;;
  fuzzer) compiler=${CXX:-clang++} sanitizers=fuzzer,address,undefined ;;
  *) echo "expected address, thread or fuzzer; got $kind" >&2; exit 2 ;;
esac

# What changes results is as in setup.py; -O1 and -g1 make reports readable.
flags="-std=c++17 -O1 -g1 -fno-omit-frame-pointer -ffp-contract=fast -fno-math-errno -fvisibility=hidden -fPIC
  -fvisibility-inlines-hidden -Wall -Wextra -Wno-psabi -pthread -fsanitize=$sanitizers -fno-sanitize-recover=all"

compile() { # each of these sources to OUT/NAME.o, several at a time
  export compiler flags csrc out
  printf '%s\n' "$@" | xargs -P "$(nproc)" -I {} sh -c '$compiler $flags -I "$csrc" -c "{}" -o "$out/$(basename "{}" .cpp).o"'
}
link() { # OUT/NAME from these objects and flags
  local name=$1
  shift
  (cd "$out" && $compiler $flags "$@" -o "$name")
}

library=("$csrc"/{native,arguments,fft_tables,mel_chroma_cpu}.cpp)
library_objects=({native,arguments,fft_tables,mel_chroma_cpu}.o)
case $kind in
  address)
    compile "${library[@]}" "$here"/{fuzz_mel_chroma,random_calls,malformed_calls}.cpp
    link _native.so -shared "${library_objects[@]}"
    link random_calls "${library_objects[@]}" {fuzz_mel_chroma,random_calls}.o
    link malformed_calls malformed_calls.o -ldl ;;
  thread)
    compile "${library[@]}" "$here/concurrent_calls.cpp"
    link concurrent_calls "${library_objects[@]}" concurrent_calls.o ;;
  fuzzer)
    compile "${library[@]}" "$csrc/cuda_call.cpp" "$here"/{phases,fuzz_mel_chroma,fuzz_phases}.cpp
    link fuzz_mel_chroma "${library_objects[@]}" fuzz_mel_chroma.o
    link fuzz_phases {arguments,fft_tables,cuda_call,phases,fuzz_phases}.o ;;
esac

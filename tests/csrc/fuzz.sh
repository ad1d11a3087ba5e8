#!/usr/bin/env bash
# Fuzz the CPU library and the phases of the CUDA kernel, starting from corpus/.
#
#   fuzz.sh SECONDS [CORPUS]
#
# SECONDS are for each of the two. New inputs go to CORPUS/mel_chroma and CORPUS/phases, or are dropped; one that fails is left
# in the working folder as crash-*, and `OUT/fuzz_TARGET crash-*` runs it again (build.sh). Without clang's libFuzzer, random
# inputs go to the CPU library under g++'s sanitizers.
set -euo pipefail
seconds=$1
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
corpus=${2:-$out/corpus}

if bash "$here/build.sh" fuzzer "$out" 2> "$out/why"; then
  for target in mel_chroma phases; do
    mkdir -p "$corpus/$target"
    "$out/fuzz_$target" -max_total_time="$seconds" -max_len=200 -len_control=0 -print_final_stats=1 \
      "$corpus/$target" "$here/corpus/$target" 2>&1 | grep -Ev "^#[0-9]+|# Uses:"
  done
else
  echo "no libFuzzer ($(tail -n 1 "$out/why")): random calls under g++'s sanitizers instead"
  bash "$here/build.sh" address "$out"
  seed=$RANDOM
  echo "random_calls $seconds $seed, where the seed gives the same calls again"
  "$out/random_calls" "$seconds" "$seed" "$here"/corpus/mel_chroma/*
fi

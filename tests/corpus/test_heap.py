"""A worker keeps the memory that it frees, so that the next batch touches no new pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from duotok.corpus.heap import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
for round in range(8):
    if round == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 23, np.float64)  # 64 MiB, beyond what glibc would come to keep by itself
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, what], check=True, capture_output=True, text=True)
    kept, number = done.stdout.split()
    return kept, int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets a parameter of glibc's malloc")
def test_freed_memory_is_used_again():
    kept, number = faults("keep")
    assert kept == "True" and number < faults("give back")[1] / 10

"""Times of rivals in one process, and what a machine's processor reaches.

best_seconds({"ours": f, "peer": g}, turns) -> the best time of each, taken in turns so that a noisy machine disturbs all alike
cpu_peaks() -> GFLOP/s of products and GB/s of a copy, measured
"""

from __future__ import annotations

import ctypes
import importlib
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from duotok.kernels import linear

Rivals = dict[str, Callable[[], object]]


def best_seconds(rivals: Rivals, turns: int) -> dict[str, float]:
    """Call every rival once a turn, and take the best time of each."""
    best = dict.fromkeys(rivals, math.inf)
    for _ in range(turns):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def product_seconds(shapes: list[tuple[int, int, int]], dtype: torch.dtype, turns: int = 3) -> dict[str, float]:
    """Sum the least times of plain products (M, K) (K, N): by torch.mm, and by it or oneDNN, whichever is faster at the shape.

    Of more than 8,192 rows a part of so many is timed: the rate no longer changes.
    """
    total = {"mm": 0.0, "fastest": 0.0}
    for (rows, inner, columns), times in Counter(shapes).items():
        some = min(rows, 8192)
        x, weight = torch.randn(some, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
        with torch.no_grad():
            rivals = {"mm": lambda x=x, weight=weight: x @ weight.T, "onednn": lambda x=x, weight=weight: linear(x, weight)}
            best_seconds(rivals, 1)
            best = best_seconds(rivals, turns)
        total["mm"] += times * rows / some * best["mm"]
        total["fastest"] += times * rows / some * min(best.values())
    return total


def cpu_peaks() -> dict[str, float]:
    """What this processor reaches with torch's threads: GFLOP/s of 2,048-wide products, GB/s of a copy (read and written)."""
    source = torch.rand(2**26)
    target = torch.empty_like(source)
    peaks = {"copy_gbytes_s": 8e-9 * source.numel() / best_seconds({"": lambda: target.copy_(source)}, 4)[""]}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        peaks[f"{name}_gflops"] = 2e-9 * 2048**3 / product_seconds([(2048, 2048, 2048)], dtype)["fastest"]
    return peaks


def peer(name: str) -> object:
    """A rival's module, or a skip that says why it is not there."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"needs {name}: {type(error).__name__}: {error}")


def peak_bytes(function: Callable[[], object]) -> int:
    """Memory that the function needs on top of what the process holds: the kernel's own record of the peak, reset before."""
    ctypes.CDLL(None).malloc_trim(0)  # what the process holds but does not use would hide what the function takes
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])

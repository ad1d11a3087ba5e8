"""Times of calls on a GPU: on the device, and until Python has enqueued them."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def milliseconds(function: Callable[[], object], runs: int = 15) -> float:
    """Median time on the device."""
    flushed = torch.empty(2**26, dtype=torch.int32, device="cuda")
    function(), function()
    times = []
    for _ in range(runs):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flushed.zero_()
        torch.cuda._sleep(4_000_000)  # about 2 ms
        start.record()
        function()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return median(times)


def host_microseconds(function: Callable[[], object], runs: int = 15) -> float:
    """Median time until the call has been enqueued."""
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        times.append(1e6 * (time.perf_counter() - start))
    return median(times)

"""Times of calls on a GPU: on the device, and until Python has enqueued them."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile


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


def kernel_milliseconds(function: Callable[[], object], runs: int = 15) -> dict[str, float]:
    """Mean time of each kernel of a call on the device, by the kernel's name."""
    function(), function()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(runs):
            function()
        torch.cuda.synchronize()
    return {row.key: row.device_time_total / row.count / 1e3 for row in found.key_averages() if row.device_time_total}


def record(
    benchmark,
    peaks: dict[str, float],
    group: str,
    ours: Callable,
    rivals: dict[str, Callable],
    moved: float = 0.0,
    flops: float = 0.0,
) -> None:
    """Put down the times of ours and of every rival, rates and shares of the peaks, and let the benchmark time ours."""
    benchmark.group, info = group, benchmark.extra_info
    info["card"] = torch.cuda.get_device_name()
    for name, rival in {"ours": ours, **rivals}.items():
        info[f"{name}_ms"], info[f"{name}_host_us"] = milliseconds(rival), host_microseconds(rival)
        info[f"{name}_over_ours"] = info[f"{name}_ms"] / info["ours_ms"]
    elapsed = info["ours_ms"]
    if moved:
        info["bytes"], info["gbytes_s"] = moved, 1e-6 * moved / elapsed
        info["of_copy_peak"] = info["gbytes_s"] / peaks["copy_gbytes_s"]
    if flops:
        info["tflops"] = 1e-9 * flops / elapsed
        info["of_float16_peak"] = info["tflops"] / peaks["float16_tflops"]

    def once() -> None:
        ours()
        torch.cuda.synchronize()

    benchmark.pedantic(once, rounds=5, warmup_rounds=1)

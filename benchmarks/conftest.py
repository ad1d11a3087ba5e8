"""Benchmarks of duotok: `pytest benchmarks/ --benchmark-only`.

Every benchmark checks the answer before it times it (where rivals are other models, that it has their shape), runs rivals in
one process and group, and writes ratios and rates to `extra_info`. Machines are noisy: read the ratios. `--quick` takes two
minutes: two turns instead of five, and what takes longest is left out. Those of a GPU skip without one, and say so.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from measure import Rivals, best_seconds, cpu_peaks

import duotok
from duotok.audio import open_audio, to_mono

# Whole commands on real songs, minutes long.
_LONG = ("bench_jobs.py",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--quick`."""
    parser.addoption("--quick", action="store_true", help="benchmarks: two turns each, the longest left out")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--quick` has no time for."""
    if config.getoption("--quick"):
        for item in items:
            if item.path.name in _LONG or item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes too long for --quick"))


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker of long benchmarks."""
    config.addinivalue_line("markers", "slow: takes too long for --quick")


@pytest.fixture(scope="session")
def real_song() -> tuple[np.ndarray, np.ndarray, int]:
    """Vocals and accompaniment (S,) of the real song that the package stempeg carries, and its sample rate."""
    try:
        files = metadata.files("stempeg") or []
    except metadata.PackageNotFoundError:
        pytest.skip("needs a real song; install the extra `demo`")
    path = next(Path(file.locate()) for file in files if file.name.endswith(".stem.mp4"))
    tracks = []
    for stream in range(1, 5):
        with open_audio(path, stream) as reader:
            tracks.append(np.concatenate([to_mono(block) for block in reader.blocks()]))
    return tracks[3], tracks[0] + tracks[1] + tracks[2], 44_100


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let every benchmark draw the same inputs each time."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def turns(request: pytest.FixtureRequest) -> int:
    """How often each rival is timed."""
    return 2 if request.config.getoption("--quick") else 5


@pytest.fixture(scope="session")
def peaks() -> dict[str, float]:
    """What the processor reaches, with the threads that torch has."""
    return cpu_peaks()


@pytest.fixture
def record(benchmark: Callable, peaks: dict[str, float], turns: int) -> Callable[..., dict[str, float]]:
    """Time ours and its rivals in turns; note times, ratios, rates and shares of the peaks."""

    def note(
        group: str, rivals: Rivals, moved: float = 0, flops: float = 0, dtype: torch.dtype = torch.float32, limit: int = 99
    ) -> dict[str, float]:
        """`moved` is the least traffic in bytes, `flops` the arithmetic, `limit` the most turns; returns best seconds."""
        best, info = best_seconds(rivals, min(turns, limit)), benchmark.extra_info
        benchmark.group, elapsed = group, best["ours"]
        for name, seconds in best.items():
            info[f"{name}_ms"] = 1e3 * seconds
            if name != "ours":
                info[f"{name}_over_ours"] = seconds / elapsed
        if moved:
            info["bytes"], info["gbytes_s"] = moved, 1e-9 * moved / elapsed
            info["of_copy_peak"] = info["gbytes_s"] / peaks["copy_gbytes_s"]
        if flops:
            info["flops"], info["gflops"] = flops, 1e-9 * flops / elapsed
            info["of_gemm_peak"] = info["gflops"] / peaks[f"{str(dtype).removeprefix('torch.')}_gflops"]
        benchmark.pedantic(rivals["ours"], rounds=min(3, turns, limit))
        return best

    return note


@pytest.fixture(scope="session")
def tokenizer() -> duotok.DuoTok:
    """The tiny tokenizer that ships with the package."""
    return duotok.load("tiny")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Record what the numbers depend on, and nothing that names the machine."""
    for private in ("node", "release", "system"):
        machine_info.pop(private, None)
    machine_info.get("cpu", {}).pop("flags", None)
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    machine_info["peaks"] = cpu_peaks()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list, output_json: dict) -> None:
    """Keep the statistics and drop every single round, and what git knows better."""
    output_json.pop("commit_info", None)
    for row in output_json["benchmarks"]:
        row["stats"].pop("data", None)

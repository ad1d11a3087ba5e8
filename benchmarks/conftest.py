"""Benchmarks of duotok: `pytest benchmarks/ --benchmark-only`.

Every benchmark checks the answer before it times it, runs rivals in one process and group, and writes ratios and rates to
`extra_info`. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import pytest
import torch

import duotok


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


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list, output_json: dict) -> None:
    """Keep the statistics and drop every single round, and what git knows better."""
    output_json.pop("commit_info", None)
    for row in output_json["benchmarks"]:
        row["stats"].pop("data", None)

"""Settings of the process hold as long as any thread needs them, and then go back."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from duotok.fixed_math import exact_math, fixed_math


def settings() -> tuple:
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32


EXACT = ("highest", True, False, False)


@pytest.fixture(autouse=True)
def fast():
    """Settings that a user of a GPU may have."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        yield
    torch.set_float32_matmul_precision(before)


def test_settings_hold_until_the_last_thread_is_done():
    before, entered, leave = settings(), threading.Event(), threading.Event()

    def compute() -> None:
        with fixed_math():
            entered.set()
            leave.wait(20)

    other = threading.Thread(target=compute)
    with exact_math():
        other.start()
        assert entered.wait(20) and settings() == EXACT
    assert settings() == EXACT, "the other thread still computes"
    leave.set()
    other.join(20)
    assert settings() == before != EXACT


def test_settings_go_back_after_an_error():
    before, threads = settings(), torch.get_num_threads()
    with pytest.raises(ValueError, match="x"), fixed_math():
        assert settings() == EXACT and torch.get_num_threads() == 1
        raise ValueError("x")
    assert settings() == before and torch.get_num_threads() == threads


def test_threads_take_turns_on_one_cpu_thread():
    numbers, clashes, busy = [], [], threading.Lock()

    def compute() -> None:
        for _ in range(50):
            with fixed_math(), fixed_math():  # it may be nested
                clashes.append(not busy.acquire(blocking=False))
                numbers.append(torch.get_num_threads())
                busy.release()

    both = [threading.Thread(target=compute) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert numbers == [1] * 100 and not any(clashes)


NEWER = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


@pytest.mark.parametrize("setting", ["cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn", "cudnn"])
def test_precisions_of_torch_s_newer_interface(setting):
    """In a process of its own: torch does not go back to the older interface."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("needs torch 2.9")
    program = f"""
import operator, torch
from duotok.fixed_math import exact_math
def precisions():
    return [operator.attrgetter(name)(torch.backends).fp32_precision for name in {NEWER}]
torch.backends.{setting}.fp32_precision = "tf32"
torch.backends.cudnn.rnn.fp32_precision = "ieee"
before = precisions()
for _ in range(2):
    with exact_math():
        assert precisions() == ["ieee"] * 6 != before, precisions()
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert precisions() == before, (before, precisions())
"""
    subprocess.run([sys.executable, "-c", program], check=True)

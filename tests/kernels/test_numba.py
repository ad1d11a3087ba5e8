"""numba's twins where it cannot keep what it compiled, and in processes that were forked."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from duotok.kernels.available import jit

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba; it is not installed")


@pytest.mark.parametrize("places", [True, False])
def test_a_function_is_compiled_where_nothing_can_be_kept(monkeypatch, places):
    from numba.core import caching

    if not places:
        monkeypatch.setattr(getattr(caching, "CacheImpl", None) or caching._CacheImpl, "_locator_classes", [])

    @jit
    def double(x):
        return 2 * x

    @jit(fastmath={"contract"})
    def fourfold(x):
        return 2 * double(x)

    assert (double(3), fourfold(2.5)) == (6, 10.0)
    assert fourfold.targetoptions["fastmath"] == {"contract"} and fourfold.targetoptions["nogil"]
    assert (fourfold.stats.cache_path is not None) == places


def test_other_errors_of_numba_are_not_hidden(monkeypatch):
    from numba.core.dispatcher import Dispatcher

    def fail(self):
        raise RuntimeError("out of order")

    monkeypatch.setattr(Dispatcher, "enable_caching", fail)
    with pytest.raises(RuntimeError, match="out of order"):
        jit(lambda x: x)


FORKED = """
import torch
from duotok.kernels import OPS, examples
from torch.utils.data import DataLoader

NAMES = ("replace_noise", "modulate", "simvq_loss", "nearest_code")

def results() -> list[torch.Tensor]:
    out = [OPS[name](*examples.small(name)) for name in NAMES]
    return [getattr(value, "quantized", value) for value in out]

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return results(), [OPS[name].explain(*examples.small(name))["numba"] or "" for name in NAMES]

LAUNCH
for item, reasons in DataLoader(Data(), batch_size=None, num_workers=2, multiprocessing_context="fork"):
    for got, expected in zip(item, results()):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    print(["forked" in reason for reason in reasons])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("launched", [False, True])
def test_forked_workers_do_without_threads_that_were_left_behind(launched):
    """A parallel launch in the parent would end its workers: fork leaves OpenMP's threads behind, but not its state."""
    program = FORKED.replace("LAUNCH", "results()" if launched else "")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == [str([launched] * 3 + [False])] * 2

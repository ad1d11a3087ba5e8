"""`import duotok` is light, and an install holds what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duotok.kernels

import duotok


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_takes_less_than_300_ms_and_no_torch():
    code = "import sys, time; t = time.perf_counter(); import duotok; print(time.perf_counter() - t, 'torch' in sys.modules)"
    seconds, torch_loaded = min(run(code).split() for _ in range(3))
    assert float(seconds) < 0.3
    assert torch_loaded == "False"


def test_public_names_load_when_used():
    assert {"load", "DuoTok", "Codes"} <= set(dir(duotok))
    assert duotok.Codes.__name__ == "Codes"


def test_unknown_name_says_what_there_is():
    out = run("import duotok\ntry: duotok.lod\nexcept AttributeError as e: print(e)")
    assert "has no attribute 'lod'; it has Codes, DuoTok, load" in out


def test_encoding_imports_no_compiler():
    """It would take each process a second and a half."""
    code = "import sys, numpy as np, duotok.corpus.launch; wave = np.random.default_rng(0).normal(size=24_000) / 9; "
    assert run(code + "duotok.load().encode(wave, wave, 24_000); print('torch._dynamo' in sys.modules)").strip() == "False"


def test_a_package_that_imports_the_folder_of_kernels_by_its_own_name_takes_nothing_away():
    code = """
import gc, sys, duotok.kernels as first
import kernels
assert kernels.OPS == first.OPS and kernels.OPS["log_mel"] is first.OPS["log_mel"]
del sys.modules["kernels"], kernels
gc.collect()
from duotok.kernels import examples
print(first.filter_spectrum(*examples.small("filter_spectrum", "cpu")).shape[0])
"""
    root = Path(duotok.kernels.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert int(done.stdout) > 0

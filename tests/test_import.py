"""`import duotok` is light, and an install holds what it needs."""

from __future__ import annotations

import subprocess
import sys

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

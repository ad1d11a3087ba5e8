"""The compiled library under sanitizers: its tests, the edges of its ABI, random calls and threads; and what they catch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "csrc"
CUDA_LIBRARY = ROOT / "kernels" / "_native_cuda.so"


def runtime(name: str) -> str:
    """Find a library of g++'s; its bare name if it has none."""
    return subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()


def why_not() -> str | None:
    if sys.platform != "linux" or shutil.which("g++") is None or shutil.which("bash") is None:
        return "needs Linux, bash and g++"
    missing = [name for name in ("libasan.so", "libubsan.so", "libtsan.so") if runtime(name) == name]
    return f"needs g++'s sanitizers; got none of {missing}" if missing else None


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"sanitizers: {WHY_NOT}")


def build(kind: str, out: Path, csrc: Path = ROOT / "csrc") -> Path:
    subprocess.run(["bash", str(PROGRAMS / "build.sh"), kind, str(out), str(csrc)], check=True)
    return out


def build_broken(kind: str, folder: Path, header: str, right: str, wrong: str) -> Path:
    """Build a copy of the sources with one expression changed."""
    csrc = folder / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    source = (csrc / header).read_text(encoding="utf-8")
    assert source.count(right) == 1, f"expected {right!r} once in {header}; got {source.count(right)}; choose another fault"
    (csrc / header).write_text(source.replace(right, wrong), encoding="utf-8")
    return build(kind, folder, csrc)


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> tuple[int, str]:
    """Run a program in a folder; its exit status and all that it printed."""
    # A sanitizer's arrangement of memory leaves the CUDA runtime no room otherwise.
    environment = {"ASAN_OPTIONS": "protect_shadow_gap=0", **environment}
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        timeout=300,
    )
    return done.returncode, done.stdout


def run_tests(folder: Path, *options: str) -> tuple[int, str]:
    """Run the library's tests on a copy of the package that holds the library of `folder`."""
    package = folder / "package" / "duotok"
    skip = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "duotok", package, ignore=skip)
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=skip)
    shutil.copy(folder / "_native.so", package / "kernels")
    tests = [ROOT / "tests" / "kernels" / name for name in ("test_native.py", "test_native_abi.py")]
    return run(
        *(sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests, *options),
        folder=package.parent,  # where Python looks for packages first
        LD_PRELOAD=f"{runtime('libasan.so')} {runtime('libstdc++.so')}",
        ASAN_OPTIONS="detect_leaks=0",  # Python's own; the other programs here do look for leaks
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Path:
    return build("address", tmp_path_factory.mktemp("address"))


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory) -> Path:
    """Working memory without room for the last bin."""
    fault = ("spectrum_job.h", "size_t(n_fft) + n_fft / 2 + 1", "size_t(n_fft) + n_fft / 2")
    return build_broken("address", tmp_path_factory.mktemp("overflowing"), *fault)


def test_the_tests_of_the_library(address):
    status, output = run_tests(address, "-k", "not compiles and not operator")  # those are torch's
    assert status == 0 and "needs the compiled library" not in output, output


def test_a_fault_fails_the_tests_of_the_library(overflowing):
    status, output = run_tests(overflowing, "-k", "test_valid_call")
    assert status != 0 and "AddressSanitizer: heap-buffer-overflow" in output and "process_block" in output, output


def test_malformed_and_unusual_calls(address):
    status, output = run(address / "malformed_calls", address / "_native.so")
    assert status == 0, output


@pytest.mark.skipif(not CUDA_LIBRARY.exists(), reason="this install was built without nvcc")
def test_malformed_calls_of_the_cuda_library(address):
    status, output = run(address / "malformed_calls", CUDA_LIBRARY, "cuda")
    assert status == 0, output


def test_random_calls(address):
    status, output = run(address / "random_calls", "3", "1", *sorted((PROGRAMS / "corpus" / "mel_chroma").iterdir()))
    assert status == 0, output


def test_a_fault_fails_random_calls(overflowing):
    status, output = run(overflowing / "random_calls", "60", "1")
    assert status != 0 and "AddressSanitizer: heap-buffer-overflow" in output and "process_block" in output, output


def concurrent_calls(folder: Path) -> tuple[int, str]:
    status, output = run(folder / "concurrent_calls")
    if "ThreadSanitizer: unexpected memory mapping" in output:
        pytest.skip("this kernel randomises addresses more than ThreadSanitizer knows; sysctl vm.mmap_rnd_bits=28 helps")
    return status, output


def test_concurrent_calls(tmp_path):
    status, output = concurrent_calls(build("thread", tmp_path))
    assert status == 0, output


def test_a_fault_fails_concurrent_calls(tmp_path):
    fault = ("arguments.cpp", "thread_local char message", "char message")
    status, output = concurrent_calls(build_broken("thread", tmp_path, *fault))
    assert status != 0 and "ThreadSanitizer: data race" in output and "duotok::fail" in output, output

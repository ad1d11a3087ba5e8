"""The CUDA kernel of log-Mel and chroma without a GPU: its phases run on the CPU, its machine code read; and with one."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import spectra_cases
import torch
from duotok.kernels import report_cuda
from spectra_cases import CASES, ORDERS, ROOT, Case, answer, arguments, in_order, problem, run_phases

CUDA_LIBRARY = Path(report_cuda.__file__).with_name("_native_cuda.so")
CPU_LIBRARY = CUDA_LIBRARY.with_name("_native.so")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="the phases are compiled by g++, which is not here")
needs_nvcc = pytest.mark.skipif(report_cuda.why_not() is not None, reason=f"machine code {report_cuda.why_not()}")
needs_library = pytest.mark.skipif(not CUDA_LIBRARY.exists(), reason="this install was built without nvcc")


def build(folder: Path, *flags: str) -> Path:
    """Compile tests/csrc/phases.cpp: the phases that nvcc compiles, and a loop over their threads."""
    library = folder / "phases.so"
    sources = ["tests/csrc/phases.cpp", *(f"csrc/{name}.cpp" for name in ("arguments", "fft_tables", "cuda_call"))]
    command = ["g++", "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-fPIC", "-shared", "-Icsrc", *flags]
    subprocess.run([*command, "-o", str(library), *sources], cwd=ROOT, check=True)
    return library


@pytest.fixture(scope="module")
def phases(tmp_path_factory) -> ctypes.CDLL:
    return ctypes.CDLL(str(build(tmp_path_factory.mktemp("phases"))))


def relative_to_peak(got: np.ndarray, exact: np.ndarray) -> float:
    """Largest error as a fraction of the frame's largest value."""
    peak = np.abs(exact).max(-1, keepdims=True, initial=1e-20)
    return (np.abs(got - exact) / peak).max(initial=0)


def assert_accurate(given: spectra_cases.Problem, found: tuple[np.ndarray, np.ndarray]) -> None:
    for got, exact, own in zip(found, answer(given), answer(given, np.float32), strict=True):
        assert got.shape == exact.shape and np.isfinite(got).all()
        assert relative_to_peak(got, exact) <= 2 * relative_to_peak(own, exact) + 1e-6


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_phases_are_as_accurate_as_float32(phases, case):
    assert_accurate(problem(case), run_phases(phases, problem(case)))


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_no_thread_of_a_phase_depends_on_another(phases, case):
    forward, *others = [run_phases(phases, problem(case), order) for order in ORDERS]
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(forward, other, strict=True))


@needs_compiler
def test_phases_stay_within_their_memory(tmp_path):
    """All arrays, shared memory among them, have their exact size, and AddressSanitizer watches every access."""
    library = build(tmp_path, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {**os.environ, "LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, spectra_cases.__file__, str(library)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.parametrize("n_fft", [256, 512, 1024, 2048, 4096])
def test_every_bin_of_a_tone(phases, n_fft):
    """The identity as a bank shows the spectrum itself: the split puts every bin where it belongs."""
    case = Case(n_fft, n_fft, 4 * n_fft, batch=1, pad=0, bands=n_fft // 2 + 1)
    for bin in (0, 1, 2, n_fft // 16, n_fft // 8, n_fft // 4 - 1, n_fft // 4, n_fft // 2 - 1, n_fft // 2):
        tone = np.cos(2 * np.pi * bin * np.arange(case.samples) / n_fft).astype(np.float32)[None, None]
        ones, identity = np.ones(n_fft, np.float32), np.eye(case.bands, dtype=np.float32)
        given = replace(problem(case), wave=tone, window=ones, mel_bank=identity)
        spectrum, _ = run_phases(phases, given)
        assert (spectrum.argmax(-1) == bin).all()
        assert np.delete(spectrum, bin, axis=-1).max() < 1e-9 * spectrum.max()


@needs_compiler
@pytest.mark.parametrize("bad", [0, -5, 3001, -(2**63), 2**62])
def test_a_length_out_of_range_is_nan_and_touches_no_other_clip(phases, bad):
    case = Case(512, 100, 3000, batch=3, lengths=(3000, bad, 2000))
    found = run_phases(phases, problem(case))
    expected = run_phases(phases, problem(replace(case, lengths=(3000, 1, 2000))))
    for got, good in zip(found, expected, strict=True):
        assert np.isnan(got[1]).all() and np.array_equal(got[[0, 2]], good[[0, 2]])


@needs_compiler
def test_one_output_alone(phases):
    given = problem(CASES[3])
    both = run_phases(phases, given)
    for index, (unwanted, wanted) in enumerate((("chroma", "mel"), ("mel", "chroma"))):
        args, *outputs, _alive = arguments(given)
        setattr(args, unwanted, None)
        assert phases.run_phases(ctypes.byref(args), 0) == 0
        assert np.array_equal(in_order(given.case, outputs[index]), both[index]), wanted
        assert np.isnan(outputs[1 - index]).all()


@needs_compiler
def test_nan_stays_in_its_frames(phases):
    given = problem(Case(1024, 256, 12_000, batch=1))
    clean, _ = run_phases(phases, given)
    given.wave[0, 0, 6000] = np.nan
    mel, chroma = run_phases(phases, given)
    touched = np.isnan(chroma[0, :, 0])
    centres = np.arange(len(touched)) * 256
    assert np.array_equal(touched, (centres - 512 <= 6000) & (centres + 512 > 6000))
    assert np.array_equal(mel[0, ~touched], clean[0, ~touched]) and np.isnan(mel[0, touched][:, given.mel_bank.any(0)]).all()


@needs_compiler
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"channels": 0}, "expected channels >= 1"),
        ({"channel_stride": -1}, "channel_stride >= 0"),
        ({"pad": -1}, "pad: expected 0 to n_fft = 512; got -1"),
        ({"pad": 513}, "pad: expected 0 to n_fft = 512; got 513"),
        ({"pad_mode": 2}, "pad_mode: expected 0 (reflect) or 1 (zero); got 2"),
        ({"bands_first": 2}, "bands_first: expected 0 or 1; got 2"),
        ({"num_bands": 2**20 + 1}, "num_bands: expected at most 1048576; got 1048577"),
        ({"log_mode": 4}, "expected log_mode 0, 1, 2 or 3"),
        ({"mean": float("inf")}, "mean, scale: expected finite numbers; got inf"),
        ({"scale": float("nan")}, "mean, scale: expected finite numbers"),
        ({"pad": 0}, "mel_size: expected B * T * F"),
    ],
)
def test_malformed_calls_return_a_sentence(phases, changes, text):
    args, *_alive = arguments(problem(Case(512, 100, 3000)))
    for name, value in changes.items():
        setattr(args, name, value)
    assert phases.run_phases(ctypes.byref(args), 0) == 1 and text in phases.duotok_last_error().decode()


@pytest.mark.skipif(not CPU_LIBRARY.exists(), reason="this install was built without a C++ compiler")
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_cpu_library_is_as_accurate_as_float32(case):
    given = problem(case)
    args, mel, chroma, _alive = arguments(given)
    assert ctypes.CDLL(str(CPU_LIBRARY)).duotok_mel_chroma(ctypes.byref(args)) == 0
    assert_accurate(given, (in_order(case, mel), in_order(case, chroma)))


@needs_nvcc
@pytest.mark.parametrize("capability", report_cuda.CAPABILITIES)
def test_machine_code_fits(capability):
    """Every size for every architecture: no spills, the registers of 32 warps, shared memory for two blocks."""
    compiled = report_cuda.compile_ahead(capability)
    if not compiled:
        pytest.skip(f"the nvcc that built the library does not know sm_{capability}")
    assert [kernel.n_fft for kernel in compiled] == [256, 512, 1024, 2048, 4096]
    for kernel in compiled:
        assert kernel.spills == 0, kernel
        assert kernel.registers * kernel.threads <= 65_536 * kernel.threads / 1024, kernel
        assert 2 * (kernel.shared + 1024) <= report_cuda.SHARED_LIMIT[capability], kernel


@needs_compiler
@pytest.mark.parametrize("n_fft", [256, 512, 1024, 2048, 4096])
def test_the_report_knows_the_sizes_of_blocks(phases, n_fft):
    sizes = (ctypes.c_int32 * 3)()
    phases.block_sizes(n_fft, sizes)
    kernel = report_cuda.Kernel(n_fft, 90, registers=64, spills=0, sass=())
    assert list(sizes) == [kernel.frames, kernel.threads, kernel.shared]


@needs_nvcc
def test_the_estimate_is_within_reach_of_the_floor():
    """On an H100, 64 x 30 s at 48 kHz: a fused pass of compulsory traffic, 0.14 ms, and of its instructions, below 0.8."""
    [kernel] = [kernel for kernel in report_cuda.compile_ahead(90) if kernel.n_fft == 2048]
    assert 0.13e-3 < kernel.floor_s < 0.15e-3 < kernel.time_s < 0.8e-3


@needs_library
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_without_a_driver_the_library_loads_and_says_so():
    library = ctypes.CDLL(str(CUDA_LIBRARY))
    library.duotok_last_error.restype = ctypes.c_char_p
    args, *_alive = arguments(problem(CASES[0]))
    assert library.duotok_mel_chroma_cuda(ctypes.byref(args), 0, None) == 4
    message = library.duotok_last_error().decode()
    assert message.startswith("expected cudaGetDevice to succeed on device 0; got cudaError") and "driver" in message
    assert library.duotok_mel_chroma_cuda(None, 0, None) == 1


@needs_library
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_gpu_agrees_with_float64(case):
    library, given, placed = ctypes.CDLL(str(CUDA_LIBRARY)), problem(case), []

    def place(array: np.ndarray) -> int:
        placed.append(torch.from_numpy(array).cuda())
        return placed[-1].data_ptr()

    args, *_alive = arguments(given, place)
    mel, chroma = placed[-2:]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for _ in range(2):  # the second call finds its tables on the device
        mel.fill_(torch.nan), chroma.fill_(torch.nan)
        stream.wait_stream(torch.cuda.current_stream())
        assert library.duotok_mel_chroma_cuda(ctypes.byref(args), mel.device.index, ctypes.c_void_p(stream.cuda_stream)) == 0
        stream.synchronize()
        assert_accurate(given, tuple(in_order(case, output.cpu().numpy()) for output in (mel, chroma)))

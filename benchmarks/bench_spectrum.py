"""Log-Mel and chroma of 8 x 30 s at 48 kHz (n_fft 2,048, hop 480, 128 bands) against torchaudio, librosa, kaldi and torch.stft.

Rivals run in turns in one process, so that a noisy machine disturbs them alike; the best time of each counts. All use
two threads, save kaldi-native-fbank, which has one and meets one of ours, and librosa, whose FFT has one. torchaudio's wheels
want the torch they were built for: in another environment, run this file there. `of_gemm_peak` and `of_copy_peak` compare
the arithmetic (2.5 n log2 n for a real FFT) and the compulsory traffic with a product and a copy measured here.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from duotok.kernels import ChromaSpec, MelSpec, chroma, log_mel, log_mel_chroma, native
from duotok.kernels.log_mel import mel_filter_bank
from torch import Tensor

CLIPS, SECONDS, THREADS, TURNS = 8, 30, 2, 7
SPEC = MelSpec(sample_rate=48_000, hop_length=480)
CHROMA_SPEC = ChromaSpec(sample_rate=48_000, n_fft=2048, win_length=2048, hop_length=480, normalize=False)

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=f"spectra on the CPU: {native.why_not()}")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Two threads, whatever the environment says."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def wave() -> Tensor:
    """White noise, (8, S): the time of a transform does not depend on its samples."""
    return 0.1 * torch.randn(CLIPS, SECONDS * SPEC.sample_rate, generator=torch.Generator().manual_seed(0))


def peer(name: str) -> object:
    """A rival's module, or a skip that says why it is not there."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"needs {name}: {type(error).__name__}: {error}")


def record(benchmark, group: str, rivals: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time the rivals, ours among them, in turns; note times and ratios and return the best seconds of each."""
    best = dict.fromkeys(rivals, math.inf)
    for _ in range(TURNS):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    benchmark.group = group
    for name, seconds in best.items():
        benchmark.extra_info[f"{name}_ms"] = 1e3 * seconds
        if name != "ours":
            benchmark.extra_info[f"{name}_over_ours"] = seconds / best["ours"]
    benchmark.pedantic(rivals["ours"], rounds=3)
    return best


def stft_chain(wave: Tensor) -> Tensor:
    """What people write, (B, T, F) in dB."""
    spectrum = torch.stft(wave, 2048, SPEC.hop_length, window=torch.hann_window(2048), return_complex=True)
    bank = mel_filter_bank(SPEC).float()
    return 10 * (spectrum.abs().square().transpose(1, 2) @ bank).clamp(min=SPEC.floor).log10()


def bench_torch(benchmark, wave):
    """The torch.stft chain, and the FFT of frames that are already cut and windowed, alone."""
    torch.testing.assert_close(log_mel(wave, SPEC), stft_chain(wave), rtol=0, atol=0.01)
    frames = torch.nn.functional.pad(wave, (1024, 1024)).unfold(1, 2048, SPEC.hop_length).contiguous()
    rivals = {
        "ours": lambda: log_mel(wave, SPEC),
        "stft_chain": lambda: stft_chain(wave),
        "fft_alone": lambda: torch.fft.rfft(frames),
    }
    best = record(benchmark, "log_mel: torch", rivals)
    benchmark.extra_info["times_real_time"] = CLIPS * SECONDS / best["ours"]


def bench_torchaudio(benchmark, wave):
    """torchaudio.transforms.MelSpectrogram and AmplitudeToDB."""
    transforms = peer("torchaudio.transforms")
    mel = transforms.MelSpectrogram(48_000, 2048, hop_length=SPEC.hop_length)
    to_db = transforms.AmplitudeToDB("power")
    torch.testing.assert_close(log_mel(wave, SPEC, None, True), to_db(mel(wave)), rtol=0, atol=0.01)
    rivals = {"ours": lambda: log_mel(wave, SPEC, None, True), "torchaudio": lambda: to_db(mel(wave))}
    best = record(benchmark, "log_mel: torchaudio", rivals)
    assert best["torchaudio"] >= 8 * best["ours"]


def bench_librosa(benchmark, wave):
    """librosa.feature.melspectrogram and power_to_db, with librosa's default bank and padding."""
    librosa = peer("librosa")
    spec = MelSpec.preset("librosa", sample_rate=48_000, hop_length=SPEC.hop_length)
    samples = wave.numpy()

    def theirs() -> np.ndarray:
        energies = librosa.feature.melspectrogram(y=samples, sr=48_000, n_fft=2048, hop_length=SPEC.hop_length)
        return librosa.power_to_db(energies, top_db=None)

    np.testing.assert_allclose(log_mel(wave, spec, None, True).numpy(), theirs(), rtol=0, atol=0.01)
    best = record(benchmark, "log_mel: librosa", {"ours": lambda: log_mel(wave, spec, None, True), "librosa": theirs})
    assert best["librosa"] >= 5 * best["ours"]


def bench_kaldi(benchmark, wave):
    """kaldi-native-fbank, one thread each; its frames are centred between hops and its triangles are straight in Mel."""
    knf = peer("kaldi_native_fbank")
    torch.set_num_threads(1)
    options = knf.FbankOptions()
    frame, bank = options.frame_opts, options.mel_opts
    frame.samp_freq, frame.frame_length_ms, frame.frame_shift_ms = 48_000, 1000 * 2048 / 48_000, 10
    frame.dither, frame.preemph_coeff, frame.remove_dc_offset, frame.snip_edges = 0, 0, False, False
    frame.window_type, bank.num_bins, bank.low_freq, bank.high_freq = "hann", 128, 0, 24_000
    spec = replace(SPEC, pad=1024 - 240, log="ln", floor=float(np.finfo(np.float32).eps))

    def theirs() -> np.ndarray:
        clips = []
        for samples in wave.numpy():
            fbank = knf.OnlineFbank(options)
            fbank.accept_waveform(48_000, samples)
            fbank.input_finished()
            clips.append([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
        return np.asarray(clips)

    ours, other = log_mel(wave, spec).numpy(), theirs()
    assert ours.shape == other.shape
    wide = slice(32, None)  # bands of many bins, in which the shape of the triangle's sides matters little
    assert np.abs(ours - other)[:, 5:-5, wide].mean() < 0.05
    best = record(benchmark, "log_mel: kaldi-native-fbank, one thread", {"ours": lambda: log_mel(wave, spec), "kaldi": theirs})
    assert best["kaldi"] >= 10 * best["ours"]


def bench_both(benchmark, wave):
    """Mel and chroma from one spectrum against Mel alone, and against a call for each."""
    mel, pitch_classes = log_mel_chroma(wave, SPEC, CHROMA_SPEC)
    assert torch.equal(mel, log_mel(wave, SPEC))
    exact = chroma.reference(wave[:1].double(), CHROMA_SPEC)
    torch.testing.assert_close(pitch_classes[:1].double(), exact, rtol=1e-4, atol=1e-5 * exact.max().item())
    rivals = {
        "ours": lambda: log_mel_chroma(wave, SPEC, CHROMA_SPEC),
        "mel_alone": lambda: log_mel(wave, SPEC),
        "two_calls": lambda: (log_mel(wave, SPEC), chroma(wave, CHROMA_SPEC)),
    }
    best = record(benchmark, "log_mel_chroma", rivals)
    benchmark.extra_info["ours_over_mel_alone"] = best["ours"] / best["mel_alone"]
    assert best["ours"] <= 1.4 * best["mel_alone"]


def bench_memory_and_peaks(benchmark, wave):
    """Memory on top of what the process holds, output included, and rates beside those of a product and a copy."""
    log_mel(wave[:1, :9600], SPEC)  # tables are made once
    extra = peak_bytes(lambda: log_mel(wave, SPEC))
    square, source = torch.rand(2048, 2048), torch.rand(2**27)
    product, target = torch.empty_like(square), torch.empty_like(source)
    rivals = {
        "ours": lambda: log_mel(wave, SPEC),
        "gemm": lambda: torch.mm(square, square, out=product),
        "copy": lambda: target.copy_(source),
    }
    best = record(benchmark, "log_mel: peaks", rivals)
    frames = CLIPS * SPEC.num_frames(wave.shape[1])
    bins, weights = 1025, int((mel_filter_bank(SPEC) != 0).sum())
    flops = frames * (2.5 * 2048 * math.log2(2048) + 2048 + 3 * bins + 2 * weights)
    moved = 4 * (wave.numel() + frames * SPEC.n_mels)
    info = benchmark.extra_info
    info["peak_extra_mb"], info["output_mb"] = extra / 1e6, 4e-6 * frames * SPEC.n_mels
    info["gflops"], info["gbytes_s"] = 1e-9 * flops / best["ours"], 1e-9 * moved / best["ours"]
    info["gemm_gflops"], info["copy_gbytes_s"] = 2e-9 * 2048**3 / best["gemm"], 8e-9 * source.numel() / best["copy"]
    info["of_gemm_peak"] = info["gflops"] / info["gemm_gflops"]
    info["of_copy_peak"] = info["gbytes_s"] / info["copy_gbytes_s"]
    info["isa"] = native.cpu_isa()
    assert extra < 32e6


def peak_bytes(function: Callable) -> int:
    """Memory that the function needs on top of what the process holds: the kernel's own record of the peak, reset before."""
    ctypes.CDLL(None).malloc_trim(0)  # what the process holds but does not use would hide what the function takes
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])

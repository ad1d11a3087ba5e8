"""Log-Mel and chroma of 8 x 30 s at 48 kHz (n_fft 2,048, hop 480, 128 bands) against torchaudio, librosa, nnAudio and others.

Rivals run in turns in one process, so that a noisy machine disturbs them alike; the best time of each counts. All use
two threads, save kaldi-native-fbank, which has one and meets one of ours, and librosa, whose FFT has one. torchaudio's wheels
want the torch they were built for: in another environment, run this file there. The arithmetic of a real FFT counts as
2.5 n log2 n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from duotok.kernels import ChromaSpec, MelSpec, chroma, log_mel, log_mel_chroma, native
from duotok.kernels.log_mel import mel_filter_bank
from measure import peak_bytes, peer
from torch import Tensor

CLIPS, SECONDS, THREADS = 8, 30, 2
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


def stft_chain(wave: Tensor) -> Tensor:
    """What people write, (B, T, F) in dB."""
    spectrum = torch.stft(wave, 2048, SPEC.hop_length, window=torch.hann_window(2048), return_complex=True)
    bank = mel_filter_bank(SPEC).float()
    return 10 * (spectrum.abs().square().transpose(1, 2) @ bank).clamp(min=SPEC.floor).log10()


def bench_torch(benchmark, record, wave):
    """The torch.stft chain, and the FFT of frames that are already cut and windowed, alone."""
    torch.testing.assert_close(log_mel(wave, SPEC), stft_chain(wave), rtol=0, atol=0.01)
    frames = torch.nn.functional.pad(wave, (1024, 1024)).unfold(1, 2048, SPEC.hop_length).contiguous()
    rivals = {
        "ours": lambda: log_mel(wave, SPEC),
        "stft_chain": lambda: stft_chain(wave),
        "fft_alone": lambda: torch.fft.rfft(frames),
    }
    best = record("log_mel: torch", rivals)
    benchmark.extra_info["times_real_time"] = CLIPS * SECONDS / best["ours"]


def bench_torchaudio(benchmark, record, wave):
    """torchaudio.transforms.MelSpectrogram and AmplitudeToDB."""
    transforms = peer("torchaudio.transforms")
    mel = transforms.MelSpectrogram(48_000, 2048, hop_length=SPEC.hop_length)
    to_db = transforms.AmplitudeToDB("power")
    torch.testing.assert_close(log_mel(wave, SPEC, None, True), to_db(mel(wave)), rtol=0, atol=0.01)
    rivals = {"ours": lambda: log_mel(wave, SPEC, None, True), "torchaudio": lambda: to_db(mel(wave))}
    best = record("log_mel: torchaudio", rivals)
    assert best["torchaudio"] >= 8 * best["ours"]


def bench_librosa(benchmark, record, wave):
    """librosa.feature.melspectrogram and power_to_db, with librosa's default bank and padding."""
    librosa = peer("librosa")
    spec = MelSpec.preset("librosa", sample_rate=48_000, hop_length=SPEC.hop_length)
    samples = wave.numpy()

    def theirs() -> np.ndarray:
        energies = librosa.feature.melspectrogram(y=samples, sr=48_000, n_fft=2048, hop_length=SPEC.hop_length)
        return librosa.power_to_db(energies, top_db=None)

    np.testing.assert_allclose(log_mel(wave, spec, None, True).numpy(), theirs(), rtol=0, atol=0.01)
    best = record("log_mel: librosa", {"ours": lambda: log_mel(wave, spec, None, True), "librosa": theirs})
    assert best["librosa"] >= 5 * best["ours"]


def bench_nnaudio(record, wave):
    """nnAudio.features.MelSpectrogram, which convolves with the waves of the transform, and decibels of it."""
    features = peer("nnAudio.features")
    mel = features.MelSpectrogram(48_000, 2048, n_mels=128, hop_length=SPEC.hop_length, pad_mode="constant", verbose=False)
    spec = MelSpec.preset("librosa", sample_rate=48_000, hop_length=SPEC.hop_length)

    def theirs() -> Tensor:
        return 10 * mel(wave).clamp(min=spec.floor).log10()

    torch.testing.assert_close(log_mel(wave, spec, None, True), theirs(), rtol=0, atol=0.01)
    record("log_mel: nnAudio", {"ours": lambda: log_mel(wave, spec, None, True), "nnaudio": theirs}, limit=2)


def bench_kaldi(benchmark, record, wave):
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
    best = record("log_mel: kaldi-native-fbank, one thread", {"ours": lambda: log_mel(wave, spec), "kaldi": theirs})
    assert best["kaldi"] >= 10 * best["ours"]


def bench_both(benchmark, record, wave):
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
    best = record("log_mel_chroma", rivals)
    benchmark.extra_info["ours_over_mel_alone"] = best["ours"] / best["mel_alone"]
    assert best["ours"] <= 1.4 * best["mel_alone"]


def bench_memory_and_peaks(benchmark, record, wave):
    """Memory on top of what the process holds, output included, and rates beside those of a product and a copy."""
    log_mel(wave[:1, :9600], SPEC)  # tables are made once
    extra = peak_bytes(lambda: log_mel(wave, SPEC))
    frames = CLIPS * SPEC.num_frames(wave.shape[1])
    bins, weights = 1025, int((mel_filter_bank(SPEC) != 0).sum())
    flops = frames * (2.5 * 2048 * math.log2(2048) + 2048 + 3 * bins + 2 * weights)
    record("log_mel: peaks", {"ours": lambda: log_mel(wave, SPEC)}, 4 * (wave.numel() + frames * SPEC.n_mels), flops)
    info = benchmark.extra_info
    info["peak_extra_mb"], info["output_mb"], info["isa"] = extra / 1e6, 4e-6 * frames * SPEC.n_mels, native.cpu_isa()
    assert extra < 32e6

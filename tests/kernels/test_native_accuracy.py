"""The compiled library against float64, on every instruction set: as accurate as the references and as torch.stft."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from duotok.kernels import ChromaSpec, MelSpec, chroma, log_mel, native
from signals import assert_as_accurate_as_reference, noise, pcm, relative_to_peak

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=f"log_mel and chroma on the CPU: {native.why_not()}")

SIZES = (256, 512, 1024, 2048, 4096)


def stft_power(wave: torch.Tensor, n_fft: int) -> torch.Tensor:
    """The chain that people write, in wave's precision: (B, T, n_fft // 2 + 1) at hop 240."""
    window = torch.hann_window(n_fft, dtype=torch.float64).to(wave)
    return torch.stft(wave, n_fft, 240, window=window, return_complex=True).abs().square().transpose(1, 2)


@pytest.mark.parametrize("n_fft", SIZES)
@pytest.mark.parametrize("kind", ["music", "noise"])
def test_error_is_at_most_twice_that_of_torch_stft(isa, music, kind, n_fft):
    """Of the frame's peak at most, and of the natural logarithm in the mean square."""
    wave = music(24_000) if kind == "music" else noise(1, 60_001)
    mel_spec = MelSpec(n_fft=n_fft, win_length=n_fft, n_mels=40, log="none")
    chroma_spec = ChromaSpec(n_fft=n_fft, win_length=n_fft, normalize=False)
    for op, spec, bank in (
        (log_mel, mel_spec, mel_spec.filter_bank()),
        (chroma, chroma_spec, chroma_spec.filter_bank()),
    ):
        exact = stft_power(wave.double(), n_fft) @ bank
        ours, theirs = op.run("cpu", wave, spec), stft_power(wave, n_fft) @ bank.float()
        assert relative_to_peak(ours, exact) <= 2 * relative_to_peak(theirs, exact)
        logs = [x.double().clamp(min=1e-10).log() for x in (ours, theirs, exact)]
        assert (logs[0] - logs[2]).square().mean() <= 2**2 * (logs[1] - logs[2]).square().mean()


@pytest.mark.parametrize("n_fft", SIZES)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_mel_is_as_accurate_as_the_reference(isa, n_fft, power):
    spec = MelSpec(n_fft=n_fft, win_length=n_fft - 56, hop_length=n_fft // 3, n_mels=61, power=power, log="none")
    assert_as_accurate_as_reference(log_mel, noise(3, 7001), spec)


@pytest.mark.parametrize("n_fft", SIZES)
@pytest.mark.parametrize("normalize", [False, True])
def test_chroma_is_as_accurate_as_the_reference(isa, n_fft, normalize):
    spec = ChromaSpec(n_fft=n_fft, win_length=n_fft, hop_length=n_fft // 3, normalize=normalize)
    assert_as_accurate_as_reference(chroma, noise(3, 7001), spec)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 479, 480, 481, 2047, 2048, 2049, 4097, 23_999])
@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
def test_clips_of_any_length(isa, num_samples, pad_mode):
    for pad in (None, 0, 700, 2048):
        spec = MelSpec(hop_length=160, log="none", pad=pad, pad_mode=pad_mode)
        assert_as_accurate_as_reference(log_mel, noise(2, num_samples), spec)
    assert_as_accurate_as_reference(chroma, noise(2, num_samples), ChromaSpec(pad_mode=pad_mode))


@pytest.mark.parametrize("hop_length", [1, 7, 2048, 2049, 10_000, 2**40])
def test_hops_beyond_a_window_and_below_a_sample_pair(hop_length):
    for wave in (noise(2, 3000), pcm(2, 3000)):
        assert_as_accurate_as_reference(log_mel, wave, MelSpec(hop_length=hop_length, log="none"))


@pytest.mark.parametrize("window", ["hann", "hamming", "blackman", "rectangular"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_windows_and_channels(isa, window, channels):
    assert_as_accurate_as_reference(log_mel, noise(2, channels, 5001), MelSpec(window=window, log="none"))
    assert_as_accurate_as_reference(chroma, pcm(2, channels, 5001), ChromaSpec(window=window))


def test_int16_equals_its_float_value(isa):
    wave = pcm(2, 12_345)
    assert_as_accurate_as_reference(log_mel, wave, MelSpec(log="none"))
    assert torch.equal(log_mel.run("cpu", wave, MelSpec()), log_mel.run("cpu", wave / 32768, MelSpec()))


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
def test_every_bank(scale, norm):
    spec = MelSpec(n_mels=229, f_min=30.0, f_max=11_000.0, scale=scale, norm=norm, log="none")
    assert_as_accurate_as_reference(log_mel, noise(1, 9000), spec)


def test_bands_restore_any_dense_bank():
    dense = MelSpec(n_mels=40).filter_bank().clone()
    dense[:, 3] = 0  # a band without weight
    dense[100:900, 5] = 0.25  # bands that overlap more than two deep
    got = native.bands(dense)
    back = torch.zeros_like(dense)
    for band, first in enumerate(got.first.tolist()):
        weights = got.weights[got.offset[band] : got.offset[band + 1]]
        back[first : first + len(weights), band] = weights.double()
    assert torch.equal(back, dense.float().double()) and got.num_bins == len(dense)


LOGS = {"db": lambda x: 10 * math.log10(x), "ln": math.log, "log10": math.log10}


@pytest.mark.parametrize("log", LOGS)
def test_logarithm_of_any_float(isa, log):
    # Silence is raised to the floor, which may be any value.
    spec = MelSpec(n_mels=1, log=log)
    values = torch.cat((torch.logspace(-44, 38, 500), torch.linspace(0.5, 2.0, 500)))
    for value in values.tolist():
        got, exact = log_mel.run("cpu", torch.zeros(1, 1), replace(spec, floor=value)).item(), LOGS[log](value)
        assert abs(got - exact) <= 3e-7 * abs(exact)
    for value, expected in ((0.0, -math.inf), (math.inf, math.inf)):
        assert log_mel.run("cpu", torch.zeros(1, 1), replace(spec, floor=value)).item() == expected
    negative = native.Mel(-spec.filter_bank(), log, floor=-1e30)
    assert native.spectra(noise(1, 9), spec, mel=negative)[0].isnan().all()


def test_normalisation(isa, music):
    spec = MelSpec(mean=6.768444971712967, std=18.417922652295623)
    wave = music(24_000)
    expected = (log_mel.run("cpu", wave, MelSpec()) - spec.mean) / spec.std
    torch.testing.assert_close(log_mel.run("cpu", wave, spec), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_mel.reference(wave.double(), spec).float(), expected, rtol=0, atol=1e-4)

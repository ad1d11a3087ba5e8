"""log_mel and its presets against librosa in float64, on real music, at edges and for clips shorter than a window."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from duotok.kernels import MelSpec, explain, log_mel
from duotok.kernels.log_mel import mel_filter_bank

pytestmark = pytest.mark.filterwarnings("ignore:Empty filters:UserWarning")


def librosa_energies(wave: torch.Tensor, spec: MelSpec) -> np.ndarray:
    """Sums of the bands, (F, T), of (1, S) in float64; numpy pads, for librosa reflects a short tail at its own start."""
    padded = np.pad(wave[0].double().numpy(), spec.num_padded, mode=spec.pad_mode)
    return librosa.feature.melspectrogram(
        y=padded, sr=spec.sample_rate, n_fft=spec.n_fft, win_length=spec.win_length, hop_length=spec.hop_length, center=False,
        power=spec.power, n_mels=spec.n_mels, fmin=spec.f_min, fmax=spec.f_max, htk=spec.scale == "htk", norm=spec.norm,
        dtype=np.float64,
    )  # fmt: skip


def every_backend(wave: torch.Tensor, spec: MelSpec) -> dict[str, np.ndarray]:
    """(F, T) of each backend that runs here."""
    names = [name for name, reason in explain("log_mel", wave, spec).items() if reason is None]
    return {name: log_mel.run(name, wave, spec, None, True)[0].numpy() for name in names}


# The originals' own words for each preset: what follows the bands' sums, per natural logarithm of them. The third is by how
# much float32 may be off: many of torchaudio's default bands hold one bin, which may fall into a null of the spectrum.
PRESETS = {
    "musicfm": (lambda e: librosa.power_to_db(e, top_db=None), 10 / np.log(10), 2e-4),  # 1.3e-4 in one band on some CPUs
    "librosa": (lambda e: librosa.power_to_db(e, top_db=None), 10 / np.log(10), 1e-4),
    "torchaudio": (lambda e: librosa.power_to_db(e, top_db=None), 10 / np.log(10), 2e-3),
    "hifigan": (lambda e: np.log(np.maximum(e, 1e-5)), 1.0, 1e-4),
}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("num_samples", [None, 1000, 700, 2])
def test_presets_agree_with_librosa(music, name, num_samples):
    spec, (log, unit, single) = MelSpec.preset(name), PRESETS[name]
    wave = music(spec.sample_rate)[:, :num_samples]
    theirs = log(librosa_energies(wave, spec)) if wave.shape[1] + 2 * spec.num_padded >= spec.n_fft else np.empty((80, 0))
    exact = log_mel.reference(wave.double(), spec, None, True)[0].numpy()
    assert exact.shape == theirs.shape
    np.testing.assert_allclose(exact, theirs, rtol=0, atol=1e-6 * unit)
    for ours in every_backend(wave, spec).values():
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=single * unit)


def test_presets_are_the_defaults_of_the_originals(music):
    wave = music(22_050)[0].double().numpy()
    theirs = librosa.power_to_db(librosa.feature.melspectrogram(y=wave), top_db=None)
    ours = log_mel(music(22_050), MelSpec.preset("librosa"), None, True)[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-4)
    assert MelSpec.preset("musicfm") == MelSpec()
    assert MelSpec.preset("hifigan", f_max=None).f_max is None
    with pytest.raises(ValueError, match="expected one of musicfm, librosa, torchaudio, hifigan; got 'whisper'"):
        MelSpec.preset("whisper")


def test_hifigan_s_own_power_offset_is_small(music):
    """The original takes sqrt(power + 1e-9): what MelSpec.preset says of it."""
    spec = MelSpec.preset("hifigan")
    wave = music(spec.sample_rate)
    frames = torch.stft(torch.nn.functional.pad(wave.double()[None], (384, 384), mode="reflect")[0], 1024, 256,
                        window=torch.hann_window(1024, dtype=torch.float64), center=False, return_complex=True)  # fmt: skip
    bank = librosa.filters.mel(sr=22_050, n_fft=1024, n_mels=80, fmin=0, fmax=8000, dtype=np.float64)
    theirs = np.log(np.maximum(bank @ (frames.abs().square() + 1e-9).sqrt()[0].numpy(), 1e-5))
    assert np.abs(log_mel(wave, spec, None, True)[0].numpy() - theirs).max() < 0.02


@pytest.mark.parametrize(("scale", "norm"), [("htk", None), ("slaney", "slaney"), ("htk", "slaney")])
@pytest.mark.parametrize(("n_fft", "win_length", "hop", "power"), [(2048, 2048, 240, 2.0), (1024, 800, 300, 1.0)])
@pytest.mark.parametrize(("pad", "pad_mode"), [(None, "reflect"), (0, "reflect"), (37, "constant")])
def test_every_option_agrees_with_librosa(music, scale, norm, n_fft, win_length, hop, power, pad, pad_mode):
    spec = MelSpec(
        n_fft=n_fft, win_length=win_length, hop_length=hop, power=power, scale=scale, norm=norm, n_mels=80, f_min=30.0,
        pad=pad, pad_mode=pad_mode,
    )  # fmt: skip
    theirs = 10 * np.log10(np.maximum(librosa_energies(music(24_000), spec), 1e-10))
    for ours in every_backend(music(24_000), spec).values():
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-3  # dB


@pytest.mark.parametrize(("log", "numpy_log"), [("ln", np.log), ("log10", np.log10), ("db", lambda x: 10 * np.log10(x))])
def test_logarithms_and_normalisation(music, log, numpy_log):
    spec = MelSpec(log=log, floor=1e-6, mean=-2.0, std=3.0)
    theirs = (numpy_log(np.maximum(librosa_energies(music(24_000), spec), 1e-6)) + 2) / 3
    for ours in every_backend(music(24_000), spec).values():
        assert np.abs(ours - theirs).max() < 2e-4


def test_each_bin_feeds_at_most_two_bands():
    for spec in (MelSpec(), MelSpec(scale="slaney", norm="slaney", n_fft=4096)):
        assert ((mel_filter_bank(spec) > 0).sum(1) <= 2).all()

"""Measures of sound beside independent implementations, and each of them on ever worse sound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from make_audio import music

from duotok.evaluation import sound
from duotok.evaluation.reconstruction import MEASURES, ReconstructionConfig, compare

RATE = 16_000


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Music and the same with noise, (S,) each."""
    truth = torch.from_numpy(music(3.0, RATE, seed=3))
    return truth + 0.02 * torch.randn(len(truth), generator=torch.Generator().manual_seed(0)), truth


def test_si_sdr_is_torchmetrics(pair):
    metrics = pytest.importorskip("torchmetrics.functional.audio")
    expected = metrics.scale_invariant_signal_distortion_ratio(*pair, zero_mean=True).item()
    assert sound.si_sdr(*pair) == pytest.approx(expected, abs=1e-3)
    assert sound.si_sdr(3 * pair[0], pair[1]) == pytest.approx(expected, abs=1e-3)


def test_stft_distance_is_auraloss(pair):
    auraloss = pytest.importorskip("auraloss")
    expected = auraloss.freq.MultiResolutionSTFTLoss()(*(wave[None, None] for wave in pair)).item()
    assert sound.stft_distance(*pair) == pytest.approx(expected, rel=1e-4)


def test_chroma_cosine_is_that_of_librosa(pair):
    librosa = pytest.importorskip("librosa")
    ours, truth = (
        librosa.feature.chroma_stft(y=wave.numpy(), sr=RATE, n_fft=4096, hop_length=RATE // 50, tuning=0.0) for wave in pair
    )
    cosines = (ours * truth).sum(0) / np.linalg.norm(ours, axis=0) / np.linalg.norm(truth, axis=0)
    assert sound.chroma_cosine(*pair, RATE) == pytest.approx(cosines.mean(), abs=2e-3)


def test_pesq_is_torchmetrics_and_nothing_is_nan(pair):
    pytest.importorskip("pesq", reason="needs the extra: pip install 'duotok[pesq]'")
    metrics = pytest.importorskip("torchmetrics.functional.audio.pesq")
    expected = metrics.perceptual_evaluation_speech_quality(*pair, RATE, "wb").item()
    assert sound.pesq_wb(*pair, RATE) == pytest.approx(expected, abs=1e-4)
    assert math.isnan(sound.pesq_wb(torch.zeros(RATE), torch.zeros(RATE), RATE))


def test_stoi_is_torchmetrics(pair):
    pytest.importorskip("pystoi", reason="needs the extra: pip install 'duotok[evaluate]'")
    metrics = pytest.importorskip("torchmetrics.functional.audio.stoi")
    expected = metrics.short_time_objective_intelligibility(*pair, RATE, extended=False).item()
    assert sound.stoi(*pair, RATE) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_each_measure_falls_with_noise_and_is_best_for_the_truth(measure, pair):
    if measure in sound.OPTIONAL and (reason := sound.missing(measure)):
        pytest.skip(reason)
    truth = pair[1][: RATE if measure == "visqol" else None]
    hiss = torch.randn(len(truth), generator=torch.Generator().manual_seed(1))
    values = [compare(truth + level * hiss, truth, RATE, [measure])[measure] for level in (1e-4, 5e-3, 0.05)]
    assert values == sorted(values, reverse=MEASURES[measure]) and len(set(values)) == 3


def test_chroma_hears_a_transposition_and_si_sdr_a_shift():
    t = torch.arange(2 * RATE) / RATE
    chord, other = (sum(torch.sin(2 * math.pi * f * step * t) for f in (220, 277.18, 329.63)) for step in (1.0, 2 ** (1 / 12)))
    assert sound.chroma_cosine(0.3 * chord, chord, RATE) > 0.999
    assert sound.chroma_cosine(other, chord, RATE) < 0.5
    assert sound.si_sdr(chord.roll(20), chord) < 0


def test_silent_references_cannot_be_judged():
    silence, hum = torch.zeros(RATE), torch.sin(torch.arange(RATE) * 0.1)
    assert math.isnan(sound.si_sdr(hum, silence)) and math.isnan(sound.chroma_cosine(hum, silence, RATE))
    assert sound.chroma_cosine(silence, hum, RATE) == 0


def test_resampling_keeps_a_tone_and_every_row():
    tone = torch.sin(torch.arange(8_000) * 2 * math.pi * 440 / 8_000)
    rows = sound.resample(torch.stack((tone, 2 * tone)), 8_000, RATE)
    expected = torch.sin(torch.arange(16_000) * 2 * math.pi * 440 / RATE)
    assert rows.shape == (2, 16_000) and (rows[0] - expected)[200:-200].abs().max() < 1e-3
    assert torch.equal(rows[0], sound.resample(tone, 8_000, RATE)) and torch.allclose(rows[1], 2 * rows[0], atol=1e-6)


def test_a_measure_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sound.OPTIONAL, "stoi", ("no_such_package", "evaluate"))
    assert sound.missing("stoi") == (
        "stoi: expected the package no_such_package; it is not installed; install the extra: pip install 'duotok[evaluate]'"
    )
    with pytest.raises(ValueError, match="no_such_package"):
        sound.stoi(torch.ones(9), torch.ones(9), RATE)
    with pytest.raises(ValueError, match=r"measures: expected some of mel_l1, .*; got loudness; correct the names"):
        ReconstructionConfig(measures=("loudness",))

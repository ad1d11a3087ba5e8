"""log_mel and chroma against librosa in float64, at edges, ragged and short."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from duotok.kernels import ChromaSpec, MelSpec, chroma, log_mel
from duotok.kernels.log_mel import mel_filter_bank
from duotok.kernels.spectrum import reflect


@pytest.fixture(scope="module")
def music(real_song) -> torch.Tensor:
    """2.5 s of the real song at 24 kHz."""
    vocals, accompaniment, rate = real_song
    return torch.from_numpy(librosa.resample(vocals + accompaniment, orig_sr=rate, target_sr=24_000)[30_000:90_001])[None]


@pytest.mark.parametrize(("scale", "norm"), [("htk", None), ("slaney", "slaney"), ("htk", "slaney")])
@pytest.mark.parametrize(("n_fft", "win_length", "hop", "power"), [(2048, 2048, 240, 2.0), (1024, 800, 300, 1.0)])
def test_log_mel_agrees_with_librosa(music, scale, norm, n_fft, win_length, hop, power):
    spec = MelSpec(
        n_fft=n_fft, win_length=win_length, hop_length=hop, power=power, scale=scale, norm=norm, n_mels=80, f_min=30.0
    )
    theirs = librosa.feature.melspectrogram(
        y=music[0].double().numpy(), sr=24_000, n_fft=n_fft, win_length=win_length, hop_length=hop, power=power, n_mels=80,
        fmin=30.0, htk=scale == "htk", norm=norm, pad_mode="reflect",
    )  # fmt: skip
    theirs = 10 * np.log10(np.maximum(theirs.T, 1e-10))
    ours = log_mel.run("reference", music, spec)[0].numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3  # dB
    assert np.abs(log_mel(music, spec)[0].numpy() - theirs).max() < 1e-3


@pytest.mark.parametrize("tuning", [0.0, 0.3])
def test_chroma_agrees_with_librosa(music, tuning):
    theirs = librosa.feature.chroma_stft(
        y=music[0].double().numpy(), sr=24_000, n_fft=4096, hop_length=240, tuning=tuning, pad_mode="reflect"
    ).T
    for ours in (chroma(music, ChromaSpec(tuning=tuning)), chroma.run("reference", music, ChromaSpec(tuning=tuning))):
        assert np.abs(ours[0].numpy() - theirs).max() < 1e-4
        assert ours.max() == 1


def test_a_tone_lights_its_pitch_class():
    time = torch.arange(24_000) / 24_000
    for midi, pitch_class in ((60, 0), (69, 9), (74, 2)):
        tone = torch.sin(2 * torch.pi * 440 * 2 ** ((midi - 69) / 12) * time)
        assert (chroma(tone[None], ChromaSpec())[0, 10:-10].argmax(-1) == pitch_class).all()


@pytest.mark.parametrize("op", [log_mel, chroma])
def test_ragged_batch_equals_clips_alone(music, op):
    spec = MelSpec() if op is log_mel else ChromaSpec()
    lengths = torch.tensor([60_001, 5_000, 1_000, 1])
    batch = music.repeat(4, 1)
    for backend in [name for name, reason in op.explain(batch, spec, lengths).items() if reason is None]:
        ragged = op.run(backend, batch, spec, lengths)
        for item, length in enumerate(lengths.tolist()):
            alone = op.run(backend, batch[:1, :length], spec)[0]
            torch.testing.assert_close(ragged[item, : len(alone)], alone, rtol=0, atol=2e-3)
            beyond = ragged[item, len(alone) :]
            torch.testing.assert_close(beyond, torch.full_like(beyond, -100 if op is log_mel else 0), rtol=0, atol=1e-4)


def test_int16_is_read_as_fractions_of_full_scale(music):
    whole = (music * 32768).round().clamp(-32768, 32767).to(torch.int16)
    out = log_mel(whole, MelSpec())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, log_mel(whole.float() / 32768, MelSpec()), rtol=0, atol=1e-3)


def test_gradient_flows_through_both(music):
    for op, spec in ((log_mel, MelSpec(floor=1e-5)), (chroma, ChromaSpec())):
        wave = music[:, :3000].clone().requires_grad_()
        op(wave, spec).sum().backward()
        assert wave.grad.isfinite().all() and wave.grad.abs().sum() > 0


def test_each_bin_feeds_at_most_two_bands():
    for spec in (MelSpec(), MelSpec(scale="slaney", norm="slaney", n_fft=4096)):
        assert ((mel_filter_bank(spec) > 0).sum(1) <= 2).all()


def test_reflection_folds_any_position():
    index = torch.arange(-7, 9)
    assert reflect(index, 4).tolist() == [1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert reflect(index, 1).tolist() == [0] * 16
    ours = reflect(torch.arange(-3, 8), 5)
    assert ours.tolist() == np.pad(np.arange(5), 3, mode="reflect").tolist()


def test_tables_made_in_inference_mode_serve_training():
    spec = MelSpec(n_mels=17, win_length=1999)
    with torch.inference_mode():
        log_mel.reference(torch.randn(1, 3000), spec)
    wave = torch.randn(1, 3000, requires_grad=True)
    log_mel.reference(wave, spec).sum().backward()
    assert wave.grad.abs().sum() > 0

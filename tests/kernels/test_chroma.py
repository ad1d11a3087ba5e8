"""chroma against librosa in float64 on real music, and on tones."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from duotok.kernels import ChromaSpec, chroma, explain
from duotok.kernels.chroma import pitch_filter_bank


@pytest.mark.parametrize("tuning", [0.0, 0.3])
@pytest.mark.parametrize("num_samples", [None, 3001, 2])
def test_chroma_agrees_with_librosa(music, tuning, num_samples):
    wave, spec = music(24_000)[:, :num_samples], ChromaSpec(tuning=tuning)
    padded = np.pad(wave[0].double().numpy(), spec.num_padded, mode="reflect")
    theirs = librosa.feature.chroma_stft(y=padded, sr=24_000, n_fft=4096, hop_length=240, tuning=tuning, center=False)
    for backend in [name for name, reason in explain("chroma", wave, spec).items() if reason is None]:
        ours = chroma.run(backend, wave, spec, None, True)[0].numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-4
        assert ours.max() == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"num_classes": 24}, {"num_classes": 15, "tuning": -0.2}, {"octave_width": None, "from_c": False},
     {"norm": 1.0, "centre_octave": 4.0}],
)  # fmt: skip
def test_filters_are_those_of_librosa(options):
    names = {"num_classes": "n_chroma", "centre_octave": "ctroct", "octave_width": "octwidth", "from_c": "base_c"}
    theirs = librosa.filters.chroma(
        sr=22_050, n_fft=2048, dtype=np.float64, **{names.get(key, key): value for key, value in options.items()}
    )
    np.testing.assert_allclose(pitch_filter_bank(22_050, 2048, **options).numpy().T, theirs, rtol=0, atol=1e-12)


def test_a_tone_lights_its_pitch_class():
    time = torch.arange(24_000) / 24_000
    for midi, pitch_class in ((60, 0), (69, 9), (74, 2)):
        tone = torch.sin(2 * torch.pi * 440 * 2 ** ((midi - 69) / 12) * time)
        assert (chroma(tone[None], ChromaSpec())[0, 10:-10].argmax(-1) == pitch_class).all()

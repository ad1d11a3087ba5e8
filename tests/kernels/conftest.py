"""What the tests of the spectral ops share: real music at their sample rate, and every instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import librosa
import pytest
import torch
from duotok.kernels import native


@pytest.fixture(scope="session")
def music(real_song) -> Callable[[int], torch.Tensor]:
    """Give 2.5 s of the real song, (1, S) float32, at a sample rate; S is odd, as clips are."""

    def at(sample_rate: int) -> torch.Tensor:
        vocals, accompaniment, rate = real_song
        wave = librosa.resample(vocals + accompaniment, orig_sr=rate, target_sr=sample_rate)
        return torch.from_numpy(wave[int(1.25 * sample_rate) :][: int(2.5 * sample_rate) + 1])[None]

    return at


@pytest.fixture(params=["avx512", "avx2", "simd128", "plain"])
def isa(request) -> Iterator[str]:
    """Run a test once on every instruction set that this processor has."""
    if native.why_not() is not None:
        pytest.skip(native.why_not())
    try:
        native.use_cpu_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.use_cpu_isa(None)

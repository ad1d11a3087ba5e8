"""What the heads are to predict: chroma and compressed magnitudes, on the frames of the Mel front end."""

from __future__ import annotations

from torch import Tensor

from duotok.kernels import ChromaSpec, MelSpec, chroma
from duotok.kernels.spectrum import power_spectrum

# |X|^0.3, near the ear's loudness, so that quiet bins count; default, own choice.
COMPRESSION = 0.3


def chroma_target(wave: Tensor, mel: MelSpec) -> Tensor:
    """Compute the chromagram of waves (B, S), (B, T, 12) in [0, 1], at the Mel front end's hop."""
    spec = ChromaSpec(sample_rate=mel.sample_rate, hop_length=mel.hop_length)
    return chroma(wave, spec)[:, : wave.shape[1] // mel.hop_length]


def compressed_magnitude(wave: Tensor, mel: MelSpec) -> Tensor:
    """Compute |STFT|^0.3 of waves (..., S): (..., T, n_fft / 2 + 1) at the Mel front end's hop."""
    flat = wave.flatten(0, -2)
    power = power_spectrum(flat, mel)[:, : wave.shape[-1] // mel.hop_length]
    return power.pow(COMPRESSION / 2).unflatten(0, wave.shape[:-1])

"""Chromagrams: the energy of the twelve pitch classes.

    chroma(wave (B, S) | (B, C, S), spec, lengths=None) -> (B, T, 12)

The filter bank is Ellis's, as in librosa.filters.chroma: every frequency bin feeds the pitch classes near its own pitch
through a Gaussian bump, and bins far from the middle octaves weigh less. Bin 0 is C. Defaults follow audiocraft's
ChromaExtractor with the rate of the project's Mel frames; not from the paper.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from . import native
from .dispatch import Op
from .spectrum import Framing, check_wave, power_spectrum

NUM_PITCH_CLASSES = 12


@dataclass(frozen=True)
class ChromaSpec(Framing):
    """What a chromagram is; defaults, not from the paper.

    Attributes:
        sample_rate, n_fft, win_length, hop_length, window, pad, pad_mode: how a wave becomes frames, see `Framing`.
        tuning: deviation from A = 440 Hz in semitones.
        normalize: divide each frame by its largest value (frames below 1e-10 stay as they are).

    Raises:
        ValueError: if a value is out of range.
    """

    n_fft: int = 4096
    win_length: int = 4096
    tuning: float = 0.0
    normalize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_kind(Real, "a number", "tuning")

    @property
    def num_bands(self) -> int:
        """Of the chromagram, as specs say it."""
        return NUM_PITCH_CLASSES

    def filter_bank(self) -> Tensor:
        """Give the pitch classes' `pitch_filter_bank`, (n_fft // 2 + 1, 12)."""
        return pitch_filter_bank(self.sample_rate, self.n_fft, tuning=self.tuning)


@Op
def chroma(wave: Tensor, spec: ChromaSpec, lengths: Tensor | None = None, bands_first: bool = False) -> Tensor:
    """Compute chromagrams of a batch from the power spectrum.

    Args:
        wave: (B, S), or (B, C, S) for the mean of its channels; in [-1, 1] of any floating dtype, or int16.
        spec: the chromagram's definition.
        lengths: (B,) int64 valid samples of each clip, at least 1; None if all S are.
        bands_first: return (B, 12, T), as torchaudio and librosa do.

    Returns:
        (B, T, 12), C first, T = spec.num_frames(S), in wave's dtype (float32 for int16); frames beyond a clip's own end are
        zero.

    Raises:
        ValueError: for a wave of another shape or dtype, or lengths that do not fit it.
    """
    power = power_spectrum(wave, spec, 2.0, lengths)
    out = power @ spec.filter_bank().to(power)
    if spec.normalize:
        peak = out.amax(-1, keepdim=True)
        out = out / torch.where(peak < 1e-10, 1.0, peak)
    out = out.transpose(1, 2).contiguous() if bands_first else out
    return out.to(wave.dtype) if wave.is_floating_point() else out


@chroma.checked
def _check(wave: Tensor, spec: ChromaSpec, lengths: Tensor | None = None, bands_first: bool = False) -> None:
    check_wave("chroma", wave, lengths)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def pitch_filter_bank(
    sample_rate: int,
    n_fft: int,
    num_classes: int = NUM_PITCH_CLASSES,
    tuning: float = 0.0,
    centre_octave: float = 5.0,
    octave_width: float | None = 2.0,
    norm: float = 2.0,
    from_c: bool = True,
) -> Tensor:
    """Build filters for pitch classes, (n_fft // 2 + 1, num_classes) float64 on the CPU, the same tensor each time.

    Args:
        sample_rate, n_fft: in Hz and in samples.
        num_classes: that an octave has.
        tuning: deviation from A = 440 Hz in classes.
        centre_octave, octave_width: of the Gaussian that weighs the octaves; width None weighs all alike.
        norm: the order of the norm that each bin's weights have before.
        from_c: put C first, else A.
    """
    n, half = num_classes, round(num_classes / 2)
    a0 = 440.0 * 2 ** (tuning / n) / 16
    hz = torch.arange(1, n_fft, dtype=torch.float64) * sample_rate / n_fft
    pitch = n * torch.log2(hz / a0)
    pitch = torch.cat((pitch[:1] - 1.5 * n, pitch))  # bin 0 has no pitch: an octave and a half below bin 1
    width = torch.cat((pitch.diff().clamp(min=1), pitch.new_ones(1)))
    distance = (pitch[:, None] - torch.arange(n) + half).remainder(n) - half
    bumps = torch.exp(-0.5 * (2 * distance / width[:, None]) ** 2)
    bank = bumps / bumps.norm(norm, dim=1, keepdim=True)
    if octave_width is not None:
        bank = bank * torch.exp(-0.5 * ((pitch / n - centre_octave) / octave_width) ** 2)[:, None]
    return bank[: n_fft // 2 + 1].roll(-3 * (n // 12) if from_c else 0, dims=1)


def native_chroma(spec: ChromaSpec) -> native.Chroma:
    """Say what the compiled libraries need to know of the pitch classes; its bank is (n_fft // 2 + 1, 12)."""
    return native.Chroma(spec.filter_bank(), spec.normalize)


def _why_not(
    device: str, wave: Tensor, spec: ChromaSpec, lengths: Tensor | None = None, bands_first: bool = False
) -> str | None:
    return native.why_not_spectra(device, wave, spec, 2)


@chroma.register("cuda", unless=functools.partial(_why_not, "cuda"))
@chroma.register("cpu", unless=functools.partial(_why_not, "cpu"))
def _native(wave: Tensor, spec: ChromaSpec, lengths: Tensor | None = None, bands_first: bool = False) -> Tensor:
    return _operator(wave, lengths, bands_first, spec)


@native.operator("chroma", ChromaSpec)
def _operator(wave: Tensor, lengths: Tensor | None, bands_first: bool, spec: ChromaSpec) -> Tensor:
    return native.spectra(wave, spec, lengths=lengths, bands_first=bands_first, chroma=native_chroma(spec))[1]

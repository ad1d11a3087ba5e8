"""Chromagrams: the energy of the twelve pitch classes.

    chroma(wave (B, S), spec, lengths=None) -> (B, T, 12),  T = S // hop_length + 1

The filter bank is Ellis's, as in librosa.filters.chroma: every frequency bin feeds the pitch classes near its own pitch
through a Gaussian bump, and bins far from the middle octaves weigh less. Bin 0 is C. Defaults follow audiocraft's
ChromaExtractor with the rate of the project's Mel frames; not from the paper.
"""

from __future__ import annotations

import functools
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from . import native
from .dispatch import Op
from .spectrum import hann_window, num_frames, power_spectrum

NUM_PITCH_CLASSES = 12


@dataclass(frozen=True)
class ChromaSpec:
    """What a chromagram is; defaults, not from the paper.

    Attributes:
        sample_rate: of the waves, in Hz.
        n_fft, win_length, hop_length: in samples; the window is a periodic Hann window.
        tuning: deviation from A = 440 Hz in semitones.
        normalize: divide each frame by its largest value (frames below 1e-10 stay as they are).
    """

    sample_rate: int = 24_000
    n_fft: int = 4096
    win_length: int = 4096
    hop_length: int = 240
    tuning: float = 0.0
    normalize: bool = True


@Op
def chroma(wave: Tensor, spec: ChromaSpec, lengths: Tensor | None = None) -> Tensor:
    """Compute chromagrams of a batch from the power spectrum.

    Args:
        wave: (B, S) in [-1, 1] of any floating dtype, or int16.
        spec: the chromagram's definition.
        lengths: (B,) int64 valid samples of each clip, at least 1; None if all S are.

    Returns:
        (B, T, 12), C first, in wave's dtype (float32 for int16); frames beyond a clip's own end are zero.
    """
    power = power_spectrum(wave, spec.n_fft, spec.win_length, spec.hop_length, 2.0, lengths)
    out = power @ chroma_filter_bank(spec).to(power)
    if spec.normalize:
        peak = out.amax(-1, keepdim=True)
        out = out / torch.where(peak < 1e-10, 1.0, peak)
    return out.to(wave.dtype) if wave.is_floating_point() else out


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def chroma_filter_bank(spec: ChromaSpec) -> Tensor:
    """Build the pitch-class filters, (n_fft // 2 + 1, 12) float64 on the CPU."""
    n = NUM_PITCH_CLASSES
    a0 = 440.0 * 2 ** (spec.tuning / n) / 16
    hz = torch.arange(1, spec.n_fft, dtype=torch.float64) * spec.sample_rate / spec.n_fft
    pitch = n * torch.log2(hz / a0)
    pitch = torch.cat((pitch[:1] - 1.5 * n, pitch))  # bin 0 has no pitch: an octave and a half below bin 1
    width = torch.cat((pitch.diff().clamp(min=1), pitch.new_ones(1)))
    distance = (pitch[:, None] - torch.arange(n) + n / 2).remainder(n) - n / 2
    bumps = torch.exp(-0.5 * (2 * distance / width[:, None]) ** 2)
    bumps = bumps / bumps.norm(dim=1, keepdim=True)
    octaves = torch.exp(-0.5 * ((pitch / n - 5) / 2) ** 2)  # centred on octave 5, two octaves wide
    bank = (bumps * octaves[:, None])[: spec.n_fft // 2 + 1]
    return bank.roll(-3, dims=1)  # from A first to C first


def _why_not_cpu(wave: Tensor, spec: ChromaSpec, lengths: Tensor | None = None) -> str | None:
    return native.why_not_spectrum(wave, spec.n_fft, 2, lengths)


@chroma.register("cpu", unless=_why_not_cpu)
def _cpu(wave: Tensor, spec: ChromaSpec, lengths: Tensor | None = None) -> Tensor:
    return _native_chroma(wave, lengths, *astuple(spec))


# Opaque to torch.compile, which cannot trace a ctypes call; the spec travels as its fields, in their order.
@torch.library.custom_op("duotok::chroma_cpu", mutates_args=())
def _native_chroma(
    wave: Tensor,
    lengths: Tensor | None,
    sample_rate: int,
    n_fft: int,
    win_length: int,
    hop_length: int,
    tuning: float,
    normalize: bool,
) -> Tensor:
    window = hann_window(n_fft, win_length, torch.float32, wave.device)
    bank = _float_bank(ChromaSpec(sample_rate, n_fft, win_length, hop_length, tuning, normalize))
    _, out = native.mel_chroma(wave, window, hop_length, lengths=lengths, chroma_bank=bank, normalize_chroma=normalize)
    return out


@_native_chroma.register_fake
def _(
    wave: Tensor, lengths: Tensor | None, sample_rate: int, n_fft: int, win_length: int, hop_length: int, *_: object
) -> Tensor:
    return wave.new_empty(wave.shape[0], num_frames(wave.shape[1], hop_length), NUM_PITCH_CLASSES, dtype=torch.float32)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def _float_bank(spec: ChromaSpec) -> Tensor:
    return chroma_filter_bank(spec).float()

"""Log-Mel spectrograms.

    log_mel(wave (B, S), spec, lengths=None) -> (B, T, F),  T = S // hop_length + 1

The default `MelSpec` is MusicFM's front end, on which DUO-TOK's relatives stand: 24 kHz, n_fft 2,048, hop 240 (100 frames
a second), 128 HTK bands, power in dB. Defaults, not from the paper.
"""

from __future__ import annotations

import functools
from dataclasses import astuple, dataclass
from typing import Literal

import torch
from torch import Tensor

from . import native
from .dispatch import Op
from .spectrum import hann_window, num_frames, power_spectrum


@dataclass(frozen=True)
class MelSpec:
    """What a log-Mel spectrogram is; every field is a default of MusicFM's, not from the paper.

    Attributes:
        sample_rate: of the waves, in Hz.
        n_fft, win_length, hop_length: in samples; the window is a periodic Hann window.
        n_mels: bands F.
        f_min, f_max: edges of the lowest and highest band in Hz; f_max None is half the sample rate.
        power: 2 sums power in a band, 1 magnitude.
        scale: "htk" or "slaney" spacing of the bands.
        norm: None (triangles of height 1) or "slaney" (triangles of area 1).
        log: "db" is 10 log10, "ln" the natural logarithm, "none" the sums themselves.
        floor: sums are raised to this before the logarithm.
    """

    sample_rate: int = 24_000
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 240
    n_mels: int = 128
    f_min: float = 0.0
    f_max: float | None = None
    power: float = 2.0
    scale: Literal["htk", "slaney"] = "htk"
    norm: Literal["slaney"] | None = None
    log: Literal["db", "ln", "none"] = "db"
    floor: float = 1e-10


@Op
def log_mel(wave: Tensor, spec: MelSpec, lengths: Tensor | None = None) -> Tensor:
    """Compute log-Mel spectrograms of a batch.

    Args:
        wave: (B, S) in [-1, 1] of any floating dtype, or int16.
        spec: the spectrogram's definition.
        lengths: (B,) int64 valid samples of each clip, at least 1; None if all S are.

    Returns:
        (B, T, F), T = S // hop_length + 1, in wave's dtype (float32 for int16); frames beyond a clip's own end hold the
        floor's value.
    """
    power = power_spectrum(wave, spec.n_fft, spec.win_length, spec.hop_length, spec.power, lengths)
    mel = power @ mel_filter_bank(spec).to(power)
    if spec.log != "none":
        mel = mel.clamp(min=spec.floor)
        mel = mel.log10() * 10 if spec.log == "db" else mel.log()
    return mel.to(wave.dtype) if wave.is_floating_point() else mel


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def mel_filter_bank(spec: MelSpec) -> Tensor:
    """Build the triangular filters, (n_fft // 2 + 1, F) float64 on the CPU.

    Neighbouring triangles share their edges, so each frequency bin feeds at most two bands.
    """
    f_max = spec.sample_rate / 2 if spec.f_max is None else spec.f_max
    ends = _hz_to_mel(torch.tensor([spec.f_min, f_max], dtype=torch.float64), spec.scale)
    edges = _mel_to_hz(torch.linspace(ends[0], ends[1], spec.n_mels + 2, dtype=torch.float64), spec.scale)
    bins = torch.linspace(0, spec.sample_rate / 2, spec.n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rising, falling).clamp(min=0)
    return bank * (2 / (edges[2:] - edges[:-2])) if spec.norm == "slaney" else bank


# Slaney's Auditory Toolbox: linear below 1 kHz (200/3 Hz a Mel), logarithmic above (27 Mel for a factor of 6.4).
_LINEAR, _BREAK, _STEP = 200 / 3, 1000.0, torch.tensor(6.4, dtype=torch.float64).log() / 27


def _hz_to_mel(hz: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 2595 * torch.log10(1 + hz / 700)
    return torch.where(hz < _BREAK, hz / _LINEAR, _BREAK / _LINEAR + torch.log(hz.clamp(min=1) / _BREAK) / _STEP)


def _mel_to_hz(mel: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < _BREAK / _LINEAR, mel * _LINEAR, _BREAK * torch.exp(_STEP * (mel - _BREAK / _LINEAR)))


def _why_not_cpu(wave: Tensor, spec: MelSpec, lengths: Tensor | None = None) -> str | None:
    return native.why_not_spectrum(wave, spec.n_fft, spec.power, lengths)


@log_mel.register("cpu", unless=_why_not_cpu)
def _cpu(wave: Tensor, spec: MelSpec, lengths: Tensor | None = None) -> Tensor:
    return _native_log_mel(wave, lengths, *astuple(spec))


# Opaque to torch.compile, which cannot trace a ctypes call; the spec travels as its fields, in their order.
@torch.library.custom_op("duotok::log_mel_cpu", mutates_args=())
def _native_log_mel(
    wave: Tensor,
    lengths: Tensor | None,
    sample_rate: int,
    n_fft: int,
    win_length: int,
    hop_length: int,
    n_mels: int,
    f_min: float,
    f_max: float | None,
    power: float,
    scale: str,
    norm: str | None,
    log: str,
    floor: float,
) -> Tensor:
    spec = MelSpec(sample_rate, n_fft, win_length, hop_length, n_mels, f_min, f_max, power, scale, norm, log, floor)
    window = hann_window(n_fft, win_length, torch.float32, wave.device)
    mel, _ = native.mel_chroma(
        wave, window, hop_length, power=int(power), lengths=lengths, mel_bands=_bands(spec), log=log, floor=floor
    )
    return mel


@_native_log_mel.register_fake
def _(
    wave: Tensor,
    lengths: Tensor | None,
    sample_rate: int,
    n_fft: int,
    win_length: int,
    hop_length: int,
    n_mels: int,
    *_: object,
) -> Tensor:
    return wave.new_empty(wave.shape[0], num_frames(wave.shape[1], hop_length), n_mels, dtype=torch.float32)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def _bands(spec: MelSpec) -> native.Bands:
    return native.bands(mel_filter_bank(spec))

"""How near a wave is to another: measures of reconstruction, each of a pair of mono waves at one sample rate.

The multi-scale Mel distance stands in duotok.model.mel_distance. Whatever a measure cannot judge (a silent reference, no
utterance that PESQ finds) is NaN, never a number.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from duotok.audio import Resampler
from duotok.kernels import ChromaSpec, chroma

# FFT, hop and window in samples: Parallel WaveGAN's (Yamamoto et al., arXiv 1910.11480), as in auraloss.
_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
_MAGNITUDE_FLOOR = 1e-8
_MOST_DB = 100.0
_PESQ_RATE, _VISQOL_RATE = 16_000, 48_000
# Measures that need a package of the extras, with the extra's name.
OPTIONAL = {"pesq_wb": ("pesq", "pesq"), "stoi": ("pystoi", "evaluate"), "visqol": ("visqol", "visqol")}


def resample(wave: Tensor, in_rate: int, out_rate: int) -> Tensor:
    """Resample waves (..., S) from one rate in Hz to another (soxr, HQ): (..., S') float32 on the CPU."""
    rows = wave.detach().float().cpu()
    if in_rate == out_rate:
        return rows
    resampled = []
    for row in rows.flatten(0, -2) if rows.ndim > 1 else rows[None]:
        resampler = Resampler(in_rate, out_rate)
        resampled.append(torch.cat([torch.from_numpy(part) for part in (resampler.push(row.numpy()), resampler.finish())]))
    return torch.stack(resampled).view(*wave.shape[:-1], -1)


def si_sdr(predicted: Tensor, target: Tensor) -> float:
    """Compute the scale-invariant signal-to-distortion ratio of waves (S,) in dB (Le Roux et al., arXiv 1811.02508).

    It is kept within -100 and 100 dB, so that silence for a sound counts as worst, and equal waves leave a mean.
    """
    ours, truth = (wave.double() - wave.double().mean() for wave in (predicted, target))
    energy = truth.square().sum()
    if not energy:
        return math.nan
    projection = (ours @ truth / energy) * truth
    good, bad = projection.square().sum().item(), (ours - projection).square().sum().item()
    if not good:
        return -_MOST_DB
    return max(-_MOST_DB, min(_MOST_DB, 10 * math.log10(good / bad))) if bad else _MOST_DB


def stft_distance(predicted: Tensor, target: Tensor) -> float:
    """Measure waves (S,) by spectral convergence and L1 of log magnitudes, over three resolutions (arXiv 1910.11480)."""
    if not target.any():
        return math.nan
    distances = []
    for size, hop, window in _RESOLUTIONS:
        ours, truth = (_magnitudes(wave, size, hop, window) for wave in (predicted, target))
        convergence = torch.linalg.norm(truth - ours) / torch.linalg.norm(truth)
        distances.append(convergence + (truth.log() - ours.log()).abs().mean())
    return torch.stack(distances).mean().item()


def _magnitudes(wave: Tensor, size: int, hop: int, window: int) -> Tensor:
    """Compute the STFT's magnitudes (F, T)."""
    shape = torch.hann_window(window, device=wave.device)
    spectrum = torch.stft(wave.float(), size, hop, window, shape, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1).clamp(min=_MAGNITUDE_FLOOR).sqrt()


def chroma_cosine(predicted: Tensor, target: Tensor, sample_rate: int) -> float:
    """Compute the mean cosine of the chroma of waves (S,), over frames in which the target sounds; 1 is the same harmony."""
    spec = ChromaSpec(sample_rate=sample_rate, hop_length=sample_rate // 50)
    ours, truth = chroma(torch.stack((predicted, target)).float(), spec)
    sounding = truth.amax(-1) > 0.5  # a frame's largest value is 1; only those below 1e-10 are not divided by it
    if not sounding.any():
        return math.nan
    return torch.cosine_similarity(ours[sounding], truth[sounding], dim=-1).mean().item()


def pesq_wb(predicted: Tensor, target: Tensor, sample_rate: int) -> float:
    """Compute wide-band PESQ (ITU-T P.862.2) of waves (S,), at 16 kHz: 1 to 4.64; needs the extra `pesq`."""
    pesq = _package("pesq_wb")
    if not target.any():
        return math.nan
    truth, ours = (resample(wave, sample_rate, _PESQ_RATE).numpy() for wave in (target, predicted))
    try:
        return float(pesq.pesq(_PESQ_RATE, truth, ours, "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        return math.nan


def stoi(predicted: Tensor, target: Tensor, sample_rate: int) -> float:
    """Compute STOI (Taal et al., 2011) of waves (S,): up to 1; needs the extra `evaluate`."""
    if not target.any():
        return math.nan
    return float(_package("stoi").stoi(target.double().cpu().numpy(), predicted.double().cpu().numpy(), sample_rate))


def visqol(predicted: Tensor, target: Tensor, sample_rate: int) -> float:
    """Compute ViSQOL's mean opinion score of waves (S,) in audio mode, at 48 kHz: 1 to 5; needs the extra `visqol`."""
    package = _package("visqol")
    if not target.any():
        return math.nan
    truth, ours = (resample(wave, sample_rate, _VISQOL_RATE).double().numpy() for wave in (target, predicted))
    return float(_visqol_api(package).measure_from_arrays(truth, ours, _VISQOL_RATE).moslqo)


@functools.cache
def _visqol_api(package: Any) -> Any:
    api = package.VisqolApi()
    api.create(mode="audio")
    return api


def missing(measure: str) -> str | None:
    """Say what an optional measure lacks; None if it can run."""
    try:
        _package(measure)
    except ValueError as error:
        return str(error)
    return None


def _package(measure: str) -> Any:
    """Import what an optional measure needs.

    Raises:
        ValueError: if it is not installed.
    """
    name, extra = OPTIONAL[measure]
    try:
        return __import__(name)
    except ImportError:
        raise ValueError(
            f"{measure}: expected the package {name}; it is not installed; install the extra: pip install 'duotok[{extra}]'"
        ) from None

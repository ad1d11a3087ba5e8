"""The multi-scale Mel distance: how far apart two waves sound, as score and as loss.

The L1 distance of log-Mel spectra at seven window lengths, as Codec-Evaluation scores music codecs ("Mel L1") and DAC (Kumar et
al., arXiv 2306.06546) trains one. Values depend on the sample rate: compare at one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotok.kernels import MelSpec, log_mel

# Window in samples -> bands, as in Codec-Evaluation and DAC.
SCALES = {32: 5, 64: 10, 128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}
# Powers are raised to this before the natural logarithm, as in Codec-Evaluation.
FLOOR = 1e-5


def mel_distance(predicted: Tensor, target: Tensor, sample_rate: int) -> Tensor:
    """Measure the distance of waves (N, S) from others, at `sample_rate` in Hz: (N,), the mean over scales, frames and bands.

    Both are computed in float32; the gradient reaches both.
    """
    pairs = zip(_log_mels(predicted, sample_rate), _log_mels(target, sample_rate), strict=True)
    return torch.stack([(ours - theirs).abs().mean((1, 2)) for ours, theirs in pairs]).mean(0)


def mean_spectrum_distance(target: Tensor, sample_rate: int) -> Tensor:
    """Measure how far waves (N, S) are from their own mean spectrum, held for ever: (N,), what a codec has to beat."""
    spectra = _log_mels(target, sample_rate)
    return torch.stack([(mel - mel.mean(1, keepdim=True)).abs().mean((1, 2)) for mel in spectra]).mean(0)


def _log_mels(wave: Tensor, sample_rate: int) -> list[Tensor]:
    """Compute spectra (N, T, F) at every scale."""
    specs = [MelSpec(sample_rate, size, size, size // 4, n_mels=bands, log="ln", floor=FLOOR) for size, bands in SCALES.items()]
    return [log_mel(wave.float(), spec) for spec in specs]

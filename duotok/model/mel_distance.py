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
    distances = []
    for window, bands in SCALES.items():
        spec = MelSpec(sample_rate, window, window, window // 4, n_mels=bands, log="ln", floor=FLOOR)
        pair = [log_mel(wave.float(), spec) for wave in (predicted, target)]
        distances.append((pair[0] - pair[1]).abs().mean((1, 2)))
    return torch.stack(distances).mean(0)

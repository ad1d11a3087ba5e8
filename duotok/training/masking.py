"""Span masking of waves (stage 1): non-overlapping spans, each replaced by noise with one probability.

Default, not from the paper: MusicFM and MuQ (0.4 s, p = 0.6, noise N(0, 0.1^2) in place of the samples, before the Mel).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from duotok.kernels import replace_noise
from duotok.kernels.replace_noise import replacement


@dataclass(frozen=True)
class MaskingConfig:
    """How spans are masked.

    Attributes:
        span_s: seconds of a span.
        p: probability that a span is masked.
        sigma: standard deviation of the noise, in samples of [-1, 1].
    """

    span_s: float = 0.4
    p: float = 0.6
    sigma: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.span_s < math.inf and 0 <= self.p <= 1 and 0 <= self.sigma < math.inf):
            raise ValueError(
                f"expected span_s above 0, p of 0 to 1 and sigma of at least 0; got {self.span_s}, {self.p} and {self.sigma}; "
                "correct them"
            )


@dataclass(frozen=True)
class MaskedWave:
    """Masked waves (B, S), and which of their spans are masked: (B, spans) bool."""

    wave: Tensor
    spans: Tensor


def mask_spans(wave: Tensor, config: MaskingConfig, sample_rate: int, seed: Tensor) -> MaskedWave:
    """Mask waves (B, S); the last span may be shorter than the others.

    Args:
        wave: (B, S) in [-1, 1].
        config: spans and noise.
        sample_rate: in Hz.
        seed: (2,) int64 key and step of the noise, see `replace_noise`.
    """
    samples = round(config.span_s * sample_rate)
    spans = F.pad(wave, (0, -wave.shape[1] % samples)).unflatten(1, (-1, samples))  # (B, spans, samples)
    noisy = replace_noise(spans, config.p, config.sigma, seed).flatten(1)[:, : wave.shape[1]]
    mask, _ = replacement(spans[..., :1], config.p, seed)  # the same rows, hence the same decisions
    return MaskedWave(noisy, mask[..., 0])


def frames_of_spans(spans: Tensor, frames_per_span: int, num_frames: int) -> Tensor:
    """Spread a mask of spans (B, spans) over frames: (B, T)."""
    return spans.repeat_interleave(frames_per_span, dim=1)[:, :num_frames]

"""The rival that is built in: k-means of Mel frames, a plain vector quantizer of the same rate as a track's codes.

A frame of the tokenizer is four Mel frames, stacked; their principal components, as many as our codes are wide, are clustered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from duotok.kernels import nearest_code
from duotok.model.trunk import DOWNSAMPLING

_ROUNDS = 25


@dataclass(frozen=True)
class PlainVQ:
    """A fitted quantizer.

    Attributes:
        mean, components: (4F,) and (4F, d) of the projection.
        vectors: (K, d) of the codes.
    """

    mean: Tensor
    components: Tensor
    vectors: Tensor

    def encode(self, mel: Tensor) -> Tensor:
        """Find the codes (T,) int64 of Mel frames (4T, F)."""
        return nearest_code(self.project(mel), self.vectors)

    def project(self, mel: Tensor) -> Tensor:
        """Project Mel frames (4T, F) to (T, d)."""
        return (stacked(mel) - self.mean) @ self.components


def stacked(mel: Tensor) -> Tensor:
    """Stack Mel frames (4T, F) by fours: (T, 4F)."""
    return mel.unflatten(0, (-1, DOWNSAMPLING)).flatten(1)


def fit(mel: Tensor, size: int, dim: int, seed: int) -> PlainVQ:
    """Fit a quantizer to Mel frames (4T, F) by Lloyd's algorithm, from codes that are frames drawn with `seed`.

    Args:
        mel: of the training songs.
        size: number of codes K; codes that no frame is nearest to stay where they are.
        dim: width d of a code.
        seed: of the draw.

    Raises:
        ValueError: if there are fewer frames than codes.
    """
    rows = stacked(mel)
    if len(rows) < size:
        raise ValueError(f"plain_vq: expected at least {size} frames, one a code; got {len(rows)}; give more songs")
    mean = rows.mean(0)
    components = torch.linalg.eigh(torch.cov(rows.double().T))[1][:, -dim:].to(rows.dtype)
    z = (rows - mean) @ components
    chosen = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:size]
    codes = z[chosen.to(z.device)]
    for _ in range(_ROUNDS):
        nearest = nearest_code(z, codes)
        counts = torch.bincount(nearest, minlength=size)[:, None]
        sums = torch.zeros_like(codes).index_add_(0, nearest, z)
        codes = torch.where(counts > 0, sums / counts.clamp(min=1), codes)
    return PlainVQ(mean, components, codes)

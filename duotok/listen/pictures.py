"""What sounds look like, in bytes: spectrograms and chromagrams (N, F, columns) uint8, low bands first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from duotok.kernels import ChromaSpec, MelSpec, chroma, log_mel

BANDS = 96
RANGE_DB = 80.0
# Columns are means of frames where an excerpt has more of them; a picture is never wider than a screen.
_COLUMNS = {"spectrogram": 800, "chroma": 400}
# Pitch classes of frames below this share of the loudest one's fade to nothing.
_CHROMA_FLOOR = 1e-4


def spectrograms(waves: Tensor, sample_rate: int) -> Tensor:
    """Draw Mel spectrograms of waves (N, S): (N, F, columns) uint8, from `RANGE_DB` below the loudest of all to that."""
    spec = MelSpec(sample_rate, hop_length=sample_rate // 100, n_mels=BANDS)
    level = _columns(log_mel(waves, spec).transpose(1, 2), "spectrogram")
    return _bytes(1 + (level - level.amax()) / RANGE_DB)


def chromagrams(waves: Tensor, sample_rate: int) -> Tensor:
    """Draw the pitch classes of waves (N, S), C first: (N, 12, columns) uint8, each column relative to its strongest class."""
    spec = ChromaSpec(sample_rate, hop_length=sample_rate // 50, normalize=False)
    energy = _columns(chroma(waves, spec).transpose(1, 2), "chroma")
    strongest = energy.amax(1, keepdim=True)
    return _bytes(energy / strongest.clamp(min=_CHROMA_FLOOR * strongest.amax().clamp(min=1e-9)))


def _columns(frames: Tensor, kind: str) -> Tensor:
    """Average frames (N, F, T) to at most so many as a picture has columns."""
    return F.adaptive_avg_pool1d(frames, min(frames.shape[2], _COLUMNS[kind]))


def _bytes(share: Tensor) -> Tensor:
    return (255 * share.clamp(0, 1)).round().to(torch.uint8)

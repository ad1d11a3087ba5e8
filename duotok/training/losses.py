"""The losses of stages 1 to 3, each as a mean that knows over how much it was taken.

Items without lyrics count nothing in the lyrics' mean, so they skip that loss alone, and means of several batches add up
exactly. Everything is computed in float32 whatever the autocast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duotok.lyrics import edit_distance, greedy
from duotok.model.heads import STEMS

from .targets import COMPRESSION


@dataclass(frozen=True)
class Mean:
    """A sum () and the number () of what it sums; means add like samples do."""

    total: Tensor
    count: Tensor

    @classmethod
    def of(cls, values: Tensor, chosen: Tensor | None = None) -> Mean:
        """Take the mean of values (...), or of those that `chosen` (...) bool marks."""
        if chosen is None:
            return cls(values.sum(), values.new_tensor(values.numel()))
        return cls((values * chosen).sum(), chosen.sum().to(values.dtype))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def detach(self) -> Mean:
        """The same without a gradient."""
        return Mean(self.total.detach(), self.count)

    @property
    def value(self) -> Tensor:
        """The mean (), 0 of nothing; its gradient exists in either case."""
        return self.total / self.count.clamp(min=1)


def as_mean(value: Tensor | Mean) -> Mean:
    """Make a mean in float32, without a gradient, of one, or of a single value ()."""
    mean = value if isinstance(value, Mean) else Mean(value, torch.ones_like(value))
    return Mean(mean.total.detach().float(), mean.count.float())


def cross_entropy(logits: Tensor, labels: Tensor) -> Mean:
    """Score label logits (N, K) against labels (N,) int64."""
    return Mean.of(F.cross_entropy(logits.float(), labels, reduction="none"))


def l1(predicted: Tensor, target: Tensor) -> Mean:
    """Measure |predicted - target| of frames (B, T, C), a mean over items."""
    return Mean.of((predicted.float() - target).abs().mean((1, 2)))


def ctc(logits: Tensor, units: Tensor, lengths: Tensor) -> Mean:
    """Align lyrics by connectionist temporal classification (Graves et al., 2006), per unit, a mean over items with lyrics.

    Args:
        logits: (B, T, V + 1), blank first.
        units: (B, L) int64 in 1..V, padded.
        lengths: (B,) int64 units of each item; 0 skips it. So do lyrics too long for T frames.
    """
    log_p = logits.float().log_softmax(-1).transpose(0, 1)  # (T, B, V + 1)
    frames = torch.full_like(lengths, len(log_p))
    losses = F.ctc_loss(log_p, units, frames, lengths, reduction="none", zero_infinity=True)
    twice = (units[:, 1:] == units[:, :-1]) & (torch.arange(1, units.shape[1], device=units.device) < lengths[:, None])
    fits = lengths + twice.sum(1) <= frames  # a blank stands between equal units
    return Mean.of(losses / lengths.clamp(min=1), (lengths > 0) & fits)


def character_errors(logits: Tensor, units: Tensor, lengths: Tensor) -> Mean:
    """Count the edits from the lyrics to what greedy decoding reads, per unit: with `ctc`'s arguments (B, ...)."""
    edits = [
        edit_distance(unit[:length].tolist(), greedy(row.detach().float().cpu().numpy())) if length else 0
        for row, unit, length in zip(logits, units, lengths.tolist(), strict=True)
    ]
    return Mean(logits.new_tensor(sum(edits), dtype=torch.float32), lengths.sum().float())


def separation(masks: Tensor, mixture: Tensor, sources: Tensor, has_stems: Tensor) -> Mean:
    """Compare masked mixtures with their sources by L1 on compressed magnitudes, a mean over items.

    Songs of two stems supervise the vocals' mask and, for the accompaniment, the three other masks together. A mask m scales
    magnitudes by m^(1/c), c the compression, and magnitudes add: the mask of a sum is the (1/c)-norm of its parts' masks.
    Default, own choice.

    Args:
        masks: (B, T, 4, F) in [0, 1], in the order of `STEMS`.
        mixture: (B, T, F) compressed magnitudes.
        sources: (B, 5, T, F) compressed magnitudes of `STEMS` and the accompaniment.
        has_stems: (B,) bool, whether the first three are known.
    """
    masks = masks.float().movedim(2, 1)  # (B, 4, T, F)
    parts, vocals = masks[:, :-1], masks[:, -1:]
    together = torch.linalg.vector_norm(parts, ord=1 / COMPRESSION, dim=1, keepdim=True).clamp(max=1)
    estimates = torch.cat((parts, vocals, together), dim=1) * mixture[:, None]
    errors = (estimates - sources).abs().mean((2, 3))  # (B, 5)
    num_parts = len(STEMS) - 1
    four = errors[:, : num_parts + 1].mean(1)
    two = errors[:, num_parts:].mean(1)
    return Mean.of(torch.where(has_stems, four, two))

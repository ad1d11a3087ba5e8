"""Bidirectional attention with lengths instead of masks.

    attention(q, k, v (B, S, H, D), lengths (B,) | None, scale | None) -> (B, S, H, D)

Frames at and beyond `lengths[b]` are neither attended to nor answered: their output is zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Op


@Op
def attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Compute softmax(q k^T * scale) v for each head.

    Args:
        q, k, v: (B, S, H, D) of one floating dtype.
        lengths: (B,) int64 valid frames of each item, at least 1; None if all S are.
        scale: factor of the logits; 1 / sqrt(D) by default.

    Returns:
        (B, S, H, D) of the same dtype, computed in float32 (float64 for float64 input).
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = torch.einsum("bshd,bthd->bhst", q.to(wide), k.to(wide)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if lengths is not None:
        valid = torch.arange(q.shape[1], device=q.device) < lengths[:, None]  # (B, S)
        logits = logits.masked_fill(~valid[:, None, None], -torch.inf)
    out = torch.einsum("bhst,bthd->bshd", logits.softmax(-1), v.to(wide)).to(q.dtype)
    return out if lengths is None else out * valid[:, :, None, None]


def _why_not_sdpa(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    return None if lengths is None else "needs a batch without lengths (a mask tensor would switch its fast paths off)"


@attention.register("sdpa", unless=_why_not_sdpa)
def _sdpa(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)

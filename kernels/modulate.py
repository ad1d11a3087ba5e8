"""adaLN modulation of the DiT (Peebles and Xie, arXiv 2212.09748): normalise, then scale and shift by the condition.

modulate(x (B, T, D), shift (B, D), scale (B, D)) -> like x
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Op


@Op
def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute LayerNorm(x) * (1 + scale) + shift, the norm without affine parameters.

    Args:
        x: (B, T, D) of any floating dtype.
        shift, scale: (B, D).
        eps: added to the variance.

    Returns:
        Like x; statistics in float32 (float64 for float64 input).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = F.layer_norm(x.to(wide), x.shape[-1:], eps=eps)
    return (normed * (1 + scale.to(wide)[:, None]) + shift.to(wide)[:, None]).to(x.dtype)

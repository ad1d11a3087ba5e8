"""A linear layer with what follows it in a Transformer block.

    linear(x (..., K), weight (N, K), bias (N,) | None, gelu, add (..., N) | None) -> (..., N)

While a model is used and not trained, oneDNN does it on a CPU in one pass, with weights that are packed once; see onednn.py.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .dispatch import Op
from .onednn import packed, product, why_not_onednn


@Op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, add: Tensor | None = None) -> Tensor:
    """Compute x weight^T + bias, then GELU if asked for, then + add.

    A weight that is written to through `.data` or numpy, which torch does not count, may be used as it was before;
    `weight.mul_(1)` under torch.no_grad() makes the change known.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,); None for none.
        gelu: whether to apply GELU (Hendrycks and Gimpel, arXiv 1606.08415; the exact one, by erf).
        add: (..., N), the residual stream; None for none.

    Returns:
        (..., N) in x's dtype.

    Raises:
        ValueError: if shapes do not fit.
    """
    y = F.linear(x, weight, bias)
    y = F.gelu(y) if gelu else y
    return y if add is None else add + y


@linear.checked
def _check(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, add: Tensor | None = None) -> None:
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        raise ValueError(
            f"linear: expected x (..., K), weight (N, K) and bias (N,); got {tuple(x.shape)}, {tuple(weight.shape)} and "
            f"{None if bias is None else tuple(bias.shape)}; match them"
        )
    if add is not None and add.shape != (*x.shape[:-1], len(weight)):
        raise ValueError(f"linear: expected add {(*x.shape[:-1], len(weight))}; got {tuple(add.shape)}; match it")


def _why_not(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, add: Tensor | None = None
) -> str | None:
    if gelu and add is not None:
        return "does GELU or the addition in the product's pass, not both"
    return why_not_onednn(x, weight, bias, add) if x.numel() and weight.numel() else "needs rows on both sides; got none"


@linear.register("onednn", unless=_why_not)
def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, add: Tensor | None = None) -> Tensor:
    return product(x, packed(weight), bias, gelu, add)

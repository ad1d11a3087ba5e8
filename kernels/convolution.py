"""A 3x3 convolution with what follows it in a residual block.

    convolution(x (B, C, T, F), weight (C', C, 3, 3), bias (C',), stride, relu, add (B, C', T', F') | None) -> (B, C', T', F')

Both sides are padded by a half kernel, so T' = ceil(T / stride). While a model is used and not trained, oneDNN does it on a CPU
in one pass, channels last: activations are written once, where each of BatchNorm, addition and ReLU would write them again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Op
from .onednn import why_not_onednn


@Op
def convolution(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, relu: bool = False, add: Tensor | None = None
) -> Tensor:
    """Convolve, then + add, then ReLU if asked for.

    Args:
        x: (B, C, T, F).
        weight: (C', C, k, k), k odd.
        bias: (C',).
        stride: of both axes.
        relu: whether to clamp at 0; whether NaN stays NaN depends on the backend: oneDNN makes 0 of it.
        add: (B, C', T', F'), the residual branch, whose memory may become the result's unless it is x's; None for none.

    Returns:
        (B, C', T', F') in x's dtype.

    Raises:
        ValueError: if shapes do not fit.
    """
    y = F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)
    y = y if add is None else y + add
    return y.relu() if relu else y


@convolution.checked
def _check(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, relu: bool = False, add: Tensor | None = None) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1] or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"convolution: expected x (B, C, T, F), weight (C', C, k, k) and bias (C',); got {tuple(x.shape)}, "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}; match them"
        )
    expected = (len(x), len(weight), *(-(-size // stride) for size in x.shape[2:]))
    if add is not None and add.shape != expected:
        raise ValueError(f"convolution: expected add {expected}; got {tuple(add.shape)}; match it")


def _why_not(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, relu: bool = False, add: Tensor | None = None
) -> str | None:
    return why_not_onednn(x, weight, bias, add) if x.numel() else "needs items; got none"


@convolution.register("onednn", unless=_why_not)
def _onednn(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, relu: bool = False, add: Tensor | None = None) -> Tensor:
    x, weight, bias = _channels_last(x), _channels_last(weight), bias.contiguous()  # read as if it were
    shape = ([weight.shape[-1] // 2] * 2, [stride] * 2, [1, 1], 1)
    if add is None:
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "relu" if relu else "none", [], "")
    add = _channels_last(add)
    if add.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():  # which is read while the result is written
        add = add.clone()
    binary = torch.ops.mkldnn._convolution_pointwise_.binary
    return binary(add, x, weight, bias, *shape, "add", 1.0, "relu" if relu else None, [], "")


def _channels_last(x: Tensor) -> Tensor:
    """Bring x into channels last, and say so in its strides where one channel leaves it open: the result follows them."""
    x = x.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    return x.as_strided(x.shape, (height * width, 1, width, 1)) if channels == 1 else x

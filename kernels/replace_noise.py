"""Gaussian replacement at the bottleneck: whole frames give way to noise (DUO-TOK stage 2).

    replace_noise(x (..., D), p, sigma, seed (2,) int64) -> like x

Random layout, equal on every backend. A row is one frame: the flat index over all dimensions but the last. With
seed = (key, step), the Philox key is `key` and the counter of (row, column) is

    c0 = row,  c1 = step mod 2^32,  c2 = column // 4,  c3 = 2 * (step // 2^32) + stream

Stream 0, word 0 decides: the element is replaced where word < floor(p * 2^32); per frame the column is 0, per element
word `column % 4` decides. Stream 1 gives four standard normals, of which number `column % 4` is used. The mask is a
function of the seed, so nothing needs to be stored for the backward pass, and no result depends on block sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import Op
from .philox import normal, philox


@Op
def replace_noise(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool = False, additive: bool = False) -> Tensor:
    """Replace each frame of x with N(0, sigma^2) noise with probability p.

    Args:
        x: (..., D) features of any floating dtype; its leading dimensions count fewer than 2^32 rows.
        p: probability of replacement, in [0, 1]. 0.2 in the paper's secondary sources.
        sigma: standard deviation of the noise; 1.0 is a default, not from the paper.
        seed: (2,) int64 on x's device: key and step, step not negative. Draw another step for every call and rank.
        per_element: decide for each element instead of each frame.
        additive: add the noise to x instead (an experiment's control).

    Returns:
        Like x. The gradient passes where x was kept (everywhere if additive).

    Raises:
        ValueError: if p is outside [0, 1] or seed has another shape or dtype.
    """
    _check(p, seed)
    mask, noise = replacement(x, p, seed, per_element)
    noise = (sigma * noise).to(x.dtype)
    return torch.where(mask, x + noise if additive else noise, x)


def replacement(x: Tensor, p: float, seed: Tensor, per_element: bool = False) -> tuple[Tensor, Tensor]:
    """Compute the mask, (..., 1) or like x, bool, and the standard normal noise (..., D) float32 that `replace_noise` uses."""
    *lead, width = x.shape
    rows = torch.arange(x[..., 0].numel(), device=x.device).view(*lead, 1)
    columns = torch.arange((width + 3) // 4, device=x.device)
    step, stream = seed[1] & 0xFFFFFFFF, 2 * (seed[1] >> 32)
    words = philox(seed[0], rows, step, columns if per_element else columns[:1], stream)  # (..., D/4, 4)
    words = words.flatten(-2)[..., :width] if per_element else words[..., 0, :1]
    noise = normal(philox(seed[0], rows, step, columns, stream + 1)).flatten(-2)[..., :width]
    return words < int(p * 2**32), noise


def _check(p: float, seed: Tensor) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"replace_noise: expected a probability p in [0, 1]; got {p}; change p")
    if seed.shape != (2,) or seed.dtype != torch.int64:
        raise ValueError(
            f"replace_noise: expected seed (2,) int64; got {tuple(seed.shape)} {seed.dtype}; pass torch.tensor([key, step])"
        )

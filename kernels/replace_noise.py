"""Gaussian replacement at the bottleneck: whole frames give way to noise (DUO-TOK stage 2).

    replace_noise(x (..., D), p, sigma, seed (2,) int64) -> like x

Random layout, equal on every backend. A row is one frame: the flat index over all dimensions but the last. With
seed = (key, step), the Philox key is `key` and the counter of (row, column) is

    c0 = row,  c1 = step mod 2^32,  c2 = column // 4,  c3 = 2 * (step // 2^32) + stream

Stream 0, word 0 decides: the element is replaced where word < floor(p * 2^32); per frame the column is 0, per element
word `column % 4` decides. Stream 1 gives four standard normals, of which number `column % 4` is used. The mask is a
function of the seed, so nothing needs to be stored for the backward pass, and no result depends on block sizes.

Twins: Triton (replace_noise_triton.py) and numba (replace_noise_cpu.py), one read and one write each, forward and backward.
Their mask is the reference's bit for bit, their noise within 1e-6 (relative above 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .available import why_not_numba_threads, why_not_triton
from .dispatch import Op
from .philox import normal, philox


@Op
def replace_noise(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool = False, additive: bool = False) -> Tensor:
    """Replace each frame of x with N(0, sigma^2) noise with probability p.

    Args:
        x: (..., D) features of any floating dtype; its leading dimensions count fewer than 2^32 rows.
        p: probability of replacement, in [0, 1]. 0.2 in the paper's secondary sources.
        sigma: standard deviation of the noise; 1.0 is a default, not from the paper.
        seed: (2,) int64 on x's device: key and step, which is not read to see whether it is negative, as it must not be. Draw
            another step for every call and rank.
        per_element: decide for each element instead of each frame.
        additive: add the noise to x instead (an experiment's control).

    Returns:
        Like x. The gradient passes where x was kept (everywhere if additive).

    Raises:
        ValueError: if x has no dimension or is not floating, p is outside [0, 1], or seed has another shape, dtype or device.
    """
    mask, noise = replacement(x, p, seed, per_element)
    noise = (sigma * noise).to(x.dtype)
    return torch.where(mask, x + noise if additive else noise, x)


def replacement(x: Tensor, p: float, seed: Tensor, per_element: bool = False) -> tuple[Tensor, Tensor]:
    """Compute the mask, (..., 1) or like x, bool, and the standard normal noise (..., D) float32 that `replace_noise` uses."""
    *lead, width = x.shape
    rows = torch.arange(x.shape[:-1].numel(), device=x.device).view(*lead, 1)
    columns = torch.arange(max(width + 3, 4) // 4, device=x.device)
    step, stream = seed[1] & 0xFFFFFFFF, 2 * (seed[1] >> 32)
    words = philox(seed[0], rows, step, columns if per_element else columns[:1], stream)  # (..., D/4, 4)
    words = words.flatten(-2)[..., :width] if per_element else words[..., 0, :1]
    noise = normal(philox(seed[0], rows, step, columns, stream + 1)).flatten(-2)[..., :width]
    return words < threshold(p), noise


@replace_noise.checked
def _check(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool = False, additive: bool = False) -> None:
    if x.ndim == 0 or not x.is_floating_point():
        raise ValueError(f"replace_noise: expected x (..., D), floating; got {tuple(x.shape)} {x.dtype}; convert it")
    if not 0 <= p <= 1:
        raise ValueError(f"replace_noise: expected a probability p in [0, 1]; got {p}; change p")
    if seed.shape != (2,) or seed.dtype != torch.int64:
        raise ValueError(
            f"replace_noise: expected seed (2,) int64; got {tuple(seed.shape)} {seed.dtype}; pass torch.tensor([key, step])"
        )
    if seed.device != x.device:
        raise ValueError(f"replace_noise: expected seed on {x.device} like x; got {seed.device}; move it")


def threshold(p: float) -> int:
    """Below which of 2^32 words an element is replaced."""
    return int(p * 2**32)


def library_op(backend: str, launch: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a differentiable `torch.library` op of a compiled twin.

    Args:
        backend: its name; the ops are duotok::replace_noise_<backend> and duotok::replace_noise_<backend>_backward.
        launch: (x (..., D), p, sigma, seed, per_element, additive, backward) -> like x, contiguous. With `backward`, x is a
            gradient and zeros stand where noise would.

    Returns:
        The forward op, (x, p, sigma, seed, per_element, additive) -> like x.
    """

    @torch.library.custom_op(f"duotok::replace_noise_{backend}", mutates_args=())
    def forward(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool, additive: bool) -> Tensor:
        return launch(x, p, sigma, seed, per_element, additive, False)

    @torch.library.custom_op(f"duotok::replace_noise_{backend}_backward", mutates_args=())
    def backward(grad: Tensor, p: float, seed: Tensor, per_element: bool) -> Tensor:
        return launch(grad, p, 0.0, seed, per_element, False, True)

    @forward.register_fake
    def _(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool, additive: bool) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @backward.register_fake
    def _(grad: Tensor, p: float, seed: Tensor, per_element: bool) -> Tensor:
        return torch.empty_like(grad, memory_format=torch.contiguous_format)

    def remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        _, ctx.p, _, seed, ctx.per_element, ctx.additive = inputs
        ctx.save_for_backward(seed)

    def differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (seed,) = ctx.saved_tensors
        kept = grad if ctx.additive else backward(grad, ctx.p, seed, ctx.per_element)
        return kept, None, None, None, None, None

    def remember_mask(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        _, ctx.p, seed, ctx.per_element = inputs
        ctx.save_for_backward(seed)

    def mask_again(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return backward(grad, ctx.p, *ctx.saved_tensors, ctx.per_element), None, None, None

    forward.register_autograd(differentiate, setup_context=remember)
    backward.register_autograd(mask_again, setup_context=remember_mask)
    return forward


def _why_not_triton(
    x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool = False, additive: bool = False
) -> str | None:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"needs 16, 32 or 64 bit floats; got {x.dtype}"
    return why_not_triton(x, seed)


@replace_noise.register("triton", unless=_why_not_triton)
def _triton(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool = False, additive: bool = False) -> Tensor:
    from .replace_noise_triton import forward

    return forward(x, p, sigma, seed, per_element, additive)


def _why_not_cpu(
    x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool = False, additive: bool = False
) -> str | None:
    if x.dtype not in (torch.float32, torch.float64):
        return f"needs float32 or float64; got {x.dtype}"
    return why_not_numba_threads(x, seed)


@replace_noise.register("numba", unless=_why_not_cpu)
def _numba(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool = False, additive: bool = False) -> Tensor:
    from .replace_noise_cpu import forward

    return forward(x, p, sigma, seed, per_element, additive)

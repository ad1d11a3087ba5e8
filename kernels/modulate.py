"""adaLN of the DiT (Peebles and Xie, arXiv 2212.09748): a condition scales, shifts and gates.

    modulate(x (B, T, D), shift (B, D), scale (B, D)) -> like x
    gated_residual(residual (B, T, D), x (B, T, D), gate (B, D)) -> like residual

A block is `h = gated_residual(h, layer(modulate(h, shift, scale)), gate)`. Twins in Triton (modulate_triton.py), forward
and backward, one read and one write of each (B, T, D); the gradients of shift, scale and gate are summed in a fixed order.
On the CPU modulate has a numba twin (modulate_cpu.py); gated_residual, two torch operations, needs none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .available import why_not_numba_threads, why_not_triton
from .dispatch import Op

# Widest row that a program of 16 warps holds in registers.
_MAX_WIDTH = 16_384
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@Op
def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute LayerNorm(x) * (1 + scale) + shift, the norm without affine parameters.

    Args:
        x: (B, T, D) of any floating dtype.
        shift, scale: (B, D).
        eps: added to the variance.

    Returns:
        Like x; statistics in float32 (float64 for float64 input). Twins have no second derivative; the reference has.

    Raises:
        ValueError: if shapes do not fit, x is not floating, or devices differ.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = F.layer_norm(x.to(wide), x.shape[-1:], eps=eps)
    return (normed * (1 + scale.to(wide)[:, None]) + shift.to(wide)[:, None]).to(x.dtype)


@Op
def gated_residual(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    """Compute residual + gate * x, rounded once.

    Args:
        residual, x: (B, T, D) of any floating dtypes.
        gate: (B, D).

    Returns:
        Like residual, computed in float32 (float64 for float64 input). The Triton twin has no second derivative.

    Raises:
        ValueError: if shapes do not fit, residual is not floating, or devices differ.
    """
    wide = torch.promote_types(residual.dtype, torch.float32)
    return (residual.to(wide) + gate.to(wide)[:, None] * x.to(wide)).to(residual.dtype)


def _check_conditioned(op: str, like: Tensor, **others: Tensor) -> None:
    """Refuse conditions other than (B, D), and frames other than `like` (B, T, D)."""
    if like.ndim != 3 or not like.is_floating_point():
        raise ValueError(f"{op}: expected frames (B, T, D), floating; got {tuple(like.shape)} {like.dtype}; reshape them")
    for name, tensor in others.items():
        shape = like.shape if name == "x" else (like.shape[0], like.shape[2])
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{op}: expected {name} {tuple(shape)}; got {tuple(tensor.shape)}; reshape it")
        if tensor.device != like.device:
            raise ValueError(f"{op}: expected {name} on {like.device}; got {tensor.device}; move it")


@modulate.checked
def _check_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> None:
    _check_conditioned("modulate", x, shift=shift, scale=scale)


@gated_residual.checked
def _check_gated(residual: Tensor, x: Tensor, gate: Tensor) -> None:
    _check_conditioned("gated_residual", residual, x=x, gate=gate)


def modulate_library_op(
    backend: str, launch: Callable[..., Tensor], launch_backward: Callable[..., list[Tensor]]
) -> Callable[..., Tensor]:
    """Make a differentiable `torch.library` op duotok::modulate_<backend>.

    Args:
        backend: name of the twin.
        launch: (x (B, T, D), shift, scale, eps) -> like x.
        launch_backward: (grad, x, shift, scale, eps) -> [dx, dshift, dscale].
    """

    @torch.library.custom_op(f"duotok::modulate_{backend}", mutates_args=())
    def forward(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        return launch(x, shift, scale, eps)

    @torch.library.custom_op(f"duotok::modulate_{backend}_backward", mutates_args=())
    def backward(grad: Tensor, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> list[Tensor]:
        return launch_backward(grad, x, shift, scale, eps)

    @forward.register_fake
    def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @backward.register_fake
    def _(grad: Tensor, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> list[Tensor]:
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, shift, scale)]

    def remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    def differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward(grad, *ctx.saved_tensors, ctx.eps), None)

    forward.register_autograd(differentiate, setup_context=remember)
    return forward


def gated_library_op(
    backend: str, launch: Callable[..., Tensor], launch_backward: Callable[..., list[Tensor]]
) -> Callable[..., Tensor]:
    """Make a differentiable `torch.library` op duotok::gated_residual_<backend>.

    Args:
        backend: name of the twin.
        launch: (residual (B, T, D), x, gate (B, D)) -> like residual.
        launch_backward: (grad, x, gate) -> [dx, dgate]; the residual's gradient is `grad` itself.
    """

    @torch.library.custom_op(f"duotok::gated_residual_{backend}", mutates_args=())
    def forward(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
        return launch(residual, x, gate)

    @torch.library.custom_op(f"duotok::gated_residual_{backend}_backward", mutates_args=())
    def backward(grad: Tensor, x: Tensor, gate: Tensor) -> list[Tensor]:
        return launch_backward(grad, x, gate)

    @forward.register_fake
    def _(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
        return torch.empty_like(residual, memory_format=torch.contiguous_format)

    @backward.register_fake
    def _(grad: Tensor, x: Tensor, gate: Tensor) -> list[Tensor]:
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, gate)]

    def remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    def differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        return (grad, *backward(grad, *ctx.saved_tensors))

    forward.register_autograd(differentiate, setup_context=remember)
    return forward


def _why_not(*tensors: Tensor) -> str | None:
    for tensor in tensors:
        if tensor.dtype not in _FLOATS:
            return f"needs float16, bfloat16 or float32; got {tensor.dtype}"
    if tensors[0].shape[-1] > _MAX_WIDTH:
        return f"needs at most {_MAX_WIDTH} columns; got {tensors[0].shape[-1]}"
    return why_not_triton(*tensors)


def _why_not_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> str | None:
    return _why_not(x, shift, scale)


@modulate.register("triton", unless=_why_not_modulate)
def _modulate_triton(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    from .modulate_triton import modulate as compiled

    return compiled(x, shift, scale, eps)


def _why_not_modulate_cpu(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> str | None:
    for tensor in (x, shift, scale):
        if tensor.dtype != torch.float32:
            return f"needs float32; got {tensor.dtype}"
    return why_not_numba_threads(x, shift, scale)


@modulate.register("numba", unless=_why_not_modulate_cpu)
def _modulate_numba(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    from .modulate_cpu import modulate as compiled

    return compiled(x, shift, scale, eps)


def _why_not_gated(residual: Tensor, x: Tensor, gate: Tensor) -> str | None:
    return _why_not(residual, x, gate)


@gated_residual.register("triton", unless=_why_not_gated)
def _gated_triton(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    from .modulate_triton import gated_residual as compiled

    return compiled(residual, x, gate)

"""SimVQ after the search: gather, straight-through, both losses and the code usage in one op.

    simvq_loss(z (N, D), indices (N,), table (K, C), weight (D, C), bias (D,), beta) -> SimVQOutput

SimVQ (Zhu et al., arXiv 2411.02038) freezes a random table and learns one linear map W: code k is W c_k + b. Only the
codes that were chosen are ever mapped, so no (K, D) gradient exists: with G = d loss / d (chosen codes), (N, D),
dW = G^T table[indices] is one matrix product, without a scatter, and the same on every run.

Twins in Triton (simvq_loss_triton.py) and numba (simvq_loss_cpu.py) fuse what is not a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .available import no_autocast, why_not_numba_threads, why_not_triton
from .dispatch import Op

_MAX_WIDTH = 4096
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class SimVQOutput:
    """What `simvq_loss` returns.

    Attributes:
        quantized: (N, D) chosen codes; the gradient goes straight through to z.
        commitment: () float32, beta * mean |z - sg(q)|^2, pulls z to its code.
        codebook: () float32, mean |sg(z) - q|^2, pulls the code to z.
        usage: (K,) int64, how often each code was chosen.
    """

    quantized: Tensor
    commitment: Tensor
    codebook: Tensor
    usage: Tensor


@Op
def simvq_loss(
    z: Tensor,
    indices: Tensor,
    table: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    beta: float = 0.25,
    rotation: bool = False,
) -> SimVQOutput:
    """Quantize z with the chosen codes and compute SimVQ's two losses.

    Args:
        z: (N, D) inputs of the quantizer.
        indices: (N,) int64, the nearest codes, each below K, which the Triton twin does not check: it would wait for the GPU.
        table: (K, C) frozen table; it gets no gradient. C is D as a rule.
        weight, bias: (D, C) and (D,) of the learned map, as in `torch.nn.Linear`; bias may be None.
        beta: weight of the commitment loss; 0.25 in the SimVQ release.
        rotation: turn and scale the gradient of the quantized rows as the codes are turned and scaled against z, instead of
            passing it straight through (Fifty et al., arXiv 2410.06424).

    Returns:
        `SimVQOutput`. Losses are computed in float32, under autocast too; the quantized rows have z's dtype. Twins have no
        second derivative; the reference has.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit.
    """
    with no_autocast(z.device):
        code = F.linear(table.detach()[indices].float(), weight.float(), None if bias is None else bias.float())
    wide = z.float()
    straight = _rotated(wide, code.detach()) if rotation else wide + (code - wide).detach()
    commitment = beta * (wide - code.detach()).square().mean()
    codebook = (wide.detach() - code).square().mean()
    usage = torch.zeros(len(table), dtype=torch.int64, device=z.device).index_add_(0, indices, torch.ones_like(indices))
    return SimVQOutput(straight.to(z.dtype), commitment, codebook, usage)


def _rotated(z: Tensor, code: Tensor) -> Tensor:
    """Turn and stretch z (N, D) onto code (N, D) by a rotation that is constant to autograd (arXiv 2410.06424, 4.2)."""
    with torch.no_grad():
        source, target = (x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (z, code))
        e, q = z / source, code / target
        middle = F.normalize(e + q, dim=1)
    along, across = (z * middle).sum(1, keepdim=True), (z * e).sum(1, keepdim=True)
    return (z - 2 * along * middle + 2 * across * q) * (target / source)


@simvq_loss.checked
def _check(
    z: Tensor,
    indices: Tensor,
    table: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    beta: float = 0.25,
    rotation: bool = False,
) -> None:
    if z.ndim != 2 or table.ndim != 2 or not z.is_floating_point():
        raise ValueError(
            f"simvq_loss: expected z (N, D) and table (K, C), floating; got {tuple(z.shape)} {z.dtype}, {tuple(table.shape)}; "
            "reshape them"
        )
    wanted = (z.shape[1], table.shape[1])
    if tuple(weight.shape) != wanted or (bias is not None and tuple(bias.shape) != wanted[:1]):
        got = tuple(weight.shape), None if bias is None else tuple(bias.shape)
        raise ValueError(
            f"simvq_loss: expected weight {wanted} and bias {wanted[:1]} or None; got {got[0]}, {got[1]}; transpose?"
        )
    if tuple(indices.shape) != tuple(z.shape[:1]) or indices.dtype != torch.int64:
        raise ValueError(
            f"simvq_loss: expected indices ({len(z)},) int64; got {tuple(indices.shape)} {indices.dtype}; pass nearest_code's"
        )
    for name, tensor in (("indices", indices), ("table", table), ("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != z.device:
            raise ValueError(f"simvq_loss: expected {name} on {z.device} like z; got {tensor.device}; move it")


def library_op(backend: str, launch: Callable[..., tuple], launch_backward: Callable[..., tuple]) -> Callable[..., SimVQOutput]:
    """Make a differentiable `torch.library` op duotok::simvq_loss_<backend> and a function over it.

    Args:
        backend: name of the twin.
        launch: (z, indices, table, weight, bias) -> quantized like z, code (N, D) float32 (without rows if z is float32: it
            is `quantized` then), mean squared error () float32, usage (K,).
        launch_backward: (grad (N, D), z, code (N, D), pull () float32, rotation) -> dz like z, residual code - z (N, D)
            float32, where dz = grad, passed straight through or rotated, - pull * residual.
    """

    @torch.library.custom_op(f"duotok::simvq_loss_{backend}", mutates_args=())
    def forward(
        z: Tensor, indices: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None, beta: float, rotation: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        with no_autocast(z.device):
            quantized, code, error, usage = launch(z, indices, table, weight, bias)
        return quantized, beta * error, error, usage, code

    @torch.library.custom_op(f"duotok::simvq_loss_{backend}_backward", mutates_args=())
    def backward(grad: Tensor, z: Tensor, code: Tensor, pull: Tensor, rotation: bool) -> tuple[Tensor, Tensor]:
        return launch_backward(grad, z, code, pull, rotation)

    @forward.register_fake
    def _(
        z: Tensor, indices: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None, beta: float, rotation: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        loss, count = z.new_empty((), dtype=torch.float32), indices.new_empty(table.shape[0])
        code = z.new_empty((0 if z.dtype == torch.float32 else z.shape[0], z.shape[1]), dtype=torch.float32)
        return z.new_empty(z.shape), loss, torch.empty_like(loss), count, code

    @backward.register_fake
    def _(grad: Tensor, z: Tensor, code: Tensor, pull: Tensor, rotation: bool) -> tuple[Tensor, Tensor]:
        return z.new_empty(z.shape), z.new_empty(z.shape, dtype=torch.float32)

    def remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
        z, indices, table, weight, bias, ctx.beta, ctx.rotation = inputs
        ctx.set_materialize_grads(False)  # what was not used has no gradient, and then neither has the map
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(z, indices, table, output[0] if z.dtype == torch.float32 else output[4])

    def differentiate(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        z, indices, table, code = ctx.saved_tensors
        of_quantized = torch.zeros_like(z) if grads[0] is None else grads[0]
        of_commitment, of_codebook = (None if g is None else g.float() * (2.0 / max(z.numel(), 1)) for g in grads[1:3])
        pull = z.new_zeros((), dtype=torch.float32) if of_commitment is None else ctx.beta * of_commitment
        dz, residual = backward(of_quantized, z, code, pull, ctx.rotation)
        of_weight = of_bias = None
        if of_codebook is not None and ctx.needs_input_grad[3]:
            with no_autocast(z.device):
                of_weight = (residual.T @ table[indices].float() * of_codebook).to(ctx.dtypes[0])
        if of_codebook is not None and ctx.needs_input_grad[4]:
            of_bias = (residual.sum(0) * of_codebook).to(ctx.dtypes[1])
        return dz, None, None, of_weight, of_bias, None, None

    forward.register_autograd(differentiate, setup_context=remember)

    def run(*arguments: Tensor | float | None) -> SimVQOutput:
        return SimVQOutput(*forward(*arguments)[:4])

    return run


def _why_not_triton(
    z: Tensor,
    indices: Tensor,
    table: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    beta: float = 0.25,
    rotation: bool = False,
) -> str | None:
    for tensor in (z, table, weight, bias):
        if tensor is not None and tensor.dtype not in _FLOATS:
            return f"needs float16, bfloat16 or float32; got {tensor.dtype}"
    if z.shape[1] > _MAX_WIDTH:
        return f"needs at most {_MAX_WIDTH} columns; got {z.shape[1]}"
    return why_not_triton(z, indices, table, weight, bias)


@simvq_loss.register("triton", unless=_why_not_triton)
def _triton(
    z: Tensor,
    indices: Tensor,
    table: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    beta: float = 0.25,
    rotation: bool = False,
) -> SimVQOutput:
    from .simvq_loss_triton import simvq

    return simvq(z, indices, table, weight, bias, beta, rotation)


def _why_not_cpu(
    z: Tensor,
    indices: Tensor,
    table: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    beta: float = 0.25,
    rotation: bool = False,
) -> str | None:
    if z.dtype != torch.float32:
        return f"needs float32; got {z.dtype}"
    return why_not_numba_threads(z, indices, table, weight, bias)


@simvq_loss.register("numba", unless=_why_not_cpu)
def _numba(
    z: Tensor,
    indices: Tensor,
    table: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    beta: float = 0.25,
    rotation: bool = False,
) -> SimVQOutput:
    from .simvq_loss_cpu import simvq

    return simvq(z, indices, table, weight, bias, beta, rotation)

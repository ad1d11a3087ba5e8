"""adaLN modulation and the gated residual in Triton, forward and backward; see modulate.py.

A program owns `_CHUNK` frames of one item and walks over them, a whole row (D,) at a time: one read, one write. Backward
recomputes the row's mean and deviation from x, and adds up its frames' share of the gradients of shift, scale or gate in
registers, frame by frame; the chunks' shares (B, T / _CHUNK, D) are then added in order, so the sums never change from run
to run. `_CHUNK` is part of the result and no tuning knob.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from .modulate import gated_library_op, modulate_library_op
from .report import Compilable

_CHUNK = 16
_COLUMNS_PER_THREAD = 8


@triton.jit
def _normalise(row, inside, width, eps):
    """The row minus its mean over its deviation, and 1 / deviation."""
    mean = tl.sum(row, 0) / width
    centred = tl.where(inside, row - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    return centred * inverse, inverse


@triton.jit
def _modulate(x, shift, scale, y, frames, width, eps, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * CHUNK
    column = tl.arange(0, BLOCK)
    inside = column < width
    add = tl.load(shift + item * width + column, mask=inside, other=0.0).to(tl.float32)
    factor = 1.0 + tl.load(scale + item * width + column, mask=inside, other=0.0).to(tl.float32)
    for i in range(tl.minimum(frames - first, CHUNK)):
        at = (item * frames + first + i) * width + column
        normed, _ = _normalise(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), inside, width, eps)
        tl.store(y + at, (normed * factor + add).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _modulate_backward(
    grad, x, scale, dx, dshift, dscale, frames, width, chunks, eps, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    item = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * CHUNK
    column = tl.arange(0, BLOCK)
    inside = column < width
    factor = 1.0 + tl.load(scale + item * width + column, mask=inside, other=0.0).to(tl.float32)
    of_shift = tl.zeros([BLOCK], tl.float32)
    of_scale = tl.zeros([BLOCK], tl.float32)
    for i in range(tl.minimum(frames - first, CHUNK)):
        at = (item * frames + first + i) * width + column
        normed, inverse = _normalise(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), inside, width, eps)
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        of_shift += g
        of_scale += g * normed
        g = g * factor
        along = tl.sum(g * normed, 0) / width
        value = inverse * (g - tl.sum(g, 0) / width - normed * along)
        tl.store(dx + at, value.to(dx.dtype.element_ty), mask=inside)
    part = (item * chunks + tl.program_id(0)) * width + column
    tl.store(dshift + part, of_shift, mask=inside)
    tl.store(dscale + part, of_scale, mask=inside)


@triton.jit
def _gated(residual, x, gate, y, frames, width, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * CHUNK
    column = tl.arange(0, BLOCK)
    inside = column < width
    factor = tl.load(gate + item * width + column, mask=inside, other=0.0).to(tl.float32)
    for i in range(tl.minimum(frames - first, CHUNK)):
        at = (item * frames + first + i) * width + column
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * factor
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(grad, x, gate, dx, dgate, frames, width, chunks, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    item = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * CHUNK
    column = tl.arange(0, BLOCK)
    inside = column < width
    factor = tl.load(gate + item * width + column, mask=inside, other=0.0).to(tl.float32)
    of_gate = tl.zeros([BLOCK], tl.float32)
    for i in range(tl.minimum(frames - first, CHUNK)):
        at = (item * frames + first + i) * width + column
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        of_gate += g * tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, (g * factor).to(dx.dtype.element_ty), mask=inside)
    tl.store(dgate + (item * chunks + tl.program_id(0)) * width + column, of_gate, mask=inside)


def _launch(kernel: triton.JITFunction, x: Tensor, *arguments: Tensor | int | float) -> None:
    """Start a kernel over the frames of x (B, T, D)."""
    items, frames, width = x.shape
    block, warps = _block(width)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        kernel[(triton.cdiv(frames, _CHUNK), items)](*arguments, CHUNK=_CHUNK, BLOCK=block, num_warps=warps)


def _block(width: int) -> tuple[int, int]:
    block = max(triton.next_power_of_2(width), 32)
    return block, min(max(1, block // (32 * _COLUMNS_PER_THREAD)), 16)


def _shares(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], triton.cdiv(x.shape[1], _CHUNK), x.shape[2]), dtype=torch.float32)


def _forward(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    if x.numel():
        _launch(_modulate, x, x, shift.contiguous(), scale.contiguous(), y, x.shape[1], x.shape[2], eps)
    return y


def _backward(grad: Tensor, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> list[Tensor]:
    grad, x = grad.contiguous(), x.contiguous()
    dx, dshift, dscale = torch.empty_like(x), _shares(x), _shares(x)
    if x.numel():
        sizes = (x.shape[1], x.shape[2], dshift.shape[1], eps)
        _launch(_modulate_backward, x, grad, x, scale.contiguous(), dx, dshift, dscale, *sizes)
    return [dx, dshift.sum(1).to(shift.dtype), dscale.sum(1).to(scale.dtype)]


def _gated_forward(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    residual, x = residual.contiguous(), x.contiguous()
    y = torch.empty_like(residual)
    if x.numel():
        _launch(_gated, x, residual, x, gate.contiguous(), y, x.shape[1], x.shape[2])
    return y


def _gated_gradients(grad: Tensor, x: Tensor, gate: Tensor) -> list[Tensor]:
    grad, x = grad.contiguous(), x.contiguous()
    dx, dgate = torch.empty_like(x), _shares(x)
    if x.numel():
        sizes = (x.shape[1], x.shape[2], dgate.shape[1])
        _launch(_gated_backward, x, grad, x, gate.contiguous(), dx, dgate, *sizes)
    return [dx, dgate.sum(1).to(gate.dtype)]


modulate = modulate_library_op("triton", _forward, _backward)
gated_residual = gated_library_op("triton", _gated_forward, _gated_gradients)


def ahead_of_time() -> list[Compilable]:
    """List the kernels for the report: a batch of 64 x 750 frames of 1,536, half precision outside."""
    items, frames, width = 64, 750, 1536
    block, warps = _block(width)
    pointers = {name: "*bf16" for name in ("x", "shift", "scale", "y", "grad", "dx", "residual", "gate")}
    types = pointers | {name: "*fp32" for name in ("dshift", "dscale", "dgate")}
    types |= {"frames": "i32", "width": "i32", "chunks": "i32", "eps": "fp32"}
    arrays = {_modulate: 2, _modulate_backward: 3, _gated: 3, _gated_backward: 3}
    names = ("modulate", "modulate backward", "gated residual", "gated residual backward")
    return [
        Compilable(
            name=name,
            op="modulate",
            kernel=kernel,
            signature={argument: types[argument] for argument in kernel.arg_names if argument in types},
            constexprs={"CHUNK": _CHUNK, "BLOCK": block},
            num_warps=warps,
            num_stages=3,
            units=items * frames * width,
            units_per_iteration=width / (32 * warps),
            bytes_moved=2 * arrays[kernel] * items * frames * width,
            problem=f"{items} x {frames} x {width} bf16",
            aligned=("width",),
            anchor=("STG", block // (32 * warps * 8)),
        )
        for name, kernel in zip(names, arrays, strict=True)
    ]

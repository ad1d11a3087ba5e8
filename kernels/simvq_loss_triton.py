"""SimVQ's gather, map, losses and usage in one Triton pass, and the row-local part of its backward; see simvq_loss.py.

Forward, a program owns `_ROWS` rows and a block of columns: it gathers the chosen rows of the table, maps them on the tensor
cores (three tf32 products, which is float32-grade), and leaves quantized rows, the squared error of each row and the counts.
Counts are integer atomics, errors are stored per row and added by torch in a fixed order: the outcome does not depend on
the order of programs nor on their number of rows.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from .report import Compilable
from .simvq_loss import library_op

_ROWS, _INNER, _MAX_COLUMNS, _WARPS = 64, 16, 128, 8
_ROW_ELEMENTS = 4096  # of the backward pass, for each program


@triton.jit
def _forward(
    z,
    indices,
    table,
    weight,
    bias,
    quantized,
    code,
    errors,
    usage,
    rows,
    width,
    table_width,
    HAS_BIAS: tl.constexpr,
    KEEP_CODE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here = row < rows
    inside = here[:, None] & (column < width)[None, :]
    chosen = tl.load(indices + row, mask=here, other=0)
    mapped = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, table_width, INNER):
        k = start + tl.arange(0, INNER)
        valid = k < table_width
        codes = tl.load(table + chosen[:, None] * table_width + k[None, :], mask=here[:, None] & valid[None, :], other=0.0).to(
            tl.float32
        )
        linear = tl.load(
            weight + column[None, :] * table_width + k[:, None], mask=(column < width)[None, :] & valid[:, None], other=0.0
        ).to(tl.float32)
        mapped = tl.dot(codes, linear, mapped, input_precision="tf32x3")
    if HAS_BIAS:
        mapped += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    at = row[:, None] * width + column[None, :]
    apart = tl.load(z + at, mask=inside, other=0.0).to(tl.float32) - mapped
    apart = tl.where(inside, apart, 0.0)
    tl.store(quantized + at, mapped.to(quantized.dtype.element_ty), mask=inside)
    if KEEP_CODE:
        tl.store(code + at, mapped, mask=inside)
    tl.store(errors + tl.program_id(1) * rows.to(tl.int64) + row, tl.sum(apart * apart, 1), mask=here)
    if tl.program_id(1) == 0:
        tl.atomic_add(usage + chosen, tl.full([ROWS], 1, tl.int64), mask=here, sem="relaxed")


@triton.jit
def _unit(x):
    """Rows over their lengths, and the lengths, at least 1e-12."""
    length = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)
    return x / length[:, None], length


@triton.jit
def _backward(
    grad, z, code, pull, dz, residual, rows, width, ROTATION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    source = tl.load(z + at, mask=inside, other=0.0).to(tl.float32)
    target = tl.load(code + at, mask=inside, other=0.0)
    if ROTATION:
        e, source_length = _unit(source)
        q, target_length = _unit(target)
        middle, _ = _unit(e + q)
        g = g - 2.0 * tl.sum(g * middle, 1)[:, None] * middle + 2.0 * tl.sum(g * q, 1)[:, None] * e
        g = g * (target_length / source_length)[:, None]
    apart = target - source
    tl.store(dz + at, (g - tl.load(pull) * apart).to(dz.dtype.element_ty), mask=inside)
    tl.store(residual + at, apart, mask=inside)


def _columns(width: int) -> int:
    return min(max(triton.next_power_of_2(width), 16), _MAX_COLUMNS)


def launch(
    z: Tensor, indices: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None, rows_per_program: int = _ROWS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start the forward kernel; no result depends on `rows_per_program`."""
    z, indices, table, weight = (tensor.contiguous() for tensor in (z, indices, table, weight))
    rows, width = z.shape
    columns = _columns(width)
    quantized = torch.empty_like(z)
    keep = z.dtype != torch.float32
    code = torch.empty(z.shape if keep else (0, width), dtype=torch.float32, device=z.device)
    errors = torch.empty((triton.cdiv(width, columns), rows), dtype=torch.float32, device=z.device)
    usage = torch.zeros(len(table), dtype=torch.int64, device=z.device)
    if rows:
        grid = (triton.cdiv(rows, rows_per_program), errors.shape[0])
        with torch.cuda.device(z.device) if z.is_cuda else contextlib.nullcontext():
            _forward[grid](
                z, indices, table, weight, weight if bias is None else bias.contiguous(), quantized, code, errors, usage,
                rows, width, table.shape[1], HAS_BIAS=bias is not None, KEEP_CODE=keep, ROWS=rows_per_program,
                COLUMNS=columns, INNER=_INNER, num_warps=_WARPS, num_stages=2,
            )  # fmt: skip
    return quantized, code, errors.sum() / z.numel(), usage


def launch_backward(grad: Tensor, z: Tensor, code: Tensor, pull: Tensor, rotation: bool) -> tuple[Tensor, Tensor]:
    """Start the backward kernel."""
    grad, z, code = (tensor.contiguous() for tensor in (grad, z, code))
    dz, residual = torch.empty_like(z), torch.empty_like(code)
    if z.numel():
        columns = triton.next_power_of_2(z.shape[1])
        rows = max(1, _ROW_ELEMENTS // columns)
        with torch.cuda.device(z.device) if z.is_cuda else contextlib.nullcontext():
            _backward[(triton.cdiv(len(z), rows),)](
                grad, z, code, pull, dz, residual, *z.shape, ROTATION=rotation, ROWS=rows, COLUMNS=columns, num_warps=8
            )
    return dz, residual


simvq = library_op("triton", launch, launch_backward)


def ahead_of_time() -> list[Compilable]:
    """List the kernels for the report: 65,536 rows of 128, the table of the paper, float32."""
    rows, width, columns = 65_536, 128, _columns(128)
    types = {name: "*fp32" for name in ("z", "table", "weight", "bias", "quantized", "code", "errors", "grad", "pull")}
    types |= {"dz": "*fp32", "residual": "*fp32", "indices": "*i64", "usage": "*i64"}
    types |= {"rows": "i32", "width": "i32", "table_width": "i32"}
    backward_rows = _ROW_ELEMENTS // width
    forward_constants = {"HAS_BIAS": True, "KEEP_CODE": False, "ROWS": _ROWS, "COLUMNS": columns, "INNER": _INNER}
    forms = [("forward", _forward, forward_constants, _WARPS, 3, 2.0 * rows * width * width * 3 * 2, _ROWS * columns / 256)]
    for name, rotation in (("backward", False), ("backward rotation", True)):
        constants = {"ROTATION": rotation, "ROWS": backward_rows, "COLUMNS": width}
        forms.append((name, _backward, constants, 8, 5, 0.0, backward_rows * width / 256))
    return [
        Compilable(
            name=name,
            op="simvq_loss",
            kernel=kernel,
            signature={argument: types[argument] for argument in kernel.arg_names if argument in types},
            constexprs=constants,
            num_warps=warps,
            num_stages=2,
            units=rows * width,
            units_per_iteration=per_thread,
            bytes_moved=4 * arrays * rows * width,
            flops=flops,  # tf32 runs at half the rate of fp16, three times over
            problem=f"{rows} x {width} fp32",
            aligned=("width", "table_width"),
        )
        for name, kernel, constants, warps, arrays, flops, per_thread in forms
    ]

"""Gaussian replacement in Triton: one kernel, forward and backward; the layout of randomness is in replace_noise.py.

A program walks over `ROWS` rows of `BLOCK` columns. The row's word is drawn first, the same in all threads, so a kept row
costs one Philox call and a copy. A replaced row is not even read. Four columns share one Philox call. Addresses are 64-bit.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from .philox import COSINE, LOG, SINE
from .replace_noise import library_op, threshold
from .report import Compilable

_LOG = tl.constexpr(LOG)
_SINE = tl.constexpr(SINE)
_COSINE = tl.constexpr(COSINE)

_ROWS = 8
_COLUMNS_PER_THREAD = 8
_MAX_BLOCK = 2048


@triton.jit
def _polynomial(x, coefficients: tl.constexpr, DEGREE: tl.constexpr):
    """Horner's rule, the lowest power first."""
    value = x * coefficients[DEGREE] + coefficients[DEGREE - 1]
    for i in tl.static_range(DEGREE - 1):
        value = value * x + coefficients[DEGREE - 2 - i]
    return value


@triton.jit
def _normal_pair(word0, word1):
    """Box-Muller of two words, with the polynomials of philox.py."""
    # [1, 2) with the upper 23 bits of the word as its fraction; minus 1 - 2^-24 it is u, exactly.
    u = ((word0 >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 0.999999940395355224609375
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    t = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    squared = exponent.to(tl.float32) * -1.3862943611198906 + t * _polynomial(t, _LOG, 8)
    radius = squared * tl.rsqrt(squared)
    # The lower 30 bits as a signed fraction of a quarter turn; the bits below the 23 used are 100000000, a half.
    f = (((word1 & 0xFFFFFE00) | 0x100) << 2).to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10
    sine = f * _polynomial(f * f, _SINE, 3)
    cosine = _polynomial(f * f, _COSINE, 4)
    turned = word1 + 0x20000000  # bits 31 and 30: the quarter turn nearest to the angle
    odd = (turned & 0x40000000) != 0
    x = tl.where(odd, sine, cosine).to(tl.uint32, bitcast=True) ^ ((turned + 0x40000000) & 0x80000000)
    y = tl.where(odd, cosine, sine).to(tl.uint32, bitcast=True) ^ (turned & 0x80000000)
    return radius * x.to(tl.float32, bitcast=True), radius * y.to(tl.float32, bitcast=True)


@triton.jit
def _interleave(a, b, c, d):
    """a, b, c, d (n,) -> (4 n,): a0 b0 c0 d0 a1 ... All four lie in one thread, so nothing moves."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [4 * a.shape[0]])


@triton.jit
def _noise(row, step, columns, stream, key0, key1):
    """Standard normals of one row."""
    zero = columns * 0
    a, b, c, d = tl.random.philox_impl(zero + row, zero + step, columns, zero + stream, key0, key1)
    n0, n1 = _normal_pair(a, b)
    n2, n3 = _normal_pair(c, d)
    return _interleave(n0, n1, n2, n3)


@triton.jit(do_not_specialize=["rows"])
def _replace(
    x,
    y,
    seed,
    rows: tl.int64,
    width,
    threshold: tl.int64,
    sigma,
    PER_ELEMENT: tl.constexpr,
    ADDITIVE: tl.constexpr,
    BACKWARD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    key = tl.load(seed)
    step64 = tl.load(seed + 1)
    key0 = key.to(tl.uint32)
    key1 = (key >> 32).to(tl.uint32)
    step = step64.to(tl.uint32)
    stream = (2 * (step64 >> 32)).to(tl.uint32)
    first = tl.program_id(0).to(tl.int64) * ROWS
    start = tl.program_id(1) * BLOCK
    column = start + tl.arange(0, BLOCK)
    inside = column < width
    quads = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zero = tl.zeros([1], tl.uint32)
    for i in range(tl.minimum(rows - first, ROWS).to(tl.int32)):
        row = first + i
        source = x + row * width + column
        target = y + row * width + column
        counter = row.to(tl.uint32)
        if PER_ELEMENT:
            filled = quads * 0
            a, b, c, d = tl.random.philox_impl(filled + counter, filled + step, quads, filled + stream, key0, key1)
            replaced = _interleave(a, b, c, d).to(tl.int64) < threshold
            kept = tl.load(source, mask=inside, other=0.0)
            if BACKWARD:
                value = tl.where(replaced, 0.0, kept)
            else:
                drawn = (sigma * _noise(counter, step, quads, stream + 1, key0, key1)).to(kept.dtype)
                value = tl.where(replaced, kept + drawn if ADDITIVE else drawn, kept)
            tl.store(target, value.to(y.dtype.element_ty), mask=inside)
        else:
            word, _, _, _ = tl.random.philox_impl(zero + counter, zero + step, zero, zero + stream, key0, key1)
            if tl.max(word.to(tl.int64), 0) < threshold:
                if BACKWARD:
                    tl.store(target, tl.zeros([BLOCK], y.dtype.element_ty), mask=inside)
                else:
                    drawn = (sigma * _noise(counter, step, quads, stream + 1, key0, key1)).to(y.dtype.element_ty)
                    if ADDITIVE:
                        drawn = tl.load(source, mask=inside, other=0.0) + drawn
                    tl.store(target, drawn.to(y.dtype.element_ty), mask=inside)
            else:
                tl.store(target, tl.load(source, mask=inside, other=0.0), mask=inside)


def _block(width: int) -> tuple[int, int]:
    """Columns and warps of a program."""
    block = min(max(triton.next_power_of_2(width), 32), _MAX_BLOCK)
    return block, max(1, block // (32 * _COLUMNS_PER_THREAD))


def launch(
    x: Tensor,
    p: float,
    sigma: float,
    seed: Tensor,
    per_element: bool,
    additive: bool,
    backward: bool,
    rows_per_program: int = _ROWS,
    block: int | None = None,
) -> Tensor:
    """Start the kernel on x (..., D); no result depends on `rows_per_program` and `block`."""
    source = x.contiguous()
    y = torch.empty_like(source)
    if source.numel() == 0:
        return y
    width = source.shape[-1]
    rows = source.numel() // width
    chosen, warps = _block(width)
    block = block or chosen
    grid = (triton.cdiv(rows, rows_per_program), triton.cdiv(width, block))
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        _replace[grid](
            source, y, seed, rows, width, threshold(p), sigma, per_element, additive, backward,
            ROWS=rows_per_program, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return y


forward = library_op("triton", launch)


def ahead_of_time() -> list[Compilable]:
    """List the kernel's forms for the report: 65,536 frames of 512, half precision outside."""
    rows, width = 65_536, 512
    block, warps = _block(width)
    types = {"x": "*bf16", "y": "*bf16", "seed": "*i64", "rows": "i64", "width": "i32", "threshold": "i64", "sigma": "fp32"}
    forms = {
        "frames": (False, False, False),
        "frames additive": (False, True, False),
        "frames backward": (False, False, True),
        "elements": (True, False, False),
        "elements backward": (True, False, True),
    }
    return [
        Compilable(
            name=name,
            op="replace_noise",
            kernel=_replace,
            signature=types,
            constexprs={
                "PER_ELEMENT": per_element, "ADDITIVE": additive, "BACKWARD": backward, "ROWS": _ROWS, "BLOCK": block
            },
            num_warps=warps,
            num_stages=3,
            units=rows * width,
            units_per_iteration=block / (32 * warps),
            bytes_moved=2 * 2 * rows * width,
            problem=f"{rows} x {width} bf16",
            aligned=("width",),
        )
        for name, (per_element, additive, backward) in forms.items()
    ]  # fmt: skip

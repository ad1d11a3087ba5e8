"""The GPU twin of nearest_code: fp16 tensor cores propose groups of codes, float64 decides.

    search(z (N, D), codes (K, D), form, fast) -> index (N,) int64, examined (N,) int32

Three kernels: `_scale_rows` centres and scales z; `_coarse` writes the largest score of every group of 32 or 64 codes, at most
G = K / 32 floats a row; `_decide` reads those and measures the groups that may hold the winner. The scores, N x K, never
exist, and nothing depends on how rows and codes are split among programs.

Scores. With every vector moved by the codebook's mean and scaled by powers of two (both leave the arg-min alone), the
nearest code has the largest S = z.c - t |c|^2 / 2, where t is the row's own scale. The norm is 16 more columns of the
product: |c|^2 / 2 < 2^15 in three fp16 parts, against t three times.

Bound. |c| < 256 and |z_i| <= 8 after scaling. Rounding to fp16 changes an element by at most 2^-11 of it or 2^-25, so the
product by (2^-10 + 2^-22) |z||c| + 2^-24 sqrt(P) (|z| + |c|) / 2 for P columns; the three parts of the norm leave 2^-33 of it
and 2^-25. Centring in float32 adds 2^-23 of either. A tensor core adds with truncation; allowing 2^-22 of the magnitude
|z||c| + t |c|^2 / 2 for each of P + 16 additions is four times what float32 rounding would give, and more than what was
measured on V100 to H100 (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021; Khattak and Mikaitis,
arXiv 2509.07670). `_error` adds these up: |s - S| <= E(|c|), which grows with |c|.

Proof that the winner is kept. Let m_g be a group's largest s and r_g its longest code. `lower` = max m_g - E(r_g) is a lower
bound of the best S. The winner's group has m_g + E(r_g) >= S >= lower. The scores of all groups that do are computed again,
from the same fp16 numbers but added in float32, for which E holds as well; `lower` rises to the largest s - E(r_g) there, and
every code with s + E(r_g) >= lower is measured in float64, in the order of summation that nearest_code.py lays down. A row
whose scale leaves fp16 has `lower` = -inf, and the whole codebook is measured.

Sources of ideas: flash-kmeans (arXiv 2603.09229) streams tiles of codes past resident rows; that kernel tracks the index in
the loop, at 8.6 instructions for each (row, code) pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .report import Compilable

_NORMS = 16  # columns of the norm: three are used, a tensor core takes 16
_WORKSPACE = 1 << 23  # group maxima in flight: 32 MB, which stays in the second-level cache of an H100
_ELEMENTS = 2048  # scaled by a program of `_scale_rows`
_PROGRAMS = 264  # coarse programs that fill a GPU twice over (H100: 132 SMs); fewer rows split the codebook


@dataclass(frozen=True)
class Plan:
    """Block sizes of the coarse kernel.

    Attributes:
        columns: P, the width in fp16: a power of two up to 256, then a multiple of 64.
        chunk: columns multiplied at a time.
        rows, codes: of a block; codes / 4 are a group.
        quad: whether a group is what one thread of a tensor-core tile holds of a row before Blackwell (columns 2q, 2q + 1
            of every 8), so that a maximum needs no exchange between threads; else consecutive columns.
        warps, stages: launch options.
    """

    columns: int
    chunk: int
    rows: int
    codes: int
    quad: bool
    warps: int
    stages: int

    @property
    def group(self) -> int:
        """Codes in a group."""
        return self.codes // 4

    @property
    def depth(self) -> int:
        """Columns of a group's codes that `_decide` reads at a time."""
        return min(self.columns, 32 if self.columns <= 128 else 64)

    @property
    def decide_warps(self) -> int:
        """Warps of `_decide`: one needs no barrier for its many small reductions, wide codes want more loads in flight."""
        return 1 if self.columns <= 128 else 2


def plan(width: int, capability: int) -> Plan:
    """Choose the blocks for codes of a width on sm_`capability`."""
    warpgroups = 90 <= capability < 120  # other chips have the small tensor-core instructions, most of them 99 KB of memory
    resident = width <= 128  # wider rows are read again, chunk by chunk, for every tile of codes: measured, H100
    columns = max(16, triton.next_power_of_2(width)) if resident else -(-width // 64) * 64
    chunk = columns if resident else 64
    if not warpgroups:
        return Plan(columns, chunk, 128, 128, True, 4 if columns <= 64 else 8, 2 if chunk == 128 else 3)
    quad = capability < 100  # Blackwell's tensor memory gives a thread a whole row
    return Plan(columns, chunk, 128, 256, quad, 8, 2 if chunk == 128 else 3)


def plan_for(codes: Tensor) -> Plan:
    """Choose the blocks for codes (K, D) where they are; a CPU is the interpreter, which plays sm_90."""
    capability = torch.cuda.get_device_capability(codes.device) if codes.is_cuda else (9, 0)
    return plan(codes.shape[1], 10 * capability[0] + capability[1])


def prepare_form(codes: Tensor) -> list[Tensor]:
    """Prepare codes (K, D) float32: [frame (D + 1,), tiles (K', P) fp16, norms (K', 16) fp16, peak (K' / group,)].

    K' fills the last tile with codes of infinite norm. The frame is the mean and, last, the power of two that brings the
    longest centred code's length into [64, 256).
    """
    blocks = plan_for(codes)
    (size, width), fill = codes.shape, -len(codes) % blocks.codes
    mean = codes.mean(0, dtype=torch.float64).float()  # sums and differences of large codes leave float32
    centred = codes.double() - mean
    length = torch.linalg.vector_norm(centred, dim=1).amax()
    exponent = (7 - torch.frexp(length)[1]).clamp(-126, 120)
    scale = torch.ldexp(torch.ones_like(mean[:1]), exponent)
    centred = torch.nn.functional.pad(centred * scale, (0, blocks.columns - width, 0, fill))
    squares = centred.square().sum(1)
    half = torch.cat((-0.5 * squares[:size], squares.new_full((fill,), -torch.inf)))
    norms = codes.new_zeros(size + fill, _NORMS, dtype=torch.float16)
    for part in range(3):
        norms[:, part] = half.half()
        half = (half - norms[:, part].double()).where(half.isfinite(), 0.0)
    peak = squares.sqrt().view(-1, blocks.group).amax(1).float()
    return [torch.cat((mean, scale)), _tiled(centred.half(), blocks), _tiled(norms, blocks), peak]


def _tiled(matrix: Tensor, blocks: Plan) -> Tensor:
    """Order the rows of every tile so that a group of consecutive codes lies where one thread reduces it."""
    if not blocks.quad:
        return matrix.contiguous()
    split = matrix.view(-1, 4, blocks.codes // 8, 2, matrix.shape[1])  # (tiles, quad lane, step of 8, 2, columns)
    return split.transpose(1, 2).reshape(matrix.shape).contiguous()


def search(z: Tensor, codes: Tensor, form: list[Tensor], fast: bool = False) -> tuple[Tensor, Tensor]:
    """Find the nearest codes.

    Args:
        z: (N, D) float32, float16 or bfloat16, of any strides.
        codes: (K, D) float32, contiguous.
        form: what `prepare_form` made of the codes; empty: it is made now.
        fast: take the best score of the group with the largest one, save where a row is out of fp16's range.

    Returns:
        (N,) int64 indices, and (N,) int32 how many groups were measured (1: the bound left no doubt).
    """
    index = torch.empty(len(z), dtype=torch.int64, device=z.device)
    examined = torch.empty(len(z), dtype=torch.int32, device=z.device)
    blocks, form = plan_for(codes), form or prepare_form(codes)
    most = max(1, _WORKSPACE // len(form[3]) // blocks.rows) * blocks.rows
    with torch.cuda.device_of(z):
        for begin in range(0, len(z), most):
            rows = slice(begin, begin + most)
            _search_rows(z[rows], codes, form, blocks, fast, index[rows], examined[rows])
    return index, examined


def _search_rows(
    z: Tensor, codes: Tensor, form: list[Tensor], blocks: Plan, fast: bool, index: Tensor, examined: Tensor
) -> None:
    """Search for rows whose group maxima fit the workspace, and write their `index` and `examined`."""
    (count, width), (frame, tiles, norms, peak) = z.shape, form
    programs, steps = -(-count // blocks.rows), len(tiles) // blocks.codes
    padded, groups = programs * blocks.rows, len(peak)
    rows = torch.empty(padded, blocks.columns, dtype=torch.float16, device=z.device)
    row_norms = torch.empty(padded, _NORMS, dtype=torch.float16, device=z.device)
    scale, length = torch.empty(2, padded, device=z.device)
    best = torch.empty(padded, groups, device=z.device)
    share = -(-steps // min(steps, -(-_PROGRAMS // programs)))
    vector = triton.next_power_of_2(blocks.columns)
    together = max(1, min(blocks.rows, _ELEMENTS // vector))
    _scale_rows[(padded // together,)](
        z, frame, rows, row_norms, scale, length, *z.stride(), count, width,
        P=blocks.columns, ROWS=together, VECTOR=vector, num_warps=4,
    )  # fmt: skip
    _coarse[(programs, -(-steps // share))](
        rows, row_norms, tiles, norms, best, groups, share, steps,
        P=blocks.columns, CHUNK=blocks.chunk, ROWS=blocks.rows, CODES=blocks.codes, QUAD=blocks.quad,
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip
    # No fused multiply-add: the exact distance has the same bits as on a CPU.
    _decide[(count,)](
        z, codes, rows, tiles, norms, best, peak, scale, length, index, examined, *z.stride(), width, len(codes), groups,
        P=blocks.columns, DEPTH=blocks.depth, GROUP=blocks.group, QUAD=blocks.quad, FAST=fast,
        num_warps=blocks.decide_warps, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count"])
def _scale_rows(
    z_ptr, frame_ptr, rows_ptr, norms_ptr, scale_ptr, length_ptr, stride_row, stride_column, count, width,
    P: tl.constexpr, ROWS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Rows in fp16: scale t, or 0 if a row is out of range (its fp16 form is 0), or -1 if it is not finite."""
    row, column = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, VECTOR)
    inside = (row < count)[:, None] & (column < width)[None, :]
    z_ptr += row[:, None] * stride_row + column.to(tl.int64)[None, :] * stride_column
    z = tl.load(z_ptr, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(frame_ptr + column, mask=column < width, other=0.0)
    finite = tl.max((tl.abs(z) < float("inf")).to(tl.int32) ^ 1, 1) == 0
    x = tl.where(inside, (z - mean[None, :]) * tl.load(frame_ptr + width), 0.0)
    fits = tl.max((tl.abs(x) < float("inf")).to(tl.int32) ^ 1, 1) == 0
    largest = tl.max(tl.where(tl.abs(x) < float("inf"), tl.abs(x), 0.0), 1)
    exponent = tl.maximum((largest.to(tl.int32, bitcast=True) >> 23) - 126, 3)  # largest < 2^exponent
    fits = fits & (exponent <= 27)  # t >= 2^-24 is a number in fp16
    t = tl.where(fits, ((130 - exponent) << 23).to(tl.float32, bitcast=True), 1.0)
    x = tl.where(fits[:, None], x * t[:, None], 0.0)
    tl.store(rows_ptr + row[:, None] * P + column[None, :], x.to(tl.float16), mask=(column < P)[None, :])
    part = tl.arange(0, 16)
    tl.store(norms_ptr + row[:, None] * 16 + part[None, :], tl.where((part < 3)[None, :], t[:, None], 0.0).to(tl.float16))
    tl.store(scale_ptr + row, tl.where(finite, tl.where(fits, t, 0.0), -1.0))
    tl.store(length_ptr + row, tl.sqrt(tl.sum(x * x, 1)))


@triton.jit(do_not_specialize=["share"])
def _coarse(
    rows_ptr, row_norms_ptr, codes_ptr, code_norms_ptr, best_ptr, groups, share, tiles,
    P: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, CODES: tl.constexpr, QUAD: tl.constexpr,
):  # fmt: skip
    """Largest score of every group of CODES / 4 codes for ROWS rows, over `share` tiles of codes. No mask: all is padded."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * share
    code, depth, part, lane = tl.arange(0, CODES), tl.arange(0, CHUNK), tl.arange(0, 16), tl.arange(0, 4)
    row_norms = tl.load(row_norms_ptr + row[:, None] * 16 + part[None, :])
    row_pointers = rows_ptr + row[:, None] * P + depth[None, :]
    if P == CHUNK:
        rows = tl.load(row_pointers)
    # Pointers that move with the tile: a thread then needs one of them, the rest are constants away.
    start = first.to(tl.int64) * CODES
    norm_pointers = code_norms_ptr + start * 16 + code[None, :] * 16 + part[:, None]
    pointers = codes_ptr + start * P + code[None, :] * P + depth[:, None]
    best_pointers = best_ptr + row[:, None] * groups + first * 4 + lane[None, :]
    for _ in range(first, tl.minimum(first + share, tiles)):
        scores = tl.dot(row_norms, tl.load(norm_pointers))
        if P == CHUNK:
            scores = tl.dot(rows, tl.load(pointers), scores)
        else:
            for chunk in range(0, P, CHUNK):
                scores = tl.dot(tl.load(row_pointers + chunk), tl.load(pointers + chunk), scores)
        if QUAD:
            best = tl.max(tl.max(tl.reshape(scores, (ROWS, CODES // 8, 4, 2)), 3), 1)
        else:
            best = tl.max(tl.reshape(scores, (ROWS, 4, CODES // 4)), 2)
        tl.store(best_pointers, best)
        norm_pointers += CODES * 16
        pointers += CODES * P
        best_pointers += 4


@triton.jit
def _error(length, longest, scale, P: tl.constexpr):
    """E of the module's docstring, for a row's length and scale and the longest code of a group."""
    added: tl.constexpr = (P + 24) * 2.0**-22
    rounded: tl.constexpr = 1.01 * 2.0**-10
    tiny: tl.constexpr = 2.0**-24 * P**0.5
    half = 0.5 * scale * longest * longest
    return (rounded + added) * length * longest + added * half + tiny * (length + longest + 1.0)


@triton.jit
def _exact(z_ptr, code_ptr, stride_column, width):
    """Squared distance in float64: 64 sums over columns 64 apart, folded in halves."""
    lane = tl.arange(0, 64)
    sums = tl.zeros((64,), tl.float64)
    for start in range(0, width, 64):
        column = start + lane
        z = tl.load(z_ptr + column.to(tl.int64) * stride_column, mask=column < width, other=0.0).to(tl.float32).to(tl.float64)
        difference = z - tl.load(code_ptr + column, mask=column < width, other=0.0).to(tl.float64)
        sums += difference * difference
    for fold in tl.static_range(5):
        sums = tl.sum(tl.reshape(sums, (2, 32 >> fold)), 0)
    return tl.sum(sums, 0)


@triton.jit
def _decide(
    z_ptr, codes_ptr, rows_ptr, tiles_ptr, norms_ptr, best_ptr, peak_ptr, scale_ptr, length_ptr, index_ptr, examined_ptr,
    stride_row, stride_column, width, size, groups,
    P: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, QUAD: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """One row: measure the groups within the bound, in order, and keep the lowest of the nearest codes."""
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * stride_row
    best_ptr += row * groups
    scale, length = tl.load(scale_ptr + row), tl.load(length_ptr + row)
    many = tl.arange(0, 512)
    lower = tl.full((), float("-inf"), tl.float32)
    for start in range(0, groups, 512):
        here = start + many < groups
        best = tl.load(best_ptr + start + many, mask=here, other=float("-inf"))
        longest = tl.load(peak_ptr + start + many, mask=here, other=0.0)
        if not FAST:
            best -= _error(length, longest, scale, P)
        lower = tl.maximum(lower, tl.max(best, 0))
    lower = tl.where(scale > 0, lower, float("inf") if FAST else float("-inf"))  # FAST measures rows out of range below
    lower = tl.where(scale < 0, float("inf"), lower)  # not finite: no group is measured

    winner, top = tl.full((), 0, tl.int64), tl.full((), float("-inf"), tl.float32)
    least, examined = tl.full((), float("inf"), tl.float64), tl.full((), 0, tl.int32)
    t = tl.where(scale > 0, scale, 1.0)
    member, depth = tl.arange(0, GROUP), tl.arange(0, DEPTH)
    for start in range(0, groups, 512):
        here = start + many < groups
        best = tl.load(best_ptr + start + many, mask=here, other=float("-inf"))
        longest = tl.load(peak_ptr + start + many, mask=here, other=0.0)
        if not FAST:
            best += _error(length, longest, scale, P)
        open_ = (here & (best >= lower)).to(tl.int32)
        left = tl.sum(open_, 0)
        examined += left
        while left > 0:
            group = tl.min(tl.where(open_ > 0, many, 512), 0)
            open_ = tl.where(many == group, 0, open_)
            left -= 1
            first = (start + group).to(tl.int64) * GROUP
            place = first + member
            if QUAD:  # see `_tiled`
                place = first // (4 * GROUP) * (4 * GROUP) + member // 2 * 8 + (start + group) % 4 * 2 + member % 2
            scores = tl.zeros((GROUP,), tl.float32)
            for column in range(0, P, DEPTH):
                z = tl.load(rows_ptr + row * P + column + depth).to(tl.float32)
                c = tl.load(tiles_ptr + place[:, None] * P + (column + depth)[None, :]).to(tl.float32)
                scores += tl.sum(z[None, :] * c, 1)
            for part in tl.static_range(3):
                scores += t * tl.load(norms_ptr + place * 16 + part).to(tl.float32)
            if FAST:
                here_top = tl.max(scores, 0)
                offset = tl.min(tl.where(scores == here_top, member, GROUP), 0)
                winner = tl.where(here_top > top, first + offset, winner)
                top = tl.maximum(top, here_top)
            else:
                error = _error(length, tl.load(peak_ptr + start + group), scale, P)
                lower = tl.where(scale > 0, tl.maximum(lower, tl.max(scores, 0) - error), lower)
                near = ((first + member < size) & (scores + error >= lower)).to(tl.int32)
                candidates = tl.sum(near, 0)
                while candidates > 0:
                    offset = tl.min(tl.where(near > 0, member, GROUP), 0)
                    near = tl.where(member == offset, 0, near)
                    candidates -= 1
                    one = first + offset
                    exact = _exact(z_ptr, codes_ptr + one * width, stride_column, width)
                    winner = tl.where(exact < least, one, winner)  # codes come in order: an equal one has a higher index
                    least = tl.minimum(least, exact)
    if FAST:  # noqa: SIM102 - decided when it is compiled
        if scale == 0:  # out of fp16's range: no score says anything
            for code in range(0, size):
                exact = _exact(z_ptr, codes_ptr, stride_column, width)
                winner = tl.where(exact < least, code, winner)
                least = tl.minimum(least, exact)
                codes_ptr += width
            examined = groups
    tl.store(index_ptr + row, winner)
    tl.store(examined_ptr + row, examined)


def ahead_of_time() -> list[Compilable]:
    """List the kernels for `duotok.kernels.report`: 65,536 rows, 32,768 codes; the budget is that of the coarse loop."""
    rows, size = 65_536, 32_768
    compilables = []
    for capability in (80, 90, 100):
        compilables += [_coarse_compilable(rows, size, width, capability) for width in (64, 128, 256, 512)]
        compilables.append(_decide_compilable(rows, size, 128, capability))
    return compilables


def _coarse_compilable(rows: int, size: int, width: int, capability: int) -> Compilable:
    blocks = plan(width, capability)
    pointers = {name: "*fp16" for name in ("rows_ptr", "row_norms_ptr", "codes_ptr", "code_norms_ptr")}
    per_iteration = blocks.rows * blocks.codes / (32 * blocks.warps)
    return Compilable(
        name=f"coarse d={width}", op="nearest_code", kernel=_coarse,
        signature={**pointers, "best_ptr": "*fp32", "groups": "i32", "share": "i32", "tiles": "i32"},
        constexprs={
            "P": blocks.columns, "CHUNK": blocks.chunk, "ROWS": blocks.rows, "CODES": blocks.codes, "QUAD": blocks.quad
        },
        num_warps=blocks.warps, num_stages=blocks.stages,
        units=rows * size, units_per_iteration=per_iteration,
        bytes_moved=2 * (rows + size) * (blocks.columns + _NORMS) + 4 * rows * size / blocks.group,
        flops=2 * rows * size * (blocks.columns + _NORMS),
        unit="pair", problem=f"{rows} x {size} x {width} fp16",
        capabilities=(capability,), aligned=("groups",),
    )  # fmt: skip


def _decide_compilable(rows: int, size: int, width: int, capability: int) -> Compilable:
    blocks = plan(width, capability)
    floats = ("z_ptr", "codes_ptr", "best_ptr", "peak_ptr", "scale_ptr", "length_ptr")
    return Compilable(
        name=f"decide d={width}", op="nearest_code", kernel=_decide,
        signature={
            **dict.fromkeys(floats, "*fp32"), **dict.fromkeys(("rows_ptr", "tiles_ptr", "norms_ptr"), "*fp16"),
            "index_ptr": "*i64", "examined_ptr": "*i32",
            **dict.fromkeys(("stride_row", "stride_column", "width", "size", "groups"), "i32"),
        },
        constexprs={"P": blocks.columns, "DEPTH": blocks.depth, "GROUP": blocks.group, "QUAD": blocks.quad, "FAST": False},
        num_warps=blocks.decide_warps, num_stages=3,
        units=rows * blocks.group * width, units_per_iteration=blocks.depth * blocks.group / (32 * blocks.decide_warps),
        bytes_moved=rows * (6 * width + 4 * size / blocks.group) + 6 * size * width,
        problem=f"{rows} x {size} x {width} fp32", capabilities=(capability,),
        aligned=("width", "size", "groups", "stride_row"),
    )  # fmt: skip

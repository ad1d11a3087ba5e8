# ruff: noqa: ANN001, ANN202 - arguments of the compiled functions are arrays and numbers
"""The CPU twin of nearest_code: a matrix product proposes, float64 decides.

    search(z (N, D), codes (K, D), form, fast) -> index (N,) int64, examined (N,) int32

Scores. With every vector moved by the codebook's mean and scaled by powers of two (both leave the arg-min alone), the
nearest code has the largest S = z.c - t |c|^2 / 2, where t is the row's own scale. Tiles of z.c come from one BLAS product
each; a numba pass takes their row maxima in blocks of 256 codes, and looks into a block only if it may hold the winner.

Bound. Let s be the computed score and u = 2^-24. Centring and rounding change an element by at most u, a product of D
terms in any order errs by D u, |c|^2 / 2 (accumulated in float64) by 2 u, the difference by u; to first order the sum is
(D + 6) u (|z||c| + t |c|^2 / 2). `_relative` returns (D + 8) 2^-23, twice that, which also covers the higher orders and
the float32 norms in it. Where the product itself is narrow, each factor is rounded to 8 bits (2^-8 each), and a bfloat16
result once more. Values below 2^-126 may be flushed to zero: D 2^-120 is added. So |s - S| <= E(c) =
relative (|z||c| + t |c|^2 / 2) + absolute. That a product adds in float32 at least is what BLAS and oneDNN promise.

Proof that the winner is kept. Within a block E(c) <= E of its longest code. `lower` is the largest s - E over blocks seen: a
lower bound of the best S. A code whose s + E is below it cannot win; every other code is a candidate. Candidates are
compared by the exact distance, the lowest index first among equals. A row with more than `_KEPT` candidates is
measured against the whole codebook. Neither threads nor tiles nor the batch can therefore change an index.

The idea of streaming tiles of scores past a running best: flash-kmeans (arXiv 2603.09229), faiss's IndexFlatL2.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

_BLOCK = 256  # codes whose maximum is taken together
_KEPT = 64  # candidates remembered per row
_SUPER = 4096  # rows whose candidates are held at a time
_ROWS, _CODES = 512, 1024  # a tile of scores: 2 MB, the size of a second-level cache
_LANES = 64  # of the exact distance's order of summation, see nearest_code.py

_jit = functools.partial(numba.njit, nogil=True, cache=True)


@dataclass(frozen=True)
class _Codes:
    """Some consecutive codes, ready for the product.

    Attributes:
        first: index of the first.
        table: (C, D) centred and scaled, float32 or bfloat16.
        half: (C,) float32 |c|^2 / 2.
        peak: (C / 256,) float32, the largest |c| of each block.
    """

    first: int
    table: Tensor
    half: Tensor
    peak: Tensor


def prepare_form(codes: Tensor) -> list[Tensor]:
    """Prepare codes (K, D) float32: [frame (D + 1,), table (K, D), half (K,), peak (K / 256,)]."""
    frame = _frame(codes)
    whole = _centred(codes, frame, 0)
    return [frame, whole.table, whole.half, whole.peak]


def search(z: Tensor, codes: Tensor, form: list[Tensor], fast: bool = False) -> tuple[Tensor, Tensor]:
    """Find the nearest codes.

    Args:
        z: (N, D) float32, float16 or bfloat16.
        codes: (K, D) float32, contiguous.
        form: what `prepare_form` made of the codes, or empty: then it is made in tiles, which costs no memory.
        fast: return the code of the best score, which may differ from the nearest code in near ties.

    Returns:
        (N,) int64 indices, and (N,) int32 how many codes were measured exactly (0: none was in doubt).
    """
    index, examined = torch.zeros(len(z), dtype=torch.int64), torch.zeros(len(z), dtype=torch.int32)
    frame = form[0] if form else _frame(codes)
    for begin in range(0, len(z), _SUPER):
        rows = slice(begin, begin + _SUPER)
        _search_rows(z[rows].float().contiguous(), codes, form, frame, fast, index[rows], examined[rows])
    return index, examined


def _search_rows(
    z: Tensor, codes: Tensor, form: list[Tensor], frame: Tensor, fast: bool, index: Tensor, examined: Tensor
) -> None:
    """Search for at most `_SUPER` rows and write their `index` and `examined`."""
    count, width = z.shape
    narrow = _multiplies_bfloat16()
    table, scale, length = torch.empty(count, width), torch.empty(count), torch.empty(count)
    kept = np.zeros(count, dtype=np.int32)
    lower = np.full(count, -np.inf)
    codes_kept, scores_kept = np.empty((count, _KEPT), dtype=np.int32), np.empty((count, _KEPT))
    _share(_scale_rows, count, z.numpy(), frame.numpy(), table.numpy(), scale.numpy(), length.numpy(), kept)
    table = table.bfloat16() if narrow else table
    relative, absolute = _relative(width, narrow), width * 2.0**-120
    buffer = table.new_empty(min(count, _ROWS), min(len(codes), _CODES)).flatten()
    for part in _parts(codes, form, frame, narrow):
        for row in range(0, count, _ROWS):
            some = slice(row, row + _ROWS)
            rows = len(kept[some])
            tile = buffer[: rows * len(part.table)].view(rows, -1)
            torch.mm(table[some], part.table.T, out=tile)
            scores = tile.view(torch.uint16).numpy() if narrow else tile.numpy()
            norms = (part.half.numpy(), part.peak.numpy())
            rowwise = (scale.numpy()[some], length.numpy()[some], lower[some], kept[some], codes_kept[some], scores_kept[some])
            _share(_scan, rows, scores, part.first, *norms, relative, absolute, *rowwise)
    decide = (lower, kept, codes_kept, scores_kept, fast, index.numpy(), examined.numpy())
    _share(_decide, count, z.numpy(), codes.numpy(), *decide)


def _relative(width: int, narrow: bool) -> float:
    """The relative part of the bound for products of `width` terms, given how torch multiplies at present."""
    relative = (width + 8) * 2.0**-23
    if narrow:
        return relative + 1.01 * 3 * 2.0**-8
    reduced = torch.get_float32_matmul_precision() != "highest" or "ONEDNN_DEFAULT_FPMATH_MODE" in os.environ
    return relative + (1.01 * 2 * 2.0**-8 if reduced else 0.0)


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 (AVX512_BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _parts(codes: Tensor, form: list[Tensor], frame: Tensor, narrow: bool) -> Iterator[_Codes]:
    """Cut the codebook into parts of `_CODES` codes, as prepared or prepared now."""
    for first in range(0, len(codes), _CODES):
        some = slice(first, first + _CODES)
        if form:
            peak = form[3][first // _BLOCK : (first + _CODES) // _BLOCK]
            part = _Codes(first, form[1][some], form[2][some], peak)
        else:
            part = _centred(codes[some], frame, first)
        yield _Codes(part.first, part.table.bfloat16(), part.half, part.peak) if narrow else part


def _frame(codes: Tensor) -> Tensor:
    """The mean of the codes and, last, the power of two that brings the largest centred element into (0.25, 1]: (D + 1,)."""
    mean = codes.mean(0)
    low, high = codes.aminmax(dim=0)
    reach = torch.maximum(high - mean, mean - low).amax().nan_to_num(torch.inf, torch.inf)
    exponent = torch.frexp(reach)[1].clamp(-120, 120)
    scale = torch.ldexp(torch.ones(()), -exponent).where((reach > 0) & reach.isfinite(), torch.nan)
    return torch.cat((mean, scale.where(reach != 0, 1.0)[None]))


def _centred(codes: Tensor, frame: Tensor, first: int) -> _Codes:
    table, half = torch.empty_like(codes), torch.empty(len(codes))
    peak = torch.empty(-(-len(codes) // _BLOCK))
    _share(_scale_codes, len(peak), codes.numpy(), frame.numpy(), table.numpy(), half.numpy(), peak.numpy())
    return _Codes(first, table, half, peak)


@functools.cache
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    """Helping threads; the process id is in the key because threads do not survive a fork."""
    return ThreadPoolExecutor(helpers, thread_name_prefix=f"nearest_code-{process}")


def _share(function: Callable[..., None], rows: int, *arguments: object) -> None:
    """Call function(begin, end, *arguments) on as many threads as torch uses, which together cover the rows."""
    threads = max(1, min(torch.get_num_threads(), rows))
    cuts = [rows * thread // threads for thread in range(threads + 1)]
    pool = _pool(os.getpid(), threads - 1) if threads > 1 else None
    waiting = [pool.submit(function, begin, end, *arguments) for begin, end in itertools.pairwise(cuts[1:])]
    function(cuts[0], cuts[1], *arguments)
    for share in waiting:
        share.result()


@_jit
def _scale_rows(begin, end, z, frame, table, scale, length, kept):
    """Centre and scale rows to |z_i| <= 1. Rows out of float32's range, or not finite, become 0 and count as full in `kept`."""
    width = z.shape[1]
    for row in range(begin, end):
        largest = np.float32(0.0)
        finite = np.float32(0.0)
        for i in range(width):
            table[row, i] = (z[row, i] - frame[i]) * frame[width]
            largest = max(largest, abs(table[row, i]))
            finite += z[row, i] * np.float32(0.0) + table[row, i] * np.float32(0.0)
        good = finite == 0.0 and frame[width] == frame[width]
        factor = np.float32(1.0)
        if good and largest > 1.0:
            factor = np.float32(2.0 ** -math.frexp(largest)[1])
        squares = 0.0
        for i in range(width):
            table[row, i] = table[row, i] * factor if good else np.float32(0.0)
            squares += np.float64(table[row, i]) ** 2
        scale[row] = factor
        length[row] = math.sqrt(squares)
        kept[row] = 0 if good else _KEPT + 1


@_jit
def _scale_codes(begin, end, codes, frame, table, half, peak):
    """Centre and scale blocks of codes, and measure them in float64."""
    width = codes.shape[1]
    for block in range(begin, end):
        largest = 0.0
        for code in range(block * _BLOCK, min((block + 1) * _BLOCK, codes.shape[0])):
            squares = 0.0
            for i in range(width):
                table[code, i] = (codes[code, i] - frame[i]) * frame[width]
                squares += np.float64(table[code, i]) ** 2
            half[code] = 0.5 * squares
            largest = max(largest, squares)
        peak[block] = math.sqrt(largest)


def _wide(value):
    """A score as float32, from float32 or from the bits of a bfloat16."""
    raise NotImplementedError("compiled code only")


@overload(_wide, inline="always")
def _overload_wide(value):
    if isinstance(value, numba.types.Integer):
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@_jit(fastmath={"contract"})
def _largest(scores, half, scale):
    """The largest of scores - scale * half, none of which is NaN.

    Compared as integers of the same order (all bits but the sign are flipped in negative numbers): LLVM turns only an
    integer maximum into vector instructions, five times faster here.
    """
    best = np.int32(-(2**31))
    for i in range(scores.shape[0]):
        bits = np.float32(_wide(scores[i]) - scale * half[i]).view(np.int32)
        best = max(best, bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return np.int32(best ^ ((best >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@_jit
def _keep(scores, first, half, scale, error, lower, kept, codes, uppers):
    """Add to a row's list the codes of a block whose score reaches `lower` - `error`; return how many it has now."""
    for i in range(scores.shape[0]):
        upper = np.float64(_wide(scores[i]) - scale * half[i]) + error
        if upper < lower:
            continue
        if kept == _KEPT:  # forget those that have lost by now
            kept = 0
            for k in range(_KEPT):
                if uppers[k] >= lower:
                    codes[kept], uppers[kept] = codes[k], uppers[k]
                    kept += 1
            if kept == _KEPT:
                return _KEPT + 1
        codes[kept], uppers[kept] = first + i, upper
        kept += 1
    return kept


@_jit
def _scan(begin, end, scores, first, half, peak, relative, absolute, scale, length, lower, kept, codes, uppers):
    """Pass a tile of products (R, C) by the rows' running bounds and candidates."""
    for row in range(begin, end):
        if kept[row] > _KEPT:
            continue
        for block in range(peak.shape[0]):
            start, stop = block * _BLOCK, min((block + 1) * _BLOCK, scores.shape[1])
            best = _largest(scores[row, start:stop], half[start:stop], scale[row])
            longest = np.float64(peak[block])
            error = relative * (length[row] * longest + scale[row] * 0.5 * longest * longest) + absolute
            if best + error >= lower[row]:
                lower[row] = max(lower[row], best - error)
                cut = slice(start, stop)
                kept[row] = _keep(
                    scores[row, cut],
                    first + start,
                    half[cut],
                    scale[row],
                    error,
                    lower[row],
                    kept[row],
                    codes[row],
                    uppers[row],
                )
                if kept[row] > _KEPT:
                    break


@_jit
def _distance(z, code, lanes):
    """The squared distance in float64, summed in the order that nearest_code.py lays down."""
    width = z.shape[0]
    lanes[:] = 0.0
    for start in range(0, width, _LANES):
        for lane in range(min(_LANES, width - start)):
            difference = np.float64(z[start + lane]) - np.float64(code[start + lane])
            lanes[lane] += difference * difference
    half = _LANES // 2
    while half:
        for lane in range(half):
            lanes[lane] += lanes[lane + half]
        half //= 2
    return lanes[0]


@_jit
def _decide(begin, end, z, table, lower, kept, codes, uppers, fast, index, examined):
    """Choose among each row's candidates by the exact distance, or among all codes if they were too many."""
    lanes = np.empty(_LANES)
    for row in range(begin, end):
        finite = True
        for i in range(z.shape[1]):
            finite &= math.isfinite(z[row, i])
        if not finite:
            continue
        everything = kept[row] > _KEPT
        if not everything:
            living = 0
            for k in range(kept[row]):
                if uppers[row, k] >= lower[row]:
                    codes[row, living], uppers[row, living] = codes[row, k], uppers[row, k]
                    living += 1
            if living == 1 or fast:
                index[row] = codes[row, np.argmax(uppers[row, :living])]
                continue
        least, winner = np.inf, table.shape[0]
        examined[row] = table.shape[0] if everything else living
        for k in range(examined[row]):
            code = k if everything else codes[row, k]
            distance = _distance(z[row], table[code], lanes)
            if distance < least or (distance == least and code < winner):
                least, winner = distance, code
        index[row] = winner if winner < table.shape[0] else 0

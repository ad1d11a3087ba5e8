# ruff: noqa: ANN001, ANN202 - arguments of the compiled functions are arrays and numbers
"""The CPU twin of nearest_code: a matrix product proposes, float64 decides.

    search(z (N, D), codes (K, D), form) -> index (N,) int64, examined (N,) int32

Scores. With every vector moved by the codebook's mean and scaled by powers of two (both leave the arg-min alone), the
nearest code has the largest S = z.c - t h, where t is the row's own scale and h = |c|^2 / 2. One product gives a tile of S, as
rows (z, -t) and codes (c, h) hold the norm as a further column; a numba pass takes the maxima of blocks of 256 codes, and
looks into a block only if it may hold the winner. On CPUs that multiply bfloat16, both factors are rounded to it, and h is
split in two columns, which are exact to 2^-18.

Bound. Let s be the computed score, u = 2^-24 and v = 2^-8. A product of D + 2 terms in any order errs by (D + 2) u, centring
and h by 2 u each; to first order the sum is (D + 6) u (|z||c| + t h). `_relative` holds (D + 8) 2^-23, more than twice that,
which also covers the higher orders and the norms in it; with bfloat16 2^-17 is added for the two columns of h. With z' and c'
rounded to bfloat16, z.c - z'.c' = (z - z').c + z'.(c - c') adds at most |z - z'||c| + |z'||c - c'|, whose four lengths are
measured, and the rounded result v |s|. Values below 2^-126 may be flushed to zero: D 2^-120 is added. So
|s - S| <= E(c) + v |s|. That a product adds in float32 at least is what BLAS and oneDNN promise.

Proof that the winner is kept. Within a block E(c) is at most that of the block's largest |c| and |c - c'|, and s - v |s| and
s + v |s| grow with s. `lower` is the largest s - E - v |s| over blocks seen: a lower bound of the best S. A code whose
s + E + v |s| is below it cannot win; every other code is a candidate. Candidates are compared by the exact distance, the
lowest index first among equals. A row with more than `_KEPT` candidates in bfloat16 is searched again in float32, and if they
are too many there, measured against the whole codebook. Neither threads nor tiles nor the batch can therefore change an index.

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

import numpy as np
import torch
from torch import Tensor

from .available import jit

_BLOCK = 256  # codes whose maximum is taken together
_STRIP = 32  # codes of a block whose maximum is taken together when the block may hold the winner
_KEPT = 64  # candidates remembered per row
_SUPER = 4096  # rows whose candidates are held at a time
_ROWS, _CODES = 512, 1024  # a tile of float32 scores: 2 MB, the size of a second-level cache
_NARROW_ROWS = 2048  # of a bfloat16 tile: oneDNN packs the codes anew for every product, so products want many rows
_LANES = 64  # of the exact distance's order of summation, see nearest_code.py


@dataclass(frozen=True)
class _Codes:
    """Some consecutive codes, ready for the product.

    Attributes:
        first: index of the first.
        table: (C, D + 1) float32 or (C, D + 2 and padding) bfloat16: centred and scaled codes, and their h.
        reach: (C / 256, 2) float32, the largest |c| and |c - c'| of each block.
    """

    first: int
    table: Tensor
    reach: Tensor


def prepare_form(codes: Tensor) -> list[Tensor]:
    """Prepare codes (K, D) float32: [frame (D + 1,), table (K, D + norm columns), reach (K / 256, 2)], see `_Codes`."""
    frame = _frame(codes)
    whole = _centred(codes, frame, 0, _multiplies_bfloat16())
    return [frame, whole.table, whole.reach]


def search(z: Tensor, codes: Tensor, form: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Find the nearest codes.

    Args:
        z: (N, D) float32, float16 or bfloat16.
        codes: (K, D) float32, contiguous.
        form: what `prepare_form` made of the codes, or empty: then it is made in tiles, which costs no memory.

    Returns:
        (N,) int64 indices, and (N,) int32 how many codes were measured exactly (0: none was in doubt).
    """
    index, examined = torch.zeros(len(z), dtype=torch.int64), torch.zeros(len(z), dtype=torch.int32)
    frame = form[0] if form else _frame(codes)
    narrow = form[1].dtype == torch.bfloat16 if form else _multiplies_bfloat16()
    for begin in range(0, len(z), _SUPER):
        rows = slice(begin, begin + _SUPER)
        _search_rows(z[rows].float().contiguous(), codes, form, frame, narrow, index[rows], examined[rows])
    return index, examined


def _search_rows(
    z: Tensor, codes: Tensor, form: list[Tensor], frame: Tensor, narrow: bool, index: Tensor, examined: Tensor
) -> None:
    """Search for at most `_SUPER` rows and write their `index` and `examined`."""
    count, width = z.shape
    table, lengths, kept = _rows(z, frame, narrow)
    lower = np.full(count, -np.inf)
    codes_kept, uppers_kept = np.empty((count, _KEPT), dtype=np.int32), np.empty((count, _KEPT))
    bound = (_relative(width, narrow), width * 2.0**-120, 2.0**-8 if narrow else 0.0)
    # Every thread's tile lies at its own rows; memory that no tile covers is never touched.
    scores = table.new_empty(count, min(len(codes), _CODES))
    tall, rowwise = _NARROW_ROWS if narrow else _ROWS, (lengths, lower, kept, codes_kept, uppers_kept)
    parts = _parts(codes, form, frame, narrow)
    for some in [list(parts)] if form else ([part] for part in parts):  # what is prepared is handed to the threads at once
        _share(_propose, count, table, some, tall, scores, bound, rowwise)
    if narrow and (again := np.flatnonzero(kept == _KEPT + 1)).size:
        found = index[again], examined[again]
        _search_rows(z[again], codes, [], frame, False, *found)
        index[again], examined[again] = found
        kept[again] = 0
    _share(_decide, count, z.numpy(), codes.numpy(), lower, kept, codes_kept, uppers_kept, index.numpy(), examined.numpy())


def _propose(
    begin: int, end: int, table: Tensor, parts: list[_Codes], tall: int, scores: Tensor, bound: tuple, rowwise: tuple
) -> None:
    """Multiply some rows by parts of the codebook, `tall` at a time, and scan the scores while they are in the cache."""
    for part, first in itertools.product(parts, range(begin, end, tall)):
        last, size = min(first + tall, end), len(part.table)
        tile = scores[begin:end].view(-1)[: (last - first) * size].view(-1, size)
        torch.mm(table[first:last], part.table.T, out=tile)
        bits = tile.view(torch.int32 if tile.dtype == torch.float32 else torch.int16).numpy()
        _scan(0, len(bits), bits, part.first, part.reach.numpy(), *bound, *(array[first:last] for array in rowwise))


def _rows(z: Tensor, frame: Tensor, narrow: bool) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Ready rows (N, D) for the product.

    Returns:
        (N, D + norm columns) the factor, (N, 4) float32 the lengths |z|, |z - z'|, |z'| and the scale t, and (N,) int32 how
        many candidates each row has: 0, or one too many where it can only be measured exactly.
    """
    count, width = z.shape
    table, lengths, kept = torch.empty(count, width + 1), torch.zeros(count, 4), np.zeros(count, dtype=np.int32)
    _share(_scale_rows, count, z.numpy(), frame.numpy(), table.numpy(), lengths.numpy(), kept)
    if narrow:
        exact, table = table[:, :width], _narrow(table[:, :width], table[:, width:].expand(-1, 2))
        _measure(exact, table, lengths[:, 1], lengths[:, 2])
    return table, lengths.numpy(), kept


def _narrow(vectors: Tensor, norms: Tensor) -> Tensor:
    """Round vectors (R, D) and norm columns (R, 2) to bfloat16, padded to pairs of columns, which are multiplied together."""
    out = vectors.new_zeros(len(vectors), -(-(vectors.shape[1] + 2) // 2) * 2, dtype=torch.bfloat16)
    out[:, : vectors.shape[1]] = vectors
    out[:, vectors.shape[1] : vectors.shape[1] + 2] = norms
    return out


def _measure(exact: Tensor, rounded: Tensor, error: Tensor, length: Tensor | None = None) -> None:
    """Write the lengths (R,) of what rounding changed and of what it left, rounded up."""
    short = rounded[:, : exact.shape[1]].float()
    error.copy_((exact - short).norm(dim=1).mul_(1.01))
    if length is not None:
        length.copy_(short.norm(dim=1).mul_(1.01))


def _relative(width: int, narrow: bool) -> float:
    """The relative part of the bound for products of `width` terms, given how torch multiplies float32 at present."""
    newer = getattr(torch.backends.mkldnn, "matmul", None)  # torch 2.9; the older setting may be unreadable there
    precision = newer.fp32_precision if newer else torch.get_float32_matmul_precision()
    reduced = precision not in ("none", "ieee", "highest") or "ONEDNN_DEFAULT_FPMATH_MODE" in os.environ
    return (width + 8) * 2.0**-23 + (2.0**-17 if narrow else 1.01 * 2 * 2.0**-8 if reduced else 0.0)


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
            yield _Codes(first, form[1][some], form[2][first // _BLOCK : (first + _CODES) // _BLOCK])
        else:
            yield _centred(codes[some], frame, first, narrow)


def _frame(codes: Tensor) -> Tensor:
    """The mean of the codes and, last, the power of two that brings the largest centred element into (0.25, 1]: (D + 1,)."""
    mean = codes.mean(0)
    low, high = codes.aminmax(dim=0)
    reach = torch.maximum(high - mean, mean - low).amax().nan_to_num(torch.inf, torch.inf)
    exponent = torch.frexp(reach)[1].clamp(-120, 120)
    scale = torch.ldexp(torch.ones(()), -exponent).where((reach > 0) & reach.isfinite(), torch.nan)
    return torch.cat((mean, scale.where(reach != 0, 1.0)[None]))


def _centred(codes: Tensor, frame: Tensor, first: int, narrow: bool) -> _Codes:
    """Ready codes (C, D), the first of which has index `first`, for the product."""
    count, width = codes.shape
    blocks = -(-count // _BLOCK)
    table, lengths = torch.empty(count, width + 1), torch.zeros(blocks * _BLOCK, 2)
    _share(_scale_codes, count, codes.numpy(), frame.numpy(), table.numpy(), lengths.numpy())
    if narrow:
        exact, high = table[:, :width], table[:, width:].bfloat16().float()
        table = _narrow(exact, torch.cat((high, table[:, width:] - high), 1))
        _measure(exact, table, lengths[:count, 1])
    return _Codes(first, table, lengths.view(blocks, _BLOCK, 2).amax(1))


@functools.cache
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    """Helping threads, with one torch thread each; the process id is in the key because threads do not survive a fork."""
    return ThreadPoolExecutor(helpers, f"nearest_code-{process}", torch.set_num_threads, (1,))


def _share(function: Callable[..., None], rows: int, *arguments: object) -> None:
    """Call function(begin, end, *arguments) on as many threads as torch uses, which cover the rows, in the caller's mode.

    Each of them is torch's only thread meanwhile: threads that wait for the next product would spin on the others' cores.
    """
    at_most, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def work(begin: int, end: int) -> None:
        with torch.inference_mode(inference):
            function(begin, end, *arguments)

    threads = max(1, min(at_most, rows))
    cuts = [rows * thread // threads for thread in range(threads + 1)]
    waiting = [_pool(os.getpid(), threads - 1).submit(work, *share) for share in itertools.pairwise(cuts[1:])]
    try:
        torch.set_num_threads(1)
        work(cuts[0], cuts[1])
        for share in waiting:
            share.result()
    finally:
        torch.set_num_threads(at_most)


@jit
def _scale_rows(begin, end, z, frame, table, lengths, kept):
    """Centre and scale rows to |z_i| <= 1, and append -t.

    Rows out of float32's range, or not finite, become 0 and count as past full in `kept`.
    """
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
        table[row, width] = -factor
        lengths[row, 0] = math.sqrt(squares)
        lengths[row, 3] = factor
        kept[row] = 0 if good else _KEPT + 2


@jit
def _scale_codes(begin, end, codes, frame, table, lengths):
    """Centre and scale codes, append h = |c|^2 / 2, and measure |c| in float64."""
    width = codes.shape[1]
    for code in range(begin, end):
        squares = 0.0
        for i in range(width):
            table[code, i] = (codes[code, i] - frame[i]) * frame[width]
            squares += np.float64(table[code, i]) ** 2
        table[code, width] = 0.5 * squares
        lengths[code, 0] = math.sqrt(squares)


@jit
def _score(bits, narrow):
    """The number that bits of float32, or of bfloat16 if `narrow`, stand for."""
    return np.float64(np.int32(np.int32(bits) << (16 if narrow else 0)).view(np.float32))


@jit
def _largest(scores, mask):
    """The bits of the largest score, none of which is NaN; `mask` has every bit but the sign.

    Compared as integers of the same order (all bits but the sign are flipped in negative numbers): LLVM turns only an
    integer maximum into vector instructions, five times faster here.
    """
    zero = scores.dtype.type(0)
    best = scores.dtype.type(~mask)
    for i in range(scores.shape[0]):
        bits = scores[i]
        best = max(best, scores.dtype.type(bits ^ (mask if bits < zero else zero)))
    return scores.dtype.type(best ^ (mask if best < zero else zero))


@jit
def _keep(scores, row, start, stop, first, error, rounding, mask, lower, kept, codes, uppers):
    """Add to a row's list the codes of a block whose upper bound reaches `lower`; return how many it has now."""
    narrow = rounding > 0.0
    for begin in range(start, stop, _STRIP):
        end = min(begin + _STRIP, stop)
        best = _score(_largest(scores[row, begin:end], mask), narrow)
        if best + rounding * abs(best) + error < lower:
            continue
        for i in range(begin, end):
            score = _score(scores[row, i], narrow)
            upper = score + rounding * abs(score) + error
            if upper < lower:
                continue
            if kept == _KEPT:  # forget those that have lost by now
                kept = 0
                for k in range(_KEPT):
                    if uppers[row, k] >= lower:
                        codes[row, kept], uppers[row, kept] = codes[row, k], uppers[row, k]
                        kept += 1
                if kept == _KEPT:
                    return _KEPT + 1
            codes[row, kept], uppers[row, kept] = first + i, upper
            kept += 1
    return kept


@jit
def _scan(begin, end, scores, first, reach, relative, absolute, rounding, lengths, lower, kept, codes, uppers):
    """Pass a tile of scores (R, C), as bits, by the rows' running bounds and candidates."""
    narrow = rounding > 0.0
    mask = scores.dtype.type(0x7FFF if narrow else 0x7FFFFFFF)
    best, error = np.empty(reach.shape[0]), np.empty(reach.shape[0])
    for row in range(begin, end):
        if kept[row] > _KEPT:
            continue
        length, lost, left, scale = lengths[row]
        for block in range(reach.shape[0]):
            stop = min((block + 1) * _BLOCK, scores.shape[1])
            best[block] = _score(_largest(scores[row, block * _BLOCK : stop], mask), narrow)
            peak, missing = np.float64(reach[block, 0]), np.float64(reach[block, 1])
            terms = np.float64(length) * peak + np.float64(scale) * 0.5 * peak * peak
            error[block] = relative * terms + absolute + lost * peak + left * missing
            lower[row] = max(lower[row], best[block] - rounding * abs(best[block]) - error[block])
        for block in range(reach.shape[0]):
            if best[block] + rounding * abs(best[block]) + error[block] >= lower[row] and kept[row] <= _KEPT:
                start, stop = block * _BLOCK, min((block + 1) * _BLOCK, scores.shape[1])
                kept[row] = _keep(
                    scores, row, start, stop, first, error[block], rounding, mask, lower[row], kept[row], codes, uppers
                )


@jit
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


@jit
def _decide(begin, end, z, table, lower, kept, codes, uppers, index, examined):
    """Choose among each row's candidates by the exact distance, or among all codes if they were too many.

    Rows that have none are decided, and rows that are not finite keep index 0.
    """
    lanes = np.empty(_LANES)
    for row in range(begin, end):
        finite = True
        for i in range(z.shape[1]):
            finite &= math.isfinite(z[row, i])
        if not finite or kept[row] == 0:
            continue
        everything = kept[row] > _KEPT
        if not everything:
            living = 0
            for k in range(kept[row]):
                if uppers[row, k] >= lower[row]:
                    codes[row, living] = codes[row, k]
                    living += 1
            if living == 1:
                index[row] = codes[row, 0]
                continue
        least, winner = np.inf, table.shape[0]
        examined[row] = table.shape[0] if everything else living
        for k in range(examined[row]):
            code = k if everything else codes[row, k]
            distance = _distance(z[row], table[code], lanes)
            if distance < least or (distance == least and code < winner):
                least, winner = distance, code
        index[row] = winner if winner < table.shape[0] else 0

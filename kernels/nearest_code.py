"""Nearest code: the index of the least squared Euclidean distance, exactly.

    nearest_code(z (N, D), codebook (K, D) | PreparedCodebook, fast=False) -> (N,) int64

What every backend returns: the lowest index among the codes of least distance sum_i (z_i - c_i)^2 in float64. A cheaper
score may propose candidates, but only within a proven error bound, and the exact distance decides. A row with a NaN or an
infinity has index 0; codes are finite. No buffer of N x K elements exists. Backends agree wherever float64 tells distances
apart: of codes that only its rounding or its range makes equally near (rows of 1e30 among codes of 1, numbers of 1e160), each
may return another.

The exact distance has one order of summation, so that not even a tie to the last bit depends on the backend: 64 sums,
number l over columns l, l + 64, l + 128, ..., then folded in halves: s_l + s_(l + 32), + s_(l + 16), down to one. No product
and sum are fused.

The twins, their bounds and the proofs: nearest_code_triton.py (fp16 tensor cores) and nearest_code_cpu.py (BLAS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .available import installed, why_not_numba, why_not_triton
from .dispatch import Op, refuse_arrays

# Rows in flight: a block of scores (rows x 32,768 float64) stays within a core's second-level cache.
_ROWS = 16
# Codes that are proposed, and then measured exactly, together.
_GROUP = 64
_NARROW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class PreparedCodebook:
    """A codebook with what every search would otherwise compute again; make it with `prepare`.

    Attributes:
        codes: (K, D) the codes as given.
    """

    codes: Tensor

    @cached_property
    def table(self) -> Tensor:
        """The codes as (K, D) float32, contiguous; the codes themselves where they are that."""
        return self.codes.float().contiguous()

    @cached_property
    def columns(self) -> Tensor:
        """(D + 1, K') float64, -2 c above |c|^2, so that one product gives |c|^2 - 2 z.c.

        K' fills the last group with columns whose score is infinite.
        """
        wide = self.codes.double()
        norms = wide.square().sum(1, keepdim=True)
        columns = F.pad(torch.cat((-2.0 * wide, norms), dim=1).T, (0, -len(wide) % _GROUP))  # (D + 1, K')
        columns[-1, len(wide) :] = torch.inf
        return columns.contiguous()

    @cached_property
    def radius(self) -> Tensor:
        """() float64, the largest |c|."""
        return self.columns[-1, : len(self.codes)].max().sqrt()

    @cached_property
    def numba_form(self) -> list[Tensor]:
        """What the numba twin searches."""
        from .nearest_code_cpu import prepare_form

        return prepare_form(self.table)

    @cached_property
    def triton_form(self) -> list[Tensor]:
        """What the Triton twin searches."""
        from .nearest_code_triton import prepare_form

        return prepare_form(self.table)


def prepare(codebook: Tensor) -> PreparedCodebook:
    """Prepare a codebook (K, D) of finite codes for many searches; prepare it again when it changes.

    The form of the backend that serves the codebook's device is made now, others when they are first asked for.

    Raises:
        ValueError: if it is not a matrix of floating-point numbers with at least one code.
    """
    refuse_arrays("prepare", codebook)
    if codebook.ndim != 2 or codebook.numel() == 0:
        raise ValueError(f"prepare: expected a codebook (K, D), K > 0; got {tuple(codebook.shape)}; reshape it")
    if not codebook.is_floating_point():
        raise ValueError(f"prepare: expected floating-point codes; got {codebook.dtype}; convert them")
    prepared = PreparedCodebook(codebook.detach())
    if codebook.dtype in _NARROW:
        if codebook.is_cuda and installed("triton"):
            _ = prepared.triton_form
        if codebook.device.type == "cpu" and installed("numba"):
            _ = prepared.numba_form
    return prepared


@Op
def nearest_code(z: Tensor, codebook: Tensor | PreparedCodebook, fast: bool = False) -> Tensor:
    """Find the nearest code of every row.

    Threads that start during a search on a CPU have one torch thread each, until they call torch.set_num_threads: a search
    holds back those of its own thread, whose number is the default of new ones.

    Args:
        z: (N, D) of any floating dtype; no gradient flows.
        codebook: (K, D), or what `prepare` made of it.
        fast: allow the best float16 score of a GPU's coarse pass as the answer, which may differ in near ties: measured on
            3,000 Gaussian rows and 32,768 codes, with and without a shared offset of 5 sigma (emulated), for up to 0.07% of
            the rows at widths 64 to 512 and 0.2% at 16. A CPU has nothing to save by it and ignores it.

    Returns:
        (N,) int64 indices, ties to the lowest; 0 for rows that are not finite.

    Raises:
        ValueError: if a rank, dtype, width or device does not fit.
    """
    _check(z, codebook)
    prepared = codebook if isinstance(codebook, PreparedCodebook) else PreparedCodebook(codebook.detach())
    with torch.no_grad():
        blocks = [_nearest(rows, prepared) for rows in z.detach().double().split(_ROWS)]
    return torch.cat(blocks)


def _check(z: Tensor, codebook: Tensor | PreparedCodebook) -> None:
    codes = codebook.codes if isinstance(codebook, PreparedCodebook) else codebook
    if codes.ndim != 2 or codes.numel() == 0:
        raise ValueError(f"nearest_code: expected a codebook (K, D), K > 0; got {tuple(codes.shape)}; reshape it")
    if z.ndim != 2 or z.shape[1] != codes.shape[1]:
        raise ValueError(
            f"nearest_code: expected z (N, {codes.shape[1]}) to match the codebook; got {tuple(z.shape)}; give both one width"
        )
    if not (z.is_floating_point() and codes.is_floating_point()):
        raise ValueError(f"nearest_code: expected floating-point z and codes; got {z.dtype} and {codes.dtype}; convert them")
    if z.device != codes.device:
        raise ValueError(f"nearest_code: expected z and codes on one device; got {z.device} and {codes.device}; move one")


def squared_distance(z: Tensor, codes: Tensor) -> Tensor:
    """Compute exact distances of z and codes (..., D) float64 in the order that the module's docstring lays down."""
    squares = (z - codes).square()
    lanes = squares[..., :64]
    for start in range(64, squares.shape[-1], 64):
        more = squares[..., start : start + 64]
        lanes = lanes + F.pad(more, (0, 64 - more.shape[-1]))
    half = 32
    while half:
        if lanes.shape[-1] > half:  # else all that would be added is 0
            lanes = lanes[..., :half] + F.pad(lanes[..., half:], (0, 2 * half - lanes.shape[-1]))
        half //= 2
    return lanes[..., 0]


def _nearest(z: Tensor, codebook: PreparedCodebook) -> Tensor:
    """The search for a few rows (n, D) float64: propose groups of codes by score, decide by the exact distance."""
    (size, width), rows = codebook.codes.shape, len(z)
    scores = F.pad(z, (0, 1), value=1.0) @ codebook.columns  # (n, K'): |c|^2 - 2 z.c
    groups = scores.unflatten(1, (-1, _GROUP)).amin(2)
    # A score errs by at most (D + 2) ulp of |c|^2 + 2|z||c| <= (|z| + |c|)^2; two scores are compared.
    reach = z.norm(dim=1, keepdim=True) + codebook.radius
    bound = 2 * (width + 2) * torch.finfo(torch.float64).eps * reach.square()
    row, group = (groups <= groups.amin(1, keepdim=True) + bound).nonzero(as_tuple=True)
    code = group[:, None] * _GROUP + torch.arange(_GROUP, device=z.device)  # (candidates, 64)
    exact = squared_distance(z[row, None], codebook.codes[code.clamp(max=size - 1)].double())
    exact = exact.masked_fill(code >= size, torch.inf)
    least = exact.new_full((rows,), torch.inf).scatter_reduce(0, row, exact.amin(1), "amin")
    won = code.where(exact == least[row, None], size).amin(1)
    index = won.new_full((rows,), size).scatter_reduce(0, row, won, "amin")
    return index.where(index < size, 0)


@torch.library.custom_op("duotok::nearest_code_triton", mutates_args=())
def _triton_op(z: Tensor, codes: Tensor, form: Sequence[Tensor], fast: bool) -> tuple[Tensor, Tensor]:
    from .nearest_code_triton import search

    return search(z, codes, list(form), fast)


def _search_numba(z: Tensor, codes: Tensor, form: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    from .nearest_code_cpu import search

    return search(z, codes, list(form))


_numba_op = torch.library.custom_op("duotok::nearest_code_numba", _search_numba, mutates_args=(), device_types="cpu")


@_triton_op.register_fake
@_numba_op.register_fake
def _fake_op(z: Tensor, codes: Tensor, form: Sequence[Tensor], fast: bool = False) -> tuple[Tensor, Tensor]:
    return z.new_empty(len(z), dtype=torch.int64), z.new_empty(len(z), dtype=torch.int32)


def _codes(codebook: Tensor | PreparedCodebook) -> Tensor:
    """The codes (K, D) as the twins take them, float32 and contiguous."""
    return codebook.table if isinstance(codebook, PreparedCodebook) else codebook.detach().float().contiguous()


def _wide(z: Tensor, codebook: Tensor | PreparedCodebook) -> str | None:
    """Say why no twin takes these dtypes; None if they do."""
    codes = codebook.codes if isinstance(codebook, PreparedCodebook) else codebook
    wide = [tensor.dtype for tensor in (z, codes) if tensor.dtype not in _NARROW]
    return f"needs float32, float16 or bfloat16; got {str(wide[0]).removeprefix('torch.')}" if wide else None


def _why_not_triton(z: Tensor, codebook: Tensor | PreparedCodebook, fast: bool = False) -> str | None:
    codes = codebook.codes if isinstance(codebook, PreparedCodebook) else codebook
    return why_not_triton(z, codes) or _wide(z, codebook)


def _why_not_numba(z: Tensor, codebook: Tensor | PreparedCodebook, fast: bool = False) -> str | None:
    codes = codebook.codes if isinstance(codebook, PreparedCodebook) else codebook
    return why_not_numba(z, codes) or _wide(z, codebook)


@nearest_code.register("triton", unless=_why_not_triton)
def _triton(z: Tensor, codebook: Tensor | PreparedCodebook, fast: bool = False) -> Tensor:
    _check(z, codebook)
    form = codebook.triton_form if isinstance(codebook, PreparedCodebook) else []
    return _triton_op(z.detach(), _codes(codebook), form, fast)[0]


@nearest_code.register("numba", unless=_why_not_numba)
def _numba(z: Tensor, codebook: Tensor | PreparedCodebook, fast: bool = False) -> Tensor:
    _check(z, codebook)
    form = codebook.numba_form if isinstance(codebook, PreparedCodebook) else []
    # An operator's first call imports the compiler, a second and a half of every process.
    search = _numba_op if torch.compiler.is_compiling() or torch.jit.is_tracing() else _search_numba
    return search(z.detach(), _codes(codebook), form)[0]

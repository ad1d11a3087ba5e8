"""Nearest code: the index of the least squared Euclidean distance, exactly.

    nearest_code(z (N, D), codebook (K, D) | PreparedCodebook) -> (N,) int64

What every backend returns: the lowest index among the codes of least distance sum_i (z_i - c_i)^2 in float64. A cheaper
score may propose candidates, but only within a proven error bound, and the exact distance decides. A row with a NaN or an
infinity has index 0. No buffer of N x K elements exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Op

# Rows in flight: a block of scores (rows x 32,768 float64) stays within a core's second-level cache.
_ROWS = 16
# Codes that are proposed, and then measured exactly, together.
_GROUP = 64


@dataclass(frozen=True)
class PreparedCodebook:
    """A codebook with what every search would otherwise compute again.

    Attributes:
        codes: (K, D) the codes as given.
        columns: (D + 1, K') float64, -2 c above |c|^2, so that one product gives |c|^2 - 2 z.c; K' fills the last group with
            columns whose score is infinite.
        radius: () float64, the largest |c|.
    """

    codes: Tensor
    columns: Tensor
    radius: Tensor


def prepare(codebook: Tensor) -> PreparedCodebook:
    """Prepare a codebook (K, D) for many searches; prepare it again when it changes.

    Raises:
        ValueError: if it is not a matrix with at least one code.
    """
    if codebook.ndim != 2 or len(codebook) == 0:
        raise ValueError(f"prepare: expected a codebook (K, D), K > 0; got {tuple(codebook.shape)}; reshape it")
    wide = codebook.detach().double()
    norms = wide.square().sum(1)
    columns = torch.cat((-2.0 * wide, norms[:, None]), dim=1).T  # (D + 1, K)
    fill = -len(codebook) % _GROUP
    columns = torch.cat((columns, columns.new_zeros(columns.shape[0], fill)), dim=1)
    columns[-1, len(codebook) :] = torch.inf
    return PreparedCodebook(codebook.detach(), columns.contiguous(), norms.max().sqrt())


@Op
def nearest_code(z: Tensor, codebook: Tensor | PreparedCodebook) -> Tensor:
    """Find the nearest code of every row.

    Args:
        z: (N, D) of any floating dtype; no gradient flows.
        codebook: (K, D), or what `prepare` made of it.

    Returns:
        (N,) int64 indices, ties to the lowest; 0 for rows that are not finite.

    Raises:
        ValueError: if the widths differ.
    """
    prepared = codebook if isinstance(codebook, PreparedCodebook) else prepare(codebook)
    if z.ndim != 2 or z.shape[1] != prepared.codes.shape[1]:
        raise ValueError(
            f"nearest_code: expected z (N, {prepared.codes.shape[1]}) to match the codebook; got {tuple(z.shape)}; reshape z"
        )
    with torch.no_grad():
        blocks = [_nearest(rows, prepared) for rows in z.detach().double().split(_ROWS)]
    return torch.cat(blocks) if blocks else z.new_empty(0, dtype=torch.int64)


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
    exact = (z[row, None] - codebook.codes[code.clamp(max=size - 1)].double()).square().sum(2)
    exact = exact.masked_fill(code >= size, torch.inf)
    least = exact.new_full((rows,), torch.inf).scatter_reduce(0, row, exact.amin(1), "amin")
    won = code.where(exact == least[row, None], size).amin(1)
    index = won.new_full((rows,), size).scatter_reduce(0, row, won, "amin")
    return index.where(index < size, 0)

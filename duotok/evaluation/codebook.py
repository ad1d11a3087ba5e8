"""How codebooks are used and how their codes lie: use, entropy, dead codes, nearest pairs, and what two of them share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from duotok.model.code_usage import summarize, tally

_ROWS_AT_A_TIME = 1024


def measure_codebook(songs: Sequence[Tensor], codebooks: Sequence[Tensor]) -> dict[str, list[dict]]:
    """Measure codebooks and the codes of songs in them.

    Args:
        songs: codes (N, T_i) int64 of each song.
        codebooks: N tables (V, d).

    Returns:
        "codebooks": of each `usage`, and how far codes lie from the nearest other one, in units of their root mean square
        distance from their mean: `nearest_min`, `nearest_median`, `nearest_mean`, and `duplicates`, the share of codes that
        another one equals. "pairs": of each two, `first` and `second`, their `overlap` where they are of one size, and, where
        they are of one width, `nearest_ratio`, the mean distance of a code of the first table from the nearest of the second
        over that from the nearest other one of its own: 1 if the tables lie in one place, more if apart.

    Raises:
        ValueError: if there are no songs, or codes and codebooks differ in number.
    """
    if not songs or len(songs[0]) != len(codebooks):
        found = f"{len(songs)} songs" if not songs else f"codes of {len(songs[0])} and {len(codebooks)} codebooks"
        raise ValueError(f"expected songs coded in the codebooks; got {found}; name the codec that made them")
    codes = torch.cat(list(songs), dim=1)
    tables = [table.detach().float().cpu() for table in codebooks]
    nearest = [nearest_distances(table, table, same=True) for table in tables]
    used = [torch.bincount(row, minlength=len(table)) for row, table in zip(codes, tables, strict=True)]
    rows = [
        usage(row, len(table)) | _nearest_pairs(table, distances)
        for row, table, distances in zip(codes, tables, nearest, strict=True)
    ]
    pairs = []
    for i, j in combinations(range(len(used)), 2):
        found = overlap(used[i], used[j]) if len(used[i]) == len(used[j]) else {}
        if tables[i].shape[1] == tables[j].shape[1]:
            between = nearest_distances(tables[i], tables[j]).mean()
            found["nearest_ratio"] = (between / nearest[i].mean().clamp(min=1e-12)).item()
        pairs.append({"first": i, "second": j, **found})
    return {"codebooks": rows, "pairs": pairs}


def usage(codes: Tensor, codebook_size: int) -> dict[str, float]:
    """Sum up codes (T,) int64: `used_share` of the V codes, `perplexity` 2^entropy, and what `code_usage.summarize` gives."""
    found = summarize(tally(codes, codebook_size))
    used = codebook_size - found["dead_codes"]
    return {"used_share": used / codebook_size, "perplexity": 2 ** found["entropy_bits"], **found}


def _nearest_pairs(codes: Tensor, distances: Tensor) -> dict[str, float]:
    """Sum up the distances (V,) of codes (V, d) from the nearest other one."""
    scale = (codes - codes.mean(0)).square().sum(1).mean().sqrt().clamp(min=1e-12)
    return {
        "nearest_min": (distances.min() / scale).item(),
        "nearest_median": (distances.median() / scale).item(),
        "nearest_mean": (distances.mean() / scale).item(),
        "duplicates": (distances == 0).float().mean().item(),
    }


def nearest_distances(queries: Tensor, codes: Tensor, same: bool = False) -> Tensor:
    """Compute the exact distance of queries (M, d) to the nearest of codes (V, d): (M,); `same` leaves a row itself out."""
    nearest = []
    for first in range(0, len(queries), _ROWS_AT_A_TIME):
        block = queries[first : first + _ROWS_AT_A_TIME]
        # By differences, not by products: those of equal codes would not be exactly zero.
        distances = torch.cdist(block, codes, compute_mode="donot_use_mm_for_euclid_dist")
        if same:
            distances[torch.arange(len(block)), first + torch.arange(len(block))] = torch.inf
        nearest.append(distances.amin(1))
    return torch.cat(nearest)


def overlap(first: Tensor, second: Tensor) -> dict[str, float]:
    """Measure what two codebooks of one size share, by how often each of their codes occurred, (V,) int64.

    Returns:
        `used_jaccard`, numbers of codes used in both over those used in either, and `shared_mass`, the sum over all numbers of
        the smaller of the two shares: 1 if tracks use the same codes equally often, 0 if they use none in common.
    """
    both, either = ((first > 0) & (second > 0)).sum(), ((first > 0) | (second > 0)).sum()
    shares = torch.stack((first / first.sum(), second / second.sum()))
    return {"used_jaccard": (both / either).item(), "shared_mass": shares.amin(0).sum().item()}

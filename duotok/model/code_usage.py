"""How a track uses its codebook: entropy, dead codes, and distinct codes per thousand frames.

A tally (K + 2,) int64 holds how often each of K codes was chosen, then the distinct codes summed over whole blocks of 1,000
frames, and the number of those blocks. Tallies add up, over batches and over processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1000


def tally(indices: Tensor, codebook_size: int) -> Tensor:
    """Tally codes (...) int64, in the order of time: (K + 2,) int64."""
    codes = indices.detach().flatten()
    counts = torch.zeros(codebook_size, dtype=torch.int64, device=codes.device).index_add_(0, codes, torch.ones_like(codes))
    blocks = codes[: len(codes) // _BLOCK * _BLOCK].view(-1, _BLOCK)
    seen = torch.zeros(len(blocks), codebook_size, dtype=torch.bool, device=codes.device).scatter_(1, blocks, True)
    return torch.cat((counts, seen.sum().view(1), torch.full_like(counts[:1], len(blocks))))


def summarize(tally: Tensor) -> dict[str, float]:
    """Sum up a tally (K + 2,): entropy_bits of the codes' frequencies, dead_codes and distinct_per_1000; nothing of nothing."""
    *_, distinct, num_blocks = tally.tolist()
    counts = tally[:-2].cpu()
    if not counts.any():
        return {}
    p = counts[counts > 0].double() / counts.sum()
    found = {"entropy_bits": -(p * p.log2()).sum().item(), "dead_codes": float((counts == 0).sum())}
    return found | ({"distinct_per_1000": distinct / num_blocks} if num_blocks else {})

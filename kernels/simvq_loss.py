"""SimVQ after the search: gather, straight-through, both losses and the code usage in one op.

    simvq_loss(z (N, D), indices (N,), table (K, D), weight (D, D), bias (D,), beta) -> SimVQOutput

SimVQ (Zhu et al., arXiv 2411.02038) freezes a random table C and learns one linear map W: code k is W c_k + b. Only the
codes that were chosen are ever mapped, so no (K, D) gradient exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Op


@dataclass(frozen=True)
class SimVQOutput:
    """What `simvq_loss` returns.

    Attributes:
        quantized: (N, D) chosen codes; the gradient goes straight through to z.
        commitment: () float32, beta * mean |z - sg(q)|^2, pulls z to its code.
        codebook: () float32, mean |sg(z) - q|^2, pulls the code to z.
        usage: (K,) int64, how often each code was chosen.
    """

    quantized: Tensor
    commitment: Tensor
    codebook: Tensor
    usage: Tensor


@Op
def simvq_loss(
    z: Tensor, indices: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None, beta: float = 0.25
) -> SimVQOutput:
    """Quantize z with the chosen codes and compute SimVQ's two losses.

    Args:
        z: (N, D) inputs of the quantizer.
        indices: (N,) int64, the nearest codes.
        table: (K, D) frozen table.
        weight, bias: (D, D) and (D,) of the learned map, as in `torch.nn.Linear`; bias may be None.
        beta: weight of the commitment loss; 0.25 in the SimVQ release.

    Returns:
        `SimVQOutput`. Losses are computed in float32; the quantized rows have z's dtype.
    """
    code = F.linear(table[indices].float(), weight.float(), None if bias is None else bias.float())
    wide = z.float()
    quantized = (wide + (code - wide).detach()).to(z.dtype)
    commitment = beta * (wide - code.detach()).square().mean()
    codebook = (wide.detach() - code).square().mean()
    usage = torch.zeros(len(table), dtype=torch.int64, device=z.device).index_add_(0, indices, torch.ones_like(indices))
    return SimVQOutput(quantized, commitment, codebook, usage)

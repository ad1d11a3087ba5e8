"""SimVQ (Zhu et al., arXiv 2411.02038): a frozen random table seen through one learned linear map.

`SimVQ` learns; `Codebook` is what an exported tokenizer holds: the effective codes themselves, as numbers, so that every
machine searches the same ones whatever its matrix products round to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from duotok.kernels import PreparedCodebook, nearest_code, prepare, simvq_loss


@dataclass(frozen=True)
class SimVQConfig:
    """One quantizer.

    Attributes:
        codebook_size: 32,768 in the paper.
        dim: width of a code; default, not from the paper: SimVQ's image configuration (32 and 512 are the other precedents).
        beta: of the commitment loss; default, not from the paper: the SimVQ release.
        bias: of the linear map; default, not from the paper: the SimVQ release.
        table_seed: of the frozen Gaussian table (standard deviation dim ** -0.5, the SimVQ release); own choice.
    """

    codebook_size: int = 32_768
    dim: int = 128
    beta: float = 0.25
    bias: bool = True
    table_seed: int = 0


@dataclass(frozen=True)
class Quantized:
    """What a quantizer returns for N rows.

    Attributes:
        vectors: (N, d) chosen codes, straight-through to the input while learning.
        indices: (N,) int64.
        commitment, codebook: () losses; None from a frozen codebook.
        usage: (K,) int64 how often each code was chosen; None from a frozen codebook.
    """

    vectors: Tensor
    indices: Tensor
    commitment: Tensor | None = None
    codebook: Tensor | None = None
    usage: Tensor | None = None


class SimVQ(nn.Module):
    """Learned quantizer: search, gather, straight-through estimator and both losses, in float32 whatever the autocast."""

    def __init__(self, config: SimVQConfig, track: int = 0, linear: nn.Linear | None = None) -> None:
        """Make the quantizer of a track; pass another quantizer's `linear` to share the map."""
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.table_seed + track)
        table = torch.randn(config.codebook_size, config.dim, generator=generator, device="cpu") * config.dim**-0.5
        self.register_buffer("table", table.to(torch.get_default_device()))
        self.linear = nn.Linear(config.dim, config.dim, bias=config.bias) if linear is None else linear

    def codes(self) -> Tensor:
        """Compute the effective codes, (K, d) float32."""
        with torch.no_grad(), torch.autocast(self.table.device.type, enabled=False):
            return self.linear(self.table)

    @torch.no_grad()
    def fit(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the linear map so that the codes have this mean (d,), if it has a bias, and this covariance (d, d).

        Codes then lie where the features are, and many are in use from the first step; own choice.
        """
        values, vectors = torch.linalg.eigh(covariance.double())
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        self.linear.weight.copy_(root * self.config.dim**0.5)  # the table's own variance is 1 / d
        if self.linear.bias is not None:
            self.linear.bias.copy_(mean)

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z (N, d)."""
        with torch.autocast(z.device.type, enabled=False):
            indices = nearest_code(z, self.codes())
            out = simvq_loss(z, indices, self.table, self.linear.weight, self.linear.bias, self.config.beta)
        return Quantized(out.quantized, indices, out.commitment, out.codebook, out.usage)


class Codebook(nn.Module):
    """Frozen quantizer of an exported tokenizer: codes (K, d) float32, searched as they stand."""

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(codebook_size, dim))
        self._prepared: tuple[tuple[int, int], PreparedCodebook] | None = None

    def codes(self) -> Tensor:
        """Return the codes, (K, d) float32."""
        return self.table

    def _search_form(self) -> PreparedCodebook:
        if self.table.is_inference():  # such tensors do not count their changes
            return prepare(self.table)
        state = (self.table.data_ptr(), self.table._version)  # changes when the codes are moved or written to
        if self._prepared is None or self._prepared[0] != state:
            self._prepared = (state, prepare(self.table))
        return self._prepared[1]

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z (N, d)."""
        indices = nearest_code(z.float(), self._search_form())
        return Quantized(self.table[indices].to(z.dtype), indices)

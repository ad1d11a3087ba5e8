"""Drop-in modules: the classes people import today, with the same constructors, state_dict keys and results, over our ops.

What an option of the original lacks here is said in the class's docstring, and refused. `Attention` and `GaussianReplacement`
have constructors of their own.

    from duotok.kernels.modules import SimVQ, RandomProjectionQuantizer     # for vector_quantize_pytorch's
    from duotok.kernels.modules import SimVQ1D                              # for the SimVQ authors'
    from duotok.kernels.modules import MelSpectrogram, ChromaSpectrogram    # for torchaudio's, see spectrum_modules.py
    from duotok.kernels.modules import Attention, GaussianReplacement

Indices may differ from the original's where two codes are nearly equally near: ours is then the nearer one in float64.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .available import no_autocast
from .nearest_code import nearest_code
from .replace_noise import replace_noise
from .simvq_loss import simvq_loss
from .spectrum_modules import ChromaSpectrogram, MelSpectrogram

__all__ = [
    "Attention",
    "ChromaSpectrogram",
    "GaussianReplacement",
    "LossBreakdown",
    "MelSpectrogram",
    "RandomProjectionQuantizer",
    "SimVQ",
    "SimVQ1D",
]

LossBreakdown = namedtuple("LossBreakdown", ["per_sample_entropy", "codebook_entropy", "commitment", "avg_probs"])


class SimVQ(nn.Module):
    """`vector_quantize_pytorch.SimVQ`: quantized (B, ..., D), indices (B, ...) and the loss, from x (B, ..., D).

    With `codebook_transform` it takes a `torch.nn.Linear` only: other maps have no fused loss. For second derivatives, run it
    within `use_backends("reference")`.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_transform: nn.Linear | None = None,
        init_fn: Callable[[Tensor], Tensor] | None = None,
        channel_first: bool = False,
        rotation_trick: bool = True,
        input_to_quantize_commit_loss_weight: float = 0.25,
        commitment_weight: float = 1.0,
        frozen_codebook_dim: int | None = None,
    ) -> None:
        """Take the original's arguments.

        Raises:
            ValueError: if `codebook_transform` is no Linear.
        """
        super().__init__()
        width = dim if frozen_codebook_dim is None else frozen_codebook_dim
        if codebook_transform is not None and not isinstance(codebook_transform, nn.Linear):
            raise ValueError(
                f"SimVQ: expected codebook_transform to be a torch.nn.Linear; got {type(codebook_transform).__name__}; "
                "use vector_quantize_pytorch.SimVQ for other maps"
            )
        codebook = torch.randn(codebook_size, width) * width**-0.5
        self.code_transform = codebook_transform or nn.Linear(width, dim, bias=False)
        self.register_buffer("frozen_codebook", codebook if init_fn is None else init_fn(codebook))
        self.codebook_size, self.channel_first, self.rotation_trick = codebook_size, channel_first, rotation_trick
        self.input_to_quantize_commit_loss_weight = input_to_quantize_commit_loss_weight
        self.commitment_weight = commitment_weight

    @property
    def codebook(self) -> Tensor:
        """The effective codes, (K, D)."""
        return self.code_transform(self.frozen_codebook)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Look up codes (B, ..., D) of indices (B, ...); (B, D, ...) if channel_first."""
        codes = self.code_transform(self.frozen_codebook[indices])
        return codes.movedim(-1, 1) if self.channel_first else codes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize x (B, ..., D), or (B, D, ...) if channel_first."""
        x = x.movedim(1, -1) if self.channel_first else x
        z = x.reshape(-1, x.shape[-1])
        with no_autocast(x.device):  # which would round the codes that are searched
            indices = nearest_code(z, self.codebook.detach())
        out = simvq_loss(
            z, indices, self.frozen_codebook, self.code_transform.weight, self.code_transform.bias,
            self.input_to_quantize_commit_loss_weight, self.rotation_trick,
        )  # fmt: skip
        quantized = out.quantized.view(x.shape)
        loss = (out.codebook + out.commitment) * self.commitment_weight
        loss = loss.to(torch.promote_types(x.dtype, self.frozen_codebook.dtype))
        return quantized.movedim(-1, 1) if self.channel_first else quantized, indices.view(x.shape[:-1]), loss


class SimVQ1D(nn.Module):
    """The SimVQ authors' class for sequences: z (B, D, T) to ((z_q (B, D, T), 0, indices (B * T,)), losses).

    `remap` of the original, which renumbers codes from a file, is not supported.
    """

    def __init__(
        self,
        n_e: int,
        e_dim: int,
        beta: float = 0.25,
        remap: None = None,
        unknown_index: str = "random",
        sane_index_shape: bool = False,
        legacy: bool = True,
    ) -> None:
        """Take the original's arguments; `legacy` puts beta on the codebook's loss instead of the commitment.

        Raises:
            ValueError: if `remap` is given.
        """
        super().__init__()
        if remap is not None:
            raise ValueError(f"SimVQ1D: expected remap None; got {remap!r}; use the original class to renumber codes")
        self.n_e, self.e_dim, self.beta, self.legacy, self.sane_index_shape = n_e, e_dim, beta, legacy, sane_index_shape
        self.embedding = nn.Embedding(n_e, e_dim).requires_grad_(False)
        nn.init.normal_(self.embedding.weight, std=e_dim**-0.5)
        self.embedding_proj = nn.Linear(e_dim, e_dim)

    def forward(
        self, z: Tensor, temp: float | None = None, rescale_logits: bool = False, return_logits: bool = False
    ) -> tuple[tuple[Tensor, Tensor, Tensor], LossBreakdown]:
        """Quantize z (B, D, T); the further arguments exist for the original's callers and must keep their defaults.

        Raises:
            ValueError: for a z of another shape, or another value of the further arguments.
        """
        if temp not in (None, 1.0) or rescale_logits or return_logits:
            raise ValueError(
                f"SimVQ1D: expected temp None or 1, rescale_logits and return_logits False; got {temp}, {rescale_logits} and "
                f"{return_logits}; leave them out, only Gumbel quantizers use them"
            )
        if z.ndim != 3 or z.shape[1] != self.e_dim:
            raise ValueError(f"SimVQ1D: expected z (B, {self.e_dim}, T); got {tuple(z.shape)}; bring channels second")
        rows = z.transpose(1, 2).reshape(-1, self.e_dim)
        table, linear = self.embedding.weight, self.embedding_proj
        with no_autocast(z.device):  # which would round the codes that are searched
            indices = nearest_code(rows, linear(table).detach())
        out = simvq_loss(rows, indices, table, linear.weight, linear.bias, 1.0)
        loss = out.commitment + self.beta * out.codebook if self.legacy else self.beta * out.commitment + out.codebook
        loss, zero = loss.to(torch.promote_types(z.dtype, table.dtype)), torch.tensor(0.0)
        quantized = out.quantized.view(len(z), -1, self.e_dim).transpose(1, 2).contiguous()
        shaped = indices.view(len(z), -1) if self.sane_index_shape else indices
        return (quantized, zero, shaped), LossBreakdown(zero, zero, loss, zero)

    def get_codebook_entry(self, indices: Tensor, shape: tuple[int, int, int] | None = None) -> Tensor:
        """Look up the codes that z is quantized to; the original gives those of its frozen table, before the learned map.

        Args:
            indices: of any shape, (...).
            shape: (B, T, D) of the answer before channels are brought second; None for none.

        Returns:
            (..., D), or (B, D, T) with `shape`.
        """
        codes = self.embedding_proj(self.embedding(indices))
        return codes if shape is None else codes.view(shape).transpose(1, 2).contiguous()


class RandomProjectionQuantizer(nn.Module):
    """`vector_quantize_pytorch.RandomProjectionQuantizer` (BEST-RQ): labels (B, N), or (B, N, heads), of x (B, N, dim).

    The original hands further arguments to its VectorQuantize; those named in the constructor are all that are supported.
    """

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int,
        codebook_dim: int,
        num_codebooks: int = 1,
        norm: bool = True,
        **unsupported: object,
    ) -> None:
        """Draw the frozen projection (Xavier normal) and the codes on the unit sphere.

        Raises:
            ValueError: for any other argument.
        """
        super().__init__()
        if unsupported:
            raise ValueError(
                "RandomProjectionQuantizer: expected dim, codebook_size, codebook_dim, num_codebooks and norm; got "
                f"{', '.join(unsupported)}; leave it out, or use vector_quantize_pytorch.RandomProjectionQuantizer"
            )
        self.num_codebooks = num_codebooks
        projections = torch.empty(num_codebooks, dim, codebook_dim)
        self.register_buffer("rand_projs", nn.init.xavier_normal_(projections))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False) if norm else nn.Identity()
        self.vq = _SphereCodes(codebook_size, codebook_dim * num_codebooks, num_codebooks)

    def forward(self, x: Tensor, indices: Tensor | None = None) -> Tensor:
        """Label x (B, N, dim); with `indices` given, return the cross-entropy of the cosine similarities to them."""
        projected = torch.einsum("bnd,hde->bnhe", self.norm(x), self.rand_projs).flatten(2)
        rows = F.normalize(self.vq.project_in(projected).unflatten(-1, (self.num_codebooks, -1)), dim=-1)
        codes = self.vq._codebook.embed  # (heads, K, width)
        if indices is not None:
            similarity = torch.einsum("bnhe,hce->bnhc", rows, codes)
            return F.cross_entropy(similarity.flatten(0, 2), indices.reshape(-1), ignore_index=-1)
        labels = [nearest_code(rows[:, :, head].flatten(0, 1), codes[head]) for head in range(self.num_codebooks)]
        out = torch.stack(labels, dim=-1).view(*x.shape[:2], self.num_codebooks)
        out = out.masked_fill((rows == 0).all(-1), 0)  # all codes are alike to a silent frame: the first, as in the original
        return out[..., 0] if self.num_codebooks == 1 else out


class _SphereCodes(nn.Module):
    """Holds codes under the original's names; its heads widen the input when there are several, and so do ours."""

    def __init__(self, codebook_size: int, width: int, heads: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, width * heads) if heads > 1 else nn.Identity()
        self.project_out = nn.Linear(width * heads, width) if heads > 1 else nn.Identity()
        codes = F.normalize(torch.randn(heads, codebook_size, width), dim=-1)
        self._codebook = nn.Module()
        self._codebook.register_buffer("initted", torch.tensor(True))
        self._codebook.register_buffer("cluster_size", torch.ones(heads, codebook_size))
        self._codebook.register_buffer("embed_avg", codes.clone())
        self._codebook.register_buffer("embed", codes)


class GaussianReplacement(nn.Module):
    """While training, replace frames of x (..., D) by N(0, sigma^2) noise with probability p; identity otherwise.

    Draws follow `torch.manual_seed`: each call takes its seed from torch's default generator on the CPU.
    """

    def __init__(self, p: float = 0.2, sigma: float = 1.0, per_element: bool = False, additive: bool = False) -> None:
        """Take the options of `duotok.kernels.replace_noise`."""
        super().__init__()
        self.p, self.sigma, self.per_element, self.additive = p, sigma, per_element, additive

    def forward(self, x: Tensor) -> Tensor:
        """Replace frames of x (..., D)."""
        if not self.training:
            return x
        seed = torch.randint(2**62, (2,)).to(x.device)
        return replace_noise(x, self.p, self.sigma, seed, self.per_element, self.additive)


class Attention(nn.Module):
    """Bidirectional multi-head self-attention with the parameters of `torch.nn.MultiheadAttention(batch_first=True)`.

    Its state_dict and results are that class's, its arguments its own: it takes lengths instead of a padding mask, and there is
    no dropout.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, bias: bool = True) -> None:
        """Make the projections; state_dict keys are those of `torch.nn.MultiheadAttention`.

        Raises:
            ValueError: if the heads do not divide the width.
        """
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"Attention: expected num_heads to divide embed_dim; got {num_heads} and {embed_dim}; change one of them"
            )
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * embed_dim, embed_dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Attend within x (B, T, D), up to `lengths` (B,)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.num_heads, -1))
        return self.out_proj(attention(*qkv.unbind(2), lengths).flatten(2))

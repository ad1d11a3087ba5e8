"""The bottleneck slot between the front and back blocks: what stands there makes the stage.

    stage 1  plain     nothing
    stage 2  gaussian  proj_in -> norm -> Gaussian replacement -> proj_out
    stage 3  simvq     two branches, one for each track: proj_in -> norm -> SimVQ -> proj_out, hard-routed by stem
    export   codebook  the same two branches, holding the effective codes

The norm after proj_in gives every narrow dimension zero mean and unit variance over frames, so that N(0, 1) noise has the
features' own scale; default, not from the paper. A LayerNorm is not enough: it lets all frames lie close to one direction, and
the codes collapse to those near it (measured on the tiny corpus: 14 of 16 of the mean square were the features' mean).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotok.kernels import replace_noise

from .simvq import Codebook, Quantized, SimVQ, SimVQConfig

TRACKS = ("vocals", "accompaniment")


@dataclass(frozen=True)
class BottleneckConfig:
    """What stands in the slot.

    Attributes:
        kind: "plain", "gaussian", "simvq" or "codebook", see the module's docstring.
        quantizer: sizes and losses; `quantizer.dim` is the bottleneck's width in every stage.
        share_linear: both quantizers learn one linear map. The paper's figure shows independent branches, a secondary source
            one shared map; default: independent.
        replace_p: share of frames replaced by noise; about 0.2 in the paper's secondary sources.
        replace_sigma: standard deviation of the noise; default, not from the paper.
    """

    kind: Literal["plain", "gaussian", "simvq", "codebook"] = "simvq"
    quantizer: SimVQConfig = field(default_factory=SimVQConfig)
    share_linear: bool = False
    replace_p: float = 0.2
    replace_sigma: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.replace_p <= 1 and 0 <= self.replace_sigma < math.inf):
            raise ValueError(
                f"expected replace_p of 0 to 1 and replace_sigma of at least 0; got {self.replace_p} and {self.replace_sigma}; "
                "correct them"
            )


@dataclass(frozen=True)
class BottleneckOutput:
    """What a bottleneck returns.

    Attributes:
        hidden: (B, T, D) input of the back blocks.
        indices: (B, T) int64 codes, each item's from its own track's codebook; None before stage 3.
        commitment, codebook: () sums of the branches' losses; None where nothing is learned.
        usage: (2, K) int64 how often each code was chosen; None where nothing is learned.
    """

    hidden: Tensor
    indices: Tensor | None = None
    commitment: Tensor | None = None
    codebook: Tensor | None = None
    usage: Tensor | None = None


class Plain(nn.Module):
    """Stage 1: nothing stands in the slot."""

    def forward(self, hidden: Tensor, tracks: Tensor | None = None, seed: Tensor | None = None) -> BottleneckOutput:
        """Pass hidden (B, T, D) on."""
        return BottleneckOutput(hidden)


class Projections(nn.Module):
    """The narrow part that every other bottleneck has: D -> d, normalised over frames, and back d -> D."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, dim)
        self.norm = nn.BatchNorm1d(dim, affine=False)
        self.proj_out = nn.Linear(dim, width)

    def narrow(self, hidden: Tensor) -> Tensor:
        """Project (..., D) to (..., d) of zero mean and unit variance over frames, in the weights' precision."""
        with torch.autocast(hidden.device.type, enabled=False):
            z = self.proj_in(hidden.to(self.proj_in.weight.dtype))
            rows = z.flatten(0, -2)
            return self.norm(rows).view_as(z) if len(rows) else z  # a batch may lack a track

    @torch.no_grad()
    def fit(self, hidden: Tensor) -> None:
        """Start from the d principal components of hidden (N, D): narrow features are white, proj_out undoes it.

        What the blocks behind have learned then still fits, and the narrow features fill their space, which codes need: random
        projections of features with few strong directions would all be alike. Own choice.
        """
        dim = self.proj_in.out_features
        values, vectors = torch.linalg.eigh(torch.cov(hidden.double().T))
        vectors, scale = vectors[:, -dim:], values[-dim:].clamp(min=1e-8).sqrt()
        self.proj_in.weight.copy_((vectors / scale).T)
        self.proj_out.weight.copy_(vectors * scale)
        self.proj_in.bias.copy_(-(hidden.double().mean(0) @ (vectors / scale)))
        self.proj_out.bias.copy_(hidden.double().mean(0))
        self.calibrate(hidden)

    @torch.no_grad()
    def calibrate(self, hidden: Tensor) -> Tensor:
        """Set the norm's running statistics to those of hidden (N, D), and return its narrow features (N, d)."""
        z = self.proj_in(hidden)
        self.norm.running_mean.copy_(z.mean(0))
        self.norm.running_var.copy_(z.var(0))
        return F.batch_norm(z, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)


class GaussianReplacement(Projections):
    """Stage 2: while training, whole frames of the narrow sequence give way to noise.

    Attributes:
        config: share of the frames, and strength of the noise.
        additive: the noise is added to those frames instead, an experiment's control.
    """

    def __init__(self, width: int, config: BottleneckConfig) -> None:
        super().__init__(width, config.quantizer.dim)
        self.config, self.additive = config, False

    def forward(self, hidden: Tensor, tracks: Tensor | None = None, seed: Tensor | None = None) -> BottleneckOutput:
        """Map hidden (B, T, D) through the noisy bottleneck; `seed` (2,) int64 is needed while training."""
        z = self.narrow(hidden)
        if self.training:
            if seed is None:
                raise ValueError("GaussianReplacement: expected a seed (2,) int64 while training; got None; pass one")
            z = replace_noise(z, self.config.replace_p, self.config.replace_sigma, seed, additive=self.additive)
        return BottleneckOutput(self.proj_out(z))


class Branch(Projections):
    """One track's way through the bottleneck."""

    def __init__(self, width: int, dim: int, quantizer: SimVQ | Codebook) -> None:
        super().__init__(width, dim)
        self.quantizer = quantizer

    def quantize(self, hidden: Tensor) -> Quantized:
        """Quantize hidden (N, D)."""
        return self.quantizer(self.narrow(hidden))

    def expand(self, indices: Tensor) -> Tensor:
        """Turn codes (...) into what the blocks behind the bottleneck see, proj_out(q) (..., D)."""
        return self.proj_out(self.quantizer.codes()[indices])


class DualSimVQ(nn.Module):
    """Stage 3 and export: each item goes through the branch of its own track, by its stem label and nothing else."""

    def __init__(self, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        quantizers: list[SimVQ | Codebook] = []
        for track in range(len(TRACKS)):
            if config.kind == "codebook":
                quantizers.append(Codebook(config.quantizer.codebook_size, config.quantizer.dim))
            else:
                shared = quantizers[0].linear if config.share_linear and quantizers else None
                quantizers.append(SimVQ(config.quantizer, track, shared))
        self.branches = nn.ModuleList(Branch(width, config.quantizer.dim, quantizer) for quantizer in quantizers)

    def forward(self, hidden: Tensor, tracks: Tensor | None = None, seed: Tensor | None = None) -> BottleneckOutput:
        """Quantize hidden (B, T, D), item b in branch tracks[b] (0 vocals, 1 accompaniment)."""
        if tracks is None or tracks.shape != hidden.shape[:1]:
            got = None if tracks is None else tuple(tracks.shape)
            raise ValueError(f"DualSimVQ: expected tracks ({len(hidden)},) of 0 and 1; got {got}; label every item")
        outputs = []
        wide, indices = torch.zeros_like(hidden), tracks.new_zeros(hidden.shape[:2])
        for track, branch in enumerate(self.branches):
            chosen = tracks == track
            out = branch.quantize(hidden[chosen].flatten(0, 1))
            wide[chosen] = branch.proj_out(out.vectors).view(-1, *hidden.shape[1:]).to(wide.dtype)
            indices[chosen] = out.indices.view(-1, hidden.shape[1])
            outputs.append(out)
        if outputs[0].usage is None:
            return BottleneckOutput(wide, indices)
        return BottleneckOutput(
            wide,
            indices,
            commitment=sum(out.commitment for out in outputs if len(out.indices)),
            codebook=sum(out.codebook for out in outputs if len(out.indices)),
            usage=torch.stack([out.usage for out in outputs]),
        )


class SoftRouting(DualSimVQ):
    """A control for experiments: every frame goes through both branches, and a learned gate weighs their outputs.

    A frame's code is that of its heavier branch; those of branch 1 are counted from K upwards.
    """

    def __init__(self, width: int, config: BottleneckConfig) -> None:
        super().__init__(width, config)
        self.router = nn.Linear(width, len(TRACKS))

    def forward(self, hidden: Tensor, tracks: Tensor | None = None, seed: Tensor | None = None) -> BottleneckOutput:
        """Quantize hidden (B, T, D) in both branches; `tracks` is not looked at."""
        rows = hidden.flatten(0, 1)
        gate = self.router(rows).softmax(-1)  # (N, 2)
        outputs = [branch.quantize(rows) for branch in self.branches]
        wide = sum(
            weight[:, None] * branch.proj_out(out.vectors)
            for weight, branch, out in zip(gate.unbind(-1), self.branches, outputs, strict=True)
        )
        chosen = gate.argmax(-1)
        codes = torch.stack([out.indices + track * len(out.usage) for track, out in enumerate(outputs)], dim=-1)  # (N, 2)
        return BottleneckOutput(
            wide.view_as(hidden),
            codes.gather(-1, chosen[:, None]).view(hidden.shape[:2]),
            commitment=sum(out.commitment for out in outputs),
            codebook=sum(out.codebook for out in outputs),
            usage=torch.stack([out.usage for out in outputs]),
        )


def share_codebook(slot: DualSimVQ) -> None:
    """Let both tracks use the first one's quantizer; their projections stay their own. A control for experiments."""
    for branch in slot.branches[1:]:
        branch.quantizer = slot.branches[0].quantizer


def make_bottleneck(config: BottleneckConfig, width: int) -> nn.Module:
    """Build what `config.kind` names for a trunk of the given width."""
    if config.kind == "plain":
        return Plain()
    if config.kind == "gaussian":
        return GaussianReplacement(width, config)
    return DualSimVQ(width, config)

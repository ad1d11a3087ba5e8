"""Stage 3: two SimVQ codebooks behind a frozen front half (section 6 of the specification, figure F4).

A batch holds both stems of its songs, one after the other; each goes through its own branch. Downsampling and front blocks
stay as stage 2 left them, the branches start as copies of its projections, and its separation head is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from duotok.dataset.songs import Songs
from duotok.model.bottleneck import TRACKS, Branch, SoftRouting, share_codebook
from duotok.model.code_usage import summarize, tally
from duotok.windows import WindowPolicy

from .data import Crop, stack_lyrics, stack_waves
from .losses import Mean
from .stage import Stage, StageConfig
from .stage2 import head_terms, note_tensors
from .task import Batch

_SLOT = "trunk.bottleneck."


@dataclass(frozen=True)
class Stage3Weights:
    """Weights of the tasks that stay, as in stage 2, and of the quantizers' losses; default, own choice."""

    mel: float = 1.0
    chroma: float = 1.0
    lyrics: float = 0.1
    commitment: float = 1.0
    codebook: float = 1.0
    notes: float = field(default=0.1, kw_only=True)


@dataclass(frozen=True)
class Stage3Config(StageConfig):
    """Dual quantization.

    Attributes:
        weights: of the losses.
        trunk_lr_scale: learning rate of the back blocks and heads, relative to the branches'; default, own choice.
        fit_batches: training batches whose features give each linear map its start: codes of their mean and covariance.
            0 starts from codes of zero mean and unit variance. Default, own choice; SimVQ starts from torch's Linear, whose
            codes have a third of the table's variance, far inside the sphere that our normalised features lie on.
        routing: "hard" is the paper's; "soft" is an experiment's control, see `SoftRouting`.
        share_codebook: both tracks have one codebook, an experiment's control.
        windows: of the exported tokenizer.
    """

    stage: Literal[3] = 3
    weights: Stage3Weights = field(default_factory=Stage3Weights)
    trunk_lr_scale: float = 1.0
    fit_batches: int = 8
    routing: Literal["hard", "soft"] = "hard"
    share_codebook: bool = False
    windows: WindowPolicy = field(default_factory=WindowPolicy)


class Stage3(Stage):
    """Trains branches, back blocks and heads on stems."""

    kind = "simvq"
    drops = ("model.heads.masks.",)
    adds = ("tallies", f"model.{_SLOT}router.", *(f"model.{_SLOT}branches.{i}.quantizer." for i in range(len(TRACKS))))

    def __init__(self, config: Stage3Config, songs: Songs) -> None:
        super().__init__(config, songs)
        if config.model.heads.masks:
            raise ValueError("expected model.heads.masks false in stage 3; got true; stems have nothing to separate")
        self._num_codes = config.model.bottleneck.quantizer.codebook_size * (len(TRACKS) if config.routing == "soft" else 1)
        self.register_buffer("tallies", torch.zeros(len(TRACKS), self._num_codes + 2, dtype=torch.int64))
        self._scored: Tensor | None = None  # the same of held-out crops, while they are scored

    def build(self) -> None:
        """Freeze the front half, and arrange the branches as the experiment asks."""
        trunk, config = self.model.trunk, self.config
        if config.routing == "soft":
            trunk.bottleneck = SoftRouting(config.model.trunk.block.width, config.model.bottleneck)
        if config.share_codebook:
            share_codebook(trunk.bottleneck)
        dim = config.model.bottleneck.quantizer.dim
        for branch in trunk.bottleneck.branches:
            branch.quantizer.fit(torch.zeros(dim), torch.eye(dim))
        for part in (trunk.downsample, trunk.front):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Stage3:
        """Keep the frozen half in evaluation mode, its BatchNorm and dropout included."""
        super().train(mode)
        self.model.trunk.downsample.eval()
        self.model.trunk.front.eval()
        return self

    def weights(self) -> Mapping[str, float]:
        """Give the tasks' and the quantizers' weights."""
        return vars(self.config.weights)

    def parameter_groups(self) -> list[dict]:
        """Let back blocks and heads learn at their own rate, and keep the codes from decaying to zero."""
        trunk = self.model.trunk
        quantizers = {p for branch in trunk.bottleneck.branches for p in branch.quantizer.parameters()}
        old = (*trunk.back.parameters(), *trunk.norm.parameters(), *self.model.heads.parameters())
        return [
            {"params": list(old), "lr_scale": self.config.trunk_lr_scale},
            {"params": [p for p in trunk.bottleneck.parameters() if p not in quantizers], "lr_scale": 1.0},
            {"params": [p for p in trunk.bottleneck.parameters() if p in quantizers], "lr_scale": 1.0, "weight_decay": 0.0},
        ]

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Give stems wave (2B, S), all vocals first, tracks (2B,), units (2B, L), unit_lengths (2B,), and notes."""
        waves = [stack_waves(crops, [name] * len(crops)) for name in TRACKS]
        texts = [crop.lyrics(self.spec.sample_rate) for crop in crops] + [""] * len(crops)
        units, lengths = stack_lyrics(texts)
        tracks = torch.arange(len(TRACKS)).repeat_interleave(len(crops))
        names = tuple(f"{crop.song.id} {name}" for name in TRACKS for crop in crops)
        tensors = {"wave": torch.cat(waves), "tracks": tracks, "units": units, "unit_lengths": lengths}
        return Batch(names, tensors | note_tensors(self, crops, without=len(crops)))

    def input_wave(self, batch: Batch) -> Tensor:
        """Give the stems (2B, S)."""
        return batch.tensors["wave"]

    def terms(self, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Compute the losses of the heads and of the quantizers; nothing here is drawn with `seed` (2,)."""
        wave, tracks = self.input_wave(batch), batch.tensors["tracks"]
        mel = self.mel(wave)
        out = self.model.trunk(mel, tracks)
        tallies = self.tallies if self.training else self._scored
        for track in range(len(TRACKS)) if tallies is not None else ():
            tallies[track] += tally(out.bottleneck.indices[tracks == track], self._num_codes)
        terms = head_terms(self, out.hidden, mel, wave, batch)
        return terms | {"commitment": Mean.of(out.bottleneck.commitment), "codebook": Mean.of(out.bottleneck.codebook)}

    def evaluate(self) -> dict[str, float]:
        """Score the held-out crops, and how their codes spread."""
        self._scored = torch.zeros_like(self.tallies)
        scores = super().evaluate() | _summaries(self._scored)
        self._scored = None
        return scores

    def monitor(self) -> dict[str, float]:
        """Tell how the codes of the last interval spread, by track."""
        found = _summaries(self.tallies)
        self.tallies.zero_()
        return found

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy the projections of stage 2 into every branch; tensors (...) keep their shapes."""
        given = {}
        for name, tensor in state.items():
            before, slot, projection = name.partition(_SLOT)
            to_copy = slot and not projection.startswith(("branches.", "router."))
            for track in range(len(TRACKS)) if to_copy else (None,):
                given[name if track is None else f"{before}{slot}branches.{track}.{projection}"] = tensor
        return given

    def fit(self, given: Mapping[str, Tensor]) -> None:
        """Give the codes the features' mean and covariance, unless they are among the tensors (...) given.

        A tokenizer gives its codes as the table: the linear map is then the identity.
        """
        if not any(".quantizer." in name for name in given):
            if self.config.fit_batches:
                self._fit_codes()
        elif not any(".quantizer.linear." in name for name in given):
            for branch in self.model.trunk.bottleneck.branches:
                branch.quantizer.linear.load_state_dict(_identity(branch.quantizer.linear))

    def _fit_codes(self) -> None:
        """Fit every branch's norm and linear map to the features that they will see."""
        branches = self.model.trunk.bottleneck.branches
        hidden: list[list[Tensor]] = [[] for _ in branches]
        for batch, frames in self.front_features(self.config.fit_batches):
            for track, found in enumerate(hidden):
                found.append(frames[batch.tensors["tracks"] == track].flatten(0, 1))
        narrow = [branch.calibrate(torch.cat(found)) for branch, found in zip(branches, hidden, strict=True)]
        for branch in branches:  # one linear map may serve both
            z = torch.cat([z for other, z in zip(branches, narrow, strict=True) if _map(other) is _map(branch)])
            branch.quantizer.fit(z.mean(0), torch.cov(z.T))


def _summaries(tallies: Tensor) -> dict[str, float]:
    return {f"{name}_{track}": v for track, row in zip(TRACKS, tallies, strict=True) for name, v in summarize(row).items()}


def _map(branch: Branch) -> torch.nn.Linear:
    return branch.quantizer.linear


def _identity(linear: torch.nn.Linear) -> dict[str, Tensor]:
    return {name: torch.eye(len(p)) if name == "weight" else torch.zeros(len(p)) for name, p in linear.named_parameters()}

"""Stage 2: four guardrail tasks over a noisy bottleneck (section 5 of the specification, figure F3).

The mixture goes in; while training, Gaussian replacement takes a fifth of the bottleneck's frames; the heads predict the
Mel spectrogram, the chromagram, four separation masks and the lyrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from duotok.kernels import replace_noise
from duotok.model.heads import STEMS
from duotok.model.trunk import DOWNSAMPLING

from .data import Crop, stack_lyrics, stack_units, stack_waves
from .losses import Mean, character_errors, ctc, l1, separation
from .stage import Stage, StageConfig
from .targets import chroma_target, compressed_magnitude
from .task import Batch


@dataclass(frozen=True)
class GuardrailWeights:
    """Weights (the paper's lambdas) of the guardrail tasks, and of the accompaniment's notes; default, own choice."""

    mel: float = 1.0
    chroma: float = 1.0
    masks: float = 1.0
    lyrics: float = 0.1
    notes: float = field(default=0.1, kw_only=True)


@dataclass(frozen=True)
class Stage2Config(StageConfig):
    """Multi-task fine-tuning.

    Attributes:
        weights: of the tasks; heads that the model lacks have no task.
        trunk_lr_scale: learning rate of what stage 1 trained, relative to the new layers'; default, not from the paper:
            MusicFM's advice on fine-tuning.
        fit_batches: training batches whose features give the projections their start, see `Projections.fit`; 0 leaves them
            random. Own choice.
        masks_s: seconds in the middle of each crop on which masks are estimated, to save time; None is all of it.
        noise: what the bottleneck's `replace_p` and `replace_sigma` draw. "replace" is the paper's; "add" to the same frames of
            the narrow sequence, or "add_to_input", to as many Mel frames instead, are an experiment's controls.
    """

    stage: Literal[2] = 2
    weights: GuardrailWeights = field(default_factory=GuardrailWeights)
    trunk_lr_scale: float = 0.1
    fit_batches: int = 8
    masks_s: float | None = None
    noise: Literal["replace", "add", "add_to_input"] = "replace"

    def __post_init__(self) -> None:
        if self.model.heads.masks and self.model.mel.spec.n_fft != 2048:
            raise ValueError(
                f"expected model.mel.spec.n_fft 2048, which the masks' bands divide; got {self.model.mel.spec.n_fft}; "
                "correct it"
            )
        if self.masks_s is not None and not self.masks_s > 0:
            raise ValueError(f"expected masks_s above 0, or null for the whole crop; got {self.masks_s}; correct it")


class Stage2(Stage):
    """Trains trunk, narrow bottleneck and heads on mixtures."""

    kind = "gaussian"
    drops = ("head.", "labels.")
    adds = ("model.trunk.bottleneck.", "model.heads.")

    def build(self) -> None:
        """Place the noise; the heads are the model's."""
        slot = self.model.trunk.bottleneck
        slot.additive = self.config.noise == "add"
        if self.config.noise == "add_to_input":
            slot.config = replace(slot.config, replace_p=0.0)

    def weights(self) -> Mapping[str, float]:
        """Give the paper's lambdas."""
        return vars(self.config.weights)

    def fit(self, given: Mapping[str, Tensor]) -> None:
        """Fit the projections to the front half's features, unless they are among the tensors (...) given."""
        if self.config.fit_batches and not any(".bottleneck." in name for name in given):
            features = [hidden.flatten(0, 1) for _, hidden in self.front_features(self.config.fit_batches)]
            self.model.trunk.bottleneck.fit(torch.cat(features))

    def parameter_groups(self) -> list[dict]:
        """Let the trunk learn at its own rate."""
        trunk = self.model.trunk
        parts = (trunk.downsample, trunk.front, trunk.back, trunk.norm)
        new = (*trunk.bottleneck.parameters(), *self.model.heads.parameters())
        return [
            {"params": [p for part in parts for p in part.parameters()], "lr_scale": self.config.trunk_lr_scale},
            {"params": list(new), "lr_scale": 1.0},
        ]

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Give sources (B, 5, S), `STEMS` then accompaniment, has_stems (B,), units (B, L), unit_lengths (B,), and notes."""
        stems = [set(STEMS) <= crop.song.waves.keys() for crop in crops]
        silent = torch.zeros(len(STEMS) - 1, crops[0].num_samples)
        parts = [
            torch.stack([crop.wave(name) for name in STEMS[:-1]]) if has else silent
            for crop, has in zip(crops, stems, strict=True)
        ]
        pair = [stack_waves(crops, [name] * len(crops))[:, None] for name in ("vocals", "accompaniment")]
        units, lengths = stack_lyrics([crop.lyrics(self.spec.sample_rate) for crop in crops])
        tensors = {"sources": torch.cat((torch.stack(parts), *pair), dim=1), "has_stems": torch.tensor(stems)}
        tensors |= {"units": units, "unit_lengths": lengths} | note_tensors(self, crops)
        return Batch(tuple(crop.song.id for crop in crops), tensors)

    def input_wave(self, batch: Batch) -> Tensor:
        """Give the mixtures (B, S)."""
        return batch.tensors["sources"][:, -2:].sum(1)

    def terms(self, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Compute the losses of the model's heads; `seed` (2,) draws the bottleneck's noise."""
        sources = batch.tensors["sources"]
        mixture = self.input_wave(batch)
        mel = self.mel(mixture)
        hidden = self.model.trunk(self._heard(mel, seed), seed=seed).hidden
        terms = head_terms(self, hidden, mel, mixture, batch)
        if "masks" in self.model.heads:
            terms["masks"] = self._separation(hidden, sources, batch.tensors["has_stems"])
        return terms

    def _heard(self, mel: Tensor, seed: Tensor) -> Tensor:
        """Give the frames (B, 4T, F) that the trunk gets: noisy ones in the control that adds noise to the input."""
        if not self.training or self.config.noise != "add_to_input":
            return mel
        config = self.config.model.bottleneck
        return replace_noise(mel, config.replace_p, config.replace_sigma, seed, additive=True)

    def _separation(self, hidden: Tensor, sources: Tensor, has_stems: Tensor) -> Mean:
        frame_rate, num_frames = self.config.model.frame_rate, hidden.shape[1]
        wanted = num_frames if self.config.masks_s is None else min(num_frames, round(self.config.masks_s * frame_rate))
        start = (num_frames - wanted) // 2
        samples = DOWNSAMPLING * self.spec.hop_length
        part = sources[..., start * samples : (start + wanted) * samples]
        mixture = compressed_magnitude(part[:, -2] + part[:, -1], self.spec)
        masks = self.model.heads["masks"](hidden[:, start : start + wanted])
        return separation(masks, mixture, compressed_magnitude(part, self.spec), has_stems)


def head_terms(stage: Stage, hidden: Tensor, mel: Tensor, wave: Tensor, batch: Batch) -> dict[str, Mean]:
    """Compute the losses of the Mel, chroma and lyrics heads, and the character errors of held-out lyrics.

    Args:
        stage: whose heads they are.
        hidden: (B, T, D) frames.
        mel: (B, 4T, F) what went in, and is to come out.
        wave: (B, S) that the chromagram is taken from.
        batch: that holds the lyrics, units (B, L) and unit_lengths (B,), and notes where there is a head for them.
    """
    heads, terms = stage.model.heads, {}
    if "mel" in heads:
        terms["mel"] = l1(heads["mel"](hidden), mel)
    if "chroma" in heads:
        with torch.autocast(wave.device.type, enabled=False):
            target = chroma_target(wave, stage.spec)
        terms["chroma"] = l1(heads["chroma"](hidden), target)
    if "lyrics" in heads:
        lyrics = heads["lyrics"](hidden), batch.tensors["units"], batch.tensors["unit_lengths"]
        terms["lyrics"] = ctc(*lyrics)
        if not stage.training:
            terms["character_errors"] = character_errors(*lyrics)
    if "notes" in heads:
        terms["notes"] = ctc(heads["notes"](hidden), batch.tensors["notes"], batch.tensors["note_lengths"])
    return terms


def note_tensors(stage: Stage, crops: Sequence[Crop], without: int = 0) -> dict[str, Tensor]:
    """Give notes (B, L) and note_lengths (B,) of crops, after `without` items that have none; nothing if no head wants them."""
    if "notes" not in stage.model.heads:
        return {}
    units, lengths = stack_units([[]] * without + [crop.notes(stage.spec.sample_rate) for crop in crops])
    return {"notes": units, "note_lengths": lengths}

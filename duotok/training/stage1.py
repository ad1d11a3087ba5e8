"""Stage 1: masked prediction of random-projection labels (BEST-RQ; section 4 of the specification, figure F2).

Labels come from the clean wave, the trunk sees the wave with spans replaced by noise, and the cross-entropy is taken where a
span was masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from duotok.model.best_rq import BestRQConfig, LabelHead, RandomProjectionQuantizer

from .data import Crop, stack_waves
from .losses import Mean, cross_entropy
from .masking import MaskingConfig, frames_of_spans, mask_spans
from .stage import Stage, StageConfig
from .task import Batch


@dataclass(frozen=True)
class Stage1Config(StageConfig):
    """Masked prediction.

    Attributes:
        labels: the random-projection quantizer.
        masking: spans and noise.
        fit_batches: training batches whose Mel bands normalise the labels' input, see `RandomProjectionQuantizer.fit`; 0 leaves
            it to the front end, as MusicFM does. Own choice.
        inputs: what the crops of a batch are, in turn; default, own choice: the mixture, as in stage 2.
    """

    stage: Literal[1] = 1
    labels: BestRQConfig = field(default_factory=BestRQConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    fit_batches: int = 8
    inputs: list[Literal["mixture", "vocals", "accompaniment"]] = field(default_factory=lambda: ["mixture"])

    def __post_init__(self) -> None:
        labels_per_span = self.masking.span_s * self.labels.target_rate
        if round(labels_per_span) < 1 or abs(labels_per_span - round(labels_per_span)) > 1e-9 or not self.inputs:
            raise ValueError(
                f"expected masking.span_s to hold whole labels, and at least one of inputs; got {self.masking.span_s} s at "
                f"{self.labels.target_rate} labels/s and {self.inputs}; change them"
            )


class Stage1(Stage):
    """Predicts the labels of masked spans."""

    kind = "plain"

    def build(self) -> None:
        """Make the labels' quantizer and the head."""
        model = self.config.model
        self.labels = RandomProjectionQuantizer(self.config.labels, model.mel.spec.n_mels, model.mel.frame_rate)
        self.head = LabelHead(model.trunk.block.width, self.config.labels, model.frame_rate)

    def weights(self) -> Mapping[str, float]:
        """Minimise the cross-entropy alone."""
        return {"cross_entropy": 1.0}

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Give each crop's wave (B, S)."""
        inputs = self.config.inputs
        wave = stack_waves(crops, [inputs[crop.turn % len(inputs)] for crop in crops])
        return Batch(tuple(crop.song.id for crop in crops), {"wave": wave})

    def fit(self, given: Mapping[str, Tensor]) -> None:
        """Fit the labels' normalisation, unless it is among the tensors (...) given."""
        if self.config.fit_batches and "labels.mean" not in given:
            waves = [self.input_wave(self.batch(0, micro)) for micro in range(self.config.fit_batches)]
            self.labels.fit(self.mel(torch.cat(waves).to(self.labels.mean.device)))

    def input_wave(self, batch: Batch) -> Tensor:
        """Give the clean waves (B, S)."""
        return batch.tensors["wave"]

    def terms(self, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Compute the cross-entropy and the accuracy on masked labels; `seed` (2,) draws the mask."""
        wave, config = self.input_wave(batch), self.config
        masked = mask_spans(wave, config.masking, self.spec.sample_rate, seed)
        with torch.autocast(wave.device.type, enabled=False):
            labels = self.labels(self.model.mel(wave))
        labels_per_span = round(config.masking.span_s * config.labels.target_rate)
        chosen = frames_of_spans(masked.spans, labels_per_span, labels.shape[1])
        logits = self.head(self.model.trunk(self.mel(masked.wave)).hidden, chosen)
        targets = labels[chosen]
        hits = (logits.argmax(-1) == targets).float()
        return {"cross_entropy": cross_entropy(logits, targets), "accuracy": Mean.of(hits)}

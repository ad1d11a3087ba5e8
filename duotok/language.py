"""Language models on disk: what `duotok train lm` exports, and `duotok sample` draws songs from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

from . import config as configuration
from . import storage
from .model.language_model import DualTrackLM, LanguageModelConfig
from .model.protocols import Protocol

FORMAT_VERSION = 1


@dataclass(frozen=True)
class LanguageModelFile:
    """Everything a language model's config.yaml holds.

    Attributes:
        format_version: of the files.
        protocol: that it was trained for.
        tokenizer: fingerprint of the tokenizer whose codes it knows.
        frame_rate: codes per second and track.
        context_frames: of the crops it was trained on.
        model: the network.
    """

    format_version: int = FORMAT_VERSION
    protocol: Protocol = "unconditional"
    tokenizer: str = ""
    frame_rate: int = 25
    context_frames: int = 1024
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)


@dataclass(frozen=True)
class LanguageModel:
    """A trained language model.

    Attributes:
        config: what is known of it.
        model: the network, frozen, in eval mode.
        training: how it was trained: stage, steps, settings and last scores; empty if nobody noted it.
    """

    config: LanguageModelFile
    model: DualTrackLM
    training: dict = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """sha256 over configuration and weights."""
        return storage.fingerprint(self.config, self.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write config.yaml, model.safetensors, with `training` in its header, and fingerprint.txt."""
        notes = {"training": json.dumps(self.training)}
        storage.write(folder, configuration.dump(self.config), self.model.state_dict(), self.fingerprint, notes)


def load_language_model(folder: Path, device: str = "cpu") -> LanguageModel:
    """Read a language model.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    config = storage.read_config(folder, LanguageModelFile, FORMAT_VERSION)
    model = DualTrackLM(config.model).eval().requires_grad_(False)
    storage.read_weights(folder, model)
    with safe_open(folder / storage.WEIGHTS, "pt") as file:
        training = json.loads((file.metadata() or {}).get("training", "{}"))
    found = LanguageModel(config, model, training)
    storage.check_fingerprint(folder, found.fingerprint)
    found.model.to(device)
    return found

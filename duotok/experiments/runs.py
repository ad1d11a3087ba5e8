"""Training runs of experiments: each goes on where it stopped, and leaves what `duotok train` leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from duotok import config as configuration
from duotok.files import make_folder, write_atomically
from duotok.training import checkpoint, stages
from duotok.training.log import read_log
from duotok.training.loop import train
from duotok.training.stage import CropConfig


def run(config: str, overrides: Sequence[str], folder: Path, init: Path | None = None) -> None:
    """Train a stage, or go on with it, as `duotok train` does; nothing is done where all steps are.

    Args:
        config: name or path of the stage's configuration.
        overrides: `key=value` changes.
        folder: of the run.
        init: run of the stage before.

    Raises:
        KeyboardInterrupt: if it was asked to stop; the same call goes on.
    """
    settings = stages.load_config(config, overrides)
    found = checkpoint.latest(folder)
    if found is None or found.step < settings.train.steps:
        _train(settings, folder, init)


def last_scores(folder: Path) -> dict[str, float]:
    """Read the last held-out scores of a run."""
    return [row["scores"] for row in read_log(folder) if row["kind"] == "evaluation"][-1]


def _train(settings: CropConfig, folder: Path, init: Path | None) -> None:
    stage = stages.make_stage(settings, stages.read_songs(settings)).to(PartialState().device)
    stage.prepare()
    if checkpoint.latest(folder) is None:
        stage.start(stages.read_state(init, settings.stage) if init else None)
    make_folder(folder)
    write_atomically(folder / "config.yaml", configuration.dump(settings).encode())
    if train(stage, settings.train, folder).stopped:
        raise KeyboardInterrupt

"""The engine of the experiments: arms x seeds, each arm a chain of training runs and a measure.

    OUT/stages/STAGE-DIGEST/                     a training run; arms and experiments whose chains begin alike share it
    OUT/EXPERIMENT/ARM/seed-N/measures.json      what was measured of an arm and a seed

What is done is never done again with the same settings, and what was stopped goes on. A run that fails or diverges is reported
with its reason; the others go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from duotok.files import make_folder, write_atomically

from .runs import run

_LOGGER = logging.getLogger(__name__)
# What makes the tiny stages end in about a minute on one core; own choice.
_SHORT = (
    "train.steps=80", "train.warmup_steps=10", "train.evaluate_every=80", "train.save_every=80", "train.log_every=20",
    "train.precision=fp32", "data.crop_s=5", "data.eval_crops=16",
)  # fmt: skip
CPU_CHANGES: dict[str, tuple[str, ...]] = {
    "stage1": (*_SHORT, "data.batch_size=4", "fit_batches=2"),
    "stage2": (*_SHORT, "data.batch_size=2", "fit_batches=4", "model.heads.masks=false"),
    "stage3": (*_SHORT, "data.batch_size=2", "fit_batches=4", "model.bottleneck.quantizer.codebook_size=1024"),
    "stage4": (*_SHORT, "data.batch_size=2"),
}


@dataclass(frozen=True)
class Setting:
    """What all arms have in common.

    Attributes:
        manifest: of the songs.
        out: folder of everything; experiments that share it share their training runs.
        init: run of stage 1 that chains start from.
        cache: folder of the decoded waves; None is "waves" beside the manifest.
        full: train at the paper's size instead of a CPU's.
        changes: `key=value` of every stage, or `stage2.key=value` of one.
        minutes: of training songs that probes and language models learn from.
        excerpt_s: seconds of every song that are measured, from its middle.
        model_steps: of training a small language model or decoder that measures.
        tokenizer: with an autoencoder, for experiments on stage 4.
    """

    manifest: Path
    out: Path
    init: Path | None = None
    cache: Path | None = None
    full: bool = False
    changes: tuple[str, ...] = ()
    minutes: float = 4.0
    excerpt_s: float = 30.0
    model_steps: int = 80
    tokenizer: str = "tiny"

    @property
    def waves(self) -> Path:
        """Where the decoded waves are kept."""
        return self.cache or self.manifest.parent / "waves"

    def changes_of(self, stage: str) -> list[str]:
        """List all changes of a stage: where the songs are, this machine's size, then the given ones."""
        places = [f"data.manifest={self.manifest}", f"data.cache={self.waves}"]
        own = (change.removeprefix(f"{stage}.") for change in self.changes)
        return [*places, *self.size_of(stage), *(change for change in own if not change.startswith("stage"))]

    def size_of(self, stage: str) -> Sequence[str]:
        """List the changes that fit a stage to this machine."""
        return () if self.full else CPU_CHANGES[stage]


@dataclass(frozen=True)
class Stage:
    """A training run of a chain: the stage's name, and the changes that make the arm."""

    name: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """What a measure gets: the setting, the folders of the chain's runs (the last one is measured), and the seed."""

    setting: Setting
    runs: tuple[Path, ...]
    seed: int


@dataclass(frozen=True)
class Arm:
    """One way of doing it.

    Attributes:
        name: unique in its sweep.
        stages: trained one after the other, the first one from `Setting.init` unless it is stage 1 or 4.
        measure: gives numbers by name.
    """

    name: str
    stages: tuple[Stage, ...]
    measure: Callable[[Trained], Mapping[str, float]]


@dataclass(frozen=True)
class Claim:
    """What a paper says, or a question: that `arm` has more (sign +1) or less (-1) of a measure than `other`."""

    text: str
    measure: str
    arm: str
    other: str
    sign: int


@dataclass(frozen=True)
class Sweep:
    """An experiment.

    Attributes:
        name: of the command and the folder.
        title, about: of its page; `about` ends with what the measures are.
        arms: the base first, which the others are compared with.
        claims: that its page answers.
        charts: measures that are drawn, and what to call them.
        prepare: makes what the arms need, once.
    """

    name: str
    title: str
    about: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    charts: Mapping[str, str]
    prepare: Callable[[Setting], None] = field(default=lambda setting: None)


@dataclass(frozen=True)
class Outcome:
    """Of an arm and a seed: its measures, or why there are none."""

    measures: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None


def run_sweep(
    sweep: Sweep, setting: Setting, seeds: Sequence[int], progress: Callable[[str], None] = lambda what: None
) -> dict[str, dict[int, Outcome]]:
    """Train and measure every arm with every seed, all arms of a seed before the next one.

    Args:
        sweep: the experiment.
        setting: what its arms have in common.
        seeds: of weights, crops and noise, in training and in what is trained to measure.
        progress: called with the name of each arm and seed that is done.

    Returns:
        The outcomes by arm and seed.

    Raises:
        KeyboardInterrupt: if a run was asked to stop; the same call goes on.
    """
    sweep.prepare(setting)
    found: dict[str, dict[int, Outcome]] = {arm.name: {} for arm in sweep.arms}
    for seed in seeds:
        for arm in sweep.arms:
            try:
                outcome = Outcome(_measured(sweep, arm, setting, seed))
            except Exception as error:  # noqa: BLE001 - whatever it was must not take the other runs with it, and is reported
                outcome = Outcome(failed=f"{type(error).__name__}: {error}")
                _LOGGER.warning("%s, %s, seed %d failed: %s", sweep.name, arm.name, seed, outcome.failed)
            found[arm.name][seed] = outcome
            progress(f"{arm.name}, seed {seed}")
    return found


def _measured(sweep: Sweep, arm: Arm, setting: Setting, seed: int) -> dict[str, float]:
    """Train and measure an arm, or read what was measured.

    Raises:
        ValueError: if a measure is not finite.
    """
    folder = setting.out / sweep.name / re.sub(r"[^\w.-]+", "_", arm.name) / f"seed-{seed}"
    file = folder / "measures.json"
    chain = _chain(arm, setting, seed)
    key = _digest([*chain, setting.minutes, setting.excerpt_s, setting.model_steps, setting.tokenizer, str(setting.manifest)])
    if file.exists() and (found := json.loads(file.read_text()))["settings"] == key:
        return found["measures"]
    runs = _train(arm, chain, setting)
    measures = dict(arm.measure(Trained(setting, runs, seed)))
    broken = [name for name, value in measures.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(f"expected finite measures; got {', '.join(f'{name} {measures[name]}' for name in broken)}")
    make_folder(folder)
    write_atomically(file, (json.dumps({"settings": key, "measures": measures}, indent=1) + "\n").encode())
    return measures


def _chain(arm: Arm, setting: Setting, seed: int) -> list[list[str]]:
    """Say everything that shapes each run of a chain: its stage, then its changes."""
    stages = [[stage.name, *setting.changes_of(stage.name), *stage.changes, f"train.seed={seed}"] for stage in arm.stages]
    return [[str(setting.init), str(setting.full)], *stages]


def _train(arm: Arm, chain: list[list[str]], setting: Setting) -> tuple[Path, ...]:
    """Train an arm's stages, or go on with them."""
    runs: list[Path] = []
    for number, stage in enumerate(arm.stages, 1):
        before = runs[-1] if runs else None if stage.name in ("stage1", "stage4") else setting.init
        folder = setting.out / "stages" / f"{stage.name}-{_digest(chain[: number + 1])}"
        run(stage.name if setting.full else f"tiny/{stage.name}", chain[number][1:], folder, before)
        runs.append(folder)
    return tuple(runs)


def _digest(values: list) -> str:
    return hashlib.sha1(json.dumps(values).encode(), usedforsecurity=False).hexdigest()[:12]

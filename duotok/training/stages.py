"""From a configuration file to a task that is ready to train, and from trained ones to what is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from duotok import autoencoder as autoencoders
from duotok import config as configuration
from duotok import storage
from duotok.config import ConfigError
from duotok.dataset.songs import Songs
from duotok.dataset.tokens import TokenSongs
from duotok.decoder import Decoder, DecoderConfig, check_origin
from duotok.language import LanguageModel, LanguageModelFile, load_language_model
from duotok.model.language_model import DualTrackLM
from duotok.model.semantic import SemanticConfig, SemanticModel
from duotok.model.vae import Autoencoder, AutoencoderConfig, make_autoencoder
from duotok.tokenizer import DuoTok, TokenizerConfig, load
from duotok.windows import WindowPolicy

from . import checkpoint
from .lm import LmConfig, LmTask
from .log import read_log
from .stage import CropConfig, CropTask
from .stage1 import Stage1, Stage1Config
from .stage2 import Stage2, Stage2Config
from .stage3 import Stage3, Stage3Config
from .stage4 import Stage4, Stage4Config, read_autoencoder
from .vae import VaeConfig, VaeTask

STAGES: dict[int | str, tuple[type[CropConfig], type[CropTask]]] = {
    1: (Stage1Config, Stage1),
    2: (Stage2Config, Stage2),
    3: (Stage3Config, Stage3),
    4: (Stage4Config, Stage4),
    "vae": (VaeConfig, VaeTask),
    "lm": (LmConfig, LmTask),
}
_MODEL, _DIT = "model.", "dit."  # prefixes of the semantic model's and the DiT's tensors within a stage
_CONFIGS = Path(configuration.__file__).parent / "configs"


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> CropConfig:
    """Read a stage's configuration.

    Args:
        name: a path ending in .yaml, or one of the package's, such as "stage1" or "tiny/vae".
        overrides: `key=value` changes.

    Raises:
        ConfigError: for an unknown name, stage, key or value.
    """
    path = Path(name) if str(name).endswith(".yaml") else _CONFIGS / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"config: expected a .yaml file, or vae, stage1 to stage4, lm, or tiny/ and one of these; got {str(name)!r}; "
            "choose one"
        )
    values = configuration.read(path)
    stage = values.get("stage") if isinstance(values, dict) else None
    if stage not in STAGES:
        raise ConfigError(f"{path}: stage: expected one of {', '.join(map(str, STAGES))}; got {stage!r}; correct it")
    return configuration.load(path, STAGES[stage][0], overrides)


def read_songs(config: CropConfig, progress: Callable[[int, int], None] | None = None) -> Songs | TokenSongs:
    """Read the songs that a configuration names; `progress` gets songs done and their total."""
    return STAGES[config.stage][1].read_songs(config, progress)


def make_stage(config: CropConfig, songs: Songs | TokenSongs) -> CropTask:
    """Build the stage of a configuration, with random weights."""
    return STAGES[config.stage][1](config, songs)


def read_state(path: Path, stage: int | str) -> dict[str, Tensor]:
    """Read the weights (...) of a trained task by name, for `CropTask.start`.

    Args:
        path: a run, whose newest checkpoint is taken, averaged where averages were kept; or a tokenizer. For an autoencoder,
            the folder of another, or the published checkpoint of the ear-VAE; for a language model, the folder of another.
        stage: that is to start.

    Raises:
        CheckpointError: if it is none of these.
    """
    if not path.is_file() and not (path / storage.FINGERPRINT).exists():
        return checkpoint.read_weights(path)
    if stage == "vae":
        model = autoencoders.read_ear_vae(path) if path.is_file() else autoencoders.load_autoencoder(path)
    elif stage == "lm":
        model = load_language_model(path).model
    else:
        model = load(path).model
    return {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}


def export(run: Path, folder: Path) -> DuoTok | Autoencoder | LanguageModel:
    """Make a tokenizer of a run of stage 3: averaged weights where there are some, effective codes, and how it was trained.

    A run of stage 4 gives the tokenizer it was trained with, with the decoder added, see `export_decoder`. A run of an
    autoencoder gives the autoencoder, as does the published checkpoint of the ear-VAE; a run of a language model gives that.

    Args:
        run: folder that was trained in, or the published checkpoint.
        folder: where the tokenizer goes, for `duotok.load`, the autoencoder, or the language model.

    Raises:
        ValueError: if the run is of another stage, or of stage 3 and not hard-routed.
        CheckpointError: if it has no checkpoint.
    """
    if run.is_file():
        autoencoder = autoencoders.read_ear_vae(run)
        autoencoders.save_autoencoder(folder, autoencoder, source=run.name)
        return autoencoder
    found = checkpoint.latest(run)
    if found is None:
        raise storage.CheckpointError(f"{run}: expected a run with a checkpoint; got none; train first")
    settings = found.settings["task"]
    if settings.get("stage") == "vae":
        return _export_autoencoder(run, folder, found)
    if settings.get("stage") == "lm":
        return _export_language_model(run, folder, found)
    if settings.get("stage") == 4:
        return export_decoder(run, folder, load_config(run / "config.yaml"))
    stage, routing = settings.get("stage"), settings.get("routing")
    if (stage, routing) != (3, "hard"):
        raise ValueError(f"{run}: expected a run of stage 3 with hard routing; got stage {stage}, routing {routing}; train one")
    model = SemanticModel(configuration.parse(SemanticConfig, settings["model"], str(run)))
    _load_part(model, run, _MODEL)
    windows = configuration.parse(WindowPolicy, settings["windows"], str(run))
    tokenizer = DuoTok(TokenizerConfig(trained=True, windows=windows), model.export())
    tokenizer.save(folder, training=_summary(run, found))
    return tokenizer


def _export_autoencoder(run: Path, folder: Path, found: checkpoint.Checkpoint) -> Autoencoder:
    autoencoder = make_autoencoder(configuration.parse(AutoencoderConfig, found.settings["task"]["model"], str(run)))
    _load_part(autoencoder, run, _MODEL)
    autoencoders.save_autoencoder(folder, autoencoder, training=_summary(run, found))
    return autoencoder.eval()


def _export_language_model(run: Path, folder: Path, found: checkpoint.Checkpoint) -> LanguageModel:
    config = configuration.parse(LanguageModelFile, found.settings["task"]["file"], str(run))
    model = DualTrackLM(config.model).eval()
    _load_part(model, run, _MODEL)
    made = LanguageModel(config, model, json.loads(_summary(run, found)))
    made.save(folder)
    return made


def _load_part(module: nn.Module, run: Path, prefix: str) -> None:
    """Load what a run trained under a prefix."""
    weights = checkpoint.read_weights(run)
    module.load_state_dict({name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)})


def export_decoder(run: Path, folder: Path, config: Stage4Config) -> DuoTok:
    """Copy a tokenizer, and add the decoder of a run of stage 4 and its autoencoder.

    Args:
        run: folder that was trained in.
        folder: where the copy goes; may be the tokenizer's own.
        config: that names tokenizer and autoencoder.

    Raises:
        CheckpointError: if the run has no checkpoint, or tokenizer or autoencoder cannot be read or are not those of the run.
    """
    found = checkpoint.latest(run)
    if found is None:
        raise storage.CheckpointError(f"{run}: expected a run with a checkpoint; got none; train first")
    decoder = Decoder(configuration.parse(DecoderConfig, found.settings["task"]["decoder"], str(run)), read_autoencoder(config))
    _load_part(decoder.dit, run, _DIT)
    check_origin(run, decoder, load(config.tokenizer).fingerprint)
    storage.copy(storage.find(config.tokenizer), folder)
    decoder.save(folder, training=_summary(run, found))
    return load(folder)


def _summary(run: Path, found: checkpoint.Checkpoint) -> str:
    """Say how a run was trained, as JSON for the header of its weights."""
    scores = [row["scores"] for row in read_log(run) if row["kind"] == "evaluation"]
    stage, train = found.settings["task"]["stage"], found.settings["train"]
    return json.dumps({"stage": stage, "steps": found.step, "train": train, "scores": scores[-1] if scores else {}})

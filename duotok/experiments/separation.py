"""Experiment (g): the same training on true stems, on a separator's, and on leaky ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from duotok.dataset.manifest import hash_rank, write_manifest
from duotok.dataset.songs import Song
from duotok.dataset.stems import separate_manifest
from duotok.files import make_folder, whole_file
from duotok.model.bottleneck import TRACKS
from duotok.separation import Separator, make_separator
from duotok.training.stages import load_config

from .measures import excerpts, tokenizer_quality
from .noise import CHARTS
from .sweep import Arm, Claim, Setting, Stage, Sweep

_TRUE, _SEPARATED, _LEAKY = "true stems", "separated stems", "leaky stems"
_LEAK = 0.2  # of each stem ends up in the other one; own choice, about -12 dB
_MANIFEST = "manifest.jsonl"


def separation(setting: Setting, separator: Separator | None = None) -> Sweep:
    """Describe the experiment; `separator` is Spleeter unless another is given."""
    arms = []
    for name in (_TRUE, _SEPARATED, _LEAKY):
        folder = _stems(setting, name)
        data = (f"data.manifest={folder / _MANIFEST}", f"data.cache={folder / 'waves'}")
        arms.append(Arm(name, (Stage("stage2", data), Stage("stage3", data)), tokenizer_quality))
    return Sweep(
        "separation",
        "Training on true stems, a separator's, and leaky ones",
        "Stages 2 and 3 on the same excerpts of the same songs, three ways: with their true stems, with what Spleeter makes "
        f"of their mixtures, and with stems of which {_LEAK:.0%} leak into the other one. All of them are measured on the "
        "true stems of held-out songs. The paper names better separation as a way to help the accompaniment.",
        tuple(arms),
        (
            Claim("a separator's stems cost bits per token", "bits_per_token", _SEPARATED, _TRUE, 1),
            Claim("a separator's stems cost Mel accuracy", "mel_l1", _SEPARATED, _TRUE, 1),
            Claim("leaky stems cost bits per token", "bits_per_token", _LEAKY, _TRUE, 1),
            Claim("leaky stems cost Mel accuracy", "mel_l1", _LEAKY, _TRUE, 1),
        ),
        CHARTS,
        partial(prepare, separator=separator),
    )


def prepare(setting: Setting, separator: Separator | None = None) -> None:
    """Make every arm's stems from the excerpts that are measured; those that are there are kept."""
    rate = load_config("stage2" if setting.full else "tiny/stage2").model.mel.spec.sample_rate
    found = excerpts(setting, rate)
    songs = [*found.train, *found.held_out]
    for name, leak in ((_TRUE, 0.0), (_LEAKY, _LEAK)):
        folder = _stems(setting, name)
        write_manifest(folder / _MANIFEST, [_leaky(song, leak, folder, rate) for song in songs])
    mixtures = _stems(setting, "mixtures")
    write_manifest(mixtures / _MANIFEST, [_mixed(song, mixtures, rate) for song in songs])
    separate_manifest(mixtures / _MANIFEST, _stems(setting, _SEPARATED), separator or make_separator("spleeter"))


def _stems(setting: Setting, name: str) -> Path:
    """Name the folder of an arm's stems."""
    return setting.out / "stems" / f"{name.replace(' ', '_')}-{setting.excerpt_s:g}s"


def _leaky(song: Song, leak: float, folder: Path, rate: int) -> dict:
    """Write both stems of a song, a share of each moved to the other one: its row of a manifest."""
    vocals, accompaniment = (song.read(name, 0, song.num_samples).astype(np.float32) for name in TRACKS)
    moved = {"vocals": (1 - leak) * vocals + leak * accompaniment, "accompaniment": (1 - leak) * accompaniment + leak * vocals}
    vocal_path, accompaniment_path = (_kept(folder, song, name, wave, rate) for name, wave in moved.items())
    return _row(song) | {"vocal_path": vocal_path, "accompaniment_path": accompaniment_path}


def _mixed(song: Song, folder: Path, rate: int) -> dict:
    """Write the mixture of a song: its row of a manifest."""
    mixture = sum(song.read(name, 0, song.num_samples).astype(np.float32) for name in TRACKS)
    return _row(song) | {"mixture_path": _kept(folder, song, "mixture", mixture, rate)}


def _row(song: Song) -> dict:
    words = [vars(word) for word in song.words]
    return {"id": song.id, "split": "held_out" if song.held_out else "train"} | ({"words": words} if words else {})


def _kept(folder: Path, song: Song, name: str, wave: np.ndarray, rate: int) -> str:
    """Write a wave (S,) in the steps of 16 bits, unless it is there: its path as seen from the folder."""
    path = folder / f"{hash_rank(song.id):016x}_{name}.flac"
    if not path.exists():
        make_folder(folder)
        with whole_file(path, "a stem") as temporary:
            soundfile.write(temporary, wave.round().clip(-32768, 32767).astype(np.int16), rate, format="FLAC")
    return path.name

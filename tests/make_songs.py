"""Small songs and manifests for the tests of training: sung letters over plucked chords."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from make_audio import music, write

from duotok import config as configuration
from duotok.dataset.songs import Songs, load_songs
from duotok.training.stage import StageConfig
from duotok.training.stages import load_config

RATE = 24_000
SUNG_S = 0.5
# Small enough that a step takes some milliseconds.
SMALL = [
    "model.trunk.front_blocks=1", "model.trunk.back_blocks=1", "model.trunk.downsample_channels=4",
    "model.trunk.block={width: 32, num_heads: 2, ffn_width: 64, dropout: 0.1}",
    "data.crop_s=2", "data.min_s=1", "data.batch_size=4", "data.eval_crops=6",
    "train.steps=40", "train.lr=3.0e-3", "train.warmup_steps=5", "train.evaluate_every=40", "train.save_every=40",
    "train.log_every=10",
]  # fmt: skip


def voice(letters: str, rate: int = RATE) -> np.ndarray:
    """Sing letters "a" to "d" (a space is a rest), each half a second at its own pitch: (n,) float32."""
    t = np.arange(round(SUNG_S * rate)) / rate
    pitches = [0.0 if letter == " " else 220 * 2 ** ("abcd".index(letter) / 4) for letter in letters]
    tones = [sum(np.sin(2 * np.pi * h * pitch * t) / h for h in range(1, 5)) if pitch else 0 * t for pitch in pitches]
    return (0.2 * np.concatenate(tones) * np.tile(np.hanning(len(t)), len(letters))).astype(np.float32)


def write_song(folder: Path, id: str, letters: str, seed: int, rate: int = RATE, stems: bool = False) -> dict:
    """Write a song's stems, and return its row of a manifest."""
    vocals = voice(letters, rate)
    parts = {
        name: 0.3 * music(len(vocals) / rate, rate, seed=10 * seed + i) for i, name in enumerate(("drums", "bass", "other"))
    }
    waves = {"vocals": vocals, "accompaniment": sum(parts.values()), **(parts if stems else {})}
    paths = {name: write(folder / f"{id}_{name}.wav", wave, rate).name for name, wave in waves.items()}
    starts = SUNG_S * np.arange(len(letters))
    words = [
        {"start": float(s), "end": float(s) + SUNG_S, "text": letter}
        for s, letter in zip(starts, letters, strict=True)
        if letter != " "
    ]
    row = {"id": id, "vocal_path": paths["vocals"], "accompaniment_path": paths["accompaniment"], "words": words}
    return row | ({"stems": {name: paths[name] for name in parts}} if stems else {})


def write_manifest(folder: Path, rows: list[dict]) -> Path:
    """Write rows to manifest.jsonl."""
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def four_songs(folder: Path, letters: str = "ab cda bcdab") -> Path:
    """Write four songs, by default of 6 s, the last one held out, two of them with stems, and their manifest."""
    rows = [write_song(folder, f"song{i}", letters, seed=i, stems=i % 2 == 0) for i in range(4)]
    return write_manifest(folder, [row | {"split": "held_out" if i == 3 else "train"} for i, row in enumerate(rows)])


def small_config(stage: int, *overrides: str) -> StageConfig:
    """Make a stage's configuration small."""
    heads = {1: [], 2: ["hidden=16", "band_dim=4"], 3: ["hidden=16"]}[stage]
    own = {
        1: ["labels.codebook_size=64"],
        2: ["masks_s=1"],
        3: ["fit_batches=2", "model.bottleneck.quantizer.codebook_size=4096"],
    }
    changes = [*SMALL, *own[stage], *(f"model.heads.{head}" for head in heads), "model.bottleneck.quantizer.dim=8"]
    return load_config(f"tiny/stage{stage}", [*changes, *overrides])


def songs_of(manifest: Path) -> Songs:
    """Load a manifest's songs at the model's rate."""
    return load_songs(manifest, manifest.parent / "waves", RATE, min_s=1.0)


def dump(config: StageConfig, path: Path) -> Path:
    """Write a configuration for the command line."""
    path.write_text(configuration.dump(config), encoding="utf-8")
    return path

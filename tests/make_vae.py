"""A small autoencoder's training for tests; processes that are started anew can import it."""

from __future__ import annotations

from pathlib import Path

from duotok.training.stages import load_config, make_stage, read_songs
from duotok.training.vae import VaeConfig, VaeTask

SPECTRAL = [
    "model.spectral={width: 32, kernel_size: 3, encoder_blocks: 1, decoder_blocks: 1}", "sizes=[256]", "phase_size=256",
    "discriminator={sizes: [256], width: 2}", "data.crop_s=0.5", "data.min_s=1", "data.batch_size=4", "data.eval_crops=6",
    "train.steps=60", "train.lr=3.0e-3", "train.warmup_steps=5", "train.evaluate_every=60", "train.save_every=60",
]  # fmt: skip


def small(manifest: Path, *overrides: str) -> VaeConfig:
    return load_config("tiny/vae", [*SPECTRAL, f"data.manifest={manifest}", *overrides])


def task_of(manifest: Path, *overrides: str) -> VaeTask:
    config = small(manifest, *overrides)
    return make_stage(config, read_songs(config))

"""Fixtures that many tests share: the tiny tokenizer, a tokenizer whose codes spread, and real music."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

import duotok
from duotok.audio import open_audio, to_mono

SHARED_SONGS = Path(__file__).parents[2] / "shared" / "data" / "songs"


@pytest.fixture(scope="session")
def stem_file() -> Path:
    """stempeg's excerpt of a real song: five streams, 6 s, 44.1 kHz."""
    return next(Path(file.locate()) for file in metadata.files("stempeg") if file.name.endswith(".stem.mp4"))


@pytest.fixture(scope="session")
def real_song(stem_file: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Vocals and accompaniment (S,) float32 of the excerpt, and its sample rate."""
    tracks = []
    for stream in range(1, 5):
        with open_audio(stem_file, stream) as reader:
            tracks.append(np.concatenate([to_mono(block) for block in reader.blocks()]))
    *accompaniment, vocals = tracks
    return vocals, sum(accompaniment), 44_100


@pytest.fixture(scope="session")
def long_song(real_song: tuple[np.ndarray, np.ndarray, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """110 s of real music: the excerpt again and again, each time at another speed, so that no two windows are alike."""
    vocals, accompaniment, rate = real_song
    pieces: list[list[np.ndarray]] = [[], []]
    for turn in range(22):
        at = np.arange(0, len(vocals) - 1, 1 + 0.01 * turn)
        for track, wave in enumerate((vocals, accompaniment)):
            pieces[track].append(np.interp(at, np.arange(len(wave)), wave).astype(np.float32))
    return *(np.concatenate(track)[: 110 * rate] for track in pieces), rate


@pytest.fixture(scope="session")
def tokenizer() -> duotok.DuoTok:
    """The tiny tokenizer that ships with the package."""
    return duotok.load("tiny")


@pytest.fixture(scope="session")
def spread_tokenizer(long_song: tuple[np.ndarray, np.ndarray, int]) -> duotok.DuoTok:
    """A tiny tokenizer whose codes spread over real music, so that equality of codes is a sharp test.

    Random weights map nearly everything to a few codes. Here each branch's projection is the whitening of its input over
    the long song, and the codes are standard normal.
    """
    tok = duotok.DuoTok.from_config("tiny/tokenizer", seed=1)
    seen: list[torch.Tensor] = []
    handle = tok.model.trunk.front.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    tok.encode(*long_song)
    handle.remove()
    generator = torch.Generator().manual_seed(2)
    half = len(seen) // 2  # all windows of the vocals, then all of the accompaniment
    for branch, windows in zip(tok.model.trunk.bottleneck.branches, (seen[:half], seen[half:]), strict=True):
        features = torch.cat(windows, dim=1)[0].double()
        centred = features - features.mean(0)
        _, scale, directions = torch.linalg.svd(centred, full_matrices=False)
        whiten = directions[:16] / scale[:16, None] * len(features) ** 0.5
        branch.proj_in.weight.data.copy_(whiten)
        branch.proj_in.bias.data.copy_(-(whiten @ features.mean(0)))
        branch.quantizer.table.copy_(torch.randn(branch.quantizer.table.shape, generator=generator))
    return tok

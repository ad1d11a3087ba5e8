"""Songs to tokens with the tiny tokenizer: audio seconds per second, from waves and from files."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from duotok.corpus.reader import MixturePolicy
from duotok.corpus.songs import Song
from duotok.corpus.worker import tokenize_song

RATE, SECONDS = 44_100, 120


@pytest.fixture(scope="module")
def tracks() -> list[np.ndarray]:
    """Two minutes of two tracks of sliding tones and noise."""
    time = np.arange(RATE * SECONDS) / RATE
    noise = np.random.default_rng(0).standard_normal((2, len(time)))
    tones = np.stack([np.sin(2 * np.pi * (f + time) * time) for f in (220, 110)])
    return list((0.2 * tones + 0.02 * noise).astype(np.float32))


def bench_encode(benchmark, tokenizer, tracks):
    """`DuoTok.encode` on waves in memory."""
    codes = tokenizer.encode(*tracks, RATE)
    assert codes.tensor.shape == (1, 2, 25 * SECONDS)
    benchmark.group = "tokenize"
    benchmark.pedantic(tokenizer.encode, (*tracks, RATE), rounds=3, warmup_rounds=1)
    benchmark.extra_info["times_real_time"] = SECONDS / benchmark.stats.stats.median


def bench_tokenize_song(benchmark, tokenizer, tracks, tmp_path):
    """A pair of FLAC files to a row of the token file: decode, check, resample, encode, hash."""
    paths = [tmp_path / f"{name}.flac" for name in ("vocals", "accompaniment")]
    for path, wave in zip(paths, tracks, strict=True):
        soundfile.write(path, wave, RATE)
    song = Song("song", "song", str(paths[0]), str(paths[1]))
    outcome = tokenize_song(tokenizer, song, MixturePolicy())
    read = [soundfile.read(path, dtype="float32")[0] for path in paths]
    expected = tokenizer.encode(*read, RATE)[0]
    found = np.stack([outcome.row["vocal_codes"], outcome.row["accomp_codes"]]).astype(np.int64)
    assert torch.equal(torch.from_numpy(found), expected)
    benchmark.group = "tokenize"
    benchmark.pedantic(tokenize_song, (tokenizer, song, MixturePolicy()), rounds=3, warmup_rounds=1)
    benchmark.extra_info["times_real_time"] = SECONDS / benchmark.stats.stats.median


def bench_search_of_one_window(benchmark, tokenizer):
    """The share of the search: one 30 s window of one track in the tiny codebook."""
    branch = tokenizer.model.trunk.bottleneck.branches[0]
    z = torch.randn(750, 16)
    assert branch.quantizer(z).indices.shape == (750,)
    benchmark.group = "tokenize"
    benchmark(branch.quantizer, z)

"""Songs to tokens, tokens to sound and a training step with what ships: audio seconds per second, peak memory, and scaling.

Two workers beside one, and a job beside a plain loop, are in bench_jobs.py.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import soxr
import torch
from measure import peak_bytes

from duotok.audio import open_audio
from duotok.corpus.reader import MixturePolicy
from duotok.corpus.songs import Song
from duotok.corpus.worker import tokenize_song
from duotok.dataset.songs import load_songs
from duotok.training.stages import load_config, make_stage

RATE, SECONDS = 44_100, 120


def tracks_of(seconds: int) -> list[np.ndarray]:
    """Two tracks of sliding tones and noise."""
    time = np.arange(RATE * seconds) / RATE
    noise = np.random.default_rng(0).standard_normal((2, len(time)))
    tones = np.stack([np.sin(2 * np.pi * (f + time) * time) for f in (220, 110)])
    return list((0.2 * tones + 0.02 * noise).astype(np.float32))


@pytest.fixture(scope="module")
def tracks() -> list[np.ndarray]:
    """Two minutes."""
    return tracks_of(SECONDS)


@pytest.mark.parametrize(("seconds", "songs"), [(30, 1), (120, 1), pytest.param(480, 1, marks=pytest.mark.slow), (30, 4)])
def bench_encode(benchmark, record, tokenizer, seconds, songs):
    """`DuoTok.encode` on waves in memory, by length of a song and by number of songs: time grows with both, memory does not.

    A song's codes are checked against those of the song alone; whether those are right is for tests/test_golden.py.
    """
    waves = tracks_of(seconds)
    batch = [[wave] * songs for wave in waves]
    codes = tokenizer.encode(*batch, RATE)
    assert codes.tensor.shape == (songs, 2, 25 * seconds)
    assert torch.equal(codes.tensor[-1], tokenizer.encode(*waves, RATE).tensor[0])
    best = record("tokenize", {"ours": lambda: tokenizer.encode(*batch, RATE)}, limit=2)
    benchmark.extra_info["times_real_time"] = songs * seconds / best["ours"]
    benchmark.extra_info["peak_mb"] = 1e-6 * peak_bytes(lambda: tokenizer.encode(*batch, RATE))


def bench_tokenize_song(benchmark, record, tokenizer, tracks, tmp_path):
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
    best = record("tokenize files", {"ours": lambda: tokenize_song(tokenizer, song, MixturePolicy())}, limit=3)
    benchmark.extra_info["times_real_time"] = SECONDS / best["ours"]


@pytest.mark.parametrize("suffix", ["opus", "ogg"])
def bench_read(benchmark, record, real_song, tmp_path, suffix):
    """A minute of real music in a compressed file, in blocks, and by libsndfile alone."""
    vocals, accompaniment, rate = real_song
    stereo = np.tile(soxr.resample(np.stack([vocals, accompaniment], axis=1), rate, 48_000), (10, 1))
    path, kind = tmp_path / f"song.{suffix}", {"opus": "OPUS", "ogg": "VORBIS"}[suffix]
    with soundfile.SoundFile(path, "w", 48_000, 2, kind, format="OGG") as file:
        for block in np.array_split(stereo, 300):  # libsndfile's Vorbis encoder overflows its stack when it is given much
            file.write(block)

    def ours() -> np.ndarray:
        with open_audio(path) as reader:
            return np.concatenate(list(reader.blocks()), axis=1)

    def theirs() -> np.ndarray:
        return soundfile.read(path, dtype="float32", always_2d=True)[0].T

    assert np.linalg.norm(ours() - theirs()) < 0.01 * np.linalg.norm(theirs())  # noise that Opus leaves to its decoders differs
    best = record(f"read {suffix}", {"ours": ours, "soundfile": theirs}, limit=3)
    benchmark.extra_info["times_real_time"] = len(stereo) / 48_000 / best["ours"]


def bench_decode(benchmark, record, tokenizer):
    """Ten seconds of codes to waves, ten steps of the sampler."""
    codes = torch.arange(2 * 250).view(2, 250) * 61 % tokenizer.codebook_size
    first, again = (tokenizer.decode(codes, steps=10, seed=0).mix for _ in range(2))
    assert torch.equal(first, again) and first.shape[-1] == 10 * tokenizer.decoder.sample_rate
    best = record("decode", {"ours": lambda: tokenizer.decode(codes, steps=10, seed=0)}, limit=3)
    benchmark.extra_info["times_real_time"] = 10 / best["ours"]
    benchmark.extra_info["peak_mb"] = 1e-6 * peak_bytes(lambda: tokenizer.decode(codes, steps=10, seed=0))


def bench_training_step(benchmark, record, tracks, tmp_path):
    """Forward and backward of stage 1 at tiny size, float32: a micro-batch of eight crops of 15 s."""
    rows = []
    for split in ("train", "held_out"):
        paths = {name: tmp_path / f"{split}_{name}.flac" for name in ("vocal_path", "accompaniment_path")}
        for path, wave in zip(paths.values(), tracks, strict=True):
            soundfile.write(path, wave, RATE)
        rows.append({"id": split, "split": split, **{name: str(path) for name, path in paths.items()}})
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config("tiny/stage1", ["data.batch_size=8"])
    stage = make_stage(config, load_songs(manifest, tmp_path / "waves", 24_000, min_s=1.0))
    stage.start()
    batch, seed = stage.batch(1, 0), torch.tensor([1, 0])

    def step() -> float:
        stage.zero_grad()
        loss = stage(batch, seed)["loss"]
        loss.backward()
        return loss.item()

    assert step() == step() and all(p.grad is not None for p in stage.model.trunk.front.parameters())
    best = record("training step", {"ours": step}, limit=3)
    benchmark.extra_info["times_real_time"] = 8 * 15 / best["ours"]
    benchmark.extra_info["peak_mb"] = 1e-6 * peak_bytes(step)


def bench_search_of_one_window(record, tokenizer):
    """The share of the search: one 30 s window of one track in the tiny codebook."""
    branch = tokenizer.model.trunk.bottleneck.branches[0]
    z = torch.randn(750, 16)
    assert branch.quantizer(z).indices.shape == (750,)
    record("tokenize: search", {"ours": lambda: branch.quantizer(z)})

"""The column vocal_activity: a level for each second of song, on the documented scale, however the vocals arrive."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from duotok.corpus.activity import VocalActivity
from duotok.corpus.reader import MixturePolicy
from duotok.corpus.songs import Song
from duotok.corpus.worker import tokenize_song

RATE = 8_000


def levels(vocals: np.ndarray, num_seconds: int, cuts: list[int] | None = None, rate: int = RATE) -> list[int]:
    activity = VocalActivity(rate)
    for part in np.split(vocals, cuts or []):
        activity.push(part)
    return activity.finish(num_seconds)


def test_the_scale_is_the_documented_one():
    sine = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE)
    for wave, level in (
        (np.ones(RATE), 100), (sine, 97), (0.1 * np.ones(RATE), 80), (1e-3 * sine, 37), (1e-5 * np.ones(RATE), 0),
        (np.zeros(RATE), 0), (3 * np.ones(RATE), 100), (1e-6 * np.ones(RATE), 0),
    ):  # fmt: skip
        assert levels(wave.astype(np.float32), 1) == [level]


def test_cutting_changes_nothing_and_the_length_is_the_songs():
    generator = np.random.default_rng(0)
    wave = (generator.standard_normal(5 * RATE + 17) * np.repeat(10.0 ** -np.arange(6), RATE)[: 5 * RATE + 17]).astype(
        np.float32
    )
    whole = levels(wave, 6)
    assert whole == [100, 80, 60, 40, 20, 0]
    for _ in range(20):
        assert levels(wave, 6, sorted(generator.integers(0, len(wave), 9))) == whole
    assert levels(wave, 5) == whole[:5] and levels(wave, 8) == [*whole, 0, 0]
    assert levels(0.1 * np.ones(RATE + 5, np.float32), 2) == [80, 80], "the last second is as loud as its samples"


class Half:
    """A separator that calls half of everything vocals."""

    identity, sample_rate = "half:1", 16_000

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        return 0.5 * mixture


def test_rows_have_it_for_stems_given_and_separated(tokenizer, tmp_path):
    loud = 0.5 * np.random.default_rng(0).uniform(-1, 1, int(2.5 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "v.wav", np.concatenate((loud[:RATE], 0.01 * loud[RATE:])), RATE, "FLOAT")
    soundfile.write(tmp_path / "a.wav", loud, RATE, "FLOAT")
    given = Song("x", "x", str(tmp_path / "v.wav"), str(tmp_path / "a.wav"))
    mixture = Song("y", "y", mixture_path=str(tmp_path / "v.wav"))
    assert tokenize_song(tokenizer, given, MixturePolicy()).row["vocal_activity"] == [89, 49, 49]
    assert tokenize_song(tokenizer, mixture, MixturePolicy(Half())).row["vocal_activity"] == pytest.approx([83, 43, 43], abs=1)
    assert tokenize_song(tokenizer, mixture, MixturePolicy()).row["vocal_activity"] is None

"""Decoders before one encoder: bounded memory, the codes of each song alone, and order only where it matters."""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import write_songs

from duotok.corpus import pipeline
from duotok.corpus.pipeline import Pipeline
from duotok.corpus.reader import MixturePolicy
from duotok.corpus.songs import collect
from duotok.corpus.stopwatch import Stopwatch
from duotok.corpus.worker import tokenize_song

SECONDS = (1.0, 55.0, 2.0, 30.0)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> list:
    return collect([write_songs(tmp_path_factory.mktemp("songs"), SECONDS)])


@pytest.mark.parametrize("num_decoders", [0, 1, 3])
def test_songs_side_by_side_have_the_codes_that_they_have_alone(songs, spread_tokenizer, num_decoders):
    watch = Stopwatch()
    found = dict(
        (song.source, outcome)
        for song, outcome in Pipeline(spread_tokenizer, MixturePolicy(), watch, num_decoders, queue_s=0).run(songs)
    )
    assert len(found) == len(songs)
    for song in songs:
        alone = tokenize_song(spread_tokenizer, song, MixturePolicy())
        assert found[song.source].failure == alone.failure
        for name, value in (alone.row or {}).items():
            assert np.array_equal(found[song.source].row[name], value), f"{song.source}: {name}"
    seconds = watch.take()
    assert seconds["encode"] > 0 and seconds["decode"] > 0 and watch.take() == {}


def test_windows_of_many_songs_share_a_batch(songs, spread_tokenizer):
    """Batches of three, so that songs end within them, and the last is filled up."""
    tokenizer = copy.deepcopy(spread_tokenizer)
    tokenizer.config = replace(tokenizer.config, windows=replace(tokenizer.config.windows, batch_size=3))
    batches = []
    encode = tokenizer._encode_batch
    tokenizer._encode_batch = lambda batch: (
        batches.append({key[0].reading.song.source for key, _, _ in batch}),
        encode(batch),
    )[1]
    found = {song.source: outcome for song, outcome in Pipeline(tokenizer, MixturePolicy(), Stopwatch()).run(songs)}
    assert any(len(batch) > 1 for batch in batches) and len(batches) == -(-2 * (1 + 3 + 1 + 2) // 3)
    for song in songs[:2]:
        alone = tokenize_song(spread_tokenizer, song, MixturePolicy()).row
        assert alone and all(np.array_equal(found[song.source].row[name], value) for name, value in alone.items())


class SlowEncoder:
    """A tokenizer whose encoder does not begin before the decoders have stopped, and counts what waits for it."""

    def __init__(self, tokenizer, counted) -> None:
        self._tokenizer, self._counted = tokenizer, counted

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def encode_windows(self, windows):
        for key, track, _ in windows:
            settle(self._counted)
            yield key, self._tokenizer._codes_of_silence((key, track, np.zeros(720_000, np.float32)))


def settle(counted) -> None:
    """Wait until the decoders have nothing more to do than to wait."""
    before = -1
    while counted.taken != before:
        before = counted.taken
        time.sleep(0.05)


class Counted:
    """Counts windows that decoders have made and the encoder has not taken."""

    def __init__(self) -> None:
        self.taken, self.given, self.most, self.lock = 0, 0, 0, threading.Lock()


def test_decoders_wait_for_the_encoder(songs, tokenizer, monkeypatch):
    """However many windows the songs have, no more of them wait than the queue holds and each decoder has in hand."""
    counted = Counted()
    put = pipeline._Decoders._put
    get = pipeline._Decoders.get

    def counting_put(self, item):
        if isinstance(item, tuple) and item[2] is not None:
            with counted.lock:
                counted.taken += 1
                counted.most = max(counted.most, counted.taken - counted.given)
        return put(self, item)

    def counting_get(self):
        item = get(self)
        if item is not None and item[2] is not None:
            with counted.lock:
                counted.given += 1
        return item

    monkeypatch.setattr(pipeline._Decoders, "_put", counting_put)
    monkeypatch.setattr(pipeline._Decoders, "get", counting_get)
    pipe = Pipeline(SlowEncoder(tokenizer, counted), MixturePolicy(), Stopwatch(), num_decoders=2, queue_s=60)
    assert len(list(pipe.run(songs * 3))) == 3 * len(songs)
    assert counted.taken == counted.given == 3 * 2 * (1 + 3 + 1 + 2)
    assert 3 <= counted.most <= 2 + 2, "two of 30 s in the queue, one in the hand of each decoder"


@pytest.mark.parametrize("num_decoders", [0, 2])
def test_a_pipeline_that_is_left_early_ends_its_threads(songs, tokenizer, num_decoders):
    outcomes = Pipeline(tokenizer, MixturePolicy(), Stopwatch(), num_decoders, queue_s=0).run(songs * 5)
    next(outcomes)
    outcomes.close()
    assert not [thread for thread in threading.enumerate() if "_decode" in thread.name]


def test_a_stage_within_another_counts_for_itself():
    watch = Stopwatch()
    with watch.stage("encode"):
        time.sleep(0.01)
        with watch.stage("wait"):
            time.sleep(0.03)
    seconds = watch.take()
    assert seconds["wait"] >= 0.03 > seconds["encode"] - 0.02 and seconds["encode"] >= 0.01


def test_a_real_pair_of_stems(real_song, spread_tokenizer, tmp_path):
    """The excerpt, through files, has the codes of `encode`."""
    import soundfile

    vocals, accompaniment, rate = real_song
    for name, wave in (("vocals", vocals), ("accompaniment", accompaniment)):
        soundfile.write(Path(tmp_path) / f"x_{name}.wav", wave, rate, subtype="FLOAT")
    [(_, outcome)] = Pipeline(spread_tokenizer, MixturePolicy(), Stopwatch()).run(collect([tmp_path]))
    codes = spread_tokenizer.encode(vocals, accompaniment, rate)[0].numpy()
    assert np.array_equal(codes, [outcome.row["vocal_codes"], outcome.row["accomp_codes"]])
    assert len(np.unique(codes)) > 20

"""The card of a tokenizer end to end, on songs that sing and rest."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from make_songs import RATE, write_manifest, write_song
from typer.testing import CliRunner

from duotok.cli import app
from duotok.dataset.songs import Songs, load_songs
from duotok.evaluation.quality import CodedSong, code_songs, first_minutes, untrained_like
from duotok.evaluation.rebuild import from_codes, rebuild_errors
from duotok.tokenizer import DuoTok, load


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    rows = [write_song(folder, f"song{i}", 2 * "ab cda bcdab", seed=i) for i in range(3)]
    return write_manifest(folder, [row | {"split": "held_out" if i == 2 else "train"} for i, row in enumerate(rows)])


@pytest.fixture(scope="module")
def songs(manifest) -> Songs:
    return load_songs(manifest, manifest.parent / "waves", RATE, 1.0)


@pytest.fixture(scope="module")
def tokenizer(songs) -> DuoTok:
    return untrained_like(load("tiny"), songs.train)


@pytest.fixture(scope="module")
def coded(tokenizer, songs) -> list[CodedSong]:
    return code_songs(tokenizer, [*songs.train, *songs.held_out])


def test_an_untrained_rival_is_fitted_and_reproducible(tokenizer, songs):
    again = untrained_like(load("tiny"), songs.train)
    assert again.fingerprint == tokenizer.fingerprint != untrained_like(load("tiny"), songs.train, seed=1).fingerprint
    bare = untrained_like(load("tiny"))
    assert len(code_songs(bare, songs.train[:1])[0].codes.unique()) < len(code_songs(again, songs.train[:1])[0].codes.unique())
    assert not tokenizer.config.trained


def test_songs_are_coded_as_the_tokenizer_does_and_their_silence_is_heard(tokenizer, coded):
    for song in coded:
        waves = [torch.from_numpy(song.song.read(name, 0, song.song.num_samples) / 32768.0).float() for name in
                 ("vocals", "accompaniment")]  # fmt: skip
        frames = song.codes.shape[1]
        assert torch.equal(tokenizer.encode(*waves, sample_rate=RATE)[0][:, :frames], song.codes)
        assert len(song.truth[0].mel) == len(song.truth[1].chroma) == 4 * frames
        assert 0.6 < song.active.float().mean() < 0.95  # two of twelve letters are rests


def test_rebuilding_uses_the_codes_and_the_mean_is_the_mean(tokenizer, coded):
    model, held_out = tokenizer.model, coded[-1]
    errors = rebuild_errors(model, [song.truth for song in coded[:-1]], [(held_out.codes, held_out.truth)])
    mean = torch.cat([song.truth[1].mel for song in coded[:-1]]).mean(0)
    assert errors["accompaniment_mel_l1_mean"] == pytest.approx((held_out.truth[1].mel - mean).abs().mean().item(), rel=1e-4)
    assert errors["vocals_chroma_l1"] != errors["vocals_chroma_l1_other"]
    [(frames, outputs)] = from_codes(model, held_out.codes[0], 0)
    assert frames == slice(0, held_out.codes.shape[1]) and len(outputs["mel"]) == 4 * frames.stop
    expected = (held_out.truth[0].mel - outputs["mel"]).abs().mean().item()
    assert errors["vocals_mel_l1"] == pytest.approx(expected, rel=1e-4)


def test_first_minutes_are_a_prefix_of_a_fixed_order(songs):
    everything = [song.id for song in first_minutes(songs.train, 60, RATE)]
    assert sorted(everything) == sorted(song.id for song in songs.train)
    assert [song.id for song in first_minutes(songs.train[::-1], 0, RATE)] == everything[:1]


def test_command_writes_every_number(manifest, tmp_path):
    out = tmp_path / "quality.json"
    arguments = ["evaluate", "quality", str(manifest), "-o", str(out), "--steps", "2", "--cache", str(tmp_path / "waves")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    results = json.loads(out.read_text())["results"]
    assert set(results) == {"trained", "untrained", "fitted"}
    assert results["trained"].keys() == results["untrained"].keys() == results["fitted"].keys()
    for values in results.values():
        assert all(math.isfinite(value) for value in values.values())
        assert 0 <= values["vocals_activity_auroc"] <= 1 and values["lyrics_word_error_rate"] > 0

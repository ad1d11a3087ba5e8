"""How far decoded songs are from the true ones: rivals that differ, and numbers that can be computed again."""

from __future__ import annotations

import json

import pytest
import torch
from make_decoder import decoding_tokenizer
from make_songs import RATE, four_songs, songs_of
from typer.testing import CliRunner

import duotok
from duotok import DuoTok
from duotok.cli import app
from duotok.decoder import Sampling
from duotok.evaluation import quality
from duotok.evaluation.decoding import measure_decoding, pieces, untrained_like
from duotok.model.mel_distance import mean_spectrum_distance, mel_distance

QUICK = Sampling(steps=1, guidance=1.0)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoding")
    four_songs(folder)
    songs = songs_of(folder / "manifest.jsonl").train[:2]
    decoding_tokenizer(folder / "tokenizer", quality.untrained_like(DuoTok.from_config("tiny/tokenizer"), songs))
    return folder


@pytest.fixture(scope="module")
def tokenizer(places):
    return duotok.load(places / "tokenizer")


def test_numbers_are_those_of_the_decoded_waves(places, tokenizer):
    songs = songs_of(places / "manifest.jsonl")
    seen = []
    found = measure_decoding(tokenizer, songs.train[:2], QUICK, 2.0, lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    song, stems, codes = next(pieces(tokenizer, songs.train, 2.0))
    assert stems.shape == (2, 1, 2 * RATE) and codes.shape == (2, 50)
    wave = song.read("vocals", 2 * RATE, 4 * RATE)  # the middle of 6 s
    assert torch.equal(stems[0, 0], torch.from_numpy(wave).float() / 32768)
    decoded = tokenizer.decode(codes, steps=1, guidance=1.0)
    values = found["songs"][song.id]
    for track, other in (("vocals", "accompaniment"), ("accompaniment", "vocals")):
        stem = stems[0 if track == "vocals" else 1]
        expected = {
            "decoded": mel_distance(getattr(decoded, track)[0], stem, RATE),
            "other": mel_distance(getattr(decoded, other)[0], stem, RATE),
            "mean_spectrum": mean_spectrum_distance(stem, RATE),
        }
        assert {name: values[track][name] for name in expected} == pytest.approx({n: v.item() for n, v in expected.items()})
        assert len(set(values[track].values())) == 7  # no rival is another
        mean = sum(song[track]["decoded"] for song in found["songs"].values()) / 2
        assert found["tracks"][track]["decoded"] == pytest.approx(mean)
        wins = sum(song[track]["decoded"] < song[track]["untrained"] for song in found["songs"].values()) / 2
        assert found["tracks"][track]["wins_untrained"] == wins


def test_an_untrained_rival_differs_in_its_weights_alone(tokenizer):
    decoder = tokenizer.decoder
    rival = untrained_like(decoder)
    assert rival.autoencoder is decoder.autoencoder and rival.config == decoder.config
    assert torch.equal(rival.dit.condition_std, decoder.dit.condition_std)
    assert not torch.equal(rival.dit.enter.weight, decoder.dit.enter.weight)
    assert rival.fingerprint == untrained_like(decoder).fingerprint


def test_the_command_writes_results(places, tmp_path):
    out = tmp_path / "decoding.json"
    options = ["--tokenizer", places / "tokenizer", "--steps", 1, "--seconds", 1, "--cache", places / "waves", "-o", out]
    done = CliRunner().invoke(app, [*map(str, ["evaluate", "decoding", places / "manifest.jsonl", *options])])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert list(found["songs"]) == ["song3"] and found["sampling"]["steps"] == 1
    assert "wins_shuffled" in done.stdout and found["tracks"]["vocals"]["decoded"] > 0

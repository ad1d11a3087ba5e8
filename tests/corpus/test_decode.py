"""`duotok decode`: sound files of a run, whole or not at all, gone on with, safely named, and every mistake in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from make_audio import music, write
from make_decoder import decoding_tokenizer
from typer.testing import CliRunner, Result

import duotok
from duotok.cli import app
from duotok.corpus import decode as decoding
from duotok.corpus.decode import file_name, safe_name
from duotok.files import WriteError, whole_file

QUICK = ("--steps", "1", "--guidance", "1")


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    decoding_tokenizer(folder, window=(60, 10))
    return folder


@pytest.fixture(scope="module")
def tokens(tokenizer, tmp_path_factory) -> Path:
    """A run of two songs, one of them with a name that is not to be trusted."""
    folder = tmp_path_factory.mktemp("songs")
    rows = []
    for i, id in enumerate(("plain", "../evil/☃\nname")):
        paths = [write(folder / f"{i}{t}.wav", music(2.01 - i / 2, 44_100, seed=2 * i + t), 44_100).name for t in range(2)]
        rows.append({"id": id, "vocal_path": paths[0], "accompaniment_path": paths[1]})
    (folder / "songs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = run_cli("tokenize", folder / "songs.jsonl", "-o", folder / "run", "--tokenizer", tokenizer)
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_every_song_becomes_three_files_of_its_length(tokens, tokenizer, tmp_path):
    done = run_cli("decode", tokens, "-o", tmp_path, "--tokenizer", tokenizer, *QUICK)
    assert done.exit_code == 0, done.output
    assert "2 songs in" in done.stdout and "0 of them there before, 0 refused" in done.stdout
    evil = safe_name("../evil/☃\nname")
    names = {f"{song}.{track}.wav" for song in ("plain", evil) for track in ("mix", "vocals", "accompaniment")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"decode.json"}
    tok = duotok.load(tokenizer)
    row = next(row for row in pq.read_table(tokens / "data").to_pylist() if row["id"] == "plain")
    codes = torch.tensor([row["vocal_codes"], row["accomp_codes"]])
    expected = tok.decode(codes, steps=1, guidance=1.0)
    for name, wave in expected._asdict().items():
        found, rate = soundfile.read(tmp_path / f"plain.{name}.wav", dtype="float32")
        assert rate == 24_000 and len(found) == round(2.01 * 24_000)
        np.testing.assert_allclose(found, wave[0, 0, : len(found)].clamp(-1, 1).numpy(), atol=1e-4)


@pytest.mark.parametrize("format", ["flac", "ogg"])
def test_formats_rates_and_tracks(tokens, tokenizer, tmp_path, format):
    options = ("--format", format, "--sample-rate", 44_100, "--track", "vocals", "--song", "plain", *QUICK)
    done = run_cli("decode", tokens, "-o", tmp_path, "--tokenizer", tokenizer, *options)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {f"plain.vocals.{format}", "decode.json"}
    info = soundfile.info(tmp_path / f"plain.vocals.{format}")
    assert (info.samplerate, info.frames, info.format) == (44_100, round(2.01 * 44_100), format.upper())


def test_a_stopped_command_goes_on_and_others_are_refused(tokens, tokenizer, tmp_path, monkeypatch):
    command = ("decode", tokens, "-o", tmp_path, "--tokenizer", tokenizer, "--track", "mix", *QUICK)
    whole = decoding.decode_song
    calls = []

    def stop_at_the_second(codes, *rest):
        calls.append(codes)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(codes, *rest)

    monkeypatch.setattr(decoding, "decode_song", stop_at_the_second)
    stopped = run_cli(*command)
    assert stopped.exit_code == 130 and "run the same command to go on" in stopped.stderr
    first = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(first) == 2
    monkeypatch.setattr(decoding, "decode_song", whole)
    done = run_cli(*command)
    assert done.exit_code == 0 and "2 songs in" in done.stdout and "1 of them there before" in done.stdout
    assert all(path.read_bytes() == data for path, data in first.items()) and len(list(tmp_path.iterdir())) == 3
    other = run_cli(*command, "--seed", 1)
    assert other.exit_code and "files made with the same options; got seed 1 instead of 0" in str(other.exception)


def test_a_song_that_fails_midway_leaves_nothing(tokens, tokenizer, tmp_path, monkeypatch):
    def fail(self, wave):
        raise WriteError("no space")

    monkeypatch.setattr(decoding._SoundWriter, "push", fail)
    done = run_cli("decode", tokens, "-o", tmp_path, "--tokenizer", tokenizer, *QUICK)
    assert isinstance(done.exception, WriteError) and [path.name for path in tmp_path.iterdir()] == ["decode.json"]


def test_songs_with_bad_codes_are_refused_by_name(tokens, tokenizer, tmp_path, monkeypatch):
    real = decoding._rows

    def spoiled(run, units):
        for row in real(run, units):
            yield {**row, "accomp_codes": row["accomp_codes"][:-1]} if row["id"] == "plain" else row

    monkeypatch.setattr(decoding, "_rows", spoiled)
    done = run_cli("decode", tokens, "-o", tmp_path, "--tokenizer", tokenizer, "--track", "vocals", *QUICK)
    assert done.exit_code == 3 and "1 song in" in done.stdout and "1 refused" in done.stdout
    assert "refused: plain: decode: expected tracks of one length, not empty; got 51 and 50 codes" in done.stderr
    assert not list(tmp_path.glob("plain*")) and len(list(tmp_path.glob("*.vocals.wav"))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--track", "drums"], "--track: expected one of all, mix, vocals, accompaniment; got 'drums'"),
        (["--format", "mp3"], "--format: expected one of wav, flac, ogg; got 'mp3'"),
        (["--sampler", "euler"], "--sampler: expected one of dpm, ddim; got 'euler'"),
        (["--song", "nobody"], "expected ids of its songs; got 'nobody'"),
        (["--tokenizer", "OTHER"], "expected tokens of this tokenizer, "),
        (["--tokenizer", "BARE"], "expected decoder weights in a sub-folder decoder; got none"),
        (["--tokenizer", "nope"], "got 'nope'"),
        (["--device", "warp"], "device: expected cpu or a device of this machine; got 'warp'"),
    ],
)
def test_wrong_usage_is_one_line(tokens, tokenizer, tmp_path, options, message):
    bare = tmp_path / "BARE"
    bare.mkdir()
    for name in ("config.yaml", "model.safetensors", "fingerprint.txt"):
        shutil.copy(tokenizer / name, bare)
    places = {"OTHER": tmp_path / "OTHER", "BARE": bare}
    if "OTHER" in options:
        duotok.DuoTok.from_config("tiny/tokenizer", seed=9).save(places["OTHER"])
    chosen = [places.get(option, option) for option in options]
    done = run_cli("decode", tokens, "-o", tmp_path / "out", "--tokenizer", tokenizer, *QUICK, *chosen)
    assert isinstance(done.exception, ValueError) and message in str(done.exception)
    assert "\n" not in str(done.exception) and not list((tmp_path / "out").glob("*.wav"))


def test_no_run_is_one_line(tokenizer, tmp_path):
    done = run_cli("decode", tmp_path, "-o", tmp_path / "out", "--tokenizer", tokenizer)
    assert "expected a run, with plan.json" in str(done.exception)


def test_names_are_safe_and_different():
    ids = [
        "plain", "a/b", "a_b", "a\\b", "../../etc/passwd", "..", ".", "", "-", "x" * 300, "x" * 301, "日本/歌" * 40, "a\nb",
        "a\0b", ".hidden", "CON", "good name.flac", safe_name("a/b"), safe_name(""), "\ud800",
    ]  # fmt: skip
    names = [safe_name(id) for id in ids]
    assert len(set(names)) == len(ids) and names[0] == "plain" and names[2] == "a_b"
    for name in names:
        assert name and name[0] not in ".-" and not set(name) & set("/\\\0\n")
        assert len(f".{name}.accompaniment.flac.1234567.tmp".encode()) < 255


def test_a_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(KeyError), whole_file(tmp_path / "a", "it") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with whole_file(tmp_path / "a", "it") as temporary:
        temporary.write_bytes(b"all")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"all" and len(list(tmp_path.iterdir())) == 1


def test_songs_without_a_name_of_their_own_are_called_after_their_file():
    digest = "23b07c5562cb19aca6ad44092f8509aba02b8cc1"
    assert file_name(digest, "album/hydrogen_vocals.flac") == "hydrogen_vocals_23b07c55"
    assert file_name("hydrogen", "album/x.flac") == "hydrogen"

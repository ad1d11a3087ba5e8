"""The commands of evaluation on small songs: result files, tables, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from make_decoder import decoding_tokenizer
from make_lm import write_tokens
from make_songs import four_songs
from typer.testing import CliRunner

import duotok
from duotok.cli import app, main


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """A folder with a manifest, a tokenizer with a decoder, and a run of its tokens."""
    folder = tmp_path_factory.mktemp("places")
    four_songs(folder)
    decoding_tokenizer(folder / "tokenizer", duotok.DuoTok.from_config("tiny/tokenizer", seed=1))
    invoke("tokenize", folder / "manifest.jsonl", "-o", folder / "run", "--tokenizer", folder / "tokenizer")
    return folder


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def evaluate(what: str, source: Path, folder: Path, *options: object) -> tuple[dict, str]:
    out = folder / "results" / f"{what}.json"
    shown = invoke("evaluate", what, source, "-o", out, *options)
    return json.loads(out.read_text()), shown


def test_a_run_and_its_manifest_have_the_same_bits(places, tmp_path):
    codec = ["--codec", places / "tokenizer", "--cache", places / "waves"]
    found, shown = evaluate("bits", places / "run", tmp_path)
    again, _ = evaluate("bits", places / "manifest.jsonl", tmp_path, *codec)
    assert found["results"] == again["results"] and "trigram" in shown
    assert found["fingerprint"] == again["fingerprint"] and found["held_out_tokens"] == 150 and found["train_tokens"] == 450
    used, _ = evaluate("codebook", places / "run", tmp_path, *codec)
    assert list(used["pairs"]) == ["vocals / accompaniment"] and used["results"]["vocals"]["used_share"] > 0


def test_a_run_s_songs_that_are_to_be_trained_on_are_not_held_out(tmp_path):
    songs = {name: np.arange(300).reshape(2, -1) for name in "abc"}
    done = CliRunner().invoke(app, ["evaluate", "bits", str(write_tokens(tmp_path / "run", songs, held_out=0)), "-o", "x.json"])
    assert "expected songs to count and songs held out; got 3 and 0" in str(done.exception)


def test_perplexity_of_a_run(places, tmp_path):
    found, shown = evaluate("perplexity", places / "run", tmp_path, "--steps", 1)
    assert set(found["results"]) == {"vocals", "accompaniment", "mean"} and "ppl_1024" in shown
    assert found["config"]["steps"] == 1 and found["size"] == "tiny" and found["nominal_bits_per_second"] == 750
    assert 0 < found["results"]["mean"]["bits"] < 20 and found["num_tokens"] == 150


def test_reconstruction_and_invariance(places, tmp_path):
    codec = ["--codec", places / "tokenizer", "--cache", places / "waves"]
    quick = ["--rate", 24_000, "--seconds", 2, "--steps", 1, "--measures", "mel_l1,si_sdr_db"]
    found, shown = evaluate("reconstruction", places / "manifest.jsonl", tmp_path, *codec, *quick)
    assert list(found["songs"]) == ["song3"] and found["tracks"]["mix"]["mel_l1"] > 0 and "si_sdr_db" in shown
    assert found["sampling"]["steps"] == 1 and found["config"]["sample_rate"] == 24_000
    found, shown = evaluate("invariance", places / "manifest.jsonl", tmp_path, *codec, "--seconds", 2, "--dtypes", "")
    missed = {name: way["miss_rate"] for name, way in found["results"].items() if name != "reference"}
    assert missed == dict.fromkeys(("again", "batch", "padding", "pieces", "threads"), 0) and "padding" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perplexity", "RUN", "--size", "huge"], "--size: expected one of tiny, 100m; got 'huge'"),
        (["perplexity", "RUN", "--device", "warp"], "device: expected cpu or a device of this machine; got 'warp'"),
        (["bits", "none.jsonl"], "none.jsonl: expected a manifest in UTF-8; got"),
        (["codebook", "RUN", "--codec", "tiny"], "name its tokenizer by --codec"),
        (["reconstruction", "MANIFEST", "--codec", "opus:x"], "codec: expected one of duotok, encodec"),
        (["reconstruction", "MANIFEST", "--measures", "loudness"], "measures: expected some of mel_l1"),
        (["tagging", "none", "--separate", "magic"], "expected the annotations of MagnaTagATune"),
    ],
)
def test_mistakes_are_one_line(places, tmp_path, monkeypatch, capsys, arguments, message):
    named = {"RUN": places / "run", "MANIFEST": places / "manifest.jsonl"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["duotok", "evaluate", *(str(named.get(a, a)) for a in arguments), "-o", "out.json"])
    with pytest.raises(SystemExit) as exit:
        main()
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert exit.value.code == 2 and len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "out.json").exists()

"""Runs: songs to Parquet and back, the same bytes however they were made, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from runs import outputs, tokenize

from duotok.corpus import pipeline, store
from duotok.corpus.reader import MixturePolicy
from duotok.corpus.setup import Setup, read_setup
from duotok.corpus.songs import collect
from duotok.corpus.store import SCHEMA, summarize
from duotok.corpus.verify import _row_problems, verify
from duotok.corpus.worker import tokenize_song


@pytest.fixture(scope="module")
def songs(tmp_path_factory, real_song) -> Path:
    """A manifest of four real pairs of different lengths and rates, one of them a segment, with text and tags."""
    folder = tmp_path_factory.mktemp("songs")
    vocals, accompaniment, rate = real_song
    rows = []
    for number, seconds in enumerate((6, 3, 2.5)):
        for name, wave in (("vocals", vocals), ("accompaniment", accompaniment)):
            soundfile.write(folder / f"{number}_{name}.flac", wave[: int(seconds * rate)], rate, subtype="PCM_16")
        row = {
            "id": f"song-{number}",
            "vocal_path": f"{number}_vocals.flac",
            "accompaniment_path": f"{number}_accompaniment.flac",
        }
        rows.append({**row, "text": "la la", "language": "en", "tags": ["pop", "test"], "bpm": 120 + number})
    rows.append({**rows[0], "id": "segment", "start": 1.0, "duration": 2.0})
    path = folder / "songs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(songs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tokenize(songs, folder)
    return folder


def test_load_dataset_needs_no_script(run, tmp_path):
    files = sorted(map(str, (run / "data").glob("*.parquet")))
    assert len(files) == 2
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert rows["id"][:] == ["song-0", "song-1", "song-2", "segment"]
    assert rows.column_names == SCHEMA.names
    assert rows.features["vocal_codes"].feature.dtype == "uint16"
    first = rows[0]
    assert (first["text"], first["language"], first["tags"], json.loads(first["extra"])) == (
        "la la",
        "en",
        ["pop", "test"],
        {"bpm": 120},
    )


def test_codes_are_those_of_encode(run, songs, tokenizer):
    for row in pq.read_table(run / "data").to_pylist():
        name = row["id"].removeprefix("song-") if row["id"] != "segment" else "0"
        tracks = [soundfile.read(songs.parent / f"{name}_{stem}.flac", dtype="float32") for stem in ("vocals", "accompaniment")]
        start, stop = int(row["start_time"] * 44_100), int(row["start_time"] * 44_100) + row["num_samples"]
        codes = tokenizer.encode(*(wave[start:stop] for wave, _ in tracks), 44_100)[0]
        assert torch.equal(codes, torch.tensor([row["vocal_codes"], row["accomp_codes"]]))
        assert row["n_frames"] == codes.shape[1] == -(-row["num_samples"] * 25 // 44_100)
        assert row["duration"] == row["num_samples"] / 44_100


def test_metadata_tells_how_tokens_were_made(run, tokenizer):
    metadata = json.loads(pq.read_schema(store.data_path(run, 0)).metadata[b"duotok"])
    assert metadata["fingerprint"] == tokenizer.fingerprint
    assert metadata["trained"] == tokenizer.config.trained
    assert metadata["windows"] == {"window_frames": 750, "stride_frames": 625, "batch_size": 1}
    assert {"torch", "soundfile", "soxr"} <= metadata["versions"].keys()


def test_a_stopped_run_goes_on_where_it_was(run, songs, tmp_path, monkeypatch):
    """The third song is interrupted; the journal knows the first of its unit's, and finished units are not done again."""
    seen = []

    def stop(reading, codes):
        if reading.song.id == "segment" and "stopped" not in seen:
            seen.append("stopped")
            raise KeyboardInterrupt
        seen.append(reading.song.id)
        return original(reading, codes)

    original = pipeline.make_row
    monkeypatch.setattr(pipeline, "make_row", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenize(songs, tmp_path / "stopped")
    assert (
        "unit 1: expected a whole unit; got one that is not done; run tokenize again"
        in verify(tmp_path / "stopped").problems[0]
    )
    tokenize(songs, tmp_path / "stopped")
    assert seen == ["song-0", "song-1", "song-2", "stopped", "segment"]
    assert outputs(tmp_path / "stopped") == outputs(run)
    assert not list((tmp_path / "stopped" / "journal").iterdir()) and not list((tmp_path / "stopped" / "leases").iterdir())


def test_folders_are_named_from_the_root(tmp_path, monkeypatch):
    """But the package's tokenizer keeps its name, whatever folder is so called, and a store its address."""
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "mine"):
        (tmp_path / name).mkdir()
    kept = Setup("tiny", publish="s3://store/tokens")
    assert kept.absolute() == kept
    Setup("mine", separator_weights=Path("weights"), cache=Path("cache"), publish="copy").save(tmp_path)
    assert read_setup(tmp_path) == Setup(
        str(tmp_path / "mine"),
        separator_weights=tmp_path / "weights",
        cache=tmp_path / "cache",
        publish=str(tmp_path / "copy"),
    )


def test_verify_is_content_with_a_sound_run(run):
    report = verify(run)
    assert replace(summarize(run), hours=report.hours) == report
    assert summarize(run).hours == pytest.approx(report.hours)
    assert report.problems == []
    assert (report.num_songs, report.num_failed, report.num_missing) == (4, 0, 0)
    assert report.hours == pytest.approx((6 + 3 + 2.5 + 2) / 3600)
    assert report.num_codes == 2 * (150 + 75 + 63 + 50)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: store.data_path(run, 0).write_bytes(store.data_path(run, 0).read_bytes() + b"x"),
        lambda run: store.data_path(run, 0).unlink(),
        lambda run: (run / "failed" / "unit-00000.jsonl").unlink(),
        lambda run: (run / "failed" / "unit-00000.jsonl").write_text("{}\n"),
        lambda run: (run / "done" / "00000.json").write_text("{}"),
        lambda run: (run / "done" / "00000.json").write_bytes(b"\xff"),
    ],
)
def test_a_damaged_unit_is_noticed_and_done_again(run, songs, tmp_path, damage):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    damage(copy)
    assert "unit 0: expected a whole unit; got" in verify(copy).problems[0]
    assert summarize(copy).num_missing == 2
    tokenize(songs, copy)
    assert outputs(copy) == outputs(run)


def test_verify_notices_songs_in_two_places_and_partial_files(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    line = json.dumps({"id": "segment"}) + "\n"
    (copy / "failed" / "unit-00001.jsonl").write_text(line)
    note = json.loads((copy / "done" / "00001.json").read_text())
    changed = {**note, "failed": 1, "failed_bytes": len(line), "failed_sha256": None}
    (copy / "done" / "00001.json").write_text(json.dumps(changed))
    (copy / "data" / ".unit-00009.parquet.1.tmp").write_text("half")
    problems = " ".join(verify(copy).problems)
    assert "unit 1: expected 'segment' once; got it 2 times" in problems
    assert "expected no partial file" in problems


def test_a_unit_without_tokens_does_not_spoil_the_dataset(songs, tmp_path, monkeypatch):
    """`datasets` cannot read a Parquet file without rows."""
    manifest = songs.parent / "with_bad.jsonl"
    rows = songs.read_text().splitlines()
    bad = {"id": "bad", "mixture_path": "nowhere.wav"}
    manifest.write_text("\n".join([json.dumps(bad), rows[2]]))
    tokenize(manifest, tmp_path / "run", songs_per_unit=1)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "run/data/*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["id"][:] == ["song-2"]
    assert verify(tmp_path / "run").problems == []


def test_refused_songs_are_tried_again_when_asked(songs, tmp_path):
    folder = tmp_path / "songs"
    folder.mkdir()
    shutil.copy(songs.parent / "2_vocals.flac", folder / "x_vocals.flac")
    (folder / "x_accompaniment.flac").write_bytes(b"")
    line = [sys.executable, "-m", "duotok", "tokenize", str(folder), "-o", str(tmp_path / "run")]
    first = subprocess.run(line, capture_output=True, text=True)
    assert first.returncode == 3 and "empty_file" in first.stderr
    shutil.copy(songs.parent / "2_accompaniment.flac", folder / "x_accompaniment.flac")
    assert subprocess.run(line, capture_output=True).returncode == 3
    again = subprocess.run([*line, "--retry-refused"], capture_output=True, text=True)
    assert again.returncode == 0 and "1 song" in again.stdout


def test_one_song_that_fits_no_column_is_its_own_failure(songs, tmp_path, tokenizer):
    song = replace(collect([songs])[2], text="half a pair: \ud800")
    outcome = tokenize_song(tokenizer, song, MixturePolicy())
    assert outcome.row is None and outcome.failure["reason"] == "error"


def test_a_machine_that_fails_is_not_blamed_on_the_song(songs, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "encode_windows", lambda windows: (_ for _ in ()).throw(MemoryError("no more")))
    with pytest.raises(OSError, match=r"expected memory for .*; use fewer workers"):
        tokenize_song(tokenizer, collect([songs])[2], MixturePolicy())


def test_verify_notices_a_wrong_length_and_an_impossible_code(run):
    metadata = {"frame_rate": 25, "codebook_size": 100}
    row = {
        "id": "x",
        "num_samples": 44_100,
        "sample_rate": 44_100,
        "n_frames": 25,
        "vocal_codes": [1] * 24,
        "accomp_codes": [100] * 25,
    }
    problems = list(_row_problems(row, metadata))
    assert problems == ["expected 25 vocal_codes; got 24", "expected accomp_codes below 100; got 100"]

"""Runs: songs to Parquet and back, the same bytes however they were made, and nothing half-written."""

from __future__ import annotations

import json
import resource
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

from duotok.corpus import launch, store
from duotok.corpus.launch import Setup, run_plan
from duotok.corpus.plan import make_plan
from duotok.corpus.reader import MixturePolicy
from duotok.corpus.songs import collect
from duotok.corpus.store import SCHEMA, summarize, verify
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


def tokenize(songs: Path, run: Path, workers: int = 1, songs_per_unit: int = 2) -> None:
    setup = Setup("tiny")
    tools = setup.build()
    plan = make_plan(run, collect([songs]), tools[0].fingerprint, tools[1].identity, songs_per_unit)
    run_plan(run, plan, setup, tools, workers)


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


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_two_workers_write_the_same_bytes(run, songs, tmp_path):
    tokenize(songs, tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(run)


def test_a_stopped_run_goes_on_where_it_was(run, songs, tmp_path, monkeypatch):
    seen = []

    def stop(tokenizer, song, policy):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(song.id)
        return original(tokenizer, song, policy)

    original = launch.tokenize_song
    monkeypatch.setattr(launch, "tokenize_song", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenize(songs, tmp_path / "stopped")
    assert "unit 1: expected its files as they were committed" in verify(tmp_path / "stopped").problems[0]
    monkeypatch.setattr(launch, "tokenize_song", lambda *args: (seen.append(args[1].id), original(*args))[1])
    tokenize(songs, tmp_path / "stopped")
    assert seen == ["song-0", "song-1", "song-2", "song-2", "segment"], "finished units are not done again"
    assert contents(tmp_path / "stopped") == contents(run)


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
    assert "unit 0: expected its files as they were committed" in verify(copy).problems[0]
    assert summarize(copy).num_missing == 2
    tokenize(songs, copy)
    assert contents(copy) == contents(run)


def test_verify_notices_songs_in_two_places_and_partial_files(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    line = json.dumps({"id": "segment"}) + "\n"
    (copy / "failed" / "unit-00001.jsonl").write_text(line)
    note = json.loads((copy / "done" / "00001.json").read_text())
    (copy / "done" / "00001.json").write_text(json.dumps({**note, "failed": 1}))
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
    problems = list(store._row_problems(row, metadata))
    assert problems == ["expected 25 vocal_codes; got 24", "expected accomp_codes below 100; got 100"]


def command(songs: Path, out: Path, **options) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "duotok", "tokenize", str(songs), "-o", str(out)]
    return subprocess.run(line, capture_output=True, text=True, cwd=songs.parent, **options)


def test_a_full_disk_is_one_line_and_leaves_nothing_partial(songs, tmp_path):
    """Files larger than 2 kB cannot be written, as on a disk that fills up; the run goes on once there is room."""
    limit = (2048, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = command(songs, tmp_path / "full", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "unit-00000.parquet: expected to write" in line and "free space or choose another folder" in line
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "full").rglob("*.tmp")) and not list((tmp_path / "full").rglob("*.parquet"))
    assert command(songs, tmp_path / "full").returncode == 0


def test_an_unwritable_folder_is_one_line(songs, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = command(songs, blocker / "run")
    assert done.returncode == 1
    assert "expected to make a folder; got Not a directory; choose another place" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dead_worker_is_one_line(songs, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_tokenize_in_worker", _die)
    with pytest.raises(ValueError, match=r"one died near .*; run the same command to go on"):
        tokenize(songs, tmp_path / "dead", workers=2)


def _die(song: object) -> None:
    import os

    os._exit(9)

"""One run over songs in which everything has gone wrong: each is refused by name and reason, and the good do not notice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from runs import outputs

from duotok.audio import open_audio, to_mono


def duotok(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "duotok", *map(str, arguments)], capture_output=True, text=True)


def tokenize(bad_songs: tuple, run: Path, tokenizer: Path, *more: object) -> subprocess.CompletedProcess:
    options = ("--separate", "none", "--tokenizer", tokenizer, "--songs-per-unit", 9)
    return duotok("tokenize", *bad_songs[0], "-o", run, *options, *more)


@pytest.fixture(scope="module")
def finished(bad_songs, spread_folder, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    run = tmp_path_factory.mktemp("runs") / "one"
    return run, tokenize(bad_songs, run, spread_folder)


def failures(run: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(run.glob("failed/*.jsonl")) for line in path.read_text().splitlines()]


def test_a_run_with_refused_songs_ends_with_3(finished, bad_songs):
    _, done = finished
    assert done.returncode == 3, done.stderr
    assert f"{len(bad_songs[2]) + 1} refused" in done.stdout  # one file of the manifest is refused for a segment of it
    assert "Traceback" not in done.stderr


def test_each_bad_song_is_refused_by_name_and_reason(finished, bad_songs):
    run, done = finished
    found = {failure["source"]: failure for failure in failures(run) if failure["id"] != "late"}
    assert {source: failure["reason"] for source, failure in found.items()} == bad_songs[2]
    for source, failure in found.items():
        why = f"{failure['stage']}: {failure['reason']}: "
        assert any(line.startswith("refused: ") and why in line and source in line for line in done.stderr.splitlines())
        assert "expected" in failure["message"] and "got" in failure["message"] and "\n" not in failure["message"]
        assert failure["error"] == "AudioError", "no defect of ours is behind it"


def test_a_segment_beyond_the_end_is_refused(finished):
    [late] = [failure for failure in failures(finished[0]) if failure["id"] == "late"]
    assert late["reason"] == "truncated" and "expected a segment up to sample 220500" in late["message"]


def test_good_songs_have_the_codes_they_have_alone(finished, bad_songs, spread_tokenizer):
    run, _ = finished
    rows = {row["source"]: row for row in pq.read_table(run / "data").to_pylist() if row["id"] != "segment"}
    assert sorted(rows) == sorted(bad_songs[1])
    for source, row in rows.items():
        names = [source, source.replace("vocals", "accompaniment")] if "vocals" in source else [source]
        waves = [np.concatenate(list(map(to_mono, blocks_of(bad_songs[0][0] / name)))) for name in names]
        length = len(waves[0])
        vocals = waves[0] if len(waves) == 2 else np.zeros(length, np.float32)
        accompaniment = np.pad(waves[-1], (0, length - len(waves[-1])))
        codes = spread_tokenizer.encode(vocals, accompaniment, 44_100)[0]
        assert torch.equal(codes, torch.tensor([row["vocal_codes"], row["accomp_codes"]]))
        assert len(codes[1].unique()) > 4, "the test could not fail on codes that are all alike"
        assert row["num_samples"] == length and row["n_frames"] == -(-length * 25 // 44_100)


def blocks_of(path: Path) -> list[np.ndarray]:
    with open_audio(path) as reader:
        return list(reader.blocks())


def test_a_segment_of_a_good_song_is_tokenized(finished, bad_songs, spread_tokenizer):
    [row] = [row for row in pq.read_table(finished[0] / "data").to_pylist() if row["id"] == "segment"]
    wave = np.concatenate(list(map(to_mono, blocks_of(bad_songs[0][0] / "good 2.mp3"))))[22_050 : 22_050 + 88_200]
    codes = spread_tokenizer.encode(np.zeros_like(wave), wave, 44_100)[0]
    assert torch.equal(codes, torch.tensor([row["vocal_codes"], row["accomp_codes"]]))


def test_the_run_is_sound_and_nothing_partial_is_left(finished, bad_songs):
    run, _ = finished
    checked = duotok("verify", run)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(bad_songs[1]) + 1} songs" in checked.stdout and "0 problems" in checked.stdout
    assert not [path for path in run.rglob("*") if ".tmp" in path.name or "partial" in path.name]


def test_two_workers_make_the_same_files(finished, bad_songs, spread_folder, tmp_path):
    run, _ = finished
    done = tokenize(bad_songs, tmp_path / "two", spread_folder, "--workers", 2)
    assert done.returncode == 3, done.stderr
    assert outputs(tmp_path / "two") == outputs(run)


def test_the_same_command_again_does_nothing_more(finished, bad_songs, spread_folder, contents):
    run, done = finished
    before = contents(run)
    again = tokenize(bad_songs, run, spread_folder)
    assert (again.returncode, again.stdout) == (3, done.stdout)
    assert contents(run) == before

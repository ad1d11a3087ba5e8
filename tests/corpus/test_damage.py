"""What was changed behind a run's back is found, done again where that is asked for, and never passed on as sound."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import command, finish, outputs, plan, write_songs

from duotok.audio import AudioError
from duotok.corpus.merge import merge
from duotok.corpus.reader import MixturePolicy
from duotok.corpus.songs import PlanError, Song
from duotok.corpus.verify import verify
from duotok.corpus.worker import SongWindows


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), (1.0, 2.0))


@pytest.fixture
def run(songs, tmp_path) -> Path:
    """Two songs and one that is refused, in one unit."""
    finish(tmp_path / "run", plan(songs, tmp_path / "run", songs_per_unit=3))
    assert verify(tmp_path / "run").problems == []
    return tmp_path / "run"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["data/unit-00000.parquet", "failed/unit-00000.jsonl"])
@pytest.mark.parametrize("again", ["retry", "run"])
def test_a_damaged_unit_is_done_again_whole(run, name, again):
    before = outputs(run)
    flip(run / name)
    assert verify(run).problems == ["unit 0: expected a whole unit; got other files than were committed; run tokenize again"]
    with pytest.raises(PlanError, match="expected a finished run; got one that lacks 1 of 1 units"):
        merge([run], run.parent / "merged")
    assert command(again, run).returncode == 3
    assert outputs(run) == before and verify(run).problems == []


def test_a_retry_keeps_good_rows_and_their_time(run):
    before = outputs(run)
    note = json.loads((run / "done" / "00000.json").read_text())
    assert command("retry", run).returncode == 3
    again = json.loads((run / "done" / "00000.json").read_text())
    assert outputs(run) == before and again["elapsed_s"] > note["elapsed_s"]
    assert all(again["seconds"][stage] >= seconds for stage, seconds in note["seconds"].items())


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda run: rewrite(run / "done/00000.json", '"ok": 2', '"ok": 3'), "expected a note of 2 songs and 1 refused ones"),
        (
            lambda run: (run / "data/unit-00007.parquet").write_bytes(b"x"),
            "data/unit-00007.parquet: expected files of this run's",
        ),
        (lambda run: (run / "setup.json").write_text("{"), "expected a run that was planned"),
        (lambda run: (run / "data/.unit-00000.parquet.1.tmp").write_bytes(b"x"), "expected no partial file"),
    ],
)
def test_verify_names_what_does_not_belong(run: Path, harm: Callable[[Path], object], problem: str):
    harm(run)
    [found] = verify(run).problems
    assert problem in found


def test_a_file_that_changes_while_it_is_read_is_refused(songs, tokenizer):
    paths = {f"{name}_path": str(songs / f"001_{name}.wav") for name in ("vocals", "accompaniment")}
    song = Song("x", "001", vocal_path=paths["vocals_path"], accompaniment_path=paths["accompaniment_path"])
    assert len(list(SongWindows(tokenizer, song, MixturePolicy()))) == 2
    windows = iter(SongWindows(tokenizer, song, MixturePolicy()))
    next(windows)
    os.utime(song.vocal_path, ns=(1, 1))
    with pytest.raises(AudioError, match="expected a file that stays as it is while it is read; got one that changed") as error:
        list(windows)
    assert error.value.reason == "changed"

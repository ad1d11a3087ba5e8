"""The tiny corpus from two scores: true stems, words and notes where they sound, the same bytes again, and its command line."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import make_audio
import make_scores
import numpy as np
import pytest
import soundfile
from runs import duotok

from duotok.corpus.songs import read_manifest
from duotok.dataset.build import Scores, _choose, build_tiny, song_id
from duotok.dataset.manifest import split_of
from duotok.dataset.musicxml import UnsuitedScore, read_score
from duotok.dataset.real_songs import add_pair, find_pairs
from duotok.dataset.song_folder import prepare_songs, song_folder
from duotok.dataset.songs import load_songs
from duotok.dataset.synthetic import generator_of, plan_song
from duotok.dataset.tools import ToolError, find_soundfont
from duotok.files import WriteError
from duotok.integrity import AudioError

RATE = 48_000


def why_not() -> str | None:
    missing = [program for program in ("flite", "fluidsynth") if shutil.which(program) is None]
    missing += [] if importlib.util.find_spec("pyworld") else ["pyworld"]
    try:
        find_soundfont()
    except ToolError:
        missing.append("a soundfont")
    return f"needs {', '.join(missing)}" if missing else None


needs_tools = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def write_scores(folder: Path) -> Path:
    songs = {
        "a/lc1.mxl": make_scores.compressed(make_scores.song(16)), "lc2.musicxml": make_scores.song(18, root=3),
        "short.xml": make_scores.song(4), "broken.mxl": b"PK no zip", "readme.txt": b"",
    }  # fmt: skip
    return make_scores.write_zip(folder / "scores.zip", songs)


def write_songs(folder: Path) -> Path:
    folder.mkdir()
    for name in ("1.Hydrogen", "2.Lithium", "4.Potassium", "mine"):
        for track, seed in (("vocals", 0), ("accomp", 1)):
            make_audio.write(folder / f"{name}_{track}.flac", make_audio.music(1.0, RATE, seed), RATE)
        (folder / f"{name}.txt").write_text("some words")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> tuple[Path, Path, object]:
    """The corpus, the folder of its sources, and the report of its build."""
    sources = tmp_path_factory.mktemp("sources")
    scores, songs = write_scores(sources), write_songs(sources / "songs")
    folder = tmp_path_factory.mktemp("corpus")
    report = build_tiny(folder, scores, songs, minutes=1, seed=3, num_workers=2)
    return folder, sources, report


def rows_of(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in map(json.loads, (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines())}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder: Path, path: str) -> np.ndarray:
    wave, rate = soundfile.read(folder / path, dtype="int16", always_2d=True)
    assert rate == RATE and wave.shape[1] == 2
    return wave.astype(np.int32)


def pitch_track(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times and fundamental frequencies of a singer (S,) alone."""
    from duotok.dataset.tools import world

    pitch, times = world().dio(wave.astype(np.float64), RATE, f0_floor=60, f0_ceil=900)
    return times, pitch


@needs_tools
def test_songs_have_true_stems(corpus):
    folder, _, report = corpus
    rows = rows_of(folder)
    assert {id for id in rows if id.startswith("lieder-")} == {"lieder-lc1", "lieder-lc2"}
    assert report.num_songs == 6 and report.duration_s == pytest.approx(sum(row["duration"] for row in rows.values()))
    for id in ("lieder-lc1", "lieder-lc2"):
        row = rows[id]
        vocals, accompaniment = read(folder, row["vocal_path"]), read(folder, row["accompaniment_path"])
        parts = [read(folder, row["stems"][name]) for name in ("drums", "bass", "other")]
        assert len(vocals) == len(accompaniment) == round(row["duration"] * RATE)
        assert (sum(parts) == accompaniment).all() and np.abs(vocals + accompaniment).max() <= 32_767
        assert np.sqrt((vocals**2.0).mean()) > 300 and np.sqrt((accompaniment**2.0).mean()) > 300


@needs_tools
def test_notes_are_sung_at_their_pitch_and_rests_are_silent(corpus):
    folder, _, _ = corpus
    row = rows_of(folder)["lieder-lc1"]
    vocals = read(folder, row["vocal_path"]).mean(axis=1) / 32_768
    notes = json.loads((folder / row["notes_path"]).read_text())["vocals"]
    times, pitch = pitch_track(vocals)
    deviations = []
    for onset, duration, midi in notes:
        inside = (times > onset + 0.15) & (times < onset + duration - 0.1) & (pitch > 0)
        deviations += (12 * np.log2(pitch[inside] / 440) + 69 - midi).tolist()
    assert len(deviations) > 1_000 and np.median(np.abs(deviations)) < 0.25
    sung = np.zeros(len(vocals), bool)
    for word in row["words"]:
        sung[max(0, round((word["start"] - 0.05) * RATE)) : round((word["end"] + 1.3) * RATE)] = True  # the longest room
    assert (~sung).mean() > 0.02 and np.abs(vocals[~sung]).max() < 1e-4
    assert np.sqrt((vocals[sung] ** 2).mean()) > 0.01


@needs_tools
def test_words_are_timed_in_order_and_make_the_text(corpus):
    folder, _, _ = corpus
    row = rows_of(folder)["lieder-lc1"]
    words = row["words"]
    assert row["text"].split() == [word["text"] for word in words] and row["text"].count("\n") == 3  # a rest ends a line
    assert len(words) == 48 and all(0 <= w["start"] < w["end"] <= row["duration"] for w in words)
    assert all(before["end"] <= after["start"] + 0.002 for before, after in pairwise(words))
    onsets = [note[0] for note in json.loads((folder / row["notes_path"]).read_text())["vocals"]]
    assert all(-0.3 < word["start"] - onset <= 1e-3 for word, onset in zip(words, onsets, strict=True))


@needs_tools
def test_instruments_sound_when_their_notes_begin(corpus):
    folder, _, _ = corpus
    row = rows_of(folder)["lieder-lc1"]
    wave = read(folder, row["stems"]["other"]).mean(axis=1)
    first = json.loads((folder / row["notes_path"]).read_text())["accompaniment"][0][0]
    heard = np.argmax(np.abs(wave) > 30) / RATE
    assert first <= heard < first + 0.1


@needs_tools
def test_tokenizing_and_training_accept_the_corpus(corpus, tmp_path):
    folder, _, _ = corpus
    songs = {song.id: song for song in read_manifest(folder / "manifest.jsonl")}
    assert not any(song.is_mixture for song in songs.values())
    assert songs["lieder-lc1"].language == "en" and songs["lieder-lc1"].extra["licence"] == "CC0-1.0"
    found = load_songs(folder / "manifest.jsonl", tmp_path / "cache", 24_000, min_s=0.5)
    assert not found.problems and len(found.train) + len(found.held_out) == 6
    assert "real-4.Potassium" in {song.id for song in found.held_out}


@needs_tools
def test_what_cannot_be_used_is_reported_and_licences_are_listed(corpus):
    folder, _, report = corpus
    assert [problem.split(":")[0] for problem in report.problems if "broken" in problem] == ["broken.mxl"]
    licences = (folder / "LICENCES.md").read_text()
    assert "| lieder-lc1 | A Song | Ann O'Nymous | OpenScore Lieder (github.com/OpenScore/Lieder) | CC0-1.0 |" in licences
    assert "| real-mine | mine |  | given by the user | not stated |" in licences and "flite" in licences


@needs_tools
def test_the_same_seed_gives_the_same_bytes_and_finished_songs_are_kept(corpus, tmp_path):
    folder, sources, _ = corpus
    made = contents(folder)
    shutil.copytree(folder / "songs" / "lieder-lc1", tmp_path / "songs" / "lieder-lc1")
    (tmp_path / "songs" / "lieder-lc1" / "kept").touch()
    report = build_tiny(tmp_path, sources / "scores.zip", sources / "songs", minutes=1, seed=3, num_workers=1)
    again = contents(tmp_path)
    assert again.pop("songs/lieder-lc1/kept") == b"" and again == made and report.num_songs == 6


def test_only_english_songs_of_some_length_are_planned():
    english = (b">the<", b">of<", b">my<", b">is<", b">and<", b">you<", b">that<", b">I<", b">shall<", b">love<")
    german = functools.reduce(lambda data, word: data.replace(word, b">der<"), english, make_scores.song())
    generator = generator_of("x", 0)
    assert plan_song(read_score(make_scores.song(16), "x"), "x", generator).duration_s > 30
    for data, reason in ((german, "expected English lyrics"), (make_scores.song(4), "expected 15 words or more"),
                         (make_scores.song(8), "expected 30 to 300 s; got 1"),
                         (make_scores.song(200), "expected 30 to 300 s; got 4")):  # fmt: skip
        with pytest.raises(UnsuitedScore, match=reason):
            plan_song(read_score(data, "x"), "x", generator)


def test_scores_of_a_folder_and_of_a_zip_are_the_same(tmp_path):
    archive = Scores(write_scores(tmp_path))
    for name in archive.names():
        target = tmp_path / "folder" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(archive.read(name))
    folder = Scores(tmp_path / "folder")
    assert folder.names() == archive.names() == ["a/lc1.mxl", "broken.mxl", "lc2.musicxml", "short.xml"]
    assert folder.read("a/lc1.mxl") == archive.read("a/lc1.mxl") and song_id("a/lc1.mxl") == "lieder-lc1"


@pytest.mark.parametrize("content", [None, b"no zip"])
def test_scores_that_are_none_are_named(tmp_path, content):
    if content:
        (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.zip: expected a folder or zip of scores"):
        Scores(tmp_path / "x.zip").names()
    with pytest.raises(ValueError, match=r"expected scores .* found none; correct --lieder"):
        Scores(tmp_path).names()


def test_real_songs_are_copied_with_the_words_that_may_be_used(tmp_path):
    songs = write_songs(tmp_path / "songs")
    rows = {pair.name: add_pair(pair, tmp_path / "corpus" / "songs") for pair in find_pairs(songs)}
    assert [rows[name].get("text") for name in sorted(rows)] == ["some words", None, None, "some words"]
    splits = {"1.Hydrogen": "train", "2.Lithium": "train", "4.Potassium": "held_out", "mine": split_of("real-mine")}
    assert {name: row["split"] for name, row in rows.items()} == splits
    copy = tmp_path / "corpus" / rows["mine"]["vocal_path"]
    assert copy.read_bytes() == (songs / "mine_vocals.flac").read_bytes() and rows["mine"]["duration"] == 1.0
    with pytest.raises(ValueError, match="expected X_vocals"):
        list(find_pairs(tmp_path))


def test_missing_programs_are_one_line_with_the_remedy(tmp_path):
    scores = write_scores(tmp_path)
    done = duotok(
        "corpus", "build", "tiny", "-o", tmp_path / "c", "--lieder", scores, env={**os.environ, "PATH": str(tmp_path)}
    )
    assert done.returncode == 2 and not (tmp_path / "c").exists()
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "missing: flite, fluidsynth" in line and "apt-get install flite fluidsynth fluid-soundfont-gm" in line
    with pytest.raises(ToolError, match=r"got none at .*none\.sf2; install fluid-soundfont-gm"):
        find_soundfont(tmp_path / "none.sf2")


@needs_tools
def test_a_build_that_is_stopped_goes_on(corpus, tmp_path):
    folder, sources, _ = corpus
    arguments = ["build", "tiny", "-o", tmp_path, "--lieder", sources / "scores.zip", "--minutes", 1, "--seed", 3]
    arguments = ["corpus", *map(str, arguments), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "duotok", *arguments], stderr=subprocess.PIPE, text=True)
    songs = tmp_path / "songs"
    deadline = time.monotonic() + 60
    while not (songs.is_dir() and any(path.name.startswith("lieder-") for path in songs.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "stopped; run the same command to go on" in errors
    assert not (tmp_path / "manifest.jsonl").exists()
    done = duotok(*arguments)
    assert done.returncode == 3 and "left out: broken.mxl" in done.stderr
    lieder = {name: data for name, data in contents(folder).items() if name.startswith("songs/lieder")}
    assert lieder and {name: data for name, data in contents(tmp_path).items() if name.startswith("songs/")} == lieder


def test_the_order_of_songs_does_not_depend_on_what_else_there_is(tmp_path):
    few = {f"{name}.xml": make_scores.song(16) for name in "abcdef"}
    more = {f"scores/{name}.xml": make_scores.song(16) for name in "abcdefghijkl"}
    orders = []
    with ThreadPoolExecutor(1) as pool:
        for songs in (few, more):
            scores = Scores(make_scores.write_zip(tmp_path / "scores.zip", songs))
            chosen, problems = _choose(pool, scores, minutes=100, seed=5)
            assert len(chosen) == len(songs) and "expected 100 min of English songs; got" in problems[0]
            orders.append([song_id(name) for name in chosen if Path(name).stem in "abcdef"])
        assert len(_choose(pool, scores, minutes=1, seed=5)[0]) == 2
        assert [song_id(name) for name in _choose(pool, scores, minutes=100, seed=6)[0]] != orders[1]
    assert orders[0] == orders[1] != sorted(orders[0])


def test_a_folder_of_a_song_appears_whole_or_not_at_all(tmp_path):
    prepare_songs(tmp_path / "songs")
    (tmp_path / "songs" / ".x.1.tmp").mkdir()
    prepare_songs(tmp_path / "songs")  # what a killed run has left
    with song_folder(tmp_path / "songs" / "x") as folder:
        (folder / "a").write_text("1")
        assert [path.name[0] for path in (tmp_path / "songs").iterdir()] == ["."]
    with pytest.raises(AudioError), song_folder(tmp_path / "songs" / "y") as folder:
        raise AudioError("decode", "damaged", "no")
    with (
        pytest.raises(WriteError, match=r"songs.y: expected to write a song; got .*; free space"),
        song_folder(tmp_path / "songs" / "y"),
    ):
        raise OSError(28, "No space left on device")
    assert [path.name for path in (tmp_path / "songs").iterdir()] == ["x"]

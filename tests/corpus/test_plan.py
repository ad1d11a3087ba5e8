"""Planning: songs from files, folders and manifests; every mistake named with its line before anything is tokenized."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duotok.corpus.plan import make_plan, read_plan, read_unit
from duotok.corpus.reader import MixturePolicy, open_song
from duotok.corpus.remote import fetched
from duotok.corpus.songs import PlanError, Segment, Song, collect
from duotok.integrity import AudioError


@pytest.fixture
def wav():
    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(10, np.float32), 8000)
        return path

    return write


def manifest(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_folder_pairs_stems_by_name(tmp_path, wav):
    for name in (
        "a/one_vocals.wav", "a/one_accompaniment.wav", "two.vocals.flac", "two.no_vocals.flac", "three/vocals.wav",
        "three/instrumental.wav", "mix.wav", "lonely_vocals.wav", "song.stem.mp4", "notes.txt", "my vocals.wav",
    ):  # fmt: skip
        wav(tmp_path / name) if name.endswith(("wav", "flac")) else (tmp_path / name).write_text("x")
    (tmp_path / "song.mp3").mkdir()
    songs = {song.source: song for song in collect([tmp_path])}
    assert sorted(songs) == [
        "a/one_vocals.wav", "lonely_vocals.wav", "mix.wav", "my vocals.wav", "song.stem.mp4", "three/vocals.wav",
        "two.vocals.flac",
    ]  # fmt: skip
    assert songs["a/one_vocals.wav"].accompaniment_path == str(tmp_path / "a/one_accompaniment.wav")
    assert songs["two.vocals.flac"].accompaniment_path == str(tmp_path / "two.no_vocals.flac")
    assert songs["three/vocals.wav"].accompaniment_path == str(tmp_path / "three/instrumental.wav")
    assert songs["mix.wav"].mixture_path and songs["mix.wav"].is_mixture
    assert songs["lonely_vocals.wav"].vocal_path and not songs["lonely_vocals.wav"].is_mixture, "refused when it is opened"
    assert songs["song.stem.mp4"].stems_path and not songs["song.stem.mp4"].is_mixture
    assert songs["mix.wav"].id == hashlib.sha1(b"mix.wav").hexdigest()


def test_files_given_by_name_pair_too(tmp_path, wav):
    paths = [wav(tmp_path / name) for name in ("x_accompaniment.wav", "x_vocals.wav")]
    [song] = collect(paths)
    assert (song.vocal_path, song.accompaniment_path) == (str(paths[1]), str(paths[0]))


def test_ids_do_not_depend_on_where_the_folder_is(tmp_path, wav):
    wav(tmp_path / "here/x/a.wav"), wav(tmp_path / "there/x/a.wav")
    assert collect([tmp_path / "here"])[0].id == collect([tmp_path / "there"])[0].id


def test_a_manifest_carries_everything_along(tmp_path):
    row = {
        "id": 7, "vocal_path": "v.wav", "accompaniment_path": "/abs/a.wav", "text": "la", "language": "en", "tags": ["x"],
        "start": 1.5, "duration": 2, "segments": [{"start": 0, "end": 1, "label": "verse", "text": "la"}], "bpm": 120,
    }  # fmt: skip
    [song] = collect([manifest(tmp_path / "m.jsonl", row)])
    assert song == Song(
        "7", "v.wav", str(tmp_path / "v.wav"), "/abs/a.wav", text="la", language="en", tags=["x"], start=1.5, duration=2.0,
        segments=[Segment(0.0, 1.0, "verse", "la")], extra={"bpm": 120},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "text": "x"}, r"m.jsonl:2: expected vocal_path with .*; got id, text; add the missing column"),
        ({"mixture_path": "m.wav"}, "m.jsonl:2: expected id"),
        (
            {"id": "a", "mixture_path": "m.wav", "start": "soon"},
            r"m.jsonl:2: start: expected seconds of at least 0; got 'soon'",
        ),
        ({"id": "a", "mixture_path": 3}, r"m.jsonl:2: mixture_path: .*valid string.*; got 3"),
        ({"id": "a", "mixture_path": "m.wav", "start": -1}, "start: expected seconds of at least 0; got -1"),
        ('{"id": "a", "mixture_path": "m.wav", "duration": Infinity}', "m.jsonl:2: expected a JSON object; got .Infinity"),
        ({"id": "a", "mixture_path": "m.wav", "start": True}, "start: expected seconds of at least 0; got True"),
        ({"id": None, "mixture_path": "m.wav"}, "expected id, a text or a whole number; got None"),
        ({"id": "a", "vocal_path": None, "accompaniment_path": None}, "expected vocal_path with accompaniment_path"),
        (
            {"id": "a", "mixture_path": "m.wav", "segments": [{"start": 0, "end": 1, "conf": 1}]},
            r"segments.0.conf: expected one of start, end, label, text; got an unknown key",
        ),
        ('{"id": "a", "mixture_path": "m.wav", "text": "\\ud800"}', "expected a JSON object; got surrogates not allowed"),
        ("[" * 100_000, "m.jsonl:2: expected a JSON object; got"),
        ("{", "m.jsonl:2: expected a JSON object"),
        ("[1]", "m.jsonl:2: expected a JSON object; got list"),
    ],
)
def test_manifest_mistakes_name_the_line(tmp_path, row, message):
    path = manifest(tmp_path / "m.jsonl", {"id": "first", "mixture_path": "m.wav"}, row)
    with pytest.raises(PlanError, match=message) as error:
        collect([path])
    assert "\n" not in str(error.value)


def test_the_first_song_of_an_id_keeps_it(tmp_path):
    rows = [{"id": name, "mixture_path": f"{i}.wav", "duplicate_of": "x"} for i, name in enumerate(("a", "a", "a#2", "a", "b"))]
    songs = collect([manifest(tmp_path / "m.jsonl", *rows)])
    assert [(song.id, song.duplicate_of) for song in songs] == [
        ("a", None), ("a#3", "0.wav"), ("a#2", None), ("a#4", "0.wav"), ("b", None)
    ]  # fmt: skip
    assert songs[0].extra == {"duplicate_of": "x"}, "a column of the user's"


def test_what_data_frames_write_for_nothing_is_nothing(tmp_path):
    path = manifest(tmp_path / "m.jsonl", '{"id": "a", "mixture_path": "a.wav", "text": NaN, "year": NaN, "mood": "calm"}')
    [song] = collect([path])
    assert song.text is None and song.extra == {"mood": "calm"}


def test_files_within_an_archive_are_named_before_its_own_address(tmp_path, wav):
    wav(tmp_path / "a.wav")
    with zipfile.ZipFile(tmp_path / "songs.zip", "w") as archive:
        archive.write(tmp_path / "a.wav", "songs/a.wav")
    [song] = collect([f"zip://songs::file://{tmp_path}/songs.zip"])
    assert song.mixture_path == f"zip://songs/a.wav::file://{tmp_path}/songs.zip"
    with fetched(song) as local:
        assert Path(local.mixture_path).read_bytes() == (tmp_path / "a.wav").read_bytes()


def test_files_of_the_same_names_are_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "song.wav").touch()
    with pytest.raises(PlanError, match=r"expected files of different names; got song.wav twice; pass"):
        collect([tmp_path / "one", tmp_path / "two"])
    assert len(collect([tmp_path])) == 2


@pytest.mark.parametrize(("count", "size"), [(1, 1), (6, 1), (40, 3), (5_000, 100)])
def test_a_small_corpus_has_units_for_several_workers(tmp_path, count, size):
    songs = [Song(str(i), f"{i}.wav", mixture_path=f"{i}.wav") for i in range(count)]
    plan = make_plan(tmp_path / "run", songs, "f" * 64, "none")
    assert plan.songs_per_unit == size and plan.num_units == -(-count // size)


def test_other_mistakes(tmp_path):
    with pytest.raises(PlanError, match=r"expected an audio file, a folder or a .jsonl manifest; got nothing there"):
        collect([tmp_path / "none.wav"])
    with pytest.raises(PlanError, match="expected at least one song; found none"):
        collect([tmp_path])
    with pytest.raises(PlanError, match=r"none.jsonl: expected a manifest"):
        collect([tmp_path / "none.jsonl"])
    with pytest.raises(PlanError, match=r"expected a run, with plan.json"):
        read_plan(tmp_path)


SONGS = [Song(str(i), f"{i}.wav", mixture_path=f"{i}\n☃.wav") for i in range(5)]


def test_units_are_fixed_and_the_same_run_goes_on(tmp_path):
    plan = make_plan(tmp_path / "run", SONGS, "f" * 64, "none", 2)
    assert plan.num_units == 3
    assert [song for unit in range(3) for song in read_unit(tmp_path / "run", unit)] == SONGS
    assert make_plan(tmp_path / "run", SONGS, "f" * 64, "none", 2) == plan == read_plan(tmp_path / "run")


@pytest.mark.parametrize(
    ("songs", "fingerprint", "separator", "size", "named"),
    [
        (SONGS, "0" * 64, "none", 2, "fingerprint"),
        (SONGS, "f" * 64, "demucs:1", 2, "separator"),
        (SONGS, "f" * 64, "none", 3, "songs_per_unit"),
        (SONGS[:4], "f" * 64, "none", 2, "num_songs"),
        ([*SONGS[:4], replace(SONGS[4], text="other")], "f" * 64, "none", 2, "songs_sha256"),
    ],
)
def test_another_run_is_refused(tmp_path, songs, fingerprint, separator, size, named):
    make_plan(tmp_path / "run", SONGS, "f" * 64, "none", 2)
    with pytest.raises(PlanError, match=f"got a run with {named} .*; choose another folder"):
        make_plan(tmp_path / "run", songs, fingerprint, separator, size)


def test_other_line_separators_and_a_byte_order_mark_are_no_mistakes(tmp_path):
    path = tmp_path / "m.jsonl"
    row = {"id": "a", "mixture_path": "m.wav", "text": "one\u2028two\x85three"}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode() + b"\r\n\r\n")
    [song] = collect([path])
    assert song.text == row["text"]


def test_stems_of_different_folders_are_never_paired(tmp_path, wav):
    for name in ("A/s_vocals.wav", "A/s_accompaniment.wav", "B/s_accompaniment.wav"):
        wav(tmp_path / name)
    songs = collect([tmp_path / "A", tmp_path / "B"])
    assert [(bool(s.vocal_path), s.accompaniment_path) for s in songs] == [
        (True, str(tmp_path / "A/s_accompaniment.wav")), (False, str(tmp_path / "B/s_accompaniment.wav")),
    ]  # fmt: skip


@pytest.mark.parametrize("other", ["t_vocals.flac", "t-vocals.wav", "T_Vocals.wav"])
def test_a_song_with_two_files_for_one_stem_is_refused_alone(tmp_path, wav, other):
    for name in ("t_vocals.wav", "t_accompaniment.wav", other, "fine.wav"):
        wav(tmp_path / name)
    fine, song = collect([tmp_path])
    assert fine.same_stem is None and {Path(path).name for path in song.same_stem} == {"t_vocals.wav", other}
    with (
        pytest.raises(AudioError, match=r"expected one file for each stem; got .*ocals.* and .*ocals.*; remove one") as error,
        open_song(song, MixturePolicy()),
    ):
        pass
    assert (error.value.stage, error.value.reason) == ("plan", "same_stem")


def test_case_does_not_part_a_pair_and_broken_links_stay_in(tmp_path, wav):
    wav(tmp_path / "Foo_vocals.wav"), wav(tmp_path / "foo_accompaniment.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    songs = collect([tmp_path])
    assert sorted(song.source for song in songs) == ["Foo_vocals.wav", "gone.wav", "loop.wav"]


def test_changed_units_and_results_without_a_plan_are_refused(tmp_path):
    run = tmp_path / "run"
    make_plan(run, SONGS, "f" * 64, "none", 2)
    unit = run / "units" / "00000.jsonl"
    unit.write_text(unit.read_text().replace("0.wav", "9.wav"))
    with pytest.raises(PlanError, match="expected the songs that were planned; got changed files in units"):
        make_plan(run, SONGS, "f" * 64, "none", 2)
    (run / "plan.json").unlink()
    (run / "data").mkdir()
    with pytest.raises(PlanError, match=r"got results without; choose another"):
        make_plan(run, SONGS, "f" * 64, "none", 2)

"""The index of a user's songs: what belongs together, lyrics beside it, and a reason for each song left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import make_audio
import numpy as np
import pytest
import soundfile

from duotok.corpus.reader import MixturePolicy, open_song
from duotok.corpus.songs import read_manifest
from duotok.dataset.index import Report, index
from duotok.dataset.lyric_files import parse_lrc, read_lyrics
from duotok.dataset.manifest import absolute, relative, split_of, write_manifest
from duotok.dataset.songs import load_songs

RATE = 8_000
WAVE = make_audio.music(2.0, RATE)


def write(path: Path, seconds: float = 2.0, rate: int = RATE, wave: np.ndarray = WAVE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_audio.write(path, wave[: round(seconds * RATE)], rate)


def run(source: Path, out: Path) -> tuple[dict[str, dict], Report]:
    report = index(source, out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == report.num_songs and [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    return {row["id"]: row for row in rows}, report


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    return tmp_path / "songs"


def test_pairs_folders_of_stems_and_mixtures_are_found(songs, stem_file):
    for name in ("a_vocals.flac", "a_accomp.flac", "b/vocals.wav", "b/no_vocals.wav", "c/deep/d.wav"):
        write(songs / name)
    for name in ("mixture", "vocals", "drums", "bass", "other"):
        write(songs / "e" / f"{name}.wav", wave=WAVE / 4)
    (songs / "f.stem.mp4").write_bytes(stem_file.read_bytes())
    rows, report = run(songs, songs.parent / "manifests" / "m.jsonl")
    assert set(rows) == {"a", "b", "c/deep/d", "e", "f"} and report.problems == report.remarks == ()
    assert rows["a"]["vocal_path"] == "../songs/a_vocals.flac" and rows["a"]["accompaniment_path"] == "../songs/a_accomp.flac"
    assert rows["c/deep/d"]["mixture_path"] == "../songs/c/deep/d.wav"
    assert rows["e"]["stems"] == {part: f"../songs/e/{part}.wav" for part in ("drums", "bass", "other")}
    assert "mixture_path" not in rows["e"] and rows["a"]["duration"] == 2.0
    assert rows["f"]["stems_path"] and rows["f"]["duration"] == pytest.approx(6.1, abs=0.1)


def test_an_accompaniment_that_has_only_parts_is_their_sum(songs):
    generator = np.random.default_rng(0)
    parts = {name: generator.uniform(-0.3, 0.3, 12_000).astype(np.float32) for name in ("vocals", "drums", "bass", "other")}
    for name, wave in parts.items():
        write(songs / f"x_{name}.wav", wave=wave)
    rows, _ = run(songs, songs.parent / "m.jsonl")
    path = songs.parent / rows["x"]["accompaniment_path"]
    assert path.parent.name == "m-accompaniments"
    expected = sum(soundfile.read(songs / f"x_{name}.wav")[0] for name in ("drums", "bass", "other"))
    assert np.abs(soundfile.read(path)[0] - expected).max() < 2**-22
    made = path.stat().st_mtime_ns
    run(songs, songs.parent / "m.jsonl")
    assert path.stat().st_mtime_ns == made


def test_mono_parts_go_to_both_sides_of_stereo_ones(songs):
    stereo = np.stack((WAVE, -WAVE)) / 4
    for name, wave in (("vocals", WAVE), ("drums", WAVE / 4), ("bass", stereo), ("other", stereo)):
        write(songs / f"x_{name}.wav", wave=wave)
    rows, report = run(songs, songs.parent / "m.jsonl")
    assert report.problems == ()
    found = soundfile.read(songs.parent / rows["x"]["accompaniment_path"])[0]
    assert np.abs(found.T - (WAVE / 4 + 2 * stereo)).max() < 1e-3


def test_parts_that_clip_together_are_refused(songs):
    write(songs / "ok.wav")
    for name in ("vocals", "drums", "bass", "other"):
        write(songs / f"x_{name}.wav", wave=0.5 * np.sign(WAVE))
    rows, report = run(songs, songs.parent / "m.jsonl")
    assert set(rows) == {"ok"} and report.problems[0].startswith("x: clipping: ")
    assert not list((songs.parent / "m-accompaniments").iterdir())


def test_what_is_left_out_has_a_reason(songs):
    write(songs / "good.wav")
    write(songs / "alone_vocals.wav")
    write(songs / "half_vocals.wav"), write(songs / "half_drums.wav")
    write(songs / "long_vocals.wav"), write(songs / "long_accompaniment.wav", 1.5)
    write(songs / "rates_vocals.wav"), write(songs / "rates_accompaniment.wav", rate=16_000)
    write(songs / "twice_vocals.wav"), write(songs / "twice_vocals.flac"), write(songs / "twice_accompaniment.wav")
    (songs / "page.mp3").write_bytes(b"<!DOCTYPE html>" + b"<p>No</p>" * 90)
    make_audio.write(songs / "silent.wav", np.zeros(RATE), RATE)
    make_audio.cut(songs / "good.wav", 0.5, songs / "cut.wav")
    write(songs / ".hidden.wav")
    rows, report = run(songs, songs.parent / "m.jsonl")
    assert set(rows) == {"good"}
    assert {tuple(problem.split(": ")[:2]) for problem in report.problems} == {
        ("alone", "no_partner"), ("half", "no_partner"), ("long", "length_mismatch"), ("rates", "rate_mismatch"),
        ("twice", "ambiguous"), ("page", "not_audio"), ("silent", "silent"), ("cut", "truncated"),
    }  # fmt: skip


def test_a_stem_may_be_silent_if_another_sounds(songs):
    write(songs / "x_accompaniment.wav")
    make_audio.write(songs / "x_vocals.wav", np.zeros(2 * RATE - 100), RATE)
    rows, _ = run(songs, songs.parent / "m.jsonl")
    assert rows["x"]["duration"] == (2 * RATE - 100) / RATE  # of the shorter one, within what encoders pad


def test_nothing_usable_is_an_error(songs):
    songs.mkdir()
    with pytest.raises(ValueError, match="expected a folder with audio files; found none"):
        index(songs, songs / "m.jsonl")
    (songs / "a.mp3").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected at least one song that can be used; got none \(a: empty_file"):
        index(songs, songs / "m.jsonl")
    with pytest.raises(ValueError, match=r"expected a folder, a \.jsonl or a \.jsonl\.gz; got a\.mp3"):
        index(songs / "a.mp3", songs / "m.jsonl")
    assert not (songs / "m.jsonl").exists()


def test_lyrics_beside_the_audio_are_read(songs):
    for name in ("a_vocals", "a_accompaniment", "b", "c/vocals", "c/accompaniment", "d", "e"):
        write(songs / f"{name}.wav")
    (songs / "a.lrc").write_text("[ar:Ann]\n[00:00.50]First line\n[00:01.00]\n[00:01.5]Last\n", encoding="utf-8")
    (songs / "a.txt").write_text("not this")
    (songs / "b.txt").write_bytes(b"\xef\xbb\xbfUne fa\xc3\xa7on\n")
    (songs / "c" / "lyrics.txt").write_bytes("façade".encode("latin-1"))
    (songs / "d.txt").write_text(" \n")
    rows, report = run(songs, songs.parent / "m.jsonl")
    assert rows["a"]["text"] == "First line\nLast"
    assert rows["a"]["words"] == [
        {"start": 0.5, "end": 1.0, "text": "First line"}, {"start": 1.5, "end": 2.0, "text": "Last"},
    ]  # fmt: skip
    assert (rows["b"]["text"], rows["c"]["text"]) == ("Une façon", "façade")
    assert "text" not in rows["d"] and "text" not in rows["e"]
    assert len(report.remarks) == 1 and report.remarks[0].startswith("d: empty lyrics in ") and not report.problems


def test_lrc_lines_repeat_shift_and_time_words(tmp_path):
    text = "[offset:+500]\n[00:10.00][00:01.50]again\nno time\n[00:03]<00:03.20>one <00:04.00>two <00:05.00>\n[1:00:50]late"
    assert parse_lrc(text, 30.0) == [
        (1.0, 2.5, "again"), (2.5, 9.5, "<00:03.20>one <00:04.00>two <00:05.00>"), (9.5, 30.0, "again"), (30.0, 30.0, "late"),
    ]  # fmt: skip
    path = tmp_path / "x.lrc"
    path.write_text(text.replace("[offset:+500]\n", "").replace("[1:00:50]late", ""))
    found = read_lyrics(path, 30.0)
    assert [(w["start"], w["end"], w["text"]) for w in found["words"]] == [
        (1.5, 3.0, "again"), (3.2, 4.0, "one"), (4.0, 5.0, "two"), (10.0, 30.0, "again"),
    ]  # fmt: skip
    assert found["text"] == "again\none two\nagain"


def test_nemo_manifests_are_read(tmp_path):
    write(tmp_path / "audio" / "x.wav")
    lines = [
        {"audio_filepath": "audio/x.wav", "duration": 2.0, "text": "la la", "lang": "en", "speaker": 7},
        {"audio_filepath": "audio/x.wav", "offset": 0.5, "duration": 1.0, "text": " "},
        {"audio_filepath": "audio/x.wav", "offset": 1.5, "duration": 1.0, "text": "beyond"},
        {"audio_filepath": "audio/none.wav", "duration": 1.0},
        {"audio_filepath": "audio/x.wav", "duration": 2.0},
        {"wrong": 1},
    ]
    source = tmp_path / "nemo.jsonl"
    source.write_text("\n".join([*map(json.dumps, lines), "{", ""]))
    rows, report = run(source, tmp_path / "m.jsonl")
    whole = rows["audio/x"]
    assert (whole["mixture_path"], whole["text"], whole["language"], whole["speaker"]) == ("audio/x.wav", "la la", "en", 7)
    part = rows["audio/x@0.5"]
    assert (part["start"], part["duration"]) == (0.5, 1.0) and "text" not in part
    assert report.remarks == ("audio/x@0.5: empty text; kept without",)
    reasons = ["audio/x@1.5: truncated", "audio/none: missing", "nemo.jsonl:6: expected a row", "nemo.jsonl:7: expected a JSON",
               "audio/x: expected a unique id"]  # fmt: skip
    assert len(report.problems) == 5 and all(p.startswith(r) for p, r in zip(report.problems, reasons, strict=True))


def test_lhotse_cuts_are_read(tmp_path):
    write(tmp_path / "x.wav")
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "x.wav"}], "sampling_rate": RATE}
    aligned = {"word": [["hello", 0.1, 0.4, 0.9], ["there", 0.6, 0.2]]}
    segment = {"text": "hello there", "language": "English", "alignment": aligned}
    elsewhere = recording | {"sources": [{"type": "url"}]}
    cuts = [
        {"id": "cut-1", "start": 0.5, "duration": 1.25, "supervisions": [segment], "recording": recording, "type": "MonoCut"},
        {"id": "cut-2", "start": 0, "duration": 2.0, "recording": elsewhere, "type": "MonoCut"},
        {"id": "cut-3", "tracks": [], "type": "MixedCut"},
    ]
    source = tmp_path / "cuts.jsonl.gz"
    with gzip.open(source, "wt") as file:
        file.write("\n".join(map(json.dumps, cuts)))
    rows, report = run(source, tmp_path / "m.jsonl")
    assert rows == {
        "cut-1": {
            "id": "cut-1", "mixture_path": "x.wav", "duration": 1.25, "start": 0.5, "text": "hello there",
            "language": "English",
            "words": [{"start": 0.1, "end": 0.5, "text": "hello"}, {"start": 0.6, "end": 0.8, "text": "there"}],
            "split": split_of("cut-1"),
        }
    }  # fmt: skip
    assert [problem.split("; ")[1] for problem in report.problems] == ["got sources url", "got a MixedCut"]


def test_own_manifests_keep_their_fields_and_paths_follow(tmp_path):
    write(tmp_path / "in" / "v.wav"), write(tmp_path / "in" / "a.wav")
    row = {"id": 5, "vocal_path": "v.wav", "accompaniment_path": "a.wav", "stems": {"bass": "b.wav"}, "mood": "calm"}
    row["split"] = "test"
    (tmp_path / "in" / "s.jsonl").write_text(json.dumps(row))
    rows, _ = run(tmp_path / "in" / "s.jsonl", tmp_path / "out" / "m.jsonl")
    assert rows["5"] == {
        "id": "5", "vocal_path": "../in/v.wav", "accompaniment_path": "../in/a.wav", "stems": {"bass": "../in/b.wav"},
        "mood": "calm", "split": "held_out", "duration": 2.0,
    }  # fmt: skip


def test_tokenizing_and_training_accept_the_manifest(songs, tmp_path):
    for name in ("a", "b"):
        write(songs / f"{name}_vocals.wav"), write(songs / f"{name}_accompaniment.wav", 1.95)
        (songs / f"{name}.lrc").write_text("[00:00.10]la\n[00:01.00]li")
    rows, _ = run(songs, tmp_path / "m.jsonl")
    rows["a"]["split"], rows["b"]["split"] = "train", "held_out"
    write_manifest(tmp_path / "m.jsonl", rows.values())
    for song in read_manifest(tmp_path / "m.jsonl"):
        with open_song(song, MixturePolicy()) as stream:
            assert sum(len(vocals) for vocals, _ in stream.blocks()) == round(1.95 * RATE)
        assert song.text == "la\nli" and song.extra["words"]
    found = load_songs(tmp_path / "m.jsonl", tmp_path / "cache", RATE, min_s=1.0)
    assert not found.problems and [word.text for word in found.train[0].words] == ["la", "li"]


def test_the_split_depends_on_the_id_alone():
    splits = [split_of(f"song {i}") for i in range(2_000)]
    assert 150 < splits.count("held_out") < 250 and splits == [split_of(f"song {i}") for i in range(2_000)]
    assert split_of("x", "train") == "train" and split_of("x", "dev") == "held_out" and split_of("x", "?") == split_of("x")


def test_a_folder_of_few_songs_holds_one_of_them_out(songs):
    for name in ("a", "b", "d"):  # of which none would be
        assert split_of(name) == "train"
        write(songs / f"{name}_vocals.wav")
        write(songs / f"{name}_accomp.wav")
    rows, _ = run(songs, songs.parent / "m.jsonl")
    assert sorted(row["split"] for row in rows.values()) == ["held_out", "train", "train"]


def test_manifests_are_the_same_bytes_whatever_the_order(tmp_path):
    rows = [{"id": "b", "text": "夜"}, {"id": "a"}]
    write_manifest(tmp_path / "1.jsonl", rows)
    write_manifest(tmp_path / "2.jsonl", reversed(rows))
    expected = '{"id": "a"}\n{"id": "b", "text": "夜"}\n'.encode()
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes() == expected


def test_paths_come_back(tmp_path):
    row = {"id": "x", "vocal_path": "a/v.wav", "stems": {"drums": "../d.wav"}, "notes_path": "n.json", "mixture_path": None}
    moved = relative(absolute(row, tmp_path / "one"), tmp_path / "two" / "three")
    assert moved["vocal_path"] == "../../one/a/v.wav"
    assert relative(absolute(moved, tmp_path / "two" / "three"), tmp_path / "one") == row

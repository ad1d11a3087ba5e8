"""Separated stems: as long as their mixture, its sum, kept between runs, and a reason for each song left out."""

from __future__ import annotations

import json
from pathlib import Path

import make_audio
import numpy as np
import pytest
import soundfile

from duotok.corpus.songs import read_manifest
from duotok.dataset.stems import Report, separate_manifest

RATE = 8_000
WAVE = make_audio.music(3.0, RATE)


class Halves:
    """A separator that takes a share of the mixture for the vocals, and counts its windows."""

    sample_rate = RATE

    def __init__(self, share: float = 0.25) -> None:
        self.share, self.identity, self.num_windows = share, f"share:{share}", 0

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        self.num_windows += 1
        return self.share * mixture


def manifest_of(folder: Path, *rows: dict) -> Path:
    path = folder / "in.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def run(source: Path, out: Path, separator: Halves | None = None) -> tuple[dict[str, dict], Report]:
    report = separate_manifest(source, out, separator or Halves())
    return {row["id"]: row for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}, report


def read(out: Path, row: dict) -> tuple[np.ndarray, np.ndarray]:
    return tuple(soundfile.read(out / row[name], always_2d=True)[0].T for name in ("vocal_path", "accompaniment_path"))


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    return make_audio.write(tmp_path / "mix.wav", np.stack((WAVE, WAVE[::-1])), RATE, "FLOAT")


def test_stems_add_up_to_their_mixture(tmp_path, mixture):
    row = {"id": "a/b: c", "mixture_path": "mix.wav", "text": "la", "words": [], "mood": "calm"}
    rows, report = run(manifest_of(tmp_path, row), tmp_path / "out")
    [made] = rows.values()
    vocals, accompaniment = read(tmp_path / "out", made)
    assert np.abs(vocals + accompaniment - np.stack((WAVE, WAVE[::-1]))).max() < 2**-22
    assert np.abs(vocals[0] - 0.25 * WAVE).max() < 2**-23
    assert (made["duration"], made["separator"], made["gain_db"]) == (3.0, "share:0.25", 0.0)
    assert (made["text"], made["mood"], made["id"]) == ("la", "calm", "a/b: c") and "mixture_path" not in made
    assert (report.num_songs, report.num_separated, report.problems) == (1, 1, ())
    [song] = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert not song.is_mixture and song.duration == 3.0


def test_a_mono_song_at_another_rate_becomes_stereo_at_the_separators(tmp_path):
    make_audio.write(tmp_path / "mono.flac", make_audio.music(2.0, 16_000), 16_000)
    rows, _ = run(manifest_of(tmp_path, {"id": "m", "mixture_path": "mono.flac"}), tmp_path / "out")
    vocals, accompaniment = read(tmp_path / "out", rows["m"])
    assert vocals.shape == accompaniment.shape == (2, 2 * RATE) and (vocals[0] == vocals[1]).all()


def test_stems_beyond_full_scale_are_lowered_together(tmp_path, mixture):
    rows, _ = run(manifest_of(tmp_path, {"id": "m", "mixture_path": "mix.wav"}), tmp_path / "out", Halves(4.0))
    vocals, accompaniment = read(tmp_path / "out", rows["m"])
    gain = 10 ** (rows["m"]["gain_db"] / 20)
    assert gain == pytest.approx(1 / (4 * np.abs(WAVE).max()), rel=1e-3) and np.abs(vocals).max() > 0.999
    assert np.abs((vocals + accompaniment)[0] / gain - WAVE).max() < 1e-3


def test_a_segment_is_cut_out(tmp_path, mixture):
    row = {"id": "s", "mixture_path": "mix.wav", "start": 0.5, "duration": 1.25}
    rows, _ = run(manifest_of(tmp_path, row), tmp_path / "out")
    vocals, _ = read(tmp_path / "out", rows["s"])
    assert np.abs(vocals[0] - 0.25 * WAVE[4_000:14_000]).max() < 2**-23
    assert rows["s"]["duration"] == 1.25 and "start" not in rows["s"]


def test_songs_with_stems_are_taken_over(tmp_path, mixture):
    row = {"id": "p", "vocal_path": "v.wav", "accompaniment_path": "a.wav", "stems": {"bass": "b.wav"}, "split": "train"}
    separator = Halves()
    rows, report = run(manifest_of(tmp_path, row, {"id": "m", "mixture_path": "mix.wav"}), tmp_path / "x" / "out", separator)
    assert rows["p"] == row | {
        "vocal_path": "../../v.wav", "accompaniment_path": "../../a.wav", "stems": {"bass": "../../b.wav"},
    }  # fmt: skip
    assert report.num_separated == 1 and separator.num_windows == 1


def test_a_second_run_separates_only_what_is_missing(tmp_path, mixture):
    make_audio.write(tmp_path / "other.wav", WAVE, RATE)
    one, two = {"id": "1", "mixture_path": "mix.wav"}, {"id": "2", "mixture_path": "other.wav"}
    run(manifest_of(tmp_path, one), tmp_path / "out", first := Halves())
    rows, _ = run(manifest_of(tmp_path, one, two), tmp_path / "out", second := Halves())
    assert (first.num_windows, second.num_windows) == (1, 1) and set(rows) == {"1", "2"}
    again = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    run(manifest_of(tmp_path, two, one), tmp_path / "out", third := Halves())
    assert third.num_windows == 0 and (tmp_path / "out" / "manifest.jsonl").read_bytes() == again
    run(manifest_of(tmp_path, one, two), tmp_path / "out", other := Halves(0.5))  # other weights make other stems
    assert other.num_windows == 2


def test_a_failing_separator_leaves_nothing_half_done(tmp_path, mixture):
    class Broken(Halves):
        def vocals(self, mixture: np.ndarray) -> np.ndarray:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(manifest_of(tmp_path, {"id": "m", "mixture_path": "mix.wav"}), tmp_path / "out", Broken())
    assert not list((tmp_path / "out" / "songs").iterdir())


def test_songs_that_fail_are_listed(tmp_path, mixture):
    make_audio.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    make_audio.cut(mixture, 0.5, tmp_path / "cut.wav")
    source = manifest_of(
        tmp_path,
        {"id": "good", "mixture_path": "mix.wav"}, {"id": "good", "mixture_path": "cut.wav"},
        {"id": "none", "mixture_path": "no.wav"},
        {"id": "silent", "mixture_path": "silent.wav"}, {"id": "cut", "mixture_path": "cut.wav"}, {"title": "nothing"},
        {"id": "late", "mixture_path": "mix.wav", "start": 2.0, "duration": 2.0},
    )  # fmt: skip
    rows, report = run(source, tmp_path / "out")
    assert set(rows) == {"good"} and len(list((tmp_path / "out" / "songs").iterdir())) == 1
    reasons = ["good: truncated", "none: missing", "silent: silent", "cut: truncated", "in.jsonl:6: expected a row",
               "late: truncated"]  # fmt: skip
    assert all(p.startswith(r) for p, r in zip(report.problems, reasons, strict=True)), report.problems
    with pytest.raises(ValueError, match=r"expected at least one song that can be used; got none \(none: missing"):
        run(manifest_of(tmp_path, {"id": "none", "mixture_path": "no.wav"}), tmp_path / "out2")

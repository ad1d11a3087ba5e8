"""Songs: a folder in which all has gone wrong that goes wrong with songs (CORPUS.md 5.2), with two that are good; and three."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import make_audio
import numpy as np
import pytest
from runs import finish, plan, write_songs

RATE = 44_100


def _wav(folder: Path, name: str, wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> None:
    make_audio.write(folder / f"{name}.wav", wave, rate, subtype)


def write_good_songs(folder: Path, wave: np.ndarray) -> list[str]:
    """Write songs that must be accepted, and name them."""
    make_audio.write(folder / "good ☃\n1.flac", wave, RATE)
    make_audio.write(folder / "good 2.mp3", np.stack((wave, wave[::-1])), RATE)
    make_audio.mp3_without_length(folder / "without xing.mp3", wave, RATE)
    make_audio.mp3_without_length(folder / "without xing, variable.mp3", wave, RATE, quality=0)
    _wav(folder, "pair_vocals", np.stack((wave, wave)))
    _wav(folder, "pair_accompaniment", np.stack((wave, wave))[:, ::-1][:, 500:])
    return ["good ☃\n1.flac", "good 2.mp3", "without xing.mp3", "without xing, variable.mp3", "pair_vocals.wav"]


def write_damaged_songs(folder: Path, wave: np.ndarray, scratch: Path) -> dict[str, str]:
    """Write songs that were whole once: name and reason of each."""
    whole = {suffix: make_audio.write(scratch / f"whole.{suffix}", wave, RATE) for suffix in ("mp3", "flac", "wav", "ogg")}
    whole["m4a"] = make_audio.encode(scratch / "whole.m4a", wave, RATE, "aac")
    whole["fast.m4a"] = make_audio.encode(scratch / "whole.fast.m4a", wave, RATE, "aac", movflags="faststart")
    whole["xing.mp3"] = make_audio.mp3_without_length(scratch / "whole.xing.mp3", wave, RATE)
    for suffix, path in whole.items():
        make_audio.cut(path, 0.5, folder / f"cut.{suffix}")
    for suffix in ("mp3", "flac", "ogg", "m4a", "xing.mp3"):
        make_audio.damage(whole[suffix], 0.3, folder / f"noise.{suffix}")
    (folder / "cut data.wav").write_bytes(make_audio.wav(make_audio.pcm16(wave), RATE, data_size=4 * len(wave)))
    return {
        "cut.mp3": "truncated", "cut.flac": "damaged", "cut.wav": "truncated", "cut.ogg": "truncated", "cut.m4a": "truncated",
        "cut.fast.m4a": "damaged", "cut.xing.mp3": "damaged", "noise.mp3": "damaged", "noise.flac": "damaged",
        "noise.ogg": "damaged", "noise.m4a": "damaged", "noise.xing.mp3": "damaged", "cut data.wav": "truncated",
    }  # fmt: skip


def write_other_things(folder: Path) -> dict[str, str]:
    """Write files that never were songs."""
    things = {
        "empty.mp3": b"", "page.mp3": b"<!DOCTYPE html>" + b"<p>No</p>" * 9_000, "answer.wav": b'{"error": 404}',
        "random.mp3": make_audio.noise(90_000), "random.wav": make_audio.noise(9_000), "random.au": make_audio.noise(90_000),
    }  # fmt: skip
    for name, data in things.items():
        (folder / name).write_bytes(data)
    (folder / "song.mp3").mkdir()
    return {name: "not_audio" if data else "empty_file" for name, data in things.items()}


def write_useless_songs(folder: Path, wave: np.ndarray) -> dict[str, str]:
    """Write sound files that hold no song."""
    spoiled = {name: wave.copy() for name in ("nan", "inf")}
    spoiled["nan"][-5], spoiled["inf"][-5] = np.nan, -np.inf
    for name, part in spoiled.items():
        _wav(folder, name, part, subtype="FLOAT")
    _wav(folder, "silent", np.zeros_like(wave))
    _wav(folder, "nearly silent", 1e-5 * wave, subtype="FLOAT")
    _wav(folder, "constant", np.full_like(wave, 0.3))
    _wav(folder, "short", wave[: RATE // 2 - 1])
    _wav(folder, "nothing", wave[:0])
    _wav(folder, "lengths_vocals", wave), _wav(folder, "lengths_accompaniment", wave[: -RATE // 5])
    _wav(folder, "rates_vocals", wave), _wav(folder, "rates_accompaniment", wave, rate=48_000)
    make_audio.encode(folder / "mix.stem.mp4", wave, RATE, "aac")
    return {
        "nan.wav": "nan", "inf.wav": "nan", "silent.wav": "silent", "nearly silent.wav": "silent", "constant.wav": "constant",
        "short.wav": "too_short", "nothing.wav": "too_short", "lengths_vocals.wav": "length_mismatch",
        "rates_vocals.wav": "rate_mismatch", "mix.stem.mp4": "no_stems",
    }  # fmt: skip


@pytest.fixture(scope="session")
def bad_songs(tmp_path_factory: pytest.TempPathFactory, real_song: tuple) -> tuple[list[Path], list[str], dict[str, str]]:
    """A folder and a manifest, the sources that are good, and the reason for each that is not."""
    folder, scratch = tmp_path_factory.mktemp("songs"), tmp_path_factory.mktemp("whole")
    wave = (real_song[0] + real_song[1])[: 4 * RATE]
    good, bad = write_good_songs(folder, wave), write_damaged_songs(folder, wave, scratch)
    bad |= write_other_things(folder) | write_useless_songs(folder, wave)
    rows = [
        {"id": "no file", "mixture_path": "none.wav"},
        {"id": "a folder", "mixture_path": str(folder / "song.mp3")},
        {"id": "half a pair", "vocal_path": "gone.flac", "accompaniment_path": str(folder / "good 2.mp3")},
        {"id": "late", "mixture_path": str(folder / "good 2.mp3"), "start": 3.0, "duration": 2.0},
        {"id": "segment", "mixture_path": str(folder / "good 2.mp3"), "start": 0.5, "duration": 2.0},
    ]
    manifest = scratch / "songs.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    bad |= {"none.wav": "missing", str(folder / "song.mp3"): "missing", "gone.flac": "missing"}
    return [folder, manifest], good, bad


@pytest.fixture(scope="session")
def spread_folder(tmp_path_factory: pytest.TempPathFactory, spread_tokenizer) -> Path:
    """The tokenizer whose codes spread, saved for the command line."""
    folder = tmp_path_factory.mktemp("spread")
    spread_tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file under a folder, by its relative name."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    """Three songs and a file that is no audio."""
    return write_songs(tmp_path_factory.mktemp("songs"), (1.0, 2.0, 1.5))


@pytest.fixture(scope="module")
def sound(songs, tmp_path_factory) -> Path:
    """A run of them that nothing disturbed."""
    run = tmp_path_factory.mktemp("sound")
    finish(run, plan(songs, run))
    return run

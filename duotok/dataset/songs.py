"""The songs to train on: a JSONL manifest into songs whose stems are decoded once and kept as memory-mapped waves.

A line is a JSON object: id, vocal_path, accompaniment_path, and optionally text (the lyrics), words (start and end in
seconds, text), stems (paths of drums, bass and other), notes_path (a JSON object whose "accompaniment" lists every note's onset
and length in seconds and MIDI pitch) and split ("train", "held_out" and its other names, see `split_of`). Paths are relative to
the manifest; other fields are ignored. A song that cannot be used is named with its reason, and training goes on without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from duotok.audio import Resampler, open_audio, to_mono
from duotok.config import ConfigError, parse
from duotok.files import found_instead, make_folder
from duotok.integrity import AudioError
from duotok.lyrics import Word

from .manifest import part_songs

# Stems of one song may differ by this, as they do after lossy coding; the longer one is cut.
_LENGTH_TOLERANCE_S = 0.1
# A decoder and a resampler each hold a core; more threads only fight over the disk.
_MAX_THREADS = 8


@dataclass(frozen=True)
class StemPaths:
    """Parts of the accompaniment, for source-separation masks."""

    drums: str
    bass: str
    other: str


@dataclass(frozen=True)
class ManifestRow:
    """One line of a manifest, see the module's docstring."""

    id: str
    vocal_path: str
    accompaniment_path: str
    text: str | None = None
    words: list[Word] | None = None
    stems: StemPaths | None = None
    split: str | None = None
    notes_path: str | None = None


@dataclass(frozen=True)
class PlayedNote:
    """A note of the accompaniment: when it starts, in seconds, and its MIDI pitch of 0 to 127."""

    onset: float
    midi: int


@dataclass(frozen=True)
class Song:
    """A song that can be trained on.

    Attributes:
        id: unique within the manifest.
        waves: files of mono waves (S,) int16 at the model's rate, of stereo (S, 2): vocals and accompaniment, and drums, bass
            and other where the song has them.
        num_samples: S, of the shortest wave.
        text: lyrics, or None.
        words: the lyrics with times; empty if there are none.
        held_out: whether it serves for evaluation only.
        notes: of the accompaniment, by onset and pitch; empty if there are none.
        first: sample of the waves at which the song starts; 0 unless it is part of another.
    """

    id: str
    waves: dict[str, Path]
    num_samples: int
    text: str | None
    words: tuple[Word, ...]
    held_out: bool
    notes: tuple[PlayedNote, ...] = ()
    first: int = 0

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read samples of a wave, (stop - start,) int16, of stereo (stop - start, 2); silence beyond its end."""
        wave = np.load(self.waves[name], mmap_mode="r")[self.first + start : self.first + min(stop, self.num_samples)]
        return np.pad(wave, [(0, stop - start - len(wave)), *[(0, 0)] * (wave.ndim - 1)])

    def part(self, start: int, stop: int, sample_rate: int) -> Song:
        """Take the samples from `start` to `stop` with the words that lie wholly inside and the notes that start inside."""
        begin, end = start / sample_rate, stop / sample_rate
        inside = (word for word in self.words if begin <= word.start and word.end <= end)
        words = tuple(replace(word, start=word.start - begin, end=word.end - begin) for word in inside)
        notes = tuple(PlayedNote(note.onset - begin, note.midi) for note in self.notes if begin <= note.onset < end)
        return replace(self, num_samples=stop - start, text=None, words=words, notes=notes, first=self.first + start)


@dataclass(frozen=True)
class Songs:
    """What a manifest holds: usable songs, and for each other one "id: reason"."""

    train: tuple[Song, ...]
    held_out: tuple[Song, ...]
    problems: tuple[str, ...] = field(default=())


def load_songs(
    manifest: Path,
    cache: Path,
    sample_rate: int,
    min_s: float,
    progress: Callable[[int, int], None] | None = None,
    channels: int = 1,
) -> Songs:
    """Read a manifest and decode what the cache does not hold yet.

    Args:
        manifest: the JSONL file.
        cache: folder of the decoded waves; entries belong to a file's path, size and time of change.
        sample_rate: of the waves, in Hz.
        min_s: songs shorter than this are left out.
        progress: called with the songs that are done and their total.
        channels: 1 mixes down to mono; 2 keeps two channels, a mono file's twice.

    Raises:
        ConfigError: if the manifest cannot be read, or fewer than two songs are left: one to train on, one to hold out.
    """
    rows, problems = _read_rows(manifest)
    make_folder(cache)
    songs = []
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        outcomes = pool.map(lambda row: _prepare(row, manifest.parent, cache, sample_rate, min_s, channels), rows)
        for done, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, Song):
                songs.append(outcome)
            else:
                problems.append(outcome)
            if progress:
                progress(done, len(rows))
    if len(songs) < 2:
        found = f"{len(songs)} ({problems[0]})" if problems else str(len(songs))
        raise ConfigError(f"{manifest}: expected at least two usable songs, one to hold out; got {found}; add songs")
    return _split(songs, {row.id: row.split for row in rows}, tuple(problems), manifest)


def _read_rows(manifest: Path) -> tuple[list[ManifestRow], list[str]]:
    try:
        lines = manifest.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{manifest}: expected a manifest in UTF-8; got {found_instead(error)}; correct the path, or make one: "
            "duotok corpus index SONGS -o songs.jsonl"
        ) from None
    known = {entry.name for entry in fields(ManifestRow)}
    rows: dict[str, ManifestRow] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            row = parse(ManifestRow, {k: v for k, v in values.items() if k in known} | {"id": str(values["id"])}, "song")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            problems.append(f"line {number}: expected a song; got {error}; correct the line")
            continue
        if row.id in rows:
            problems.append(f"{row.id}: expected a unique id; got line {number} with the same; rename it")
        rows.setdefault(row.id, row)
    return list(rows.values()), problems


def _prepare(row: ManifestRow, folder: Path, cache: Path, sample_rate: int, min_s: float, channels: int) -> Song | str:
    """Decode a song's waves into the cache, or say why it cannot be used."""
    paths = {"vocals": row.vocal_path, "accompaniment": row.accompaniment_path}
    if row.stems:
        paths |= {"drums": row.stems.drums, "bass": row.stems.bass, "other": row.stems.other}
    try:
        waves = {name: cached_wave(folder / path, cache, sample_rate, channels) for name, path in paths.items()}
    except AudioError as error:
        return f"{row.id}: {error.reason}: {error}"
    lengths = {name: len(np.load(path, mmap_mode="r")) for name, path in waves.items()}
    shortest, longest = min(lengths.values()), max(lengths.values())
    if longest - shortest > _LENGTH_TOLERANCE_S * sample_rate:
        seconds = ", ".join(f"{name} {length / sample_rate:.2f} s" for name, length in lengths.items())
        return f"{row.id}: length_mismatch: expected stems of one length; got {seconds}; check the pair"
    if shortest < min_s * sample_rate:
        return f"{row.id}: too_short: expected at least {min_s:g} s; got {shortest / sample_rate:.2f} s; leave it out"
    words = tuple(word for word in row.words or () if word.text.strip())
    text = row.text.strip() if row.text else ""
    try:
        notes = _read_notes(folder / row.notes_path) if row.notes_path else ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (
            f"{row.id}: notes: expected lists of onset, length and pitch; got {type(error).__name__}: {error}; correct the file"
        )
    return Song(row.id, waves, shortest, text or None, words, False, notes)


def _read_notes(path: Path) -> tuple[PlayedNote, ...]:
    rows = json.loads(path.read_text(encoding="utf-8"))["accompaniment"]
    return tuple(PlayedNote(onset, midi) for onset, midi in sorted((float(onset), int(midi)) for onset, _, midi in rows))


def cached_wave(path: Path, cache: Path, sample_rate: int, channels: int = 1) -> Path:
    """Decode a file at `sample_rate`, once: the cache's file holds (S,) int16, or (S, 2) for two channels.

    Raises:
        AudioError: if the file cannot be trusted.
    """
    if not path.is_file():
        raise AudioError("open", "missing", f"{path}: expected a file; got none; correct the path")
    path, status = path.resolve(), path.stat()
    text = f"{path} {status.st_size} {status.st_mtime_ns} {sample_rate}" + (f" {channels} channels" if channels > 1 else "")
    key = text.encode("utf-8", "surrogateescape")
    target = cache / f"{hashlib.sha1(key, usedforsecurity=False).hexdigest()}.npy"
    if not target.exists():
        wave = np.concatenate([np.zeros((0, channels), np.int16), *_decode(path, sample_rate, channels)])
        temporary = target.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            with temporary.open("wb") as file:
                np.save(file, wave[:, 0] if channels == 1 else wave)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _decode(path: Path, sample_rate: int, channels: int) -> Iterator[np.ndarray]:
    with open_audio(path) as reader:
        resamplers = [Resampler(reader.info.sample_rate, sample_rate) for _ in range(channels)]
        for block in reader.blocks():
            rows = to_mono(block)[None] if channels == 1 else np.broadcast_to(block[:channels], (channels, block.shape[1]))
            yield _to_int16(np.stack([r.push(row) for r, row in zip(resamplers, rows, strict=True)], axis=1), path)
        yield _to_int16(np.stack([r.finish() for r in resamplers], axis=1), path)


def _to_int16(wave: np.ndarray, path: Path) -> np.ndarray:
    if not np.isfinite(wave).all():
        raise AudioError("decode", "nan", f"{path}: expected finite samples; got NaN or infinity; replace the file")
    return np.rint(wave * 32768).clip(-32768, 32767).astype(np.int16)


def _split(songs: Iterable[Song], splits: dict[str, str | None], problems: tuple[str, ...], manifest: Path) -> Songs:
    """Part training from held-out songs."""
    by_id = sorted(songs, key=lambda song: song.id)
    held = part_songs({song.id: splits[song.id] for song in by_id}, manifest)
    marked = [replace(song, held_out=song.id in held) for song in by_id]
    return Songs(tuple(song for song in marked if not song.held_out), tuple(song for song in marked if song.held_out), problems)

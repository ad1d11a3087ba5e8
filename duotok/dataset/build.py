"""Build the tiny corpus: English art songs sung and played by free programs, and real songs that the user has beside them.

The scores are those of OpenScore Lieder (CC0): a copy of its repository, or a zip of .mxl files. Which songs are made, and
each of their samples, follows from the seed. Songs that are there already are kept, so that a stopped build goes on where it
was, and a longer one adds to a shorter.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duotok.integrity import AudioError

from .licences import write_licences
from .manifest import write_manifest
from .musicxml import ScoreError, UnsuitedScore, read_score
from .real_songs import add_pair, find_pairs
from .song_folder import prepare_songs
from .synthetic import Source, generator_of, make_song, plan_song
from .tools import ToolError, check_tools, find_soundfont

MANIFEST, SONGS = "manifest.jsonl", "songs"
LIEDER = Source("lieder", "OpenScore Lieder (github.com/OpenScore/Lieder)", "CC0-1.0")
_SCORES = (".mxl", ".musicxml", ".xml")
_JUDGED_AT_ONCE = 32


@dataclass(frozen=True)
class Report:
    """What a build came to.

    Attributes:
        num_songs: in the manifest.
        duration_s: of all of them.
        problems: for each score or song that could not be used, its name and why.
    """

    num_songs: int
    duration_s: float
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """The score files of a folder, at any depth, or of a zip."""

    path: Path

    def names(self) -> list[str]:
        """List them, one for each name of a song.

        Raises:
            ValueError: if there are none.
        """
        if self.path.is_dir():
            found = [file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file()]
        else:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    found = archive.namelist()
            except (OSError, zipfile.BadZipFile) as error:
                raise ValueError(f"{self.path}: expected a folder or zip of scores; got {error}; correct --lieder") from None
        scores = {song_id(name): name for name in sorted(found) if name.lower().endswith(_SCORES)}
        if not scores:
            raise ValueError(f"{self.path}: expected scores ({', '.join(_SCORES)}); found none; correct --lieder")
        return list(scores.values())

    def read(self, name: str) -> bytes:
        """Read one of them."""
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)


def build_tiny(
    folder: Path,
    lieder: Path,
    songs: Path | None = None,
    minutes: float = 120.0,
    seed: int = 0,
    num_workers: int = 2,
    soundfont: Path | None = None,
    on_song: Callable[[int, int, float], None] = lambda done, total, seconds: None,
) -> Report:
    """Build the corpus and write manifest.jsonl and LICENCES.md into its folder.

    Args:
        folder: of the corpus.
        lieder: folder or zip of scores.
        songs: folder of real songs, X_vocals.* with X_accomp.*; None for none.
        minutes: of songs made from scores; as many songs as reach it.
        seed: draws songs, voices, instruments and mixes.
        num_workers: processes; the result does not depend on it.
        soundfont: a General MIDI .sf2; None finds that of a Debian package.
        on_song: called with the songs done, their total, and the seconds of audio of the one just finished.

    Raises:
        ValueError: if a program is missing, a folder holds nothing to use, or no song could be made.
        WriteError: if the folder cannot be written to.
    """
    check_tools()
    sound, scores = find_soundfont(soundfont), Scores(lieder)
    pairs = list(find_pairs(songs)) if songs else []
    prepare_songs(folder / SONGS)
    with _pool(num_workers) as pool:
        chosen, problems = _choose(pool, scores, minutes, seed)
        jobs = {pool.submit(_make, scores, name, seed, sound, folder / SONGS): name for name in chosen}
        jobs |= {pool.submit(add_pair, pair, folder / SONGS): pair.name for pair in pairs}
        rows = _finish(jobs, problems, on_song)
    if not rows:
        raise ValueError(f"{folder}: expected at least one song; got none ({problems[0]}); correct the cause")
    write_manifest(folder / MANIFEST, rows)
    write_licences(folder, rows)
    return Report(len(rows), sum(row["duration"] for row in rows), tuple(sorted(problems)))


def _finish(jobs: dict[Future, str], problems: list[str], on_song: Callable[[int, int, float], None]) -> list[dict[str, Any]]:
    """Wait for all songs, and add those that failed to the problems."""
    rows: list[dict[str, Any]] = []
    for done, job in enumerate(as_completed(jobs), 1):
        try:
            rows.append(job.result())
            on_song(done, len(jobs), rows[-1]["duration"])
        except (ScoreError, ToolError, AudioError) as error:
            problems.append(f"{jobs[job]}: {error}")
            on_song(done, len(jobs), 0.0)
    return rows


@contextmanager
def _pool(num_workers: int) -> Iterator[Executor]:
    """Make worker processes that, when the build is stopped, finish at most the song they are at."""
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def song_id(name: str) -> str:
    """Name the song of a score file."""
    return f"{LIEDER.prefix}-{Path(name).stem}"


def _choose(pool: Executor, scores: Scores, minutes: float, seed: int) -> tuple[list[str], list[str]]:
    """Go through the scores in an order of seed and name alone until there is enough; also list those that cannot be read."""
    order = sorted(scores.names(), key=lambda name: hashlib.sha256(f"{seed} {song_id(name)}".encode()).digest())
    chosen: list[str] = []
    problems: list[str] = []
    seconds = 0.0
    for batch in _batches(order, _JUDGED_AT_ONCE):
        for name, verdict in zip(batch, pool.map(_judge, [scores] * len(batch), batch, [seed] * len(batch)), strict=True):
            if isinstance(verdict, str):
                problems.append(verdict)
            elif verdict is not None and seconds < minutes * 60:
                chosen.append(name)
                seconds += verdict
        if seconds >= minutes * 60:
            return chosen, problems
    problems.append(f"{scores.path}: expected {minutes:g} min of English songs; got {seconds / 60:.1f}; all of them are used")
    return chosen, problems


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _judge(scores: Scores, name: str, seed: int) -> float | str | None:
    """Tell the seconds of the song that a score would give; None if it is not one for this corpus; why if it is unreadable."""
    try:
        return plan_song(read_score(scores.read(name), name), name, generator_of(song_id(name), seed)).duration_s
    except UnsuitedScore:
        return None
    except ScoreError as error:
        return str(error)


def _make(scores: Scores, name: str, seed: int, soundfont: Path, folder: Path) -> dict[str, Any]:
    return make_song(read_score(scores.read(name), name), song_id(name), LIEDER, seed, soundfont, folder)

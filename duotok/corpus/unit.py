"""`run_unit`: the one function that all launchers call. It claims a unit, tokenizes its songs, and commits it.

A song that was in flight at a crash is tried again alone, before all others; at its second crash it is refused, as
`worker_crash`. A kill from outside (a time limit, a restart) speaks against a song only when it has come eight times with that
song alone in flight: a system kills those, too, that take all its memory, and such a song would hold up its unit for ever. What
ends in order (a full disk, a signal to stop) speaks against none.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from duotok.files import make_folder, move

from . import journal, lease, remote
from .job import Job
from .journal import Journal, Replay
from .lease import Lease, LeaseLost
from .pipeline import EncoderError, Pipeline
from .plan import read_unit
from .songs import Song
from .stopwatch import Stopwatch
from .store import UnitNote, UnitOutcome, data_path, failed_path, note_path, read_note, write_note, write_unit
from .worker import Outcome, refusal

logger = logging.getLogger(__name__)

_MAX_CRASHES, _MAX_LONE_KILLS = 2, 8
_SUSPICIOUS_KILLS = 2


class WorkerCrashError(Exception):
    """A song with which workers die."""


@dataclass
class _Progress:
    """What a claim's beats tell."""

    songs: int = 0
    failed: int = 0
    audio_s: float = 0.0
    worked_s: float = 0.0
    since: float = 0.0

    def count(self, outcome: Outcome, *, now: bool = True) -> None:
        """Count a song, done by this claim or before it."""
        self.songs += 1
        self.failed += outcome.failure is not None
        self.audio_s += outcome.seconds
        self.worked_s += outcome.seconds if now else 0.0

    def beat(self) -> dict[str, float]:
        speed = self.worked_s / max(time.monotonic() - self.since, 1e-3)
        return {"songs": self.songs, "failed": self.failed, "audio_s": self.audio_s, "speed": speed}


def run_unit(job: Job, unit: int) -> UnitNote | None:
    """Tokenize a unit, unless it is done.

    Returns:
        Its note; None while another process has it.

    Raises:
        OSError: if the machine fails, not a song: a full disk, no memory.
        EncoderError: if the encoder fails; the next try blames the song.
    """
    if note := read_note(job.run, unit):
        _tidy(job.run, unit)
        return note
    if (held := job.claims.claim(unit)) is None:
        return None
    try:
        if note := read_note(job.run, unit):  # another committed it a moment ago
            return note
        with _beating(held, job.options.beat_s) as progress:
            try:
                return _do(job, unit, held, progress)
            except OSError:
                held.check()  # who takes a unit over removes what is half-written of it
                raise
    except LeaseLost:
        logger.warning("unit %d: another worker took it over; going on with the next", unit)
        return None
    finally:
        with suppress(OSError):
            held.release()


def _do(job: Job, unit: int, held: Lease, progress: _Progress) -> UnitNote:
    _remove_partial(job.run, unit)
    start = time.monotonic()
    songs, told = read_unit(job.run, unit), journal.replay(job.run, unit, job.identity)
    for outcome in told.outcomes.values():
        progress.count(outcome, now=False)
    own = Journal(job.run, unit, job.identity)
    own.watch_for_crashes()
    job.watch.take()
    try:
        _tokenize(job, songs, told, own, held, progress)
    except EncoderError as error:
        own.crash(error)
        raise
    finally:
        own.close()
    outcomes = [told.outcomes[song.id] for song in songs]
    collected = UnitOutcome([o.row for o in outcomes if o.row], [o.failure for o in outcomes if o.failure])
    held.check()
    with _beside(job.run, unit) as made:
        with job.watch.stage("write"):
            note = write_unit(made, unit, collected, job.metadata)
        told.seconds.update({**job.watch.take(), "elapsed": time.monotonic() - start})
        note = replace(note, elapsed_s=told.seconds.pop("elapsed"), seconds=dict(told.seconds))
        _commit(job, unit, held, note, made)
    return note


def _commit(job: Job, unit: int, held: Lease, note: UnitNote, made: Path) -> None:
    """Publish a unit, so that one that is done is published; then move its files to the run, and write its note last."""
    if job.setup.publish:
        write_note(made, unit, note)
        _publish(made, unit, note, job.setup.publish)
    held.check()
    if note.sha256:
        move(data_path(made, unit), data_path(job.run, unit))
    else:
        data_path(job.run, unit).unlink(missing_ok=True)
    held.check()
    move(failed_path(made, unit), failed_path(job.run, unit))
    make_folder(note_path(job.run, unit).parent)
    shutil.rmtree(made, ignore_errors=True)  # a unit that is done has nothing half-written beside it
    held.check()
    write_note(job.run, unit, note)
    journal.discard(job.run, unit)


def publish_missing(run: Path, units: list[int], address: str) -> None:
    """Publish those finished units that are not at `address`, as they were finished before it was named.

    Raises:
        WriteError: if one cannot be copied.
    """
    there = remote.sizes(note_path(run, 0).parent, run, address)
    for unit in units:
        note, path = read_note(run, unit), note_path(run, unit)
        if note and there.get(path.name) != path.stat().st_size:
            _publish(run, unit, note, address)


def _publish(folder: Path, unit: int, note: UnitNote, address: str) -> None:
    data, others = data_path(folder, unit), [failed_path(folder, unit), note_path(folder, unit)]
    if note.sha256:
        remote.publish([data, *others], folder, address)
    else:
        remote.publish(others, folder, address, gone=[data])


def _tokenize(job: Job, songs: list[Song], told: Replay, own: Journal, held: Lease, progress: _Progress) -> None:
    """Tokenize what the journals do not tell of yet, and add it to them; the own journal is written behind."""
    outcomes = _outcomes(job.pipeline, [song for song in songs if song.id not in told.outcomes], told, own)
    written: Future | None = None
    since = time.monotonic()
    with ThreadPoolExecutor(1) as writer, closing(outcomes):
        for song, outcome in outcomes:
            if written:
                written.result()  # a full disk shows here, one song late
            seconds, since = {**job.watch.take(), "elapsed": time.monotonic() - since}, time.monotonic()
            written = writer.submit(_write, job.watch, own, song, outcome, seconds)
            told.outcomes[song.id] = outcome
            told.seconds.update({**seconds, "elapsed": 0.0})
            progress.count(outcome)
            if held.lost:
                raise LeaseLost
    if written:
        written.result()


def _write(watch: Stopwatch, own: Journal, song: Song, outcome: Outcome, seconds: dict[str, float]) -> None:
    with watch.stage("write"):
        own.finish(song.id, outcome, seconds)


def _outcomes(pipeline: Pipeline, songs: list[Song], told: Replay, own: Journal) -> Iterator[tuple[Song, Outcome]]:
    """Tokenize songs: first the suspects, one at a time, then the others together."""
    suspects, others = [], []
    for song in songs:
        if told.crashes[song.id] >= _MAX_CRASHES or told.lone_kills[song.id] >= _MAX_LONE_KILLS:
            message = f"{song.source}: expected workers to live; got some that died of this song; convert it, or leave it out"
            yield song, refusal(song, "decode", "worker_crash", WorkerCrashError(message))
        else:
            suspicious = told.crashes[song.id] or told.kills[song.id] >= _SUSPICIOUS_KILLS
            (suspects if suspicious else others).append(song)
    for group in (*([song] for song in suspects), others):
        yield from pipeline.run(group, lambda song: own.begin(song.id))


def _tidy(run: Path, unit: int) -> None:
    """Remove what is left of a unit that was committed, where its worker was killed right after."""
    journal.discard(run, unit)
    lease.discard(run, unit)


def _remove_partial(run: Path, unit: int) -> None:
    """Remove what killed workers left half-written of a unit."""
    for folder in run.glob(f".unit-{unit:05d}.*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)
    note = note_path(run, unit)
    for partial in note.parent.glob(f".{note.name}.*.tmp"):
        partial.unlink(missing_ok=True)


@contextmanager
def _beside(run: Path, unit: int) -> Iterator[Path]:
    """Make a folder in which a unit's files are made, before they are moved to those of the run."""
    folder = run / f".unit-{unit:05d}.{uuid.uuid4().hex[:16]}.tmp"
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _beating(held: Lease, beat_s: float) -> Iterator[_Progress]:
    """Show signs of life of a claim, from another thread, until the block ends."""
    progress, ended = _Progress(since=time.monotonic()), threading.Event()

    def beat() -> None:
        while not ended.wait(beat_s):
            try:
                held.beat(**progress.beat())
            except LeaseLost:
                return
            except OSError as error:  # a full disk: the worker itself will say so
                logger.info("no sign of life: %s", error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        ended.set()
        thread.join()

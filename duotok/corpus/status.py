"""How far a run is, read from its folder alone: by the process that runs it, and by any other that wants to know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .lease import read_beats
from .plan import read_plan
from .store import UnitNote, read_failures, read_note


@dataclass(frozen=True)
class WorkerStatus:
    """A claim that is held now: who works on which unit, and how fast (seconds of audio per second)."""

    unit: int
    host: str
    pid: int
    songs: int
    speed: float


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        num_songs, num_units: planned.
        songs, failed: finished songs, refused ones among them; those of unfinished units too.
        units: that are done.
        hours: of audio.
        workers: at work, as far as their claims tell.
    """

    num_songs: int
    num_units: int
    songs: int
    failed: int
    units: int
    hours: float
    workers: tuple[WorkerStatus, ...]

    @property
    def failure_rate(self) -> float:
        """Refused songs of the finished ones."""
        return self.failed / max(self.songs, 1)


class StatusReader:
    """Reads a run's status again and again; a note of a unit is read once."""

    def __init__(self, run: Path) -> None:
        """Open a run.

        Raises:
            PlanError: if the folder is no run.
        """
        self._run, self.plan = run, read_plan(run)
        self.notes: dict[int, UnitNote] = {}

    def read(self) -> RunStatus:
        """Look at the notes that are new, and at the last beat of each claim."""
        done = {int(path.stem) for path in (self._run / "done").glob("[0-9]*.json")}
        for unit in sorted(done - self.notes.keys()):
            if unit < self.plan.num_units and (note := read_note(self._run, unit)):
                self.notes[unit] = note
        beats = {unit: beat for unit, beat in read_beats(self._run).items() if unit not in self.notes}
        notes = self.notes.values()
        return RunStatus(
            self.plan.num_songs,
            self.plan.num_units,
            sum(note.ok + note.failed for note in notes) + sum(beat.get("songs", 0) for beat in beats.values()),
            sum(note.failed for note in notes) + sum(beat.get("failed", 0) for beat in beats.values()),
            len(self.notes),
            sum(note.hours for note in notes) + sum(beat.get("audio_s", 0.0) for beat in beats.values()) / 3600,
            tuple(
                WorkerStatus(unit, beat["host"], beat["pid"], beat.get("songs", 0), beat.get("speed", 0.0))
                for unit, beat in beats.items()
            ),
        )


def failure_classes(run: Path) -> dict[str, int]:
    """Count the refused songs of finished units by "stage: reason", the most frequent first."""
    counts = Counter(f"{failure['stage']}: {failure['reason']}" for failure in read_failures(run))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

"""What became of the songs of a unit that is not finished yet, so that a killed worker does none of them twice.

    RUN/journal/00012.5f0c....jsonl     written by one claim of unit 12, gone when the unit is committed

A line is a checksum and JSON: a song begins, or is finished (its row or failure, and the seconds it took). Lines are appended
in one piece and not forced to the disk: after a power cut some songs are done again, and a line that was torn is no line. A
fatal signal (a decoder's segmentation fault) leaves its traceback in the file, by which a crash is told from a kill. Whether
the claim ended in order is told by the second line, which is then written over: a full disk has no room for another.
"""

from __future__ import annotations

import base64
import faulthandler
import json
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from duotok.files import WriteError, make_folder

from .worker import Outcome

_CRASH = b"Fatal Python error"


class Journal:
    """One claim's journal of a unit."""

    def __init__(self, run: Path, unit: int, identity: str) -> None:
        """Begin a journal for rows that are made by what `identity` names."""
        make_folder(run / "journal")
        self.path = run / "journal" / f"{unit:05d}.{uuid.uuid4().hex[:16]}.jsonl"
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._write_error(error) from error
        self._append({"identity": identity})
        self._end_at = self._file.tell()
        self._append({"end": 0})

    def watch_for_crashes(self) -> None:
        """Have a fatal signal of this process leave its traceback here, until `close`."""
        faulthandler.enable(self._file)

    def begin(self, song_id: str) -> None:
        """Note that a song is in flight from now on."""
        self._append({"begin": song_id})

    def finish(self, song_id: str, outcome: Outcome, seconds: dict[str, float]) -> None:
        """Note what became of a song, and the seconds per stage since the last such note."""
        row = outcome.row and {name: _pack(value) for name, value in outcome.row.items()}
        self._append({"id": song_id, "row": row, "failure": outcome.failure, "audio": outcome.seconds, "seconds": seconds})

    def crash(self, error: BaseException) -> None:
        """Note that this claim ends by a defect, for which the songs in flight may be to blame."""
        self._append({"crash": f"{type(error).__name__}: {error}"})

    def close(self) -> None:
        """End the claim in order: no song in flight is to blame for it."""
        faulthandler.disable()
        self._file.close()
        with suppress(OSError), self.path.open("r+b") as file:  # it is gone if another has committed the unit
            file.seek(self._end_at)
            file.write(_line({"end": 1}))

    def _append(self, entry: dict[str, Any]) -> None:
        line = _line(entry)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._write_error(error) from error

    def _write_error(self, error: OSError) -> WriteError:
        return WriteError(
            f"{self.path}: expected to write; got {error.strerror}; free space or choose another folder, "
            "then run the same command again"
        )


@dataclass
class Replay:
    """What the journals of a unit tell.

    Attributes:
        outcomes: of finished songs, by id.
        crashes, kills: how often a song was in flight when a worker crashed, or was ended from outside.
        lone_kills: how often that was the only song in flight.
        seconds: per stage, spent on the finished songs.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    crashes: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    lone_kills: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


def replay(run: Path, unit: int, identity: str) -> Replay:
    """Read a unit's journals; those of another identity (a decoder was updated) count for nothing."""
    told = Replay()
    for path in _journals(run, unit):
        data = path.read_bytes()
        entries = list(_entries(data))
        if entries[:1] == [{"identity": identity}]:
            _replay_claim(entries[1:], any(line.startswith(_CRASH) for line in data.splitlines()), told)
    return told


def _replay_claim(entries: list[dict[str, Any]], crashed: bool, told: Replay) -> None:
    flying: dict[str, None] = {}
    for entry in entries:
        if "begin" in entry:
            flying[entry["begin"]] = None
        elif "id" in entry:
            flying.pop(entry["id"], None)
            row = entry["row"] and {name: _unpack(value) for name, value in entry["row"].items()}
            if entry["id"] not in told.outcomes:
                told.outcomes[entry["id"]] = Outcome(row, entry["failure"], entry["audio"])
                told.seconds.update(entry["seconds"])
        elif "crash" in entry:
            told.crashes.update(list(flying))
            flying.clear()
    if {"end": 1} in entries:
        return
    (told.crashes if crashed else told.kills).update(list(flying))
    if len(flying) == 1 and not crashed:
        told.lone_kills.update(list(flying))


def discard(run: Path, unit: int) -> None:
    """Remove a unit's journals: it is committed."""
    for path in _journals(run, unit):
        path.unlink(missing_ok=True)


def _journals(run: Path, unit: int) -> list[Path]:
    return sorted((run / "journal").glob(f"{unit:05d}.*.jsonl"))


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, sort_keys=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entries(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text):
            yield json.loads(text)


def _pack(value: Any) -> Any:
    return {"uint16": base64.b64encode(value.tobytes()).decode()} if isinstance(value, np.ndarray) else value


def _unpack(value: Any) -> Any:
    packed = isinstance(value, dict) and value.get("uint16")
    return np.frombuffer(base64.b64decode(packed), np.uint16) if isinstance(packed, str) else value

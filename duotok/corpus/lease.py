"""Who works on a unit: a file for each claim, so that processes on any number of hosts share a run without a service.

    RUN/leases/00012.000.jsonl      the first claim of unit 12; 00012.001.jsonl took the unit over from it

A claim is made by creating the next file, which only one of many can do (O_EXCL), and kept by appending a line now and then: a
beat. No clocks are compared: an observer watches the file, and takes the unit over when it has not changed for `expiry_s` of
the observer's own monotonic clock, or at once when its process was one of this host and is gone.

Two that work on one unit after all (one was asleep) do no harm: both make the same bytes, and each looks at the claims right
before it renames a file of the unit. One that falls asleep between that look and the rename may still replace a file that the
other has committed; a plain file system has no way to forbid it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from duotok.files import WriteError, make_folder

logger = logging.getLogger(__name__)

_NUMBER = int | float
# What a line may hold; one that holds other things is no beat.
_KINDS = {"place": str, "host": str, "pid": int, "songs": int, "failed": int, "audio_s": _NUMBER, "speed": _NUMBER}


class LeaseLost(Exception):
    """The unit was taken over by another process."""


class Lease:
    """A claim of this process on a unit; made by `Claims.claim`.

    Attributes:
        lost: whether a beat found that another process took the unit over.
    """

    def __init__(self, path: Path, first: bytes) -> None:
        self._path, self._first, self.lost = path, first, False

    def check(self) -> None:
        """Look whether the unit is still this process's: its file is the newest, and was not made anew by another.

        Raises:
            LeaseLost: if it is not.
        """
        newest = _claims_of(self._path.parent, _unit_of(self._path))[-1:]
        try:
            self.lost = newest != [self._path] or not self._path.read_bytes().startswith(self._first)
        except FileNotFoundError:
            self.lost = True
        if self.lost:
            raise LeaseLost(str(self._path))

    def beat(self, **progress: Any) -> None:
        """Show a sign of life, and what has been done so far.

        Raises:
            LeaseLost: if another process took the unit over.
        """
        self.check()
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            self.lost = True
            raise LeaseLost(str(self._path)) from None
        with os.fdopen(handle, "ab") as file:
            file.write(json.dumps(progress).encode() + b"\n")

    def release(self) -> None:
        """Give the unit back, unless another has it: this claim's file goes last, lest an older one seem to be the newest."""
        with suppress(LeaseLost):
            self.check()
            for path in _claims_of(self._path.parent, _unit_of(self._path)):
                if _number_of(path) <= _number_of(self._path):
                    path.unlink(missing_ok=True)


class Claims:
    """Claims units of a run for this process, and watches those that others hold."""

    def __init__(self, run: Path, expiry_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Look after the leases of `run`; a claim that shows no sign of life for `expiry_s` of `clock` is void."""
        self._folder, self._expiry_s, self._clock = run / "leases", expiry_s, clock
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def claim(self, unit: int) -> Lease | None:
        """Claim a unit; None while another process holds it.

        Raises:
            WriteError: if no file can be made in the run's folder.
        """
        make_folder(self._folder)
        newest = _claims_of(self._folder, unit)[-1:]
        number = 0
        if newest:
            if not (why := self._why_void(newest[0])):
                return None
            logger.warning("unit %d: took it over from %s: %s", unit, holder(newest[0]), why)
            number = _number_of(newest[0]) + 1
        path = self._folder / f"{unit:05d}.{number:03d}.jsonl"
        first = json.dumps({"place": _place(), "host": platform.node(), "pid": os.getpid()}).encode() + b"\n"
        try:
            _create(path, first)
        except FileExistsError:  # another was faster
            return None
        except OSError as error:
            raise WriteError(
                f"{path}: expected to claim a unit; got {error.strerror}; free space, or choose a folder that can be written "
                "to, then run the same command again"
            ) from error
        return Lease(path, first)

    def _why_void(self, path: Path) -> str | None:
        """Say why a claim of another process no longer holds; None if it does."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None  # given back just now; the next look finds the unit free
        before, since = self._seen.get(path, (None, 0.0))
        if data != before:
            self._seen[path] = (data, self._clock())
            logger.info("unit %d is held by %s", _unit_of(path), holder(path))
        elif self._clock() - since >= self._expiry_s:
            return f"no sign of life for {self._expiry_s:g} s"
        maker = _maker(data)
        if "pid" in maker and maker.get("place") == _place() and not _is_alive(maker["pid"]):
            return "that process is gone"
        return None


def discard(run: Path, unit: int) -> None:
    """Remove all claims of a unit that is done."""
    for path in _claims_of(run / "leases", unit):
        path.unlink(missing_ok=True)


def holder(path: Path) -> str:
    """Name who made a claim, for people."""
    maker = _maker(path.read_bytes() if path.exists() else b"")
    return f"process {maker.get('pid', 'unknown')} of host {maker.get('host', 'unknown')}"


def read_beats(run: Path) -> dict[int, dict[str, Any]]:
    """Read the last beat of every unit that is claimed now, with the claim's `host` and `pid`, as far as it tells."""
    beats: dict[int, dict[str, Any]] = {}
    for path in sorted((run / "leases").glob("*.*.jsonl"), key=_number_of):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        if lines := _lines(data):
            beats[_unit_of(path)] = {"host": "unknown", "pid": 0, **_maker(data), **lines[-1]}
    return beats


def _create(path: Path, data: bytes) -> None:
    """Make a file that is not there yet; where there is no room for its bytes, it is not there afterwards either."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink()
        raise


def _claims_of(folder: Path, unit: int) -> list[Path]:
    return sorted(folder.glob(f"{unit:05d}.*.jsonl"), key=_number_of)


def _unit_of(path: Path) -> int:
    return int(path.name.split(".")[0])


def _number_of(path: Path) -> int:
    return int(path.name.split(".")[1])


def _maker(data: bytes) -> dict[str, Any]:
    """Read who made a claim, its first line; nothing if that was damaged."""
    return next(iter(_lines(data[: data.find(b"\n") + 1])), {})


def _lines(data: bytes) -> list[dict[str, Any]]:
    """Read whole lines; one that is being written, or was damaged, is left out."""
    lines = []
    for text in data.splitlines(keepends=True):
        with suppress(ValueError, RecursionError):
            line = json.loads(text) if text.endswith(b"\n") else None
            if isinstance(line, dict) and all(isinstance(value, _KINDS.get(name, object)) for name, value in line.items()):
                lines.append(line)
    return lines


def _place() -> str:
    """Name the space in which a process id means something: this start of this host, and this container's process ids."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [platform.node(), boot.read_text().strip() if boot.exists() else ""]
    return ":".join([*parts, str(space.readlink()) if space.is_symlink() else ""])


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs; a process that has ended and is not yet waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process, a system without /proc, or no process id at all
        return True

"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WriteError(OSError):
    """A file or folder that cannot be written."""


def found_instead(error: Exception) -> str:
    """Say what was found where a file could not be read, for an error message."""
    return {FileNotFoundError: "nothing there", IsADirectoryError: "a folder"}.get(type(error), str(error))


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        WriteError: if that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: expected to make a folder; got {error.strerror}; choose another place") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all: temporary name, fsync, rename.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    with whole_file(path, f"{len(data)} bytes") as temporary, temporary.open("wb") as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, what: str) -> Iterator[Path]:
    """Let a file be written under a temporary name; then fsync and rename it, or remove it if that failed.

    Args:
        path: of the file.
        what: is written, for the error message.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    temporary = _temporary(path)
    try:
        try:
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(
            f"{path}: expected to write {what}; got {error.strerror}; free space or choose another folder, "
            "then run the same command again"
        ) from error


def move(source: Path, target: Path) -> None:
    """Rename a file within a disk, in place of the one that is there.

    Raises:
        WriteError: if it is gone, or the folder cannot be written to.
    """
    make_folder(target.parent)
    try:
        source.replace(target)
    except OSError as error:
        raise WriteError(
            f"{target}: expected to write it; got {error.strerror}; free space or choose another folder, "
            "then run the same command again"
        ) from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a folder that appears whole or not at all: yield a temporary one beside it, flushed and renamed at the end.

    Raises:
        ValueError: if the folder is there already.
        WriteError: if the disk is full, or it cannot be written to.
    """
    temporary = _temporary(target)
    if target.exists():
        raise ValueError(f"{target}: expected a new folder; got one that is there; choose another name, or remove it")
    make_folder(temporary)
    try:
        yield temporary
        for path in filter(Path.is_file, temporary.rglob("*")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        temporary.rename(target)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"{target}: expected to write there; got {error}; free space or choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(target: Path) -> Path:
    """Name what is to become `target`; no other process does so, whose id may be the same in another container."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:16]}.tmp")

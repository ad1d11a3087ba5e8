"""Manifests: one JSON object a line, in the order of ids, with paths relative to the manifest's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from duotok.config import ConfigError
from duotok.files import make_folder, write_atomically

_HELD_OUT_ONE_IN = 10
_PATHS = ("vocal_path", "accompaniment_path", "stems_path", "mixture_path", "notes_path")


_HELD_OUT_NAMES = frozenset(("held_out", "test", "valid", "validation", "dev", "eval"))


def split_of(song_id: str, named: object = None) -> str:
    """Assign a song to "train" or "held_out".

    Args:
        song_id: whose hash holds out about every tenth song, whatever else is in the corpus.
        named: a split that the song has already; test, valid and dev are held out, an unknown name counts for nothing.
    """
    if is_split(named):
        return "train" if named == "train" else "held_out"
    return "held_out" if hash_rank(song_id) % _HELD_OUT_ONE_IN == 0 else "train"


def is_split(named: object) -> bool:
    """Say whether a split's name is known."""
    return isinstance(named, str) and (named == "train" or named in _HELD_OUT_NAMES)


def choose_held_out(splits: Mapping[str, object]) -> set[str]:
    """Choose the songs to hold out by their splits (None for none) and `split_of`; at least one of those without a split."""
    held = {id for id, named in splits.items() if split_of(id, named) == "held_out"}
    free = sorted((id for id, named in splits.items() if not is_split(named)), key=hash_rank)
    return held or set(free[:1])


def part_songs(splits: Mapping[str, object], source: Path) -> set[str]:
    """Choose the songs to hold out, as `choose_held_out` does, but so that there are songs of both kinds.

    Args:
        splits: by id, None where there is none.
        source: of the songs, for the error message.

    Raises:
        ConfigError: if there are no two songs of which one may be held out.
    """
    held = choose_held_out(splits)
    if not held or len(held) == len(splits):
        found = "none held out" if not held else "all held out"
        raise ConfigError(f"{source}: expected songs to train on and songs held out; got {found}; set their split")
    return held


def hash_rank(song_id: str) -> int:
    """Turn an id into a number of 64 bits, equal everywhere, that orders songs as if drawn by lot."""
    digest = hashlib.sha1(song_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big")


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a manifest whole or not at all; equal rows give equal bytes.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    make_folder(path.parent)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in sorted(rows, key=lambda row: row["id"])]
    write_atomically(path, "".join(lines).encode("utf-8", "backslashreplace"))


def absolute(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Give a row of a manifest in `folder` with absolute paths."""
    return _with_paths(row, lambda path: str((folder / path).absolute()))


def relative(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Give a row whose paths are absolute, or as seen from here, with paths as seen from a folder, with forward slashes."""
    return _with_paths(row, lambda path: _from(path, folder))


def _with_paths(row: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    paths = {name: change(row[name]) for name in _PATHS if row.get(name)}
    stems = {"stems": {name: change(path) for name, path in row["stems"].items()}} if row.get("stems") else {}
    return row | paths | stems


def _from(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return str(Path(path).absolute())

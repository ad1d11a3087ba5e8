"""Manifests: one JSON object a line, in the order of ids, with paths relative to the manifest's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duotok.storage import make_folder, write_atomically

_HELD_OUT_ONE_IN = 10
PATHS = ("vocal_path", "accompaniment_path", "stems_path", "mixture_path", "notes_path")


def split_of(song_id: str) -> str:
    """Hold out about every tenth song, by a hash of its id, whatever else is in the corpus: "train" or "held_out"."""
    digest = hashlib.sha1(song_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % _HELD_OUT_ONE_IN == 0 else "train"


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a manifest whole or not at all; equal rows give equal bytes.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    make_folder(path.parent)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in sorted(rows, key=lambda row: row["id"])]
    write_atomically(path, "".join(lines).encode("utf-8", "backslashreplace"))


def relative(path: str | Path, folder: Path) -> str:
    """Write a path as seen from a folder, with forward slashes; as it is on another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return str(Path(path).absolute())

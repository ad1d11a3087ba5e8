"""Produced songs with true stems that the user has: X_vocals.* with X_accomp.*, taken as they are.

Known is the album "Everything is Free" (repositories ichbinsoftware/everythingisfree and everythingisremixed, CC0-1.0).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duotok.audio import SUFFIXES

from .decoding import measure_stems
from .manifest import split_of
from .song_folder import song_folder

_ALBUM = ("1.Hydrogen", "2.Lithium", "3.Sodium", "4.Potassium", "5.Rubidium", "6.Caesium")
_ALBUM_SOURCE = "Everything is Free (github.com/ichbinsoftware)"
# Their words quote third parties, so the album's licence does not cover them.
_OTHERS_WORDS = frozenset(("2.Lithium", "4.Potassium"))
_HELD_OUT = frozenset(("4.Potassium",))
_VOCALS, _ACCOMPANIMENTS = "_vocals", ("_accomp", "_accompaniment", "_no_vocals")


@dataclass(frozen=True)
class Pair:
    """The files of a song: its name, both stems, and its lyrics if there are any that may be used."""

    name: str
    vocals: Path
    accompaniment: Path
    lyrics: Path | None


def find_pairs(folder: Path) -> Iterator[Pair]:
    """List the songs of a folder whose two stems are there, by name.

    Raises:
        ValueError: if it is no folder or has none.
    """
    files = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES}
    names = sorted(stem.removesuffix(_VOCALS) for stem in files if stem.endswith(_VOCALS))
    found = False
    for name in names:
        partner = next((files[name + ending] for ending in _ACCOMPANIMENTS if name + ending in files), None)
        if partner:
            text = folder / f"{name}.txt"
            usable = text.is_file() and name not in _OTHERS_WORDS
            yield Pair(name, files[name + _VOCALS], partner, text if usable else None)
            found = True
    if not found:
        raise ValueError(f"{folder}: expected X_vocals.* with X_accomp.*; got no such pair; correct --songs")


def add_pair(pair: Pair, songs: Path) -> dict[str, Any]:
    """Copy a song into a corpus, unless it is there, and return its line of the manifest.

    Args:
        pair: the files.
        songs: folder of all songs; paths of the line are relative to its parent.

    Raises:
        AudioError: if a file cannot be trusted, or the stems are of different lengths.
    """
    duration = measure_stems([(pair.vocals, 0), (pair.accompaniment, 0)])
    target = songs / f"real-{pair.name}"
    if not target.is_dir():
        with song_folder(target) as folder:
            shutil.copyfile(pair.vocals, folder / f"vocals{pair.vocals.suffix}")
            shutil.copyfile(pair.accompaniment, folder / f"accompaniment{pair.accompaniment.suffix}")
    place, known = f"{songs.name}/{target.name}", pair.name in _ALBUM
    fixed = ("held_out" if pair.name in _HELD_OUT else "train") if known else split_of(target.name)
    row = {
        "id": target.name,
        "vocal_path": f"{place}/vocals{pair.vocals.suffix}",
        "accompaniment_path": f"{place}/accompaniment{pair.accompaniment.suffix}",
        "duration": duration,
        "split": fixed,
        "title": pair.name,
        "source": _ALBUM_SOURCE if known else "given by the user",
        "licence": "CC0-1.0" if known else "not stated",
        "instruments": [],
    }
    text = pair.lyrics.read_text(encoding="utf-8-sig", errors="replace").strip() if pair.lyrics else ""
    return row | ({"text": text} if text else {})

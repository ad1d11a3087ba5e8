"""The songs of a user's folder: files that belong together by their names, and the lyrics beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from duotok.audio import SUFFIXES
from duotok.corpus.songs import MULTI_STEM_SUFFIXES

PARTS = ("drums", "bass", "other")
# What names end in: X_vocals.flac, or vocals.wav in a folder of its own. Longer ones first.
_ROLES = {
    "no_vocals": "accompaniment",
    "accompaniment": "accompaniment",
    "instrumental": "accompaniment",
    "accomp": "accompaniment",
    "mixture": "mixture",
    "vocals": "vocals",
    "vocal": "vocals",
    "drums": "drums",
    "other": "other",
    "bass": "bass",
    "mix": "mixture",
}


@dataclass(frozen=True)
class FolderSong:
    """Files of one song by their roles: vocals, accompaniment, drums, bass, other, mixture, or stems (one file of several).

    Attributes:
        id: path of the song below the folder, without what tells the roles.
        files: each role's files, more than one where a name is taken twice.
        lyrics: .lrc or .txt beside them.
    """

    id: str
    files: dict[str, list[Path]]
    lyrics: Path | None


def find_songs(folder: Path) -> Iterator[FolderSong]:
    """Group the audio files of a folder, at any depth, into songs; hidden files are left out.

    Raises:
        ValueError: if there is no audio file.
    """
    groups: dict[str, dict[str, list[Path]]] = {}
    names: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.is_dir() and not path.name.startswith("."):
            name, role = _part(path.relative_to(folder).as_posix())
            name = name or folder.resolve().name
            names.setdefault(name.casefold(), name)
            groups.setdefault(name.casefold(), {}).setdefault(role, []).append(path)
    if not groups:
        raise ValueError(f"{folder}: expected a folder with audio files; found none; correct the path")
    for key, files in groups.items():
        yield FolderSong(names[key], files, _lyrics_beside(folder / names[key], files))


def _part(name: str) -> tuple[str, str]:
    """Tell the song and the role of a file by its path below the folder."""
    if name.lower().endswith(MULTI_STEM_SUFFIXES):
        return name[: -len(MULTI_STEM_SUFFIXES[0])], "stems"
    stem = name.rsplit(".", 1)[0]
    for word, role in _ROLES.items():
        head = stem[: -len(word)]
        if stem.lower().endswith(word) and (not head or head[-1] in "/_-. "):
            return head.rstrip("_-. /"), role
    return stem, "mixture"


def _lyrics_beside(song: Path, files: dict[str, list[Path]]) -> Path | None:
    """Look for X.lrc, X_vocals.lrc, or lyrics.lrc in the song's own folder; then the same with .txt."""
    members = [path for paths in files.values() for path in paths]
    bases = [song, *(path.with_suffix("") for path in members)]
    bases += [path.with_name("lyrics") for path in members if path.parent == song]
    for suffix in (".lrc", ".txt"):
        for base in bases:
            if (found := base.with_name(base.name + suffix)).is_file():
                return found
    return None

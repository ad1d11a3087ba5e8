"""The songs of a run: from audio files, folders and JSONL manifests, with stems paired by name."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from duotok.audio import SUFFIXES
from duotok.config import ConfigError, parse
from duotok.files import found_instead

from .remote import is_remote, open_store

# How stems of one song are told by their names: NAME_vocals.flac and NAME_accompaniment.flac, or vocals.wav in a folder.
_STEM_NAMES = {
    **dict.fromkeys(("no_vocals", "accompaniment", "accomp", "instrumental"), "accompaniment"),
    **dict.fromkeys(("vocals", "vocal"), "vocals"),
}
MULTI_STEM_SUFFIXES = (".stem.mp4", ".stem.m4a")


class PlanError(ValueError):
    """A run that cannot be planned or resumed; the message says what was expected, what is there and what to do."""


@dataclass(frozen=True)
class Segment:
    """A part of a song that the manifest names; seconds from its start."""

    start: float
    end: float
    label: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Song:
    """One song, or a segment of one. It has both stems, or a multi-stem file, or a mixture.

    A stem without its partner is refused when the song is opened.

    Attributes:
        id: unique within the run.
        source: path as the user gave it, for the token file.
        vocal_path, accompaniment_path: the two stems.
        stems_path: one file with the streams mix, drums, bass, other, vocals (MUSDB18's .stem.mp4).
        mixture_path: for a separator.
        start: seconds into the file where a segment starts.
        duration: seconds of the segment; None to the end.
        text, language, tags, segments: passed through to the token file.
        extra: all other fields of the manifest.
        duplicate_of: source of the song that had this one's id before it; then `id` is another, and the song is refused.
        same_stem: two files that are the same stem of it; then it is refused.
    """

    id: str
    source: str
    vocal_path: str | None = None
    accompaniment_path: str | None = None
    stems_path: str | None = None
    mixture_path: str | None = None
    start: float = 0.0
    duration: float | None = None
    text: str | None = None
    language: str | None = None
    tags: list[str] | None = None
    segments: list[Segment] | None = None
    extra: dict[str, Any] | None = None
    duplicate_of: str | None = None
    same_stem: tuple[str, str] | None = None

    @property
    def is_mixture(self) -> bool:
        """Whether a separator is to split it."""
        return bool(self.mixture_path) and not (self.stems_path or (self.vocal_path and self.accompaniment_path))

    @property
    def paths(self) -> tuple[str, ...]:
        """The files it is made of."""
        return tuple(p for p in (self.vocal_path, self.accompaniment_path, self.stems_path, self.mixture_path) if p)


def collect(inputs: Iterable[str | Path]) -> list[Song]:
    """List the songs of files, folders and manifests (.jsonl), on this machine or at addresses (s3://...).

    In folders, audio files are found at any depth, through links too; stems are paired by name, everything else is a mixture.
    Of songs of one id in manifests the first keeps it; the others are to be refused, ID#2 and so on.

    Raises:
        PlanError: for a path that does not exist, a manifest that lacks something, folders with the same names, or no song.
    """
    songs: list[Song] = []
    files: list[_File] = []
    for root, item in enumerate(map(str, inputs)):
        if item.endswith(".jsonl"):
            songs += read_manifest(item)
        elif found := (_remote_files(item, root) if is_remote(item) else _local_files(Path(item), root)):
            files += found
    paired = list(_pair(files))
    _refuse_duplicates(paired)
    songs = _mark_duplicates(songs + paired)
    if not songs:
        raise PlanError(f"expected at least one song; found none in {', '.join(map(str, inputs))}; check what you passed")
    return songs


def _local_files(item: Path, root: int) -> list[_File]:
    if item.is_dir():
        # Broken links stay in: they are refused by name.
        found = sorted(path for path in _walk(item) if path.suffix.lower() in SUFFIXES)
        return [_File(str(path.absolute()), path.relative_to(item).as_posix(), root, str(item)) for path in found]
    if item.is_file():
        return [_File(str(item.absolute()), item.name, -1, str(item.parent))]
    raise _nothing_there(item)


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield all that is no folder; a link to a folder is followed unless that would go in circles."""
    real = folder.resolve()
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise PlanError(f"{folder}: expected to list a folder; got {error.strerror}; make it readable, or move it") from None
    for entry in found:
        if _is_folder(entry):
            yield from _walk(folder / entry.name, (*above, real))
        else:
            yield folder / entry.name


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _remote_files(address: str, root: int) -> list[_File]:
    try:
        system, inner = open_store(address)
        if system.isfile(inner):
            folder, _, name = address.rpartition("/")
            return [_File(address, name, -1, folder)]
        found = sorted(path[len(inner.rstrip("/")) + 1 :] for path in system.find(inner))
    except (OSError, ValueError) as error:
        raise PlanError(f"{address}: expected to list songs; got {error}; correct the address") from None
    if not found:
        raise _nothing_there(address)
    audio = [name for name in found if PurePosixPath(name).suffix.lower() in SUFFIXES]
    # zip://songs::s3://bucket/all.zip, but simplecache::s3://bucket/songs
    head, chain, tail = address.partition("::") if "://" in address.partition("::")[0] else (address, "", "")
    return [_File(f"{head.rstrip('/')}/{name}{chain}{tail}", name, root, address) for name in audio]


def _nothing_there(item: str | Path) -> PlanError:
    return PlanError(f"{item}: expected an audio file, a folder or a .jsonl manifest; got nothing there; correct the path")


def read_manifest(path: str | Path) -> list[Song]:
    """Read a JSONL manifest, a path or an address; relative paths in it are relative to its folder.

    Raises:
        PlanError: naming the line and what it lacks.
    """
    folder = str(path).rpartition("/")[0] if is_remote(str(path)) else Path(path).parent
    try:
        if is_remote(str(path)):
            system, inner = open_store(str(path))
            data = system.cat_file(inner)
        else:
            data = Path(path).read_bytes()
        lines = data.decode("utf-8-sig").split("\n")  # other line separators occur within texts
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: expected a manifest in UTF-8; got {found_instead(error)}; correct it") from None
    return [_manifest_song(line, f"{path}:{number}", folder) for number, line in enumerate(lines, 1) if line.strip()]


def _manifest_song(line: str, place: str, folder: str | Path) -> Song:
    row = {name: value for name, value in _manifest_row(line, place).items() if value is not None}
    if not isinstance(row.get("id"), str | int) or isinstance(row["id"], bool) or row["id"] == "":
        raise PlanError(f"{place}: expected id, a text or a whole number; got {row.get('id')!r}; give the song an id")
    paths = [name for name in Song.__dataclass_fields__ if name.endswith("_path") and row.get(name) not in (None, "")]
    if not paths:  # a stem alone is refused when it is opened
        raise PlanError(
            f"{place}: expected vocal_path with accompaniment_path, or mixture_path, or stems_path; "
            f"got {', '.join(row)}; add the missing column"
        )
    for name, lowest in (("start", 0.0), ("duration", 1e-3)):
        value = row.get(name, lowest)
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value < math.inf:
            raise PlanError(f"{place}: {name}: expected seconds of at least {lowest:g}; got {value!r}; correct the number")
    known = [name for name in Song.__dataclass_fields__ if name not in ("source", "extra", "duplicate_of", "same_stem")]
    fields = {name: row[name] for name in known if name in row and (name in paths or not name.endswith("_path"))}
    extra = {name: value for name, value in row.items() if name not in known}
    try:
        song = parse(Song, {**fields, "id": str(row["id"]), "source": str(row[paths[0]]), "extra": extra or None}, place)
    except ConfigError as error:
        raise PlanError(str(error)) from None
    return replace(song, **{name: _beside(folder, getattr(song, name)) for name in paths})


def _beside(folder: str | Path, path: str) -> str:
    """Complete a path of a manifest that lies in `folder`, a path or an address."""
    if is_remote(path):
        return path
    return f"{folder}/{path}" if isinstance(folder, str) else str((folder / path).absolute())


def _manifest_row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant={"NaN": None}.__getitem__)  # as data frames write what is missing
        json.dumps(row, ensure_ascii=False).encode()
    except (KeyError, ValueError, RecursionError) as error:  # UnicodeEncodeError, for half of a surrogate pair, is a ValueError
        reason = getattr(error, "msg", None) or getattr(error, "reason", None) or str(error)
        raise PlanError(f"{place}: expected a JSON object; got {reason[:80]}; correct the line") from None
    if not isinstance(row, dict):
        raise PlanError(f"{place}: expected a JSON object; got {type(row).__name__}; write {{...}}")
    return row


@dataclass(frozen=True)
class _File:
    """An audio file: `name` relative to what the user gave, `root` which of the inputs that was (-1: a file in `folder`)."""

    path: str
    name: str
    root: int
    folder: str

    @property
    def part(self) -> tuple[str, str]:
        """Name of the song and the role in it that the file's name tells."""
        stem = self.name.rsplit(".", 1)[0]
        for word, role in _STEM_NAMES.items():
            head = stem[: -len(word)]
            if stem.lower().endswith(word) and (not head or head[-1] in "/_-. "):
                return head.rstrip("_-. ").casefold(), role
        return self.name, "mixture"


def _pair(files: list[_File]) -> Iterator[Song]:
    """Pair stems by name, within a folder or among the files given by name."""
    groups: dict[tuple, dict[str, _File]] = {}
    twice: dict[tuple, tuple[str, str]] = {}
    for file in sorted(files, key=lambda file: (file.root, file.part, file.name)):
        song, role = file.part
        folder = file.folder if file.root < 0 else ""
        key = file.root, folder, song, role == "mixture"
        members = groups.setdefault(key, {})
        if role in members:
            twice.setdefault(key, (members[role].path, file.path))
        members[role] = file
    for key, members in groups.items():
        first = members.get("vocals") or next(iter(members.values()))
        paths = {role: file.path for role, file in members.items()}
        fields = {"vocal_path": paths.get("vocals"), "accompaniment_path": paths.get("accompaniment")}
        if "mixture" in paths:
            kind = "stems_path" if first.name.lower().endswith(MULTI_STEM_SUFFIXES) else "mixture_path"
            fields = {kind: paths["mixture"]}
        song = first.part[0] if len(members) == 2 else first.name
        source = first.name.encode("utf-8", "backslashreplace").decode()
        yield Song(_digest(song), source, same_stem=twice.get(key), **fields)


def _digest(name: str) -> str:
    return hashlib.sha1(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def _refuse_duplicates(songs: list[Song]) -> None:
    seen: set[str] = set()
    for song in songs:
        if song.id in seen:
            raise PlanError(f"expected files of different names; got {song.source} twice; pass the files' common folder")
        seen.add(song.id)


def _mark_duplicates(songs: list[Song]) -> list[Song]:
    first: dict[str, Song] = {}
    taken, numbers = {song.id for song in songs}, Counter[str]()
    marked = []
    for song in songs:
        kept = first.setdefault(song.id, song)
        name = song.id
        while kept is not song and name in taken:
            numbers[song.id] += 1
            name = f"{song.id}#{numbers[song.id] + 1}"
        taken.add(name)
        marked.append(song if kept is song else replace(song, id=name, duplicate_of=kept.source))
    return marked

"""What a run consists of: songs from files, folders and manifests, in units that are fixed before the first is tokenized.

    RUN/plan.json              what the run was planned with
    RUN/units/00000.jsonl      the songs of unit 0
    RUN/data/unit-00000.parquet, RUN/failed/unit-00000.jsonl, RUN/done/00000.json      its outcome

Because units are fixed, any number of workers, changed at any time, makes the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from duotok.audio import SUFFIXES
from duotok.config import ConfigError, parse
from duotok.storage import make_folder, write_atomically

PLAN_VERSION = 1
# How stems of one song are told by their names: NAME_vocals.flac and NAME_accompaniment.flac, or vocals.wav in a folder.
_STEM_NAMES = {
    "no_vocals": "accompaniment",
    "accompaniment": "accompaniment",
    "accomp": "accompaniment",
    "instrumental": "accompaniment",
    "vocals": "vocals",
    "vocal": "vocals",
}
MULTI_STEM_SUFFIXES = (".stem.mp4", ".stem.m4a")


class PlanError(ValueError):
    """A run that cannot be planned or resumed; the message says what was expected, what is there and what to do."""


@dataclass(frozen=True)
class Song:
    """One song, or a segment of one. It has both stems, or a multi-stem file, or a mixture.

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
    segments: list[dict[str, Any]] | None = None
    extra: dict[str, Any] | None = None

    @property
    def is_mixture(self) -> bool:
        """Whether it has no stems."""
        return not (self.stems_path or (self.vocal_path and self.accompaniment_path))

    @property
    def paths(self) -> tuple[str, ...]:
        """The files it is made of."""
        return tuple(p for p in (self.vocal_path, self.accompaniment_path, self.stems_path, self.mixture_path) if p)


@dataclass(frozen=True)
class Plan:
    """What a run was planned with; everything that decides its bytes.

    Attributes:
        version: of this file.
        fingerprint: of the tokenizer.
        separator: identity of the separator, or "none" with the track that takes the mixture.
        num_songs, songs_per_unit: how the songs were cut into units.
        songs_sha256: of all unit files.
    """

    version: int
    fingerprint: str
    separator: str
    num_songs: int
    songs_per_unit: int
    songs_sha256: str

    @property
    def num_units(self) -> int:
        """Number of unit files."""
        return -(-self.num_songs // self.songs_per_unit)


def collect(inputs: Iterable[str | Path]) -> list[Song]:
    """List the songs of files, folders and manifests (.jsonl).

    In folders, audio files are found at any depth; stems are paired by name, everything else is a mixture.

    Raises:
        PlanError: for a path that does not exist, a manifest that lacks something, duplicate ids, or no song at all.
    """
    songs: list[Song] = []
    files: list[tuple[Path, str]] = []
    for item in map(Path, inputs):
        if item.suffix == ".jsonl":
            songs += read_manifest(item)
        elif item.is_dir():
            found = sorted(p for p in item.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            files += [(path, path.relative_to(item).as_posix()) for path in found]
        elif item.is_file():
            files.append((item, item.name))
        else:
            raise PlanError(
                f"{item}: expected an audio file, a folder or a .jsonl manifest; got nothing there; correct the path"
            )
    songs += _pair(files)
    if not songs:
        raise PlanError(f"expected at least one song; found none in {', '.join(map(str, inputs))}; pass audio files")
    _refuse_duplicates(songs)
    return songs


def read_manifest(path: Path) -> list[Song]:
    """Read a JSONL manifest; relative paths are relative to its folder.

    Raises:
        PlanError: naming the line and what it lacks.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: expected a manifest in UTF-8; got {error}; correct the path or the file") from None
    return [_manifest_song(line, f"{path}:{number}", path.parent) for number, line in enumerate(lines, 1) if line.strip()]


def _manifest_song(line: str, place: str, folder: Path) -> Song:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PlanError(f"{place}: expected a JSON object; got {error.msg}; correct the line") from None
    if not isinstance(row, dict):
        raise PlanError(f"{place}: expected a JSON object; got {type(row).__name__}; write {{...}}")
    stems = "vocal_path" in row and "accompaniment_path" in row
    if "id" not in row or not (stems or "mixture_path" in row or "stems_path" in row):
        raise PlanError(
            f"{place}: expected id and vocal_path with accompaniment_path, or mixture_path, or stems_path; "
            f"got {', '.join(row) or 'nothing'}; add the missing column"
        )
    known = [name for name in Song.__dataclass_fields__ if name not in ("source", "extra")]
    fields = {name: row[name] for name in known if name in row}
    fields["id"] = str(fields["id"])
    paths = [name for name in fields if name.endswith("_path")]
    fields["source"] = str(fields[paths[-1]])
    extra = {name: value for name, value in row.items() if name not in known}
    try:
        song = parse(Song, {**fields, "extra": extra or None}, place)
    except ConfigError as error:
        raise PlanError(str(error)) from None
    return Song(**{**asdict(song), **{name: str(folder / getattr(song, name)) for name in paths if getattr(song, name)}})


def _pair(files: list[tuple[Path, str]]) -> Iterator[Song]:
    """Pair stems by name; `files` are (path, name relative to what the user gave)."""

    def part(name: str) -> tuple[str, str]:
        stem = name.rsplit(".", 1)[0]
        for word, role in _STEM_NAMES.items():
            head = stem[: -len(word)]
            if stem.lower().endswith(word) and (not head or head[-1] in "/_-. "):
                return head.rstrip("_-. "), role
        return name, "mixture"

    labelled = sorted((*part(name), path, name) for path, name in files)
    for song, group in groupby(labelled, key=lambda row: row[0]):
        members = {role: (path, name) for _, role, path, name in group}
        if {"vocals", "accompaniment"} <= members.keys():
            (vocals, name), (accompaniment, _) = members.pop("vocals"), members.pop("accompaniment")
            yield Song(_digest(song), name, vocal_path=str(vocals.resolve()), accompaniment_path=str(accompaniment.resolve()))
        for path, name in members.values():
            kind = "stems_path" if name.lower().endswith(MULTI_STEM_SUFFIXES) else "mixture_path"
            yield Song(_digest(name), name, **{kind: str(path.resolve())})


def _digest(name: str) -> str:
    return hashlib.sha1(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()


def _refuse_duplicates(songs: list[Song]) -> None:
    seen: dict[str, Song] = {}
    for song in songs:
        if song.id in seen:
            raise PlanError(
                f"expected unique ids; got {song.id!r} for {seen[song.id].source} and {song.source}; "
                "pass their common folder, or a manifest with ids"
            )
        seen[song.id] = song


def make_plan(run: Path, songs: list[Song], fingerprint: str, separator: str, songs_per_unit: int) -> Plan:
    """Write a run's plan, or find the same one already there, so that a stopped run goes on.

    Raises:
        PlanError: if the folder holds another run.
    """
    lines = [json.dumps(asdict(song), ensure_ascii=True) + "\n" for song in songs]
    units = ["".join(lines[i : i + songs_per_unit]) for i in range(0, len(lines), songs_per_unit)]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    plan = Plan(PLAN_VERSION, fingerprint, separator, len(songs), songs_per_unit, digest)
    if (run / "plan.json").exists():
        _refuse_other_run(run, read_plan(run), plan)
        return plan
    make_folder(run / "units")
    for number, text in enumerate(units):
        write_atomically(run / "units" / f"{number:05d}.jsonl", text.encode())
    write_atomically(run / "plan.json", (json.dumps(asdict(plan), indent=1) + "\n").encode())
    return plan


def _refuse_other_run(run: Path, there: Plan, wanted: Plan) -> None:
    for name, old in asdict(there).items():
        new = getattr(wanted, name)
        if old != new:
            raise PlanError(
                f"{run}: expected an empty folder or the same run to go on with; got a run with {name} {str(old)[:16]} "
                f"instead of {str(new)[:16]}; choose another folder"
            )


def read_plan(run: Path) -> Plan:
    """Read plan.json.

    Raises:
        PlanError: if the folder is no run.
    """
    path = run / "plan.json"
    try:
        return parse(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, json.JSONDecodeError, ConfigError) as error:
        raise PlanError(f"{run}: expected a run folder with plan.json; got {error}; pass a folder that tokenize made") from None


def read_unit(run: Path, unit: int) -> list[Song]:
    """Read the songs of a unit."""
    text = (run / "units" / f"{unit:05d}.jsonl").read_text(encoding="utf-8")
    return [Song(**json.loads(line)) for line in text.splitlines()]

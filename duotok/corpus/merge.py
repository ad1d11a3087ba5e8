"""Runs joined into fewer, larger files of tokens; tokens of different tokenizers are not mixed unless asked to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from duotok.files import new_folder

from .songs import PlanError
from .store import SCHEMA, finished_files


def merge(runs: list[Path], out: Path, songs_per_file: int = 10_000, mix: bool = False) -> tuple[int, int]:
    """Join the files of tokens of runs.

    Args:
        runs: folders of runs; their order is kept.
        out: folder to write part-00000.parquet and so on into, new or empty; it appears whole or not at all.
        songs_per_file: in each of them.
        mix: join tokens of different fingerprints, which no model can tell apart.

    Returns:
        Number of songs, number of files.

    Raises:
        PlanError: for a run that is not finished or has no tokens, different fingerprints, an id that occurs twice, or an `out`
            with something in it.
        WriteError: if the disk is full, or it cannot be written to.
    """
    paths = [path for run in runs for path in finished_files(run)]
    if out.exists() and any(out.iterdir()):
        raise PlanError(f"{out}: expected a new or an empty folder; got one with files; choose another")
    if not paths:
        raise PlanError(f"expected runs with tokens; got none in {', '.join(map(str, runs))}; pass those that tokenize made")
    metadata = _common_metadata(paths, mix)
    refuse_twice(paths)
    schema = SCHEMA.with_metadata({"duotok": json.dumps(metadata, sort_keys=True)})
    num_songs = num_files = 0
    if out.exists():
        out.rmdir()
    with new_folder(out) as folder:
        for table in _tables(paths, songs_per_file):
            made = table.cast(schema).combine_chunks()
            pq.write_table(made, folder / f"part-{num_files:05d}.parquet", compression="zstd")
            num_songs, num_files = num_songs + len(table), num_files + 1
    return num_songs, num_files


def _common_metadata(paths: list[Path], mix: bool) -> dict[str, Any]:
    """Return the first file's metadata; the fingerprints of all have to agree, versions of packages may differ."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    separators: set[str] = set()
    for path in paths:
        metadata = json.loads(pq.read_schema(path).metadata[b"duotok"])
        found.setdefault(metadata["fingerprint"], (path, metadata))
        separators.add(metadata["separator"])
    (first, metadata), *others = found.values()
    metadata = {**metadata, "separator": ", ".join(sorted(separators))}
    if others and not mix:
        raise PlanError(
            f"expected tokens of one tokenizer; got fingerprint {metadata['fingerprint'][:16]} in {first} and "
            f"{others[0][1]['fingerprint'][:16]} in {others[0][0]}; merge them apart, or pass --mix"
        )
    return {**metadata, "fingerprint": "mixed", "fingerprints": list(found)} if others else metadata


def refuse_twice(paths: list[Path]) -> None:
    """Refuse files that hold a song more than once; their ids alone are read.

    Raises:
        PlanError: naming the id and both files.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        for song in pq.read_table(path, columns=["id"])["id"].to_pylist():
            if song in seen:
                raise PlanError(f"expected unique ids; got {song!r} in {seen[song]} and {path}; leave one of the runs out")
            seen[song] = path


def _tables(paths: list[Path], songs_per_file: int) -> Iterator[pa.Table]:
    """Cut the rows of all files into tables of `songs_per_file`, one file in memory at a time."""
    held = SCHEMA.empty_table()
    for path in paths:
        held = pa.concat_tables([held, pq.read_table(path).replace_schema_metadata(None)])
        while len(held) >= songs_per_file:
            yield held.slice(0, songs_per_file)
            held = held.slice(songs_per_file)
    if len(held):
        yield held

"""The songs of finished runs, one after another, for exports; a few are in memory at a time, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from .merge import refuse_twice
from .songs import PlanError
from .store import finished_files
from .vocabulary import TRACK_SIZE

_SONGS_AT_A_TIME = 64
_CODES = ("vocal_codes", "accomp_codes")


@dataclass(frozen=True)
class TokenSong:
    """A song as it is stored.

    Attributes:
        codes: (2, T) uint16, vocals first.
        row: its other columns.
    """

    codes: np.ndarray
    row: dict[str, Any]


@dataclass(frozen=True)
class TokenSet:
    """Files of tokens that belong together.

    Attributes:
        files: Parquet, in the order in which their songs are read.
        metadata: what the first of them says of how it was made.
        fingerprints: of the tokenizers, more than one only where that was asked for.
        separators: what vocals come from.
    """

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    fingerprints: tuple[str, ...]
    separators: tuple[str, ...]

    @property
    def num_songs(self) -> int:
        """How many songs there are."""
        return sum(pq.read_metadata(path).num_rows for path in self.files)

    def songs(self) -> Iterator[TokenSong]:
        """Yield every song.

        Raises:
            ValueError: for a song whose tracks differ in length, or whose codes do not fit the vocabulary.
        """
        for path in self.files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_SONGS_AT_A_TIME):
                    tracks = [batch.column(name) for name in _CODES]
                    rows = batch.drop_columns(list(_CODES)).to_pylist()
                    for i, row in enumerate(rows):
                        codes = [track[i].values.to_numpy(zero_copy_only=False) for track in tracks]
                        _check(codes, row["id"], path)
                        yield TokenSong(np.stack(codes), row)


def _check(codes: list[np.ndarray], name: str, path: Path) -> None:
    lengths, largest = [len(track) for track in codes], max((int(track.max(initial=0)) for track in codes), default=0)
    if lengths[0] != lengths[1] or largest >= TRACK_SIZE:
        found = f"{lengths[0]} and {lengths[1]} codes up to {largest}"
        raise ValueError(f"{path}: {name}: expected two tracks of one length and codes below {TRACK_SIZE}; got {found}; "
                         "tokenize again")  # fmt: skip


def find_tokens(sources: Iterable[Path], force: bool = False, partial: bool = False) -> TokenSet:
    """Find the files of tokens of runs, folders and single files.

    Args:
        sources: folders that `tokenize` wrote, other folders with Parquet files of tokens, or such files.
        force: take different tokenizers together.
        partial: take what is there of a run that is not finished.

    Raises:
        PlanError: if there are no tokens, if a run is not finished, if tokenizers differ, or if a song is there twice.
    """
    found = [_files(Path(source), partial) for source in sources]
    files = list(chain.from_iterable(found))
    if not files:
        raise PlanError(f"expected files of tokens; found none in {', '.join(map(str, sources))}; run duotok tokenize first")
    made = [_metadata(file) for file in files]
    fingerprints = tuple(sorted({each["fingerprint"] for each in made}))
    if len(fingerprints) > 1 and not force:
        named = ", ".join(fingerprint[:16] for fingerprint in fingerprints)
        raise PlanError(f"expected tokens of one tokenizer; got fingerprints {named}; export them apart, or force it")
    if len(found) > 1:
        refuse_twice(files)
    metadata = {**made[0], "fingerprint": fingerprints[0] if len(fingerprints) == 1 else "mixed"}
    return TokenSet(tuple(files), metadata, fingerprints, tuple(sorted({each["separator"] for each in made})))


def _files(source: Path, partial: bool) -> list[Path]:
    if source.is_file():
        return [source]
    if not (source / "plan.json").is_file():
        return sorted(source.rglob("*.parquet"))
    return finished_files(source, partial)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        schema = pq.read_schema(path)
        found = json.loads((schema.metadata or {})[b"duotok"])
        if missing := {"id", *_CODES}.difference(schema.names):
            raise KeyError(*missing)
        return {"fingerprint": found["fingerprint"], "separator": found["separator"], **found}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise PlanError(f"{path}: expected a file that duotok tokenize wrote; got {type(error).__name__}: {error}; "
                        "leave it out") from error  # fmt: skip

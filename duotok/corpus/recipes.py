"""Tokenizing inside pipelines that exist already: `datasets.map` and Ray Data's `map_batches`, a batch of rows at a time.

With datasets, on as many processes as there are GPUs:

    rows = datasets.load_dataset("json", data_files="songs.jsonl", split="train")
    rows = rows.map(TokenizeRows("tiny", device="cuda"), batched=True, batch_size=64, with_rank=True, num_proc=8)
    bad = rows.filter(lambda row: row["error"])

With Ray Data:

    rows = ray.data.read_json("songs.jsonl")
    rows = rows.map_batches(
        TokenizeTables, fn_constructor_kwargs={"tokenizer": "tiny", "device": "cuda"},
        batch_format="pyarrow", batch_size=64, num_gpus=1, concurrency=8,
    )
    rows.write_parquet("tokens")

Rows name their files as a manifest does: `vocal_path` with `accompaniment_path`, or `stems_path`, or `mixture_path`, and
optionally `start` and `duration`. They go on with five more columns: `vocal_codes`, `accomp_codes` (uint16), `n_frames`,
`vocal_activity` and `error`. A song that cannot be trusted has no codes, and its stage, reason and message in `error`, which is
empty otherwise. Audio never travels: each worker reads the files itself. For weeks of work `duotok tokenize` is the better way:
it resumes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from duotok.tokenizer import DuoTok

from .pipeline import Pipeline
from .reader import MixturePolicy
from .setup import Setup
from .songs import Song
from .stopwatch import Stopwatch
from .worker import Outcome

COLUMNS = pa.schema(
    [
        ("vocal_codes", pa.list_(pa.uint16())),
        ("accomp_codes", pa.list_(pa.uint16())),
        ("n_frames", pa.int32()),
        ("vocal_activity", pa.list_(pa.uint8())),
        ("error", pa.string()),
    ]
)
_IMPORTED_BY = os.getpid()
_FILES = ("vocal_path", "accompaniment_path", "stems_path", "mixture_path")


class TokenizeRows:
    """For `datasets.Dataset.map(..., batched=True)`: lists of rows in, the new columns out.

    The tokenizer is loaded once in each process, when its first batch comes. `datasets` remembers results by these arguments:
    where a folder got new weights under the same name, pass `load_from_cache_file=False`.
    """

    def __init__(
        self, tokenizer: str = "tiny", device: str = "cpu", separate: str = "none", separator_weights: str | None = None,
        track: str = "accompaniment", stem_cache: str | None = None, folder: str = ".", num_decoders: int = 1,
    ) -> None:  # fmt: skip
        """Say how to tokenize.

        Args:
            tokenizer: name, folder or hub id.
            device: "cpu", "cuda" (the process's rank chooses which, where `with_rank=True` tells it) or "cuda:1".
            separate, separator_weights: for rows that have a mixture alone; see `make_separator`.
            track: with `separate="none"`, the track that takes the mixture.
            stem_cache: folder for separated stems.
            folder: to which relative paths are relative.
            num_decoders: threads of each process that decode.
        """
        weights, cache = (None if path is None else Path(path) for path in (separator_weights, stem_cache))
        self._setup = Setup(str(tokenizer), device, separate, weights, track, cache)
        self._folder, self._num_decoders = str(folder), num_decoders

    def __call__(self, batch: Mapping[str, Sequence[Any]], rank: int | None = None) -> dict[str, list[Any]]:
        """Tokenize the songs of a batch; windows of all of them share the encoder's batches.

        Raises:
            ValueError: if the tokenizer cannot be loaded, or no column names files.
            OSError: if the machine fails, not a song.
        """
        if os.getpid() != _IMPORTED_BY:  # forked: OpenMP would wait for ever for threads that stayed behind
            torch.set_num_threads(1)
        setup = self._setup
        if setup.device == "cuda" and rank is not None:
            setup = replace(setup, device=f"cuda:{rank % torch.cuda.device_count()}")
        songs = self._songs(batch)
        pipeline = Pipeline(*_tools(setup), Stopwatch(), self._num_decoders)
        outcomes = {song.id: outcome for song, outcome in pipeline.run(songs)}
        rows = [_columns(outcomes[song.id]) for song in songs]
        return {name: [row[name] for row in rows] for name in COLUMNS.names}

    def _songs(self, batch: Mapping[str, Sequence[Any]]) -> list[Song]:
        named = [name for name in _FILES if name in batch]
        if not named:
            found = ", ".join(batch) or "none"
            raise ValueError(f"expected a column of {', '.join(_FILES)}; got {found}; rename one")
        return [self._song(number, {name: batch[name][number] for name in batch}) for number in range(len(batch[named[0]]))]

    def _song(self, number: int, row: Mapping[str, Any]) -> Song:
        paths = {name: str(Path(self._folder, row[name])) for name in _FILES if row.get(name)}
        start, duration = row.get("start"), row.get("duration")
        source = next(iter(paths.values()), "a row without files")
        return Song(str(number), source, **paths, start=float(start or 0), duration=duration and float(duration))


class TokenizeTables(TokenizeRows):
    """For Ray Data's `map_batches(TokenizeTables, batch_format="pyarrow")`: tables in, the same with the new columns out."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Tokenize the songs of a table; see `TokenizeRows`."""
        found = super().__call__(batch.to_pydict())
        for field in COLUMNS:
            batch = batch.append_column(field, pa.array(found[field.name], field.type))
        return batch


@lru_cache(maxsize=1)
def _tools(setup: Setup) -> tuple[DuoTok, MixturePolicy]:
    """Load a process's model, once."""
    return setup.build()


def _columns(outcome: Outcome) -> dict[str, Any]:
    """Give the new columns of a row, of the same types whether or not its song was refused."""
    row, failure = outcome.row, outcome.failure
    if row is None:
        none = {"vocal_codes": np.zeros(0, np.uint16), "accomp_codes": np.zeros(0, np.uint16), "n_frames": 0}
        error = f"{failure['stage']}: {failure['reason']}: {failure['message']}"
        return {**none, "vocal_activity": np.zeros(0, np.uint8), "error": error}
    codes = {name: np.asarray(row[name], np.uint16) for name in ("vocal_codes", "accomp_codes")}
    activity = np.asarray(row["vocal_activity"] or (), np.uint8)
    return {**codes, "n_frames": row["n_frames"], "vocal_activity": activity, "error": ""}

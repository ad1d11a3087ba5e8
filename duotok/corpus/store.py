"""Tokens on disk: one Parquet file for each unit, loadable by `datasets.load_dataset("parquet", ...)` with no script.

File-level metadata, key `duotok`, is JSON: format version, fingerprint, codebook size, frame rate, window policy, dtype,
separator, decoders and their versions. The bytes of a file are a function of its songs, the tokenizer and those versions.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from duotok.audio import file_sha256
from duotok.config import parse
from duotok.files import make_folder, write_atomically

from .plan import read_plan
from .songs import PlanError

TOKEN_FORMAT = 1
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("vocal_codes", pa.list_(pa.uint16()), nullable=False),
        pa.field("accomp_codes", pa.list_(pa.uint16()), nullable=False),
        pa.field("n_frames", pa.int32(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False),  # decoded seconds, not the header's
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("channels", pa.int8(), nullable=False),
        pa.field("start_time", pa.float64(), nullable=False),
        pa.field("gain_db", pa.float32(), nullable=False),
        pa.field("vocal_activity", pa.list_(pa.uint8())),
        pa.field("text", pa.string()),
        pa.field("language", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field(
            "segments",
            pa.list_(
                pa.struct([("start", pa.float64()), ("end", pa.float64()), ("label", pa.string()), ("text", pa.string())])
            ),
        ),
        pa.field("source", pa.string(), nullable=False),
        pa.field("audio_sha256", pa.string(), nullable=False),
        pa.field("extra", pa.string()),
    ]
)


@dataclass
class UnitOutcome:
    """Rows and failures of one unit, in the unit's own order of songs."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class UnitNote:
    """What is noted when a unit is committed, last of its files.

    Attributes:
        ok, failed: songs.
        hours: of audio.
        codes: of both tracks.
        sha256: of the file of tokens; None where every song was refused, and there is no such file.
        data_bytes, failed_bytes: of the unit's two files.
        fingerprint: of the tokenizer.
        seconds: spent in each stage, over all threads and claims.
        elapsed_s: of one worker's time, over all claims.
        ended_at: seconds since 1970 by the clock of the host; only for the report.
        host, versions: of the worker that committed the unit.
        failed_sha256: of the file of refused songs; None in notes of older runs.
    """

    ok: int
    failed: int
    hours: float
    codes: int
    sha256: str | None
    data_bytes: int
    failed_bytes: int
    fingerprint: str
    seconds: dict[str, float]
    elapsed_s: float
    ended_at: float
    host: str
    versions: dict[str, str]
    failed_sha256: str | None = None


def check_row(row: dict[str, Any]) -> None:
    """Refuse a row that does not fit the columns (ValueError, TypeError or OverflowError), before its unit is written."""
    pa.Table.from_pylist([row], schema=SCHEMA)


def write_unit(run: Path, unit: int, outcome: UnitOutcome, metadata: dict[str, Any]) -> UnitNote:
    """Write a unit's tokens and failures, each whole or not at all.

    Returns:
        The note that `write_note` is to write, once the times in it are set.

    A unit without tokens has no Parquet file: `datasets` cannot read one without rows.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    for folder in ("data", "failed", "done"):
        make_folder(run / folder)
    data, sha256 = b"", None
    if outcome.rows:
        described = SCHEMA.with_metadata({"duotok": json.dumps(metadata, sort_keys=True)})
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(outcome.rows, schema=described), buffer, compression="zstd")
        data = buffer.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        write_atomically(data_path(run, unit), data)
    else:
        data_path(run, unit).unlink(missing_ok=True)
    lines = "".join(json.dumps(failure, sort_keys=True) + "\n" for failure in outcome.failures).encode()
    write_atomically(failed_path(run, unit), lines)
    hours, codes = sum(row["duration"] for row in outcome.rows) / 3600, sum(2 * row["n_frames"] for row in outcome.rows)
    return UnitNote(
        len(outcome.rows), len(outcome.failures), hours, codes, sha256, len(data), len(lines), metadata["fingerprint"],
        {}, 0.0, time.time(), platform.node(), metadata["versions"], hashlib.sha256(lines).hexdigest(),
    )  # fmt: skip


def write_note(run: Path, unit: int, note: UnitNote) -> None:
    """Commit a unit: from now on it is done."""
    write_atomically(note_path(run, unit), (json.dumps(asdict(note)) + "\n").encode())


def read_note(run: Path, unit: int) -> UnitNote | None:
    """Read a unit's note; None if the unit is not done, or its files are not of the length that was committed."""
    try:
        note = parse(UnitNote, json.loads(note_path(run, unit).read_text(encoding="utf-8")))
        sizes = [path.stat().st_size if path.exists() else None for path in (data_path(run, unit), failed_path(run, unit))]
    except (OSError, ValueError):
        return None
    return note if sizes == [note.data_bytes or None, note.failed_bytes] else None


def is_intact(run: Path, unit: int, note: UnitNote) -> bool:
    """Read a unit's tokens and refused songs and tell whether they are those that were committed."""
    committed = {data_path(run, unit): note.sha256, failed_path(run, unit): note.failed_sha256}
    return all(sha256 is None or file_sha256(path) == sha256 for path, sha256 in committed.items())


def finished_files(run: Path, partial: bool = False) -> list[Path]:
    """List a run's files of tokens, each as it was committed.

    Args:
        run: its folder.
        partial: leave out what is not finished, rather than refuse the run.

    Raises:
        PlanError: if the folder is no run, or the run is not finished.
    """
    notes = [read_note(run, unit) for unit in range(read_plan(run).num_units)]
    notes = [note if note and is_intact(run, unit, note) else None for unit, note in enumerate(notes)]
    missing = notes.count(None)
    if missing and not partial:
        raise PlanError(
            f"{run}: expected a finished run; got one that lacks {missing} of {len(notes)} units; run tokenize again, "
            "or export what is there with --partial"
        )
    return [data_path(run, unit) for unit, note in enumerate(notes) if note and note.sha256]


def units_to_do(run: Path, units: list[int]) -> list[int]:
    """List those of `units` that are not done; damaged ones lose their note, so that every worker does them again."""
    todo = []
    for unit in units:
        note = read_note(run, unit)
        if note is None or not is_intact(run, unit, note):
            note_path(run, unit).unlink(missing_ok=True)
            todo.append(unit)
    return todo


def read_failures(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the refused songs of all units."""
    for path in sorted((run / "failed").glob("unit-*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


@dataclass
class RunReport:
    """What a run holds, as `summarize` reads it from the notes of its units, and `verify` checks it row by row.

    Attributes:
        num_songs, num_failed, num_missing: planned songs in data/, in failed/, and in neither.
        hours: of audio.
        num_codes: of both tracks.
        problems: one sentence each; empty for a sound run, and always from `summarize`.
    """

    num_songs: int = 0
    num_failed: int = 0
    num_missing: int = 0
    hours: float = 0.0
    num_codes: int = 0
    problems: list[str] = field(default_factory=list)


def summarize(run: Path) -> RunReport:
    """Add up what the finished units of a run noted when they were committed.

    Raises:
        PlanError: if the folder is no run.
    """
    report, plan = RunReport(), read_plan(run)
    for note in filter(None, (read_note(run, unit) for unit in range(plan.num_units))):
        report.num_songs += note.ok
        report.num_failed += note.failed
        report.hours += note.hours
        report.num_codes += note.codes
    report.num_missing = plan.num_songs - report.num_songs - report.num_failed
    return report


def data_path(run: Path, unit: int) -> Path:
    """Where a unit's tokens are."""
    return run / "data" / f"unit-{unit:05d}.parquet"


def failed_path(run: Path, unit: int) -> Path:
    """Where a unit's refused songs are, one JSON object a line."""
    return run / "failed" / f"unit-{unit:05d}.jsonl"


def note_path(run: Path, unit: int) -> Path:
    """Where it is noted that a unit is done."""
    return run / "done" / f"{unit:05d}.json"

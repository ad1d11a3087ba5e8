"""Tokens on disk: one Parquet file for each unit, loadable by `datasets.load_dataset("parquet", ...)` with no script.

File-level metadata, key `duotok`, is JSON: format version, fingerprint, codebook size, frame rate, window policy, dtype,
separator, decoders and their versions. The bytes of a file are a function of its songs, the tokenizer and those versions.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from duotok.config import parse
from duotok.files import make_folder, write_atomically
from duotok.windows import count_frames

from .plan import Plan, read_plan, read_unit

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
    """

    ok: int
    failed: int
    hours: float
    codes: int
    sha256: str | None


def check_row(row: dict[str, Any]) -> None:
    """Refuse a row that does not fit the columns (ValueError, TypeError or OverflowError), before its unit is written."""
    pa.Table.from_pylist([row], schema=SCHEMA)


def write_unit(run: Path, unit: int, outcome: UnitOutcome, metadata: dict[str, Any]) -> None:
    """Write a unit's tokens and failures, then the note that it is done; each file appears whole or not at all.

    A unit without tokens has no Parquet file: `datasets` cannot read one without rows.
    """
    for folder in ("data", "failed", "done"):
        make_folder(run / folder)
    sha256 = None
    if outcome.rows:
        table = pa.Table.from_pylist(
            outcome.rows, schema=SCHEMA.with_metadata({"duotok": json.dumps(metadata, sort_keys=True)})
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
        write_atomically(data_path(run, unit), buffer.getvalue())
    lines = "".join(json.dumps(failure, sort_keys=True) + "\n" for failure in outcome.failures)
    write_atomically(_failed_path(run, unit), lines.encode())
    hours, codes = sum(row["duration"] for row in outcome.rows) / 3600, sum(2 * row["n_frames"] for row in outcome.rows)
    note = UnitNote(len(outcome.rows), len(outcome.failures), hours, codes, sha256)
    write_atomically(_done_path(run, unit), (json.dumps(asdict(note)) + "\n").encode())


def read_note(run: Path, unit: int) -> UnitNote | None:
    """Read a unit's note; None if the unit is not done, or its files are not those that were committed."""
    path = data_path(run, unit)
    try:
        note = parse(UnitNote, json.loads(_done_path(run, unit).read_text(encoding="utf-8")))
        failed = len(_failed_path(run, unit).read_bytes().splitlines())
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    except (OSError, ValueError):
        return None
    return note if (note.sha256, note.failed) == (sha256, failed) else None


def read_failures(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the refused songs of all units."""
    for path in sorted((run / "failed").glob("unit-*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


@dataclass
class RunReport:
    """What a run holds, as `summarize` reads it from the notes of its units, or `verify` from every row.

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


def verify(run: Path) -> RunReport:
    """Check a run: every song is in exactly one place, every file is what was committed, every row keeps its promises.

    Raises:
        PlanError: if the folder is no run.
    """
    plan, report = read_plan(run), summarize(run)
    for unit in range(plan.num_units):
        planned = [song.id for song in read_unit(run, unit)]
        note = read_note(run, unit)
        if note is None:
            report.problems.append(
                f"unit {unit}: expected its files as they were committed; got none or others; run tokenize again"
            )
            continue
        lines = _failed_path(run, unit).read_text(encoding="utf-8").splitlines()
        count = Counter([json.loads(line)["id"] for line in lines] + _verify_data(run, unit, plan, report))
        odd = [song for song in {*planned, *count} if count[song] != 1 or song not in planned]
        report.problems += [f"unit {unit}: expected {song!r} once; got it {count[song]} times" for song in sorted(odd)]
    left = sorted(str(path.relative_to(run)) for path in run.rglob(".*.tmp"))
    report.problems += [f"{path}: expected no partial file; got one; delete it" for path in left]
    return report


def _verify_data(run: Path, unit: int, plan: Plan, report: RunReport) -> list[str]:
    """Check the rows of a unit whose bytes are known to be those committed; return their ids."""
    path = data_path(run, unit)
    if not path.exists():
        return []
    table = pq.read_table(path)
    metadata = json.loads(table.schema.metadata[b"duotok"])
    if metadata["fingerprint"] != plan.fingerprint or not table.schema.equals(SCHEMA):
        report.problems.append(f"{path.name}: expected this run's fingerprint and columns; got other ones; tokenize again")
    for row in table.to_pylist():
        report.problems += [f"{path.name}: {row['id']}: {text}" for text in _row_problems(row, metadata)]
    return table["id"].to_pylist()


def _row_problems(row: dict[str, Any], metadata: dict[str, Any]) -> Iterator[str]:
    frames = count_frames(row["num_samples"], row["sample_rate"], metadata["frame_rate"])
    for name in ("vocal_codes", "accomp_codes"):
        codes = np.asarray(row[name])
        if not len(codes) == row["n_frames"] == frames:
            yield f"expected {frames} {name}; got {len(codes)}"
        if len(codes) and codes.max() >= metadata["codebook_size"]:
            yield f"expected {name} below {metadata['codebook_size']}; got {codes.max()}"


def data_path(run: Path, unit: int) -> Path:
    """Where a unit's tokens are."""
    return run / "data" / f"unit-{unit:05d}.parquet"


def _failed_path(run: Path, unit: int) -> Path:
    return run / "failed" / f"unit-{unit:05d}.jsonl"


def _done_path(run: Path, unit: int) -> Path:
    return run / "done" / f"{unit:05d}.json"

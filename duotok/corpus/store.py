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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from duotok.storage import make_folder, write_atomically
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


def write_unit(run: Path, unit: int, outcome: UnitOutcome, metadata: dict[str, Any]) -> None:
    """Write a unit's tokens and failures, then the note that it is done; each file appears whole or not at all."""
    for folder in ("data", "failed", "done"):
        make_folder(run / folder)
    table = pa.Table.from_pylist(outcome.rows, schema=SCHEMA.with_metadata({"duotok": json.dumps(metadata, sort_keys=True)}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    lines = "".join(json.dumps(failure, sort_keys=True) + "\n" for failure in outcome.failures)
    write_atomically(data_path(run, unit), buffer.getvalue())
    write_atomically(_failed_path(run, unit), lines.encode())
    done = {
        "ok": len(outcome.rows),
        "failed": len(outcome.failures),
        "hours": sum(row["duration"] for row in outcome.rows) / 3600,
        "codes": sum(2 * row["n_frames"] for row in outcome.rows),
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    write_atomically(_done_path(run, unit), (json.dumps(done) + "\n").encode())


def is_done(run: Path, unit: int) -> bool:
    """Tell whether a unit has been committed."""
    return _done_path(run, unit).exists()


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
    report = RunReport()
    plan = read_plan(run)
    for unit in filter(lambda unit: is_done(run, unit), range(plan.num_units)):
        done = json.loads(_done_path(run, unit).read_text(encoding="utf-8"))
        report.num_songs += done["ok"]
        report.num_failed += done["failed"]
        report.hours += done["hours"]
        report.num_codes += done["codes"]
    report.num_missing = plan.num_songs - report.num_songs - report.num_failed
    return report


def verify(run: Path) -> RunReport:
    """Check a run: every song is in exactly one place, every file is what was committed, every row keeps its promises.

    Raises:
        PlanError: if the folder is no run.
    """
    plan, report = read_plan(run), RunReport()
    for unit in range(plan.num_units):
        planned = [song.id for song in read_unit(run, unit)]
        if not is_done(run, unit):
            report.num_missing += len(planned)
            report.problems.append(f"unit {unit}: expected it done; got an unfinished run; run tokenize again to go on")
            continue
        failed = [json.loads(line)["id"] for line in _failed_path(run, unit).read_text(encoding="utf-8").splitlines()]
        report.num_failed += len(failed)
        stored = _verify_data(run, unit, plan, report)
        count = Counter(stored + failed)
        odd = [song for song in {*planned, *count} if count[song] != 1 or song not in planned]
        report.problems += [f"unit {unit}: expected {song!r} once; got it {count[song]} times" for song in sorted(odd)]
    left = sorted(str(path.relative_to(run)) for path in run.rglob(".*.tmp"))
    report.problems += [f"{path}: expected no partial file; got one; delete it" for path in left]
    return report


def _verify_data(run: Path, unit: int, plan: Plan, report: RunReport) -> list[str]:
    path = data_path(run, unit)
    done = json.loads(_done_path(run, unit).read_text(encoding="utf-8"))
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != done["sha256"]:
        report.problems.append(f"{path.name}: expected the bytes that were committed; got others; delete done/{unit:05d}.json")
        return []
    table = pq.read_table(io.BytesIO(data))
    metadata = json.loads(table.schema.metadata[b"duotok"])
    if metadata["fingerprint"] != plan.fingerprint or not table.schema.equals(SCHEMA):
        report.problems.append(
            f"{path.name}: expected this run's fingerprint and columns; got another tokenizer's; tokenize again"
        )
    for row in table.to_pylist():
        report.problems += [f"{path.name}: {row['id']}: {text}" for text in _row_problems(row, metadata)]
        report.hours += row["duration"] / 3600
        report.num_codes += 2 * row["n_frames"]
    report.num_songs += len(table)
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

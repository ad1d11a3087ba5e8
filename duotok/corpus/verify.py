"""Is a run what it should be: every song in exactly one place, every file as committed, every row with its promises kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from duotok.windows import count_frames

from .plan import Plan, read_plan, read_unit
from .setup import read_setup
from .store import SCHEMA, RunReport, data_path, failed_path, is_intact, read_note, summarize


def verify(run: Path) -> RunReport:
    """Check a run: every song is in exactly one place, every file is what was committed, every row keeps its promises.

    Raises:
        PlanError: if the folder is no run.
    """
    plan, report = read_plan(run), summarize(run)
    for unit in range(plan.num_units):
        planned = [song.id for song in read_unit(run, unit)]
        note = read_note(run, unit)
        if note is None or not is_intact(run, unit, note):
            found = "one that is not done" if note is None else "other files than were committed"
            report.problems.append(f"unit {unit}: expected a whole unit; got {found}; run tokenize again")
            continue
        lines = failed_path(run, unit).read_text(encoding="utf-8").splitlines()
        failed, kept = [json.loads(line)["id"] for line in lines], _verify_data(run, unit, plan, report)
        if (note.ok, note.failed) != (len(kept), len(failed)):
            found = f"one of {note.ok} and {note.failed}; run tokenize again"
            report.problems.append(
                f"unit {unit}: expected a note of {len(kept)} songs and {len(failed)} refused ones; got {found}"
            )
        count = Counter(failed + kept)
        odd = [song for song in {*planned, *count} if count[song] != 1 or song not in planned]
        report.problems += [f"unit {unit}: expected {song!r} once; got it {count[song]} times" for song in sorted(odd)]
    report.problems += _other_files(run, plan)
    left = sorted(str(path.relative_to(run)) for path in run.rglob(".*.tmp"))
    report.problems += [f"{path}: expected no partial file; got one; delete it" for path in left]
    return report


def _other_files(run: Path, plan: Plan) -> Iterator[str]:
    """Name what lies among the run's files and is none of them, and a setup that cannot be read."""
    for make in (data_path, failed_path):
        planned = {make(run, unit) for unit in range(plan.num_units)}
        for path in sorted(set(make(run, 0).parent.glob("[!.]*")) - planned):
            yield f"{path.relative_to(run)}: expected files of this run's units alone; got another; move it away"
    try:
        read_setup(run)
    except ValueError as error:
        yield str(error)


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

"""What a run did, for people and programs: RUN/report.md, RUN/report.json and, with matplotlib, RUN/throughput.png."""

from __future__ import annotations

import importlib.util
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from duotok.files import write_atomically

from .status import RunStatus, StatusReader, failure_classes
from .stopwatch import STAGES
from .store import UnitNote


@dataclass(frozen=True)
class Report:
    """What the finished units of a run add up to.

    Attributes:
        num_songs, num_refused, num_missing: planned songs that have tokens, were refused, or are still to be done.
        hours: of audio that became tokens.
        num_codes: of both tracks.
        wall_hours: in which at least one worker was at work, by the workers' clocks.
        worker_hours: of all workers together.
        hours_per_hour: of audio, in an hour of the wall clock.
        hours_per_worker_hour: of audio, in an hour of one worker.
        shares: of the workers' time in each stage; the stages of one worker overlap, so that they may add up to more than 1.
        failures: refused songs by "stage: reason".
        data_bytes, failed_bytes: on disk.
        hosts: that committed a unit.
    """

    num_songs: int
    num_refused: int
    num_missing: int
    hours: float
    num_codes: int
    wall_hours: float
    worker_hours: float
    hours_per_hour: float
    hours_per_worker_hour: float
    shares: dict[str, float]
    failures: dict[str, int]
    data_bytes: int
    failed_bytes: int
    hosts: list[str]


def make_report(run: Path) -> Report:
    """Add up a run's notes.

    Raises:
        PlanError: if the folder is no run.
    """
    reader = StatusReader(run)
    status = reader.read()
    return _add_up(run, status, list(reader.notes.values()))


def _add_up(run: Path, status: RunStatus, notes: list[UnitNote]) -> Report:
    hours, worker_s = sum(note.hours for note in notes), sum(note.elapsed_s for note in notes)
    wall_s = covered([(note.ended_at - note.elapsed_s, note.ended_at) for note in notes])
    seconds: Counter[str] = Counter()
    for note in notes:
        seconds.update(note.seconds)
    ok, failed = sum(note.ok for note in notes), sum(note.failed for note in notes)
    return Report(
        num_songs=ok,
        num_refused=failed,
        num_missing=status.num_songs - ok - failed,
        hours=hours,
        num_codes=sum(note.codes for note in notes),
        wall_hours=wall_s / 3600,
        worker_hours=worker_s / 3600,
        hours_per_hour=hours * 3600 / max(wall_s, 1e-9),
        hours_per_worker_hour=hours * 3600 / max(worker_s, 1e-9),
        shares={stage: seconds[stage] / max(worker_s, 1e-9) for stage in STAGES},
        failures=failure_classes(run),
        data_bytes=sum(note.data_bytes for note in notes),
        failed_bytes=sum(note.failed_bytes for note in notes),
        hosts=sorted({note.host for note in notes}),
    )


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Measure the union of time spans (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def write_report(run: Path) -> Report:
    """Write throughput.png, report.md and report.json into a run's folder, unless they tell of the same units already.

    Raises:
        WriteError: if they cannot be written.
    """
    for _ in range(2):  # another process may commit a unit and write its report between this one's look and its files
        reader = StatusReader(run)
        status = reader.read()
        notes = list(reader.notes.values())
        report = _add_up(run, status, notes)
        path, data = run / "report.json", (json.dumps(asdict(report), indent=1) + "\n").encode()
        if path.exists() and path.read_bytes() == data:
            break
        _write_pages(run, report, notes)
        write_atomically(path, data)
    return report


def _write_pages(run: Path, report: Report, notes: list[UnitNote]) -> None:
    speeds = [note.hours * 3600 / note.elapsed_s for note in notes if note.ok and note.elapsed_s > 0]
    if importlib.util.find_spec("matplotlib"):
        write_atomically(run / "throughput.png", _histogram(speeds))
        picture = "![Units by throughput](throughput.png)"
    else:
        picture = "No picture of the throughput: matplotlib is not installed (pip install 'duotok[train]')."
    write_atomically(run / "report.md", (to_markdown(report) + f"\n{picture}\n").encode())


def to_markdown(report: Report) -> str:
    """Write a report as Markdown."""
    rows = {
        "songs with tokens": f"{report.num_songs}",
        "songs refused": f"{report.num_refused}",
        "songs of units that are not done": f"{report.num_missing}",
        "hours of audio": f"{report.hours:.4f}",
        "codes": f"{report.num_codes}",
        "hours at work": f"{report.wall_hours:.4f}",
        "hours of all workers": f"{report.worker_hours:.4f}",
        "hours of audio per hour": f"{report.hours_per_hour:.1f}",
        "hours of audio per worker and hour": f"{report.hours_per_worker_hour:.1f}",
        "bytes of tokens": f"{report.data_bytes}",
        "bytes per code": f"{report.data_bytes / max(report.num_codes, 1):.2f}",
        "bytes of refused songs' reasons": f"{report.failed_bytes}",
        "hosts": ", ".join(report.hosts),
    }
    parts = ["# Run", _table(("", ""), rows)]
    parts += [
        "## Share of the workers' time",
        "Decoding runs beside the encoder, so that shares may add up to more than 100 %.",
    ]
    parts.append(_table(("stage", "share"), {stage: f"{100 * share:.1f} %" for stage, share in report.shares.items()}))
    if report.failures:
        parts += ["## Refused songs", _table(("stage: reason", "songs"), report.failures)]
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, str], rows: dict[str, object]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows.items()])


def _histogram(speeds: list[float]) -> bytes:
    """Draw how many units ran how fast, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(speeds, bins=min(40, max(5, len(speeds) // 4)))
    axes.set(xlabel="seconds of audio per second and worker", ylabel="units")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()

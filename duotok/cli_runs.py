"""The command line of runs that are there: `duotok tokenize status`, `verify`, `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import err, line, plural, show, show_text

if TYPE_CHECKING:
    from .corpus.store import RunReport

_Run = Annotated[Path, typer.Argument(help="Folder of the run.")]


def register(app: typer.Typer) -> None:
    """Add the commands to those of `duotok tokenize`."""
    app.command(epilog="Example: duotok tokenize status RUN")(status)
    app.command(epilog="Example: duotok tokenize verify RUN")(verify)
    app.command(epilog="Example: duotok tokenize merge RUN1 RUN2 -o tokens")(merge)


def status(run: _Run) -> None:
    """Show how far a run is, from any host that sees its folder."""
    from .corpus.report import make_report, to_markdown
    from .corpus.status import StatusReader

    found = StatusReader(run).read()
    show(
        f"{found.songs} of {found.num_songs} songs, {found.units} of {found.num_units} units, "
        f"{found.hours:.4f} hours of audio, {found.failed} refused"
    )
    for worker in found.workers:
        show(f"unit {worker.unit}: {worker.songs} songs, {worker.speed:.1f} x real time, pid {worker.pid} on {worker.host}")
    show_text(to_markdown(make_report(run)))


def verify(run: _Run) -> None:
    """Check a run: every song in exactly one place, both tracks of the right length, every file as it was written."""
    from .corpus.verify import verify as check

    report = check(run)
    for problem in report.problems:
        err.print(f"problem: {line(problem)}")
    show(f"{totals(report)}, {report.num_missing} missing, {plural(len(report.problems), 'problem')}")
    if report.problems:
        raise typer.Exit(1)


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the joined files.")],
    songs_per_file: Annotated[int, typer.Option(min=1, help="Songs in each of them.")] = 10_000,
    mix: Annotated[bool, typer.Option("--mix", help="Join tokens of different tokenizers.")] = False,
) -> None:
    """Join runs into fewer, larger files of tokens."""
    from .corpus.merge import merge as join

    num_songs, num_files = join(runs, out, songs_per_file, mix)
    show(f"{plural(num_songs, 'song')} in {plural(num_files, 'file')} in {out}")


def totals(report: RunReport) -> str:
    """Sum up a run in words."""
    songs = plural(report.num_songs, "song")
    return f"{songs}, {report.hours:.4f} hours of audio, {report.num_codes} codes, {report.num_failed} refused"

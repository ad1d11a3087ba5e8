"""The command line of training corpora: `duotok corpus build`, `index`, `stems`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import StoppableBar, line, plural
from .console import err as _err
from .console import out as _out

app = typer.Typer(
    help="Training corpora: build, index, separate mixtures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog="Example: duotok corpus build tiny -o corpus --lieder Lieder/ --minutes 120 --workers 2")
def build(
    recipe: Annotated[str, typer.Argument(help="Which corpus: tiny.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the corpus; a stopped build goes on there.")],
    lieder: Annotated[Path, typer.Option(help="OpenScore Lieder: a copy of its repository, or a zip of .mxl files.")],
    songs: Annotated[Path | None, typer.Option(help="Folder of real songs to add: X_vocals.* with X_accomp.*.")] = None,
    minutes: Annotated[float, typer.Option(min=1, help="Minutes of songs to make from scores.")] = 120.0,
    seed: Annotated[int, typer.Option(min=0, help="Draws songs, voices, instruments and mixes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result does not depend on it.")] = 2,
    soundfont: Annotated[Path | None, typer.Option(help="General MIDI .sf2; default: that of Debian's package.")] = None,
) -> None:
    """Build a corpus of songs with true stems, lyrics with times and notes, from free scores, programs and songs."""
    from .dataset.build import MANIFEST, build_tiny

    if recipe != "tiny":
        raise ValueError(f"recipe: expected tiny; got {recipe!r}; choose that")
    with _SongBar() as bar:
        report = build_tiny(out, lieder, songs, minutes, seed, workers, soundfont, bar.show)
    _finish(report.problems, f"{plural(report.num_songs, 'song')}, {report.duration_s / 60:.1f} minutes in {out / MANIFEST}")


@app.command(epilog="Example: duotok corpus index songs/ -o songs.jsonl")
def index(
    source: Annotated[Path, typer.Argument(help="A folder of songs, or a .jsonl(.gz) of duotok, NeMo or lhotse.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write, .jsonl.")],
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode.")] = 2,
) -> None:
    """Write a manifest of songs you have: stems paired by name, lyrics beside them (.lrc, .txt), every file decoded once."""
    from .dataset.index import index as write_index

    with _SongBar() as bar:
        report = write_index(source, out, workers, bar.show)
    for remark in report.remarks:
        _err.print(f"note: {line(remark)}")
    _finish(report.problems, f"{plural(report.num_songs, 'song')}, {report.duration_s / 60:.1f} minutes in {out}")


@app.command(epilog="Example: duotok corpus stems songs.jsonl -o stems --separate demucs")
def stems(
    manifest: Annotated[Path, typer.Argument(help="Manifest, .jsonl; songs with stems are taken over as they are.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the stems and their manifest; a stopped run goes on.")],
    separate: Annotated[str, typer.Option(help="The separator: demucs or spleeter.")] = "demucs",
    separator_weights: Annotated[Path | None, typer.Option(help="Local copy of the separator's weights.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Separate the mixtures of a manifest into vocals and accompaniment, and write a manifest that has them."""
    from .dataset.stems import MANIFEST, separate_manifest
    from .separation import make_separator

    separator = make_separator(separate, separator_weights, device)
    if separator is None:
        raise ValueError("--separate: expected a separator; got 'none'; choose demucs or spleeter")
    with _SongBar() as bar:
        report = separate_manifest(manifest, out, separator, bar.show)
    summary = (
        f"{plural(report.num_songs, 'song')}, {report.num_separated} of them separated, {report.duration_s / 60:.1f} minutes"
    )
    _finish(report.problems, f"{summary} in {out / MANIFEST}")


def _finish(problems: tuple[str, ...], summary: str) -> None:
    """Print what was left out and what was done; leave with 3 if anything was left out."""
    for problem in problems:
        _err.print(f"left out: {line(problem)}")
    _out.print(f"{line(summary)}, {len(problems)} left out")
    if problems:
        raise typer.Exit(3)


class _SongBar(StoppableBar):
    """Songs done and minutes of audio, on one line."""

    def __init__(self) -> None:
        bar = Progress(
            TextColumn("songs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[minutes]:.1f} min of audio"),
            TimeRemainingColumn(), console=_err,
        )  # fmt: skip
        super().__init__(bar)
        self._task = self._bar.add_task("songs", total=None, minutes=0.0)
        self._minutes = 0.0

    def show(self, done: int, total: int, seconds: float) -> None:
        """Show a finished song."""
        self._minutes += seconds / 60
        self._bar.update(self._task, completed=done, total=total, minutes=self._minutes)

"""The command line of exports: `duotok tokenize export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import err, plural, show


def register(app: typer.Typer) -> None:
    """Add the command `export` to a group."""
    app.command(epilog="Example: duotok tokenize export run -o tokens --format megatron --layout interleaved")(export)


def export(
    runs: Annotated[list[Path], typer.Argument(help="Folders that tokenize wrote, or Parquet files of tokens.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; it appears whole or not at all.")],
    format: Annotated[str, typer.Option("--format", "-f", help="hf, webdataset, npy, lhotse, bin32 or megatron.")] = "hf",
    layout: Annotated[str, typer.Option(help="Order of the two tracks: parallel, delayed or interleaved.")] = "parallel",
    songs_per_shard: Annotated[int, typer.Option(min=1, help="Songs in one file, where a format has several.")] = 1000,
    force: Annotated[bool, typer.Option("--force", help="Take tokens of different tokenizers together.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Take what is there of a run that is not finished.")] = False,
) -> None:
    """Write tokens in the format of a trainer of language models."""
    from .corpus.export import export as write

    columns = TextColumn("songs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("songs", total=None)
        report = write(
            runs, out, format, layout, songs_per_shard, force, partial,
            lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    show(f"{plural(report.num_songs, 'song')}, {report.hours:.4f} hours of audio, {report.num_codes} codes in {out}")

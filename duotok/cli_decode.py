"""The command line of decoding: `duotok decode`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .cli_text import line

_out, _err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: duotok decode run -o waves --steps 20 --track vocals")(decode)


def decode(
    run: Annotated[Path, typer.Argument(help="Folder that tokenize wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the sound files; a stopped command goes on there.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer that made the run.")] = "tiny",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler; fewer are faster.")] = 50,
    guidance: Annotated[float, typer.Option(min=0.0, help="1 follows the codes, more exaggerates them.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    sampler: Annotated[str, typer.Option(help="dpm (second order) or ddim.")] = "dpm",
    track: Annotated[str, typer.Option(help="mix, vocals, accompaniment, or all.")] = "all",
    format: Annotated[str, typer.Option(help="wav, flac or ogg.")] = "wav",
    sample_rate: Annotated[int | None, typer.Option(min=8000, help="Of the files, in Hz; default: the decoder's.")] = None,
    song: Annotated[list[str] | None, typer.Option(help="Id of a song to decode; may be repeated. Default: all.")] = None,
) -> None:
    """Turn a run's tokens back into sound files."""
    from .corpus.decode import OUTPUTS, SUBTYPES, DecodeOptions, decode_run
    from .corpus.store import summarize
    from .decoder import Sampling
    from .tokenizer import load

    for name, value, known in (
        ("track", track, ("all", *OUTPUTS)),
        ("format", format, SUBTYPES),
        ("sampler", sampler, ("dpm", "ddim")),
    ):
        if value not in known:
            raise ValueError(f"--{name}: expected one of {', '.join(known)}; got {value!r}; choose one of those")
    total = summarize(run).hours * 3600
    options = DecodeOptions(Sampling(steps, guidance, seed, sampler), format, sample_rate)
    outputs = OUTPUTS if track == "all" else (track,)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is pre-empted stops like one that is interrupted
    columns = (TextColumn("sound"), BarColumn(), TextColumn("{task.fields[done]:.0f} s"), TimeRemainingColumn())
    with Progress(*columns, console=_err) as bar:
        task = bar.add_task("sound", total=None if song else total, done=0.0)

        def show(seconds: float) -> None:
            bar.update(task, advance=seconds, done=bar.tasks[task].completed + seconds)

        try:
            report = decode_run(run, out, load(tokenizer, device=device), options, outputs, song or (), show)
        except KeyboardInterrupt:
            _err.print("stopped; run the same command to go on")
            raise typer.Exit(130) from None
    for problem in report.refused:
        _err.print(f"refused: {line(problem)}")
    songs = "1 song" if report.num_songs == 1 else f"{report.num_songs} songs"
    _out.print(f"{songs} in {line(out)}, {report.num_present} of them there before, {len(report.refused)} refused")
    if report.refused:
        raise typer.Exit(3)

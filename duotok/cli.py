"""The command line: `duotok tokenize`, `verify`, `info`, `example`; the others stand in the cli_*.py beside this.

Exit codes: 0 done, 1 the machine failed (a full disk) or verify found problems, 2 wrong usage or input, 3 finished with refused
songs, 130 stopped.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import cli_corpus, cli_decode, cli_evaluate, cli_train
from .cli_text import line

if TYPE_CHECKING:
    from .corpus.store import RunReport

app = typer.Typer(
    help="Dual-track semantic music tokenizer: vocals and accompaniment become two streams of 25 codes a second.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
cli_train.register(app)
cli_decode.register(app)
app.add_typer(cli_corpus.app, name="corpus")
app.add_typer(cli_evaluate.app, name="evaluate")
_SONGS_HELP = "Audio files, folders, or .jsonl manifests. Stems are paired by name: X_vocals.wav with X_accompaniment.wav."
_out, _err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; expected failures print one line (set DUOTOK_DEBUG=1 for the traceback)."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("DUOTOK_DEBUG"):
            raise
        _err.print(f"error: {line(error)}")
        sys.exit(1 if isinstance(error, OSError) else 2)


@app.command(epilog="Example: duotok tokenize songs/ -o run --workers 2")
def tokenize(
    songs: Annotated[list[Path], typer.Argument(help=_SONGS_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a stopped run goes on there.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer.")] = "tiny",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    separate: Annotated[str, typer.Option(help="For songs without stems: demucs; or none, the mix on one track.")] = "demucs",
    separator_weights: Annotated[Path | None, typer.Option(help="Local copy of the separator's safetensors.")] = None,
    track: Annotated[str, typer.Option(help="With --separate none: the track that takes the mix.")] = "accompaniment",
    stem_cache: Annotated[Path | None, typer.Option(help="Keep separated stems in this folder for the next run.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result does not depend on it.")] = 1,
    songs_per_unit: Annotated[int, typer.Option(min=1, help="Songs in one file of tokens.")] = 100,
    retry_refused: Annotated[bool, typer.Option("--retry-refused", help="Try refused songs again.")] = False,
) -> None:
    """Tokenize songs into Parquet files."""
    from .corpus.launch import Setup, run_plan
    from .corpus.plan import make_plan
    from .corpus.songs import collect
    from .corpus.store import summarize
    from .model.bottleneck import TRACKS
    from .separation import SEPARATORS

    if track not in TRACKS:
        raise ValueError(f"--track: expected one of {', '.join(TRACKS)}; got {track!r}; choose one of those")
    if separate not in SEPARATORS:
        raise ValueError(f"--separate: expected one of {', '.join(SEPARATORS)}; got {separate!r}; choose one of those")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a folder; got the file {out}; choose another name")
    found = collect(songs)
    if not any(song.is_mixture for song in found):
        separate, track = "none", TRACKS[1]  # neither matters to songs with stems
    setup = Setup(tokenizer, device, separate, separator_weights, track, stem_cache)
    tools = setup.build()
    if not tools[0].config.trained:
        _err.print(f"note: tokenizer {escape(tokenizer)} is untrained: its tokens are valid, but mean nothing")
    plan = make_plan(out, found, tools[0].fingerprint, tools[1].identity, songs_per_unit)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is pre-empted stops like one that is interrupted
    done = 0 if retry_refused else len(found) - summarize(out).num_missing
    with _SongProgress(len(found), done) as progress:
        try:
            run_plan(out, plan, setup, tools, workers, retry_refused, progress.count)
        except KeyboardInterrupt:
            _err.print("stopped; run the same command to go on")
            raise typer.Exit(130) from None
    _report(out)


def _report(run: Path) -> None:
    from .corpus.store import read_failures, summarize

    report = summarize(run)
    for failure in read_failures(run):
        song = f"{failure['id']}: {failure['stage']}: {failure['reason']}: {failure['message']}"
        _err.print(f"refused: {line(song)}")
    _out.print(f"{_totals(report)} in {line(run / 'data')}")
    if report.num_failed:
        raise typer.Exit(3)


def _totals(report: RunReport) -> str:
    songs = "1 song" if report.num_songs == 1 else f"{report.num_songs} songs"
    return f"{songs}, {report.hours:.4f} hours of audio, {report.num_codes} codes, {report.num_failed} refused"


class _SongProgress:
    """Songs done, hours of audio, times real time and the time left, on one line."""

    def __init__(self, num_songs: int, num_done: int) -> None:
        self._bar = Progress(
            TextColumn("songs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[hours]:.2f} h of audio"),
            TextColumn("{task.fields[speed]:.1f} x real time"), TimeRemainingColumn(), console=_err,
        )  # fmt: skip
        self._task = self._bar.add_task("songs", total=num_songs, completed=num_done, hours=0.0, speed=0.0)
        self._start, self._seconds = time.monotonic(), 0.0

    def __enter__(self) -> _SongProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def count(self, song: object, outcome: object) -> None:
        """Count a finished song."""
        self._seconds += outcome.seconds
        speed = self._seconds / (time.monotonic() - self._start)
        self._bar.update(self._task, advance=1, hours=self._seconds / 3600, speed=speed)


@app.command(epilog="Example: duotok verify run")
def verify(run: Annotated[Path, typer.Argument(help="Folder that tokenize wrote.")]) -> None:
    """Check a run: every song in exactly one place, both tracks of the right length, every file as it was written."""
    from .corpus.store import verify as check

    report = check(run)
    for problem in report.problems:
        _err.print(f"problem: {line(problem)}")
    _out.print(f"{_totals(report)}, {report.num_missing} missing, {len(report.problems)} problems")
    if report.problems:
        raise typer.Exit(1)


@app.command(epilog='Example: duotok tokenize "$(duotok example)" -o run')
def example() -> None:
    """Print the path of a real song with true stems, which the package stempeg carries (CC BY-NC-SA 3.0)."""
    try:
        files = metadata.files("stempeg") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.endswith(".stem.mp4"):
            print(file.locate())
            return
    raise ValueError(
        "example: expected the package stempeg; it is not installed; install the extra: pip install 'duotok[demo]'"
    )


@app.command(epilog="Example: duotok info")
def info() -> None:
    """Show versions, devices, checkpoints, decoders, separators, and every op's backends with why one does not run."""
    import torch

    from . import __version__, kernels, storage
    from .audio import has_pyav
    from .kernels import examples, native
    from .tokenizer import load

    packages = ("torch", "triton", "numba", "soundfile", "soxr", "av", "demucs", "pyarrow")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    _out.print(f"duotok {__version__}, Python {sys.version.split()[0]}, {versions}")
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["none"]
    _out.print(
        f"devices: cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}); cuda: {', '.join(cuda)}"
    )
    _out.print(f"native library: {native.why_not() or 'loaded'}; for CUDA: {native.why_not('cuda') or 'loaded'}")
    for name in storage.packaged():
        tokenizer = load(name)
        state = "trained" if tokenizer.config.trained else "UNTRAINED: random weights, its tokens mean nothing"
        decodes = "decodes" if tokenizer.can_decode else "has no decoder"
        _out.print(f"checkpoint {name}: {state}; fingerprint {tokenizer.fingerprint[:16]}; {decodes}")
    _out.print("decoders: soundfile (wav, flac, mp3, ogg, opus); PyAV (m4a, aac, webm, multi-stem): "
               + ("installed" if has_pyav() else "needs the extra: pip install 'duotok[ffmpeg]'"))  # fmt: skip
    demucs = "installed; weights are fetched on first use" if _version("demucs") != "none" else "needs the extra 'separate'"
    _out.print(f"separators: none; demucs: {demucs}")
    table = Table("op", "backend", "on a small CPU input" if cuda == ["none"] else "on a small CUDA input", box=None)
    for op in kernels.OPS.values():
        arguments = examples.small(op.name, "cpu" if cuda == ["none"] else "cuda")
        chosen = True
        for backend, reason in op.explain(*arguments).items():
            table.add_row(op.name, backend, escape(reason or ("runs" if chosen else "would run")))
            chosen = chosen and reason is not None
    _out.print(table)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"

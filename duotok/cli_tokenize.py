"""The command line of runs: `duotok tokenize plan`, `run`, `retry`, `estimate`, and all in one go; more is in cli_runs.py.

`duotok tokenize SONGS... -o RUN` is short for `duotok tokenize all SONGS... -o RUN`.
"""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from . import cli_runs
from .console import NoteHandler, err, line, plural, show, show_text

if TYPE_CHECKING:
    from click import Context

    from .corpus.plan import Plan
    from .corpus.setup import Setup
    from .corpus.status import RunStatus


class _Group(TyperGroup):
    """Takes what is no sub-command for the songs of `all`."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["all", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Context) -> object:
        """Run a command; a job that is pre-empted (SIGTERM) stops like one that is interrupted, whatever it is at."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("stopped; run the same command to go on")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group, no_args_is_help=True, rich_markup_mode=None,
    help="Tokenize songs into Parquet files: duotok tokenize SONGS... -o RUN; or in steps, for which see the commands.",
    epilog="Example: duotok tokenize songs/ -o run --workers 2",
)  # fmt: skip

cli_runs.register(app)
_MAX_NAMED = 200  # refused songs that are named at the end

_Songs = Annotated[
    list[str],
    typer.Argument(
        help="Audio files, folders, or .jsonl manifests; addresses (s3://...) too. Stems are paired by name: "
        "X_vocals.wav with X_accompaniment.wav."
    ),
]
_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a stopped run goes on there.")]
_Run = Annotated[Path, typer.Argument(help="Folder of the run.")]
_Tokenizer = Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer.")]
_Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda (workers spread over all GPUs), cuda:1.")]
_Separate = Annotated[str, typer.Option(help="For songs without stems: demucs, spleeter; or none, the mix on one track.")]
_Weights = Annotated[Path | None, typer.Option(help="Local copy of the separator's weights.")]
_Track = Annotated[str, typer.Option(help="With --separate none: the track that takes the mix.")]
_Cache = Annotated[Path | None, typer.Option(help="Keep separated stems in this folder for the next run.")]
_PerUnit = Annotated[int | None, typer.Option(min=1, help="Songs in a file of tokens; default: a 16th of all, at most 100.")]
_Publish = Annotated[str | None, typer.Option(help="Copy each finished file to this address (s3://..., or a folder) too.")]
_Workers = Annotated[int, typer.Option(min=1, help="Processes; the result does not depend on it.")]
_Decoders = Annotated[
    int,
    typer.Option(min=0, help="Threads of a worker that decode and resample; 0: the encoder's own, for one core a worker."),
]
_Threads = Annotated[int | None, typer.Option(min=1, help="Threads of a worker's encoder on a CPU; default: a fair share.")]
_QueueS = Annotated[float, typer.Option(min=0, help="Seconds of decoded audio that may wait for a worker's encoder.")]
_Expiry = Annotated[float, typer.Option(min=5, help="Seconds without a sign of life after which a unit is taken over.")]
_MaxRate = Annotated[float, typer.Option(min=0, max=1, help="Stop early when this share of the songs is refused.")]
_Launcher = Annotated[str, typer.Option(help="local; ray; or slurm, which prints a script for sbatch.")]
_Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; auto: the one of this host. Default: start Ray here.")]


@dataclass(frozen=True)
class _How:
    """The options that say how to work, and decide nothing of the result."""

    workers: int = 1
    decoders: int = 1
    threads: int | None = None
    queue_s: float = 240.0
    lease_expiry: float = 90.0
    max_failure_rate: float = 1.0
    launcher: str = "local"
    ray_address: str | None = None


@app.command("all", epilog="Example: duotok tokenize songs/ -o run --workers 2")
def tokenize(
    songs: _Songs, out: _Out, tokenizer: _Tokenizer = "tiny", device: _Device = "cpu", separate: _Separate = "demucs",
    separator_weights: _Weights = None, track: _Track = "accompaniment", stem_cache: _Cache = None,
    publish: _Publish = None, songs_per_unit: _PerUnit = None, workers: _Workers = 1, decoders: _Decoders = 1,
    threads: _Threads = None, queue_s: _QueueS = 240.0, lease_expiry: _Expiry = 90.0, max_failure_rate: _MaxRate = 1.0,
    launcher: _Launcher = "local", ray_address: _Address = None,
    retry_refused: Annotated[bool, typer.Option("--retry-refused", help="Try refused songs again.")] = False,
) -> None:  # fmt: skip
    """Plan and run in one go: tokenize songs into Parquet files. This is what `duotok tokenize SONGS...` does."""
    from .corpus import processes

    if launcher == "local":
        processes.begin()
    setup, plan = _plan(
        songs, out, tokenizer, device, separate, separator_weights, track, stem_cache, publish, songs_per_unit=songs_per_unit
    )
    how = _How(workers, decoders, threads, queue_s, lease_expiry, max_failure_rate, launcher, ray_address)
    _go(out, setup, list(range(plan.num_units)), how, retry_refused)


@app.command(epilog="Example: duotok tokenize plan songs.jsonl -o run --songs-per-unit 1000")
def plan(
    songs: _Songs, out: _Out, tokenizer: _Tokenizer = "tiny", device: _Device = "cpu", separate: _Separate = "demucs",
    separator_weights: _Weights = None, track: _Track = "accompaniment", stem_cache: _Cache = None,
    publish: _Publish = None, songs_per_unit: _PerUnit = None,
) -> None:  # fmt: skip
    """List the songs of a run, and cut them into units that any number of workers can share."""
    _, made = _plan(
        songs, out, tokenizer, device, separate, separator_weights, track, stem_cache, publish, songs_per_unit=songs_per_unit
    )
    show(f"{plural(made.num_songs, 'song')} in {plural(made.num_units, 'unit')} in {out}")


@app.command(epilog="Example: duotok tokenize run RUN --workers 2 --units 0-99")
def run(
    run: _Run,
    units: Annotated[str | None, typer.Option(help="Which to do: 0-99,105; or 3/16, each 16th from 3 on.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where the planned tokenizer is now, if it moved.")] = None,
    device: Annotated[str | None, typer.Option(help="Another device than planned.")] = None,
    workers: _Workers = 1, decoders: _Decoders = 1, threads: _Threads = None, queue_s: _QueueS = 240.0,
    lease_expiry: _Expiry = 90.0, max_failure_rate: _MaxRate = 1.0, launcher: _Launcher = "local",
    ray_address: _Address = None,
    tasks: Annotated[int, typer.Option(min=1, help="With --launcher slurm: tasks of the array.")] = 1,
) -> None:  # fmt: skip
    """Work on a planned run, from any number of hosts that share its folder; a stopped run goes on."""
    from .corpus.launch_slurm import make_script
    from .corpus.plan import choose_units, read_plan
    from .corpus.setup import read_setup

    setup = read_setup(run)
    setup = replace(setup, tokenizer=tokenizer or setup.tokenizer, device=device or setup.device).absolute()
    how = _How(workers, decoders, threads, queue_s, lease_expiry, max_failure_rate, launcher, ray_address)
    chosen = choose_units(units, read_plan(run).num_units)
    if launcher == "slurm":
        if units:
            raise ValueError(f"--units: expected none with --launcher slurm, whose tasks share all; got {units}; leave it out")
        options = {
            "decoders": decoders, "threads": threads, "queue-s": queue_s, "lease-expiry": lease_expiry,
            "max-failure-rate": max_failure_rate, "tokenizer": tokenizer and setup.tokenizer,
        }  # fmt: skip
        more = [f"--{name}={value}" for name, value in options.items() if value is not None]
        show_text(make_script(run, tasks, workers, workers * ((threads or 1) + decoders), setup.device, more))
    else:
        _go(run, setup, chosen, how)


@app.command(epilog="Example: duotok tokenize retry RUN")
def retry(run: _Run, workers: _Workers = 1, decoders: _Decoders = 1, device: _Device = "") -> None:
    """Try the refused songs of a run again; the others keep their tokens."""
    from .corpus.plan import read_plan
    from .corpus.setup import read_setup

    setup = read_setup(run)
    units = list(range(read_plan(run).num_units))
    _go(run, replace(setup, device=device or setup.device), units, _How(workers, decoders), retry_refused=True)


@app.command(epilog="Example: duotok tokenize estimate songs/ --sample 20")
def estimate(
    songs: _Songs, tokenizer: _Tokenizer = "tiny", device: _Device = "cpu", separate: _Separate = "demucs",
    separator_weights: _Weights = None, track: _Track = "accompaniment",
    sample: Annotated[int, typer.Option(min=1, help="Songs to tokenize for it.")] = 20,
) -> None:  # fmt: skip
    """Reckon what a run would take, from a sample of its songs."""
    from .corpus.estimate import estimate as reckon
    from .corpus.songs import collect

    found = collect(songs)
    setup = _setup(any(song.is_mixture for song in found), tokenizer, device, separate, separator_weights, track)
    result = reckon(found, setup.build(), sample)
    songs, sampled = plural(result.num_songs, "song"), plural(result.num_sampled, "song")
    show(
        f"{songs}: about {result.hours:.2f} hours of audio, {result.worker_hours:.2f} hours of one worker "
        f"({result.hours_per_hour:.1f} x real time), {result.num_bytes / 1e6:.1f} MB of tokens; "
        f"from {sampled}, {result.num_refused} of them refused"
    )


def _setup(
    has_mixtures: bool, tokenizer: str, device: str, separate: str, weights: Path | None, track: str,
    cache: Path | None = None, publish: str | None = None,
) -> Setup:  # fmt: skip
    from .corpus.setup import Setup
    from .model.bottleneck import TRACKS
    from .separation import SEPARATORS

    if track not in TRACKS:
        raise ValueError(f"--track: expected one of {', '.join(TRACKS)}; got {track!r}; choose one of those")
    if separate not in SEPARATORS:
        raise ValueError(f"--separate: expected one of {', '.join(SEPARATORS)}; got {separate!r}; choose one of those")
    if not has_mixtures:
        separate, track = "none", TRACKS[1]  # neither matters to songs with stems
    return Setup(tokenizer, device, separate, weights, track, cache, publish)


def _plan(songs: list[str], out: Path, *options: object, songs_per_unit: int | None) -> tuple[Setup, Plan]:
    """Plan a run, or find the same one there; `options` are those of `_setup`."""
    from .corpus.plan import make_plan
    from .corpus.remote import open_store
    from .corpus.songs import collect

    if out.parts and out.parts[0].endswith(":") and not out.drive:  # a path has one of an address's two slashes
        raise ValueError(f"--out: expected a folder of this machine; got the address {out}; copy its files there by --publish")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a folder; got the file {out}; choose another name")
    found = collect(songs)
    setup = _setup(any(song.is_mixture for song in found), *options).absolute()
    if setup.publish:
        open_store(setup.publish)
    made, policy = setup.build()
    if not made.config.trained:
        err.print(f"note: tokenizer {line(setup.tokenizer)} is untrained: its tokens are valid, but mean nothing")
    plan = make_plan(out, found, made.fingerprint, policy.identity, songs_per_unit)
    setup.save(out)
    return setup, plan


def _go(run: Path, setup: Setup, units: list[int], how: _How, retry_refused: bool = False) -> None:
    """Launch, show how far it is, and say what came of it."""
    from .corpus.job import Options
    from .corpus.launch import LAUNCHERS, Launch, launch
    from .corpus.retry import reopen

    if how.launcher not in LAUNCHERS:
        raise ValueError(f"--launcher: expected local, ray or slurm (tokenize run); got {how.launcher!r}; choose one of those")
    logging.getLogger("duotok").handlers = [NoteHandler()]
    if retry_refused:
        reopen(run, units)
    who = Launch(how.launcher, how.workers, how.ray_address, how.max_failure_rate)
    options = Options(how.threads, how.decoders, how.queue_s, expiry_s=how.lease_expiry)
    with _SongProgress() as progress:
        launch(run, setup, units, who, options, progress.show)
    _report(run)


def _report(run: Path) -> None:
    from .corpus.store import read_failures, summarize

    report = summarize(run)
    for failure in islice(read_failures(run), _MAX_NAMED):
        song = f"{failure['id']}: {failure['stage']}: {failure['reason']}: {failure['message']}"
        err.print(f"refused: {line(song)}")
    if report.num_failed > _MAX_NAMED:
        err.print(f"refused: {report.num_failed - _MAX_NAMED} more in {line(run / 'failed')}")
    show(f"{cli_runs.totals(report)} in {run / 'data'}")
    if report.num_failed:
        raise typer.Exit(3)


class _SongProgress:
    """Songs done, hours of audio, times real time, refused songs and the time left, on one line."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("songs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[hours]:.2f} h of audio"),
            TextColumn("{task.fields[speed]:.1f} x real time"), TextColumn("{task.fields[failed]} refused"),
            TimeRemainingColumn(), console=err,
        )  # fmt: skip
        self._task = self._bar.add_task("songs", total=None, hours=0.0, speed=0.0, failed=0)
        self._start, self._before = time.monotonic(), 0.0

    def __enter__(self) -> _SongProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, status: RunStatus) -> None:
        """Show how far the run is; the speed is that since this command began."""
        if self._bar.tasks[0].total is None:
            self._before = status.hours
        speed = 3600 * (status.hours - self._before) / max(time.monotonic() - self._start, 1e-3)
        self._bar.update(
            self._task, total=status.num_songs, completed=status.songs, hours=status.hours, speed=speed, failed=status.failed
        )

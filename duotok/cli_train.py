"""The command line of training: `duotok train` and `duotok export`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import err as _err
from .console import out as _out
from .console import plural

if TYPE_CHECKING:
    from .dataset.songs import Songs
    from .training.stage import CropConfig, CropTask


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: duotok train tiny/stage1 --data songs.jsonl -o runs/stage1")(train)
    app.command(epilog="Example: duotok export runs/stage3 -o tokenizer")(export)


def train(
    config: Annotated[str, typer.Argument(help="A .yaml file, or vae, stage1 to stage4, lm, tiny/vae, tiny/stage1 ...")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Such as train.steps=100.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a stopped run goes on there.")] = ...,
    data: Annotated[Path | None, typer.Option(help="Manifest of the songs, .jsonl; for lm, their run of tokens.")] = None,
    init: Annotated[Path | None, typer.Option(help="Run of the stage before, or what it exported, to start from.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Stage 4: whose codes are decoded; lm: whose vectors start it.")] = None,
    autoencoder: Annotated[Path | None, typer.Option(help="Stage 4: its folder; default: the tokenizer's own.")] = None,
    export: Annotated[Path | None, typer.Option(help="After stages 3, 4, vae and lm: folder for the result.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the curves into the run's folder.")] = False,
) -> None:
    """Train a stage, an autoencoder or a language model.

    The stages make the tokenizer; stage 4 decodes through the autoencoder; the language model is one of the codes.
    """
    from accelerate import PartialState

    from . import config as configuration
    from .files import make_folder, write_atomically
    from .training import checkpoint, loop, stages

    given = {"data.manifest": data, "tokenizer": tokenizer, "autoencoder": autoencoder}
    changes = [*(overrides or ()), *(f"{name}={value}" for name, value in given.items() if value is not None)]
    settings = stages.load_config(config, changes)
    if export and settings.stage in (1, 2):
        raise ValueError(f"--export: expected stage 3, 4, vae or lm; got stage {settings.stage}; leave it out")
    if export:
        make_folder(export)
    stage = stages.make_stage(settings, _read_songs(settings))
    stage.to(PartialState().device)  # what is fitted to the data is fitted there
    with _song_bar("songs prepared") as show:
        stage.prepare(show)
    if (before := checkpoint.latest(out)) is None:
        _start(stage, init)
    elif init:
        _err.print(f"note: going on from {escape(str(before.folder))}; --init is not read")
    if PartialState().is_main_process:
        with checkpoint.alone_in(out):
            write_atomically(out / "config.yaml", configuration.dump(settings).encode())
    with _StepProgress(settings.train.steps) as progress:
        result = loop.train(stage, settings.train, out, progress.show)
    if plot:
        from .training.plot import plot as draw

        _out.print(f"curves: {draw(out)}")
    if result.stopped:
        _err.print(f"stopped after step {result.step}; run the same command to go on")
        raise typer.Exit(130)
    _out.print(f"step {result.step}: held out {_numbers(result.scores)}; checkpoint {result.checkpoint}")
    if export:
        _export(out, export)


def export(
    run: Annotated[Path, typer.Argument(help="Folder where stage 3, 4, vae or lm was trained, or ear-VAE's published file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tokenizer, autoencoder or language model.")],
) -> None:
    """Make a tokenizer, autoencoder or LM of a trained run.

    A run of stage 3 becomes a tokenizer, one of stage 4 a tokenizer that decodes, for `--tokenizer` and duotok.load.

    A run of vae, or the published checkpoint of the ear-VAE (.pyt), becomes an autoencoder for `--autoencoder`; a run of lm a
    language model for `duotok sample`.
    """
    _export(run, out)


def _read_songs(settings: CropConfig) -> Songs:
    from .training import stages

    with _song_bar("songs") as show:
        songs = stages.read_songs(settings, show)
    for problem in songs.problems:
        _err.print(f"left out: {escape(' '.join(problem.split()))}")
    _err.print(
        f"{plural(len(songs.train), 'song')} to train on, {len(songs.held_out)} held out, {len(songs.problems)} left out"
    )
    return songs


@contextmanager
def _song_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give what shows the songs done and their total on a bar that vanishes."""
    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), console=_err, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _start(stage: CropTask, init: Path | None) -> None:
    from .training import stages

    if init is None and stage.config.stage == 3:
        raise ValueError("--init: expected a run of stage 2, whose front half stage 3 freezes; got none; name it")
    if init is None and stage.config.stage == 2:
        _err.print("note: no --init: stage 2 starts from random weights")
    if stage.config.stage == 4:
        _err.print(f"decodes the codes of {escape(str(stage.config.tokenizer))}")
    stage.start(stages.read_state(init, stage.config.stage) if init else None)
    if init:
        _err.print(f"started from {escape(str(init))}")


def _export(run: Path, folder: Path) -> None:
    from . import autoencoder
    from .language import LanguageModel
    from .tokenizer import DuoTok
    from .training import stages

    made = stages.export(run, folder)
    kind = {DuoTok: "tokenizer", LanguageModel: "language model"}.get(type(made), "autoencoder")
    mark = autoencoder.fingerprint(made) if kind == "autoencoder" else made.fingerprint
    _out.print(f"{kind} {mark[:16]} in {escape(str(folder))}")


def _numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


class _StepProgress:
    """Steps done, the losses of the last one, the time left, and a line for each evaluation."""

    def __init__(self, steps: int) -> None:
        self._bar = Progress(
            TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[losses]}"), TimeRemainingColumn(),
            console=_err,
        )  # fmt: skip
        self._task = self._bar.add_task("steps", total=steps, losses="")

    def __enter__(self) -> _StepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, row: dict) -> None:
        """Show a row of the log."""
        if row["kind"] == "evaluation":
            self._bar.console.print(f"step {row['step']}: held out {_numbers(row['scores'])}")
        else:
            self._bar.update(self._task, completed=row["step"], losses=_numbers(row["losses"]))

"""The command line of experiments: `duotok experiment` and the name of a sweep, sampler-steps, card or report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import StoppableBar, line
from .console import err as _err
from .console import out as _out

if TYPE_CHECKING:
    from .experiments.sweep import Setting, Sweep

app = typer.Typer(help="Test the paper's claims by experiments.", no_args_is_help=True)

# The sweeps' commands and their help; what they do stands in experiments/, which needs torch.
SWEEPS = {
    "noise": "(a) Gaussian replacement on and off, how much, how strong, and noise that is added instead.",
    "encoder_probe": "(b) What linear probes read from the encoder before quantization, and from the codes behind it.",
    "controlled_decoders": "(c) The same decoder on our codes and on a plain vector quantizer's.",
    "sizes": "(d) Width of the trunk, place and dimension of the bottleneck.",
    "routing": "(e) How codebooks are used: hard and soft routing, two codebooks and one.",
    "midi_ctc": "(f) The accompaniment's notes as a task: does it become easier to predict?",
    "separation": "(g) Training on true stems, a separator's, and leaky ones.",
    "si_snr_term": "The SI-SNR term of stage 4 on and off.",
}
_Cache = Annotated[Path | None, typer.Option(help="Folder of the decoded waves; default: beside the manifest.")]


def _sweep(name: str) -> Callable[..., None]:
    """Make the command of a sweep."""

    def command(
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="[STAGE.]KEY=VALUE", help="Such as stage2.train.steps=300.")
        ] = None,
        data: Annotated[Path, typer.Option(help="Manifest of the songs, .jsonl.")] = ...,
        out: Annotated[Path, typer.Option("--out", "-o", help="Folder of all experiments; a stopped one goes on there.")] = ...,
        init: Annotated[Path | None, typer.Option(exists=True, help="Run of stage 1 that the arms start from.")] = None,
        seeds: Annotated[int, typer.Option(min=1, help="How many; intervals need two or more.")] = 3,
        full: Annotated[bool, typer.Option("--full", help="Train at the paper's size instead of a CPU's.")] = False,
        minutes: Annotated[float, typer.Option(min=0.0, help="Train probes and language models on this much.")] = 4.0,
        excerpt: Annotated[float, typer.Option(min=1.0, help="Measure so many seconds of every song, from its middle.")] = 30.0,
        model_steps: Annotated[int, typer.Option(min=1, help="Of the small language models and decoders that measure.")] = 80,
        tokenizer: Annotated[str, typer.Option(help="For experiments on stage 4: name, folder or hub id.")] = "tiny",
        cache: _Cache = None,
    ) -> None:
        from .experiments.catalogue import SWEEPS
        from .experiments.sweep import Setting

        setting = Setting(data, out, init, cache, full, tuple(overrides or ()), minutes, excerpt, model_steps, tokenizer)
        _run(SWEEPS[name](setting), setting, seeds)

    command.__doc__ = SWEEPS[name]
    return command


for _name in SWEEPS:
    _shown = _name.replace("_", "-")
    _example = f"Example: duotok experiment {_shown} --data corpus/manifest.jsonl --init runs/tiny/stage1 -o experiments"
    app.command(_shown, epilog=_example)(_sweep(_name))


def _run(sweep: Sweep, setting: Setting, seeds: int) -> None:
    """Run a sweep and write its page."""
    from .experiments.report import write_report
    from .experiments.sweep import run_sweep
    from .experiments.sweep_page import describe

    with _RunBar(len(sweep.arms) * seeds) as bar:
        outcomes = run_sweep(sweep, setting, range(seeds), bar.show)
    folder = setting.out / sweep.name
    write_report(folder, describe(sweep, setting, outcomes), _command())
    failed = [one for runs in outcomes.values() for one in runs.values() if one.failed]
    _out.print(f"{line(folder / 'README.md')}: {len(sweep.arms) * seeds} runs, {len(failed)} of them failed")
    if failed:
        raise typer.Exit(3)


@app.command(epilog="Example: duotok experiment sampler-steps corpus/manifest.jsonl -o sampler_steps")
def sampler_steps(
    manifest: Annotated[Path, typer.Argument(help="Songs with true stems, .jsonl; those held out are decoded.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of a tokenizer with a decoder.")] = "tiny",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    steps: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated; default: 2, 5, 10, 20, 50, 100.")] = None,
    reference_steps: Annotated[int, typer.Option(min=1, help="That stand for infinitely many.")] = 200,
    guidance: Annotated[float, typer.Option(min=0.0, help="1 follows the codes, more exaggerates them.")] = 1.5,
    songs: Annotated[int, typer.Option(min=1, help="At most so many.")] = 8,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of every song, from its middle.")] = 10.0,
    cache: _Cache = None,
) -> None:
    """Quality and time of decoded songs by the number of steps of each sampler."""
    from .experiments import sampler_steps as experiment
    from .experiments.report import write_report
    from .tokenizer import load

    tok = load(tokenizer, device=device)
    held_out = experiment.held_out(tok, manifest, cache or manifest.parent / "waves", songs)
    rows = experiment.measure(tok, held_out, steps or experiment.STEPS, reference_steps, seconds, guidance)
    write_report(out, experiment.describe(tok, rows, reference_steps, len(held_out), device), _command())
    _out.print(f"{line(out / 'README.md')}: {len(rows)} samplers and numbers of steps")


@app.command(
    "language-model", epilog="Example: duotok experiment language-model tokens --lm lm --lm accompanist -o language_model"
)
def language_model(
    tokens: Annotated[Path, typer.Argument(help="Run that the models were trained on; its held-out songs are scored.")],
    lm: Annotated[list[Path], typer.Option(help="Folder of a language model; one of each protocol.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")],
    contexts: Annotated[list[int], typer.Option(min=1, help="Frames of the past.")] = [64, 128, 256, 512, 1024],  # noqa: B006
    block: Annotated[int, typer.Option(min=1, help="Frames that are scored behind each past.")] = 32,
    stride: Annotated[int, typer.Option(min=1, help="Frames from one such block to the next.")] = 128,
    shift: Annotated[int, typer.Option(min=1, help="Frames by which the other track is shifted.")] = 125,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Language models: bits per token with the other track corrupted, and by the length of the past."""
    from .dataset.tokens import load_tokens
    from .experiments import language_model as experiment
    from .experiments.report import write_report
    from .files import whole_file
    from .language import load_language_model
    from .storage import refuse_absent_device

    refuse_absent_device(device)
    lms = [load_language_model(folder, device) for folder in lm]
    found = experiment.measure(lms, load_tokens(tokens), sorted(contexts), block, stride, shift)
    write_report(out, experiment.describe(found), _command())
    with whole_file(out / "corruption.png", "a picture") as temporary:
        experiment.draw_corruption(found).savefig(temporary, dpi=120, format="png")
    _out.print(f"{line(out / 'README.md')}: {len(lms)} language models")


@app.command(epilog="Example: duotok experiment card --about about.md --runs runs/tiny --quality quality.json "
             "--decoding decoding.json -o tiny")  # fmt: skip
def card(
    about: Annotated[Path, typer.Option(help="What the card says first, Markdown.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs stage1, stage2, stage3, vae and stage4.")],
    quality: Annotated[Path, typer.Option(help="What `duotok evaluate quality` wrote.")],
    decoding: Annotated[Path, typer.Option(help="What `duotok evaluate decoding` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tokenizer.")],
    trained_on: Annotated[str, typer.Option(help="What to call the machine.")] = "CPU",
) -> None:
    """Write the card of a trained tokenizer: what training cost, and every score that was measured."""
    from .experiments.card import gather, write_card

    write_card(out, about.read_text(encoding="utf-8"), gather(runs, quality, decoding, trained_on))
    _out.print(f"{line(out / 'README.md')}")


@app.command(epilog="Example: duotok experiment report experiments --evaluation evaluation")
def report(
    experiments: Annotated[Path, typer.Argument(help="Folder with a folder of each experiment.")],
    evaluation: Annotated[
        Path, typer.Option(help="Folder of what `duotok evaluate perplexity` and `reconstruction` wrote.")
    ] = Path("evaluation"),
) -> None:
    """Gather all experiments on one page, with the chart of PPL@1024 against Mel L1."""
    from .experiments.overview import overview
    from .experiments.report import write_report

    write_report(experiments, overview(experiments, evaluation), _command())
    _out.print(f"{line(experiments / 'README.md')}")


def _command() -> str:
    """Give the command line that runs now."""
    return f"duotok {shlex.join(sys.argv[1:])}"


class _RunBar(StoppableBar):
    """Runs that are done, the last of them, and the time left."""

    def __init__(self, total: int) -> None:
        columns = (
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[last]}"),
            TimeRemainingColumn(),
        )
        super().__init__(Progress(*columns, console=_err))
        self._task = self._bar.add_task("runs", total=total, last="")

    def show(self, what: str) -> None:
        """Show a run that is done."""
        self._bar.update(self._task, advance=1, last=line(what))

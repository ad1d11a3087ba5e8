"""The command line of evaluation: `duotok evaluate quality`, `decoding`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from .console import err as _err
from .console import out as _out

app = typer.Typer(help="Measure a tokenizer.", no_args_is_help=True)


@app.callback()
def _evaluate() -> None:
    """Measure a tokenizer."""


@app.command(epilog="Example: duotok evaluate quality corpus/manifest.jsonl -o quality.json")
def quality(
    manifest: Annotated[Path, typer.Argument(help="Songs with true stems, .jsonl.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the results, .json.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer.")] = "tiny",
    against_untrained: Annotated[bool, typer.Option(help="Measure the same tokenizer with random weights, too.")] = True,
    minutes: Annotated[float, typer.Option(min=0.0, help="Train the probes and the language model on this much.")] = 60.0,
    steps: Annotated[int, typer.Option(min=1, help="Of the small language model's training.")] = 400,
    cache: Annotated[Path, typer.Option(help="Folder of the decoded waves.")] = Path("cache"),
) -> None:
    """Codebook use, bits per token, probes, heads and lyrics, on held-out songs."""
    from dataclasses import asdict

    from .dataset.songs import load_songs
    from .evaluation.bits import BitsConfig
    from .evaluation.quality import QualityConfig, code_songs, first_minutes, measure, untrained_like
    from .files import write_atomically
    from .tokenizer import load

    trained = load(tokenizer)
    songs = load_songs(manifest, cache, trained.sample_rate, 6.0)
    train = first_minutes(songs.train, minutes, trained.sample_rate)
    config = QualityConfig(BitsConfig(steps=steps))
    rivals = {"trained" if trained.config.trained else "given": trained}
    if against_untrained:
        rivals["untrained"] = untrained_like(trained, train[:8])
    results = {}
    for name, rival in rivals.items():
        with _Steps(f"{name}: songs", len(train) + len(songs.held_out)) as bar:
            coded = code_songs(rival, [*train, *songs.held_out], bar.songs)
        with _Steps(f"{name}: language model", steps) as bar:
            results[name] = measure(rival, coded[: len(train)], coded[len(train) :], config, bar.step)
    found = {
        "tokenizer": trained.fingerprint,
        "config": asdict(config),
        "train_songs": len(train),
        "held_out_songs": [song.id for song in songs.held_out],
        "results": results,
    }
    write_atomically(out, (json.dumps(found, indent=1) + "\n").encode())
    table = Table("", *results, box=None)
    for name in next(iter(results.values())):
        table.add_row(name, *(f"{values.get(name, math.nan):.4g}" for values in results.values()))
    _out.print(table)


@app.command(epilog="Example: duotok evaluate decoding corpus/manifest.jsonl --tokenizer my-tokenizer -o decoding.json")
def decoding(
    manifest: Annotated[Path, typer.Argument(help="Songs with true stems, .jsonl; those held out are decoded.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the results, .json.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of a tokenizer with a decoder.")] = "tiny",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 50,
    guidance: Annotated[float, typer.Option(min=0.0, help="1 follows the codes, more exaggerates them.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of every song, from its middle.")] = 30.0,
    songs: Annotated[int | None, typer.Option(min=1, help="At most so many; default: all that are held out.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of the decoded waves.")] = Path("cache"),
) -> None:
    """Mel distance of decoded songs, of an untrained decoder, shuffled codes and the other track's codes."""
    from dataclasses import asdict

    from .corpus.setup import refuse_absent_device
    from .dataset.songs import load_songs
    from .decoder import Sampling
    from .evaluation.decoding import measure_decoding
    from .files import write_atomically
    from .tokenizer import load

    refuse_absent_device(device)
    trained, sampling = load(tokenizer, device=device), Sampling(steps, guidance, seed)
    held_out = load_songs(
        manifest, cache, trained.decoder.sample_rate, 6.0, None, trained.decoder.autoencoder.channels
    ).held_out
    held_out = held_out[:songs]
    with _Steps("songs", len(held_out)) as bar:
        results = measure_decoding(trained, held_out, sampling, seconds, bar.songs)
    prints = {"tokenizer": trained.fingerprint, "decoder": trained.decoder.fingerprint}
    found = {**prints, "sampling": asdict(sampling), "seconds": seconds, **results}
    write_atomically(out, (json.dumps(found, indent=1) + "\n").encode())
    table = Table("", *results["tracks"], box=None)
    for name in next(iter(results["tracks"].values())):
        table.add_row(name, *(f"{values[name]:.4g}" for values in results["tracks"].values()))
    _out.print(table)


class _Steps:
    """A bar of songs or steps."""

    def __init__(self, what: str, total: int) -> None:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
        self._bar = Progress(*columns, console=_err)
        self._task = self._bar.add_task(what, total=total, loss="")

    def __enter__(self) -> _Steps:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def songs(self, done: int, total: int) -> None:
        """Show songs done."""
        self._bar.update(self._task, completed=done, total=total)

    def step(self, step: int, bits: float) -> None:
        """Show a step and its loss in bits per token."""
        self._bar.update(self._task, completed=step, loss=f"{bits:.2f} bits per token")

"""The command line of evaluation: `duotok evaluate quality`, `decoding`; the others stand in cli_evaluate_*.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import cli_evaluate_codes, cli_evaluate_sound
from .cli_results import Steps, write_results

app = typer.Typer(help="Measure a tokenizer, or any codec.", no_args_is_help=True)
cli_evaluate_codes.register(app)
cli_evaluate_sound.register(app)


@app.callback()
def _evaluate() -> None:
    """Measure a tokenizer, or any codec."""


@app.command(epilog="Example: duotok evaluate quality corpus/manifest.jsonl -o quality.json")
def quality(
    manifest: Annotated[Path, typer.Argument(help="Songs with true stems, .jsonl.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the results, .json.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer.")] = "tiny",
    against_untrained: Annotated[
        bool, typer.Option(help="Measure the same tokenizer with random weights, too, and that with codebooks fitted to them.")
    ] = True,
    minutes: Annotated[float, typer.Option(min=0.0, help="Train the probes and the language model on this much.")] = 60.0,
    steps: Annotated[int, typer.Option(min=1, help="Of the small language model's training.")] = 400,
    cache: Annotated[Path, typer.Option(help="Folder of the decoded waves.")] = Path("cache"),
) -> None:
    """Codebook use, bits per token, probes, heads and lyrics, on held-out songs."""
    from dataclasses import asdict

    from .dataset.songs import load_songs
    from .evaluation.bits import BitsConfig
    from .evaluation.quality import QualityConfig, code_songs, first_minutes, measure, untrained_like
    from .tokenizer import load

    trained = load(tokenizer)
    songs = load_songs(manifest, cache, trained.sample_rate, 6.0)
    train = first_minutes(songs.train, minutes, trained.sample_rate)
    config = QualityConfig(BitsConfig(steps=steps))
    rivals = {"trained" if trained.config.trained else "given": trained}
    if against_untrained:
        rivals |= {"untrained": untrained_like(trained), "fitted": untrained_like(trained, train[:8])}
    results = {}
    for name, rival in rivals.items():
        with Steps(f"{name}: songs", len(train) + len(songs.held_out)) as bar:
            coded = code_songs(rival, [*train, *songs.held_out], bar.songs)
        with Steps(f"{name}: language model", steps) as bar:
            results[name] = measure(rival, coded[: len(train)], coded[len(train) :], config, bar.step)
    found = {
        "tokenizer": trained.fingerprint,
        "config": asdict(config),
        "train_songs": len(train),
        "held_out_songs": [song.id for song in songs.held_out],
        "results": results,
    }
    write_results(out, found, results)


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

    from .dataset.songs import load_songs
    from .decoder import Sampling
    from .evaluation.decoding import measure_decoding
    from .tokenizer import load

    trained, sampling = load(tokenizer, device=device), Sampling(steps, guidance, seed)
    held_out = load_songs(
        manifest, cache, trained.decoder.sample_rate, 6.0, None, trained.decoder.autoencoder.channels
    ).held_out
    held_out = held_out[:songs]
    with Steps("songs", len(held_out)) as bar:
        results = measure_decoding(trained, held_out, sampling, seconds, bar.songs)
    prints = {"tokenizer": trained.fingerprint, "decoder": trained.decoder.fingerprint}
    found = {**prints, "sampling": asdict(sampling), "seconds": seconds, **results}
    write_results(out, found, results["tracks"])

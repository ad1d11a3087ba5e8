"""The command line of what codes are worth: `duotok evaluate perplexity`, `bits`, `codebook`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_results import Steps, write_results

if TYPE_CHECKING:
    from torch import Tensor

    from .evaluation.codec import Codec

Source = Annotated[Path, typer.Argument(help="Folder that tokenize wrote, or songs with true stems, .jsonl.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="File of the results, .json.")]
CodecName = Annotated[
    str, typer.Option("--codec", help="Tokenizer's name, folder or hub id; or encodec:, dac:, mimi:, xcodec: with weights.")
]
Codebooks = Annotated[int | None, typer.Option(min=1, help="Of a residual codec, the first so many; default: 8 or all.")]
Minutes = Annotated[float, typer.Option(min=0.0, help="Of a manifest, train on this much.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Cache = Annotated[Path, typer.Option(help="Folder of the decoded waves.")]


@dataclass(frozen=True)
class _Coded:
    """Codes (N, T) of songs, and what made them."""

    train: list[Tensor]
    held_out: list[Tensor]
    codebook_size: int
    frame_rate: float
    tracks: tuple[str, ...]
    made_by: dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(epilog="Example: duotok evaluate perplexity run -o perplexity.json --size tiny --steps 300")(perplexity)
    app.command(epilog="Example: duotok evaluate bits run -o bits.json")(bits)
    app.command(epilog="Example: duotok evaluate codebook corpus/manifest.jsonl -o codebook.json")(codebook)


def perplexity(
    source: Source,
    out: Out,
    codec: CodecName = "tiny",
    codebooks: Codebooks = None,
    size: Annotated[str, typer.Option(help="Of the language model: tiny, or 100m as in the benchmark.")] = "tiny",
    steps: Annotated[int | None, typer.Option(min=1, help="Of its training; default: 300, or 100,000 as published.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights and crops; default: the benchmark's.")] = None,
    minutes: Minutes = 60.0,
    device: Device = "cpu",
    cache: Cache = Path("cache"),
) -> None:
    """PPL@1024 as the benchmark computes it, beside bits per token, entropies and bits per second."""
    from dataclasses import asdict, replace

    from .evaluation.perplexity import SIZES, measure_perplexity

    if size not in SIZES:
        raise ValueError(f"--size: expected one of {', '.join(SIZES)}; got {size!r}; choose one of those")
    config = SIZES[size]
    config = replace(config, steps=steps or config.steps, seed=config.seed if seed is None else seed)
    coded = _read(source, codec, codebooks, minutes, device, cache)
    with Steps("language model", config.steps) as bar:
        found = measure_perplexity(
            coded.train, coded.held_out, coded.codebook_size, coded.frame_rate, config, device, bar.step
        )  # fmt: skip
    results = {**dict(zip(coded.tracks, map(asdict, found.codebooks), strict=True)), "mean": asdict(found.mean)}
    whole = {name: value for name, value in asdict(found).items() if name not in ("codebooks", "mean")}
    write_results(out, _about(coded) | whole | {"size": size, "config": asdict(config), "results": results}, results)


def bits(
    source: Source,
    out: Out,
    codec: CodecName = "tiny",
    codebooks: Codebooks = None,
    minutes: Minutes = 60.0,
    device: Device = "cpu",
    cache: Cache = Path("cache"),
) -> None:
    """Bits per token of unigram, bigram and trigram models, beside the codes' entropy."""
    from dataclasses import asdict

    from .evaluation.ngrams import measure_ngrams

    coded = _read(source, codec, codebooks, minutes, device, cache)
    rows = measure_ngrams(coded.train, coded.held_out, coded.codebook_size)
    results = dict(zip(coded.tracks, map(asdict, rows), strict=True))
    write_results(out, _about(coded) | {"results": results}, results)


def codebook(
    source: Source,
    out: Out,
    codec: CodecName = "tiny",
    codebooks: Codebooks = None,
    minutes: Minutes = 60.0,
    device: Device = "cpu",
    cache: Cache = Path("cache"),
) -> None:
    """Use, entropy, dead codes and nearest pairs of every codebook, and what two of them share, over all songs."""
    from .evaluation.codebook import measure_codebook
    from .evaluation.codec import load_codec

    made = load_codec(codec, device, codebooks)
    coded = _read(source, made, codebooks, minutes, device, cache)
    expected, found = made.describe().get("fingerprint"), coded.made_by.get("fingerprint")
    if expected != found:
        raise ValueError(
            f"{source}: expected codes of {codec}, {expected}; got those of {found}; name its tokenizer by --codec"
        )
    tables = [made.codebook(book) for book in range(made.num_codebooks)]
    results = measure_codebook([*coded.train, *coded.held_out], tables)
    named = dict(zip(coded.tracks, results["codebooks"], strict=True))
    pairs = {f"{coded.tracks[pair.pop('first')]} / {coded.tracks[pair.pop('second')]}": pair for pair in results["pairs"]}
    write_results(out, _about(coded) | {"results": named, "pairs": pairs}, named | pairs)


def _about(coded: _Coded) -> dict[str, Any]:
    counts = {
        "train_tokens": sum(song.shape[1] for song in coded.train),
        "held_out_tokens": sum(song.shape[1] for song in coded.held_out),
    }
    return {**coded.made_by, **counts}


def _read(source: Path, codec: str | Codec, num_codebooks: int | None, minutes: float, device: str, cache: Path) -> _Coded:
    """Read the codes of a run, or encode the songs of a manifest."""
    from .storage import refuse_absent_device

    refuse_absent_device(device)
    if source.is_dir():
        return _read_run(source)
    from .dataset.songs import load_songs
    from .evaluation.codec import code_songs, load_codec
    from .evaluation.quality import first_minutes

    made = load_codec(codec, device, num_codebooks) if isinstance(codec, str) else codec
    songs = load_songs(source, cache, made.sample_rate, 1.0, None, made.channels)
    train = first_minutes(songs.train, minutes, made.sample_rate)
    parts = []
    for what, chosen in (("training songs", train), ("held-out songs", songs.held_out)):
        with Steps(what, len(chosen)) as bar:
            parts.append(code_songs(made, chosen, bar.songs))
    tracks = made.parts if len(made.parts) == made.num_codebooks else tuple(f"codebook {i}" for i in range(made.num_codebooks))
    return _Coded(*parts, made.codebook_size, made.frame_rate, tracks, made.describe())


def _read_run(run: Path) -> _Coded:
    """Read the codes of a run; songs are held out as for training."""
    import json

    import torch

    from .corpus.export_read import find_tokens
    from .dataset.manifest import choose_held_out, hash_rank
    from .model.bottleneck import TRACKS

    tokens = find_tokens([run])
    songs, splits = {}, {}
    for song in tokens.songs():
        songs[song.row["id"]] = torch.from_numpy(song.codes.astype("int64"))
        splits[song.row["id"]] = json.loads(song.row.get("extra") or "{}").get("split")
    held = choose_held_out(splits)
    train, held_out = (
        [songs[id] for id in sorted(songs, key=hash_rank) if (id in held) == is_held] for is_held in (False, True)
    )
    made = tokens.metadata
    about = {"run": str(run), "fingerprint": made["fingerprint"], "separator": made["separator"]}
    return _Coded(train, held_out, made["codebook_size"], float(made["frame_rate"]), TRACKS, about)

"""The command line of what codecs make of sound: `duotok evaluate reconstruction`, `invariance`, `tagging`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_evaluate_codes import Cache, Codebooks, CodecName, Device, Out
from .cli_results import Steps, write_results
from .console import err, line

Manifest = Annotated[Path, typer.Argument(help="Songs with true stems, .jsonl; those held out are measured.")]


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(epilog="Example: duotok evaluate reconstruction corpus/manifest.jsonl -o reconstruction.json")(reconstruction)
    app.command(epilog="Example: duotok evaluate invariance corpus/manifest.jsonl -o invariance.json")(invariance)
    app.command(epilog="Example: duotok evaluate tagging MagnaTagATune/ -o tagging.json --separate demucs")(tagging)


def reconstruction(
    manifest: Manifest,
    out: Out,
    codec: CodecName = "tiny",
    codebooks: Codebooks = None,
    rate: Annotated[int, typer.Option(min=8000, help="At which waves are compared, Hz.")] = 22_050,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of every song, from its middle.")] = 20.0,
    songs: Annotated[int | None, typer.Option(min=1, help="At most so many; default: all that are held out.")] = None,
    measures: Annotated[str | None, typer.Option(help="Parted by commas; default: all that are installed.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of our decoder's sampler.")] = 50,
    guidance: Annotated[float, typer.Option(min=0.0, help="Of our decoder.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Of our decoder's noise.")] = 0,
    device: Device = "cpu",
    cache: Cache = Path("cache"),
) -> None:
    """Mel L1, MR-STFT, SI-SDR, chroma, PESQ, STOI and ViSQOL of decoded vocals, accompaniment and mix."""
    from dataclasses import asdict

    from .dataset.songs import load_songs
    from .decoder import Sampling
    from .evaluation.codec import load_codec
    from .evaluation.reconstruction import MEASURES, ReconstructionConfig, measure_reconstruction
    from .evaluation.sound import OPTIONAL, missing
    from .storage import refuse_absent_device

    refuse_absent_device(device)
    lacking = {name: reason for name in OPTIONAL if measures is None and (reason := missing(name))}
    for reason in lacking.values():
        err.print(f"note: {line(reason)}")
    chosen = tuple(name for name in MEASURES if name not in lacking) if measures is None else tuple(measures.split(","))
    config = ReconstructionConfig(rate, seconds, chosen)
    made = load_codec(codec, device, codebooks, Sampling(steps, guidance, seed))
    inputs = load_songs(manifest, cache, made.sample_rate, 1.0, None, made.channels).held_out[:songs]
    references = load_songs(manifest, cache, rate, 1.0).held_out[:songs]
    with Steps("songs", len(inputs)) as bar:
        results = measure_reconstruction(made, inputs, references, config, bar.songs)
    sampling = {"sampling": asdict(Sampling(steps, guidance, seed))} if "fingerprint" in made.describe() else {}
    write_results(out, {**made.describe(), **sampling, "config": asdict(config), **results}, results["tracks"])


def invariance(
    manifest: Manifest,
    out: Out,
    codec: CodecName = "tiny",
    codebooks: Codebooks = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of every song, from its middle.")] = 20.0,
    songs: Annotated[int, typer.Option(min=1, help="At most so many of those held out.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="The other number of CPU threads.")] = 2,
    dtypes: Annotated[str, typer.Option(help="Parted by commas: float64, bfloat16, float16.")] = "bfloat16,float16",
    device: Device = "cpu",
    cache: Cache = Path("cache"),
) -> None:
    """Share of codes that change with the batch, padding, pieces, threads, backends and dtypes."""
    from dataclasses import asdict

    from .dataset.songs import load_songs
    from .evaluation.codec import load_codec
    from .evaluation.invariance import InvarianceConfig, measure_invariance, read_clips
    from .storage import refuse_absent_device

    refuse_absent_device(device)
    config = InvarianceConfig(threads=threads, dtypes=tuple(filter(None, dtypes.split(","))))
    made = load_codec(codec, device, codebooks)
    held_out = load_songs(manifest, cache, made.sample_rate, 1.0, None, made.channels).held_out[:songs]
    clips = read_clips(made, held_out, seconds)
    with Steps("ways to encode", 6 + len(config.dtypes)) as bar:
        results = measure_invariance(made, clips, config, bar.songs)
    for name, found in results.items():
        if "error" in found:
            err.print(f"note: {name}: {line(found['error'])}")
    about = {"songs": [song.id for song in held_out], "seconds": clips.shape[-1] / made.sample_rate, "config": asdict(config)}
    rates = {name: found["miss_rate"] for name, found in results.items() if "miss_rate" in found}
    write_results(out, made.describe() | about | {"results": results}, {"miss rate": rates})


def tagging(
    folder: Annotated[Path, typer.Argument(help="MagnaTagATune: folders 0 to f with its clips.")],
    out: Out,
    codec: CodecName = "tiny",
    codebooks: Codebooks = None,
    annotations: Annotated[Path | None, typer.Option(help="Default: FOLDER/annotations_final.csv.")] = None,
    tags: Annotated[int, typer.Option(min=1, help="The most frequent so many.")] = 50,
    chunk_s: Annotated[float, typer.Option(min=0.1, help="Seconds of a chunk.")] = 10.0,
    epochs: Annotated[int, typer.Option(min=1, help="Of the probe's training.")] = 50,
    limit: Annotated[int | None, typer.Option(min=1, help="Clips of each split at most; default: all.")] = None,
    separate: Annotated[str, typer.Option(help="For our tokenizer: demucs, spleeter or none.")] = "none",
    device: Device = "cpu",
) -> None:
    """Macro AP and AUROC of a probe for tags, by chunk and by clip; it learns from the train split."""
    from dataclasses import asdict

    from .evaluation.codec import load_codec
    from .evaluation.tagging import TaggingConfig, measure_tagging
    from .evaluation.tagging_data import code_clips, read_magnatagatune
    from .separation import make_separator
    from .storage import refuse_absent_device

    refuse_absent_device(device)
    tagset = read_magnatagatune(folder, annotations, tags, limit)
    made, separator = load_codec(codec, device, codebooks), make_separator(separate, device=device)
    config = TaggingConfig(chunk_s=chunk_s, epochs=epochs)
    splits = {}
    for name in ("train", "valid", "test"):
        clips = getattr(tagset, name)
        with Steps(f"{name} clips", len(clips)) as bar:
            splits[name] = code_clips(made, clips, chunk_s, separator, bar.songs)
        for problem in splits[name].problems:
            err.print(f"refused: {line(problem)}")
    with Steps("epochs", epochs, "validation loss") as bar:
        results = measure_tagging(made, *splits.values(), config, bar.step)
    about = {"separator": separate, "tags": tagset.tags, "clips": {name: len(split.labels) for name, split in splits.items()}}
    write_results(out, {**made.describe(), **about, "config": asdict(config), "results": results}, {made.name: results})

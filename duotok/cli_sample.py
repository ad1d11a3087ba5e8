"""The command line of drawing songs: `duotok sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_decode import SoundBar
from .console import line, plural
from .console import out as _out


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: duotok sample lm -o waves --count 4 --seconds 30 --top-p 0.95")(sample)


def sample(
    lm: Annotated[Path, typer.Argument(help="Folder of the language model, which train --export wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the files; a stopped command goes on there.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer whose codes it knows.")] = "tiny",
    run: Annotated[
        Path | None, typer.Option("--from", help="Run of tokens: songs to go on with, or vocals to accompany.")
    ] = None,
    song: Annotated[list[str] | None, typer.Option(help="Id of such a song; may be repeated. Default: all.")] = None,
    start: Annotated[float, typer.Option(min=0.0, help="Second of the song where the prompt begins.")] = 0.0,
    prompt: Annotated[float, typer.Option(min=0.0, help="Seconds of the song that are kept.")] = 0.0,
    seconds: Annotated[float, typer.Option(min=0.04, help="Of each song drawn, the prompt included.")] = 20.0,
    count: Annotated[int, typer.Option(min=1, help="Songs drawn, from each prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest codes.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the likeliest so many codes; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest codes that together are as likely.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of codes and sound.")] = 0,
    track: Annotated[str, typer.Option(help="Sound of mix, vocals, accompaniment, all, or none.")] = "all",
    steps: Annotated[int, typer.Option(min=1, help="Of the decoder's sampler; fewer are faster.")] = 50,
    guidance: Annotated[float, typer.Option(min=0.0, help="1 follows the codes, more exaggerates them.")] = 1.5,
    format: Annotated[str, typer.Option(help="wav, flac or ogg.")] = "wav",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Draw songs from a language model, as codes and sound.

    Codes are .npy files of shape (2, T).
    """
    from .corpus.decode import OUTPUTS, SUBTYPES, DecodeOptions
    from .corpus.sample import SampleOptions, sample_songs
    from .decoder import Sampling
    from .language import load_language_model
    from .model.generation import Draw
    from .storage import refuse_absent_device
    from .tokenizer import load

    refuse_absent_device(device)
    chosen = {"all": OUTPUTS, "none": (), **{name: (name,) for name in OUTPUTS}}
    for name, known, value in (("track", chosen, track), ("format", SUBTYPES, format)):
        if value not in known:
            raise ValueError(f"--{name}: expected one of {', '.join(known)}; got {value!r}; choose one of those")
    options = SampleOptions(
        count, seconds, start, prompt, Draw(temperature, top_k, top_p, seed),
        DecodeOptions(Sampling(steps, guidance, seed), format),
    )  # fmt: skip
    model, decoder = load_language_model(lm, device), load(tokenizer, device=device)
    with SoundBar(None) as bar:
        made = sample_songs(model, decoder, out, options, run, song or (), chosen[track], bar.show)
    names = ", ".join(line(path.name) for path in made[:8])
    _out.print(f"{plural(len(made), 'song')} in {line(out)}: {names}{' ...' if len(made) > 8 else ''}")

"""The command line of decoding: `duotok decode` and `duotok listen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .console import StoppableBar, line, plural
from .console import err as _err
from .console import out as _out


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: duotok decode run -o sound --steps 20 --track vocals")(decode)
    app.command(epilog="Example: duotok listen song_vocals.flac -o page.html --start 60 --seconds 30")(listen)


_Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
_Steps = Annotated[int, typer.Option(min=1, help="Of the sampler; fewer are faster.")]
_Guidance = Annotated[float, typer.Option(min=0.0, help="1 follows the codes, more exaggerates them.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of the noise.")]


def decode(
    run: Annotated[Path, typer.Argument(help="Folder that tokenize wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the sound files; a stopped command goes on there.")],
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer that made the run.")] = "tiny",
    device: _Device = "cpu",
    steps: _Steps = 50,
    guidance: _Guidance = 1.5,
    seed: _Seed = 0,
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
    from .storage import refuse_absent_device
    from .tokenizer import load

    refuse_absent_device(device)
    choices = {"track": ("all", *OUTPUTS), "format": (*SUBTYPES,), "sampler": ("dpm", "ddim")}
    for (name, known), value in zip(choices.items(), (track, format, sampler), strict=True):
        if value not in known:
            raise ValueError(f"--{name}: expected one of {', '.join(known)}; got {value!r}; choose one of those")
    options = DecodeOptions(Sampling(steps, guidance, seed, sampler), format, sample_rate)
    outputs = OUTPUTS if track == "all" else (track,)
    seconds = None if song else summarize(run).hours * 3600
    with SoundBar(seconds) as bar:
        report = decode_run(run, out, load(tokenizer, device=device), options, outputs, song or (), bar.show)
    for problem in report.refused:
        _err.print(f"refused: {line(problem)}")
    songs = plural(report.num_songs, "song")
    _out.print(f"{songs} in {line(out)}, {report.num_present} of them there before, {len(report.refused)} refused")
    if report.refused:
        raise typer.Exit(3)


def listen(
    song: Annotated[
        str, typer.Argument(help="A stem (its partner is found), the start of both stems' names, or a whole song.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page, an .html file; it needs no other.")],
    seconds: Annotated[int, typer.Option(min=1, help="Of the excerpt.")] = 20,
    start: Annotated[int | None, typer.Option(min=0, help="Second where it starts; default: the loudest vocals.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Name, folder or hub id of the tokenizer.")] = "tiny",
    device: _Device = "cpu",
    steps: _Steps = 50,
    guidance: _Guidance = 1.5,
    seed: _Seed = 0,
    separate: Annotated[str, typer.Option(help="For a song without stems: demucs, spleeter, none.")] = "demucs",
    separator_weights: Annotated[Path | None, typer.Option(help="Local copy of the separator's weights.")] = None,
    track: Annotated[str, typer.Option(help="With --separate none: the track that takes the mix.")] = "accompaniment",
    title: Annotated[str | None, typer.Option(help="Name on the page; default: that of the files.")] = None,
    credit: Annotated[str, typer.Option(help="Who made the song, and its licence, for the foot of the page.")] = "",
) -> None:
    """Make a page to compare a song with its decoded codes.

    It plays an excerpt beside what its codes decode to, with pictures, codes and scores.
    """
    from .corpus.setup import Setup
    from .decoder import Sampling
    from .files import make_folder, write_atomically
    from .listen.excerpt import find_song, name_of, read_excerpt
    from .listen.page import Labels, make_page
    from .model.bottleneck import TRACKS

    if track not in TRACKS:
        raise ValueError(f"--track: expected one of {', '.join(TRACKS)}; got {track!r}; choose one of those")
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out: expected an .html file; got {'the folder ' if out.is_dir() else ''}{out}; name a page")
    found = find_song(song)
    tok, policy = Setup(tokenizer, device, separate if found.is_mixture else "none", separator_weights, track).build()
    make_folder(out.parent)
    with SoundBar(None, advice="nothing was written") as bar:
        excerpt = read_excerpt(tok, found, policy, seconds, start, bar.show)
        labels = Labels(title or name_of(found, song), credit)
        page = make_page(tok, excerpt, Sampling(steps, guidance, seed), labels).encode()
    write_atomically(out, page)
    length = excerpt.codes.shape[1] / tok.frame_rate
    _out.print(f"{line(out)}: {len(page) / 1e6:.2f} MB, {length:g} s from second {excerpt.start_s} of {line(labels.title)}")


class SoundBar(StoppableBar):
    """Seconds of sound that are done, and the time left."""

    def __init__(self, total: float | None, **options: str) -> None:
        columns = (TextColumn("sound"), BarColumn(), TextColumn("{task.completed:.0f} s"), TimeRemainingColumn())
        super().__init__(Progress(*columns, console=_err), **options)
        self._task = self._bar.add_task("sound", total=total)

    def show(self, seconds: float) -> None:
        """Show more sound."""
        self._bar.update(self._task, advance=seconds)

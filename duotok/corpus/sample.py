"""Songs that a language model draws, as codes and as sound.

    WAVS/sample.json               what the files were made with
    WAVS/NAME-0.npy                codes (2, T) int64 of the first drawn song, vocals first, for `DuoTok.decode`
    WAVS/NAME-0.TRACK.wav          one for each wanted track

NAME is that of the song that was gone on with, or "song". Files that are there are not made again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duotok.files import write_atomically
from duotok.language import LanguageModel
from duotok.model.generation import Draw, generate
from duotok.model.language_model import NOTHING
from duotok.tokenizer import DuoTok

from .decode import OUTPUTS, DecodeOptions, Output, decode_song, file_name, settle
from .export_read import find_tokens

SETTINGS = "sample.json"


@dataclass(frozen=True)
class SampleOptions:
    """What is drawn.

    Attributes:
        count: songs, from each prompt.
        seconds: of a song, the prompt included; it may end before.
        start_s, prompt_s: where in a song of a run the prompt begins, and how much of it is kept. An accompaniment is always
            given the vocals of all its seconds.
        draw: how codes are drawn.
        decode: how they are decoded.
    """

    count: int = 1
    seconds: float = 20.0
    start_s: float = 0.0
    prompt_s: float = 0.0
    draw: Draw = field(default_factory=Draw)
    decode: DecodeOptions = field(default_factory=DecodeOptions)


def sample_songs(
    lm: LanguageModel,
    tokenizer: DuoTok,
    out: Path,
    options: SampleOptions,
    run: Path | None = None,
    ids: Sequence[str] = (),
    outputs: Sequence[Output] = OUTPUTS,
    progress: Callable[[float], None] | None = None,
) -> list[Path]:
    """Draw songs and write them.

    Args:
        lm, tokenizer: that belong together; both on one device.
        out: folder of the files.
        options: what, and how.
        run: of tokens, whose songs are gone on with, or given an accompaniment; None draws from nothing.
        ids: of its songs; all if empty.
        outputs: wanted sound files; none if empty.
        progress: called with the seconds of music that were drawn or decoded.

    Returns:
        the files of codes.

    Raises:
        ValueError: if model, tokenizer and run do not belong together, a run is needed and not there, or has no such songs.
        CheckpointError: if sound is wanted and the tokenizer has no decoder.
        WriteError: if the disk is full.
    """
    _check(lm, tokenizer, options, run)
    prompts = list(_prompts(lm, options, run, ids))
    marks = {"language_model": lm.fingerprint, "tokenizer": tokenizer.fingerprint}
    marks |= {"decoder": tokenizer.decoder.fingerprint} if outputs else {}
    settle(out / SETTINGS, {**marks, **asdict(options)})
    written = []
    for name, codes, known in prompts:
        paths = [out / f"{name}-{number}.npy" for number in range(options.count)]
        if not all(path.exists() for path in paths):
            _draw(lm, codes, known, paths, options, progress)
        for path in paths:
            sounds = {what: path.with_suffix(f".{what}.{options.decode.format}") for what in outputs}
            wanted = {what: sound for what, sound in sounds.items() if not sound.exists()}
            drawn = torch.from_numpy(np.load(path))
            if wanted and drawn.shape[1]:
                length = Fraction(drawn.shape[1], tokenizer.frame_rate)
                decode_song(drawn, length, wanted, tokenizer, options.decode, progress)
        written += paths
    return written


def _check(lm: LanguageModel, tokenizer: DuoTok, options: SampleOptions, run: Path | None) -> None:
    if lm.config.tokenizer != tokenizer.fingerprint:
        raise ValueError(
            f"tokenizer: expected that of the language model, {lm.config.tokenizer[:16]}; got {tokenizer.fingerprint[:16]}; "
            "name the one whose tokens it was trained on"
        )
    if run is None and (lm.config.protocol == "accompaniment" or options.prompt_s):
        what = "vocals to accompany" if lm.config.protocol == "accompaniment" else "songs to go on with"
        raise ValueError(f"--from: expected a run of tokens with {what}; got none; name one")


def _prompts(
    lm: LanguageModel, options: SampleOptions, run: Path | None, ids: Sequence[str]
) -> Iterator[tuple[str, Tensor, int]]:
    """Yield a name, codes (2, T) with NOTHING where nothing is given, and the frames that are known."""
    rate = lm.config.frame_rate
    wanted, known, start = (round(rate * seconds) for seconds in (options.seconds, options.prompt_s, options.start_s))
    empty = torch.full((2, wanted), NOTHING)
    if run is None:
        yield "song", empty, 0
        return
    tokens, left = find_tokens([run]), set(ids)
    if tokens.fingerprints != (lm.config.tokenizer,):
        raise ValueError(
            f"{run}: expected tokens of the language model's tokenizer, {lm.config.tokenizer[:16]}; got those of "
            f"{tokens.fingerprints[0][:16]}; tokenize with the same"
        )
    for song in tokens.songs():
        if ids and song.row["id"] not in left:
            continue
        left.discard(song.row["id"])
        given = torch.from_numpy(song.codes.astype(np.int64))[:, start : start + wanted]
        if not given.shape[1]:
            seconds = song.codes.shape[1] / rate
            raise ValueError(
                f"{song.row['id']}: expected a song of more than {options.start_s:g} s; got {seconds:g} s; start before"
            )
        kept = min(known, given.shape[1])
        if lm.config.protocol == "unconditional":
            given = torch.cat((given[:, :kept], empty[:, kept:]), dim=1)
        yield file_name(song.row["id"], song.row["source"]), given, kept
    if left:
        raise ValueError(f"{run}: expected ids of its songs; got {', '.join(map(repr, sorted(left)[:3]))}; correct them")


def _draw(
    lm: LanguageModel,
    codes: Tensor,
    known: int,
    paths: Sequence[Path],
    options: SampleOptions,
    progress: Callable[[float], None] | None,
) -> None:
    """Draw as many songs as there are paths, and write their codes as far as they go."""
    config, device = lm.config, lm.model.start.device
    many = codes.to(device).expand(len(paths), -1, -1)
    show = (lambda frames: progress(frames / config.frame_rate)) if progress else None
    songs = generate(lm.model, config.protocol, many, known, config.context_frames, options.draw, show)
    for path, song in zip(paths, songs.cpu(), strict=True):
        buffer = io.BytesIO()
        np.save(buffer, song[:, (song != NOTHING).all(0)].numpy())
        write_atomically(path, buffer.getvalue())

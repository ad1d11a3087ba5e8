"""The songs of token runs, to train language models on: what `duotok tokenize` wrote, parted as the songs themselves are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duotok.config import ConfigError
from duotok.corpus.export_read import find_tokens

from .manifest import part_songs


@dataclass(frozen=True)
class TokenSong:
    """A song as tokens.

    Attributes:
        id: unique within the run.
        codes: (2, T) uint16, vocals first.
    """

    id: str
    codes: np.ndarray

    @property
    def num_samples(self) -> int:
        """Its length for those who cut crops: frames."""
        return self.codes.shape[1]


@dataclass(frozen=True)
class TokenSongs:
    """What a run of tokens holds.

    Attributes:
        train, held_out: its songs, in the order of their ids.
        fingerprint: of the tokenizer.
        codebook_size: codes of a track.
        frame_rate: codes per second and track.
        problems: "id: reason" of the songs left out.
    """

    train: tuple[TokenSong, ...]
    held_out: tuple[TokenSong, ...]
    fingerprint: str
    codebook_size: int
    frame_rate: int
    problems: tuple[str, ...] = ()


def load_tokens(run: Path, min_s: float = 0.0, progress: Callable[[int, int], None] | None = None) -> TokenSongs:
    """Read the tokens of a run, all of them into memory: 100 bytes for a second of music.

    Songs are held out by the `split` that their manifest gave them, else by the rule of `split_of`.

    Args:
        run: folder that `duotok tokenize` wrote, or another with its files.
        min_s: songs shorter than this are left out.
        progress: called with the songs that are done and their total.

    Raises:
        PlanError: if there are no tokens, or the run is not finished.
        ConfigError: if there are no two songs of which one may be held out.
    """
    found = find_tokens([run])
    made, total = found.metadata, found.num_songs
    songs, splits, problems = [], {}, []
    for done, song in enumerate(found.songs(), 1):
        name, frames = song.row["id"], song.codes.shape[1]
        if frames < max(1, min_s * made["frame_rate"]):
            seconds = frames / made["frame_rate"]
            problems.append(f"{name}: too_short: expected at least {min_s:g} s; got {seconds:.2f} s; leave it out")
        else:
            songs.append(TokenSong(name, song.codes))
            splits[name] = json.loads(song.row["extra"] or "{}").get("split")
        if progress:
            progress(done, total)
    if len(songs) < 2:
        raise ConfigError(f"{run}: expected at least two songs, one to hold out; got {len(songs)}; tokenize more")
    held = part_songs(splits, run)
    songs.sort(key=lambda song: song.id)
    train, held_out = (tuple(song for song in songs if (song.id in held) == is_held) for is_held in (False, True))
    return TokenSongs(train, held_out, made["fingerprint"], made["codebook_size"], made["frame_rate"], tuple(problems))

"""What a run would take, measured on a sample of its songs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from duotok.tokenizer import DuoTok

from .reader import MixturePolicy
from .songs import Song
from .worker import tokenize_song

# Measured on Parquet with zstd: 15 bits of a code in 1.9 bytes, and the other columns of a song.
_BYTES_PER_CODE, _BYTES_PER_SONG = 1.9, 500


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        num_songs: of the run.
        num_sampled, num_refused: of the sample.
        hours: of audio in all.
        hours_per_hour: of audio, with one worker.
        worker_hours: of one worker.
        num_bytes: of tokens on disk.
    """

    num_songs: int
    num_sampled: int
    num_refused: int
    hours: float
    hours_per_hour: float
    worker_hours: float
    num_bytes: int


def estimate(
    songs: list[Song], tools: tuple[DuoTok, MixturePolicy], num_sampled: int, on_song: Callable[[], None] = lambda: None
) -> Estimate:
    """Tokenize a sample of songs, evenly spread over all of them, and reckon what all would take.

    Args:
        songs: of the run.
        tools: to tokenize with, here and with one worker.
        num_sampled: songs of the sample.
        on_song: called after each song.
    """
    number = min(num_sampled, len(songs))
    chosen = [songs[i * len(songs) // number] for i in range(number)]
    seconds = refused = 0
    start = time.monotonic()
    for song in chosen:
        outcome = tokenize_song(tools[0], song, tools[1])
        seconds += outcome.seconds
        refused += outcome.failure is not None
        on_song()
    elapsed = time.monotonic() - start
    share = len(songs) / number
    codes = share * seconds * tools[0].frame_rate * tools[0].num_tracks
    return Estimate(
        len(songs), number, refused, share * seconds / 3600, seconds / elapsed, share * elapsed / 3600,
        round(codes * _BYTES_PER_CODE + len(songs) * _BYTES_PER_SONG),
    )  # fmt: skip

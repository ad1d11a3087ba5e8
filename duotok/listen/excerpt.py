"""One song, found by any of its names, tokenized as a whole, and the part of it that is listened to.

The codes are those that `duotok tokenize` gives: they depend on what surrounds the excerpt, so the whole song goes by. No more
of it is held than two excerpts.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from torch import Tensor

from duotok.audio import SUFFIXES, Resampler
from duotok.corpus.reader import MixturePolicy, open_song
from duotok.corpus.songs import PlanError, Song, collect
from duotok.model.bottleneck import TRACKS
from duotok.tokenizer import DuoTok


@dataclass(frozen=True)
class Excerpt:
    """A part of a song.

    Attributes:
        stems: (2, S) float32, vocals first, at the decoder's rate, mono as the tokenizer hears them; S a multiple of a code.
        codes: (2, T) int64, cut out of the whole song's.
        start_s: seconds into the song, a whole number.
        song_s: seconds of the whole song.
    """

    stems: Tensor
    codes: Tensor
    start_s: int
    song_s: float


def find_song(place: str) -> Song:
    """Find one song.

    Args:
        place: one of its files (the partner of a stem is looked for beside it), the common start of its stems' names, a folder
            or a manifest of one song, or an address (s3://...).

    Raises:
        PlanError: if there is no song, or more than one.
    """
    path = Path(place)
    beside = sorted(path.parent.glob("*")) if path.parent.is_dir() else []
    others = [other for other in beside if other.suffix.lower() in SUFFIXES and other.is_file() and other != path]
    named = [] if path.exists() else [other for other in others if path.name and other.name.startswith(path.name)]
    songs = collect(named or [place])
    if len(songs) == 1 and _lacks_partner(songs[0]) and path.is_file():
        pairs = [pair for other in others if len(pair := collect([place, other])) == 1]
        songs = pairs[0] if pairs else songs
    if len(songs) > 1:
        raise PlanError(f"{place}: expected one song; got {len(songs)}; name one by its file")
    return songs[0]


def _lacks_partner(song: Song) -> bool:
    return not (song.mixture_path or song.stems_path or (song.vocal_path and song.accompaniment_path))


def name_of(song: Song, place: str) -> str:
    """Name a song that was found at a place: its id in a manifest, or what the names of its files have in common."""
    if place.endswith(".jsonl"):
        return song.id
    files = [PurePath(path) for path in song.paths]
    common = os.path.commonprefix([file.stem.removesuffix(".stem") for file in files])  # noqa: RUF071, letters are meant
    return common.rstrip("_-. ") or files[0].parent.name


def read_excerpt(
    tokenizer: DuoTok,
    song: Song,
    policy: MixturePolicy,
    seconds: int = 20,
    start: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Excerpt:
    """Tokenize a song and keep a part of it.

    Args:
        tokenizer: with a decoder.
        song: any that `duotok tokenize` takes.
        policy: what becomes of a mixture.
        seconds: of the part; less where the song ends.
        start: second of the song where it starts; None for the loudest vocals, or accompaniment if the vocals are silent.
        progress: called with the seconds that were read.

    Raises:
        AudioError: if the song cannot be trusted.
        CheckpointError: if there is no decoder.
        ValueError: if the song ends before `start`.
    """
    rate = tokenizer.decoder.sample_rate
    part = _Part(rate, seconds, start)
    codes = []
    with open_song(song, policy) as opened:
        stream = tokenizer.stream(opened.sample_rate)
        resamplers = [Resampler(opened.sample_rate, rate) for _ in TRACKS]
        for pair in opened.blocks():
            codes.append(stream.push(*pair))
            part.push(np.stack([resampler.push(wave) for resampler, wave in zip(resamplers, pair, strict=True)]))
            if progress:
                progress(len(pair[0]) / opened.sample_rate)
        song_s = opened.num_samples / opened.source_rate
        codes.append(stream.finish(tokenizer.num_frames(opened.num_samples, opened.source_rate)))
    part.push(np.stack([resampler.finish() for resampler in resamplers]))
    return _cut(part, torch.cat(codes, dim=1), tokenizer.frame_rate, song_s)


def _cut(part: _Part, codes: Tensor, frame_rate: int, song_s: float) -> Excerpt:
    """Take the part that was held, in whole codes, and its codes of the song's (2, T)."""
    stems, start = part.finish()
    num_frames = stems.shape[1] * frame_rate // part.rate
    if not num_frames:
        raise ValueError(f"start: expected a second before the song's end at {song_s:.1f} s; got {start}; choose an earlier")
    kept = torch.from_numpy(stems[:, : num_frames * part.rate // frame_rate])
    first = start * frame_rate
    return Excerpt(kept, codes[:, first : first + num_frames], start, song_s)


class _Part:
    """Stems go by, second by second; the part from `start`, or the loudest so far, is held."""

    def __init__(self, rate: int, seconds: int, start: int | None) -> None:
        self.rate, self._seconds, self._start = rate, seconds, start
        self._rest = np.zeros((len(TRACKS), 0), np.float32)  # not yet a second
        self._last: deque[np.ndarray] = deque(maxlen=seconds)
        self._energies: deque[np.ndarray] = deque(maxlen=seconds)
        self._seen, self._most = 0, (-1.0, -1.0)
        self._best: tuple[np.ndarray, int] | None = None

    def push(self, stems: np.ndarray) -> None:
        """Take samples (2, n)."""
        self._rest = np.concatenate((self._rest, stems), axis=1)
        while self._rest.shape[1] >= self.rate:
            self._add(self._rest[:, : self.rate].copy())
            self._rest = self._rest[:, self.rate :]

    def _add(self, second: np.ndarray) -> None:
        self._seen += 1
        if self._start is not None and not self._start < self._seen <= self._start + self._seconds:
            return
        self._last.append(second)
        self._energies.append((second.astype(np.float64) ** 2).sum(axis=1))
        loudness = tuple(sum(self._energies))  # vocals first: the accompaniment decides among equals, that is silent ones
        if len(self._last) == self._seconds and loudness > self._most:
            self._most, self._best = loudness, (np.concatenate(self._last, axis=1), self._seen - self._seconds)

    def finish(self) -> tuple[np.ndarray, int]:
        """Give the part (2, n), and the second where it starts; nothing if the song ended before."""
        if self._best is None:
            start = self._start or 0
            self._best = np.concatenate((*self._last, self._rest[:, : None if start <= self._seen else 0]), axis=1), start
        return self._best

"""Crops of songs into batches; which crops a batch holds is a function of (seed, step, micro) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from duotok.dataset.songs import Song
from duotok.dataset.tokens import TokenSong
from duotok.lyrics import encode


@dataclass(frozen=True)
class DataConfig:
    """Where the songs are and how they are cut.

    Attributes:
        manifest: JSONL file of the songs, see `songs`; of a language model, the folder that `duotok tokenize` wrote.
        cache: folder of the decoded waves; None is "waves" beside the manifest.
        crop_s: seconds of a crop; 30 is a default, not from the paper: LeVo's.
        min_s: shorter songs are left out; 18 is LeVo's, too. Songs shorter than a crop end in silence.
        batch_size: crops in a micro-batch; default, own choice.
        eval_crops: crops of the held-out songs that are scored; default, own choice.
    """

    manifest: str = "manifest.jsonl"
    cache: str | None = None
    crop_s: float = 30.0
    min_s: float = 18.0
    batch_size: int = 8
    eval_crops: int = 64

    def __post_init__(self) -> None:
        if self.crop_s <= 0 or self.batch_size < 1 or self.eval_crops < 1:
            raise ValueError(
                f"expected crop_s > 0, batch_size >= 1 and eval_crops >= 1; got {self.crop_s}, {self.batch_size} and "
                f"{self.eval_crops}; correct them"
            )


@dataclass(frozen=True)
class Crop:
    """Part of a song: `num_samples` from sample `start`; of a song of tokens, frames.

    `turn` numbers the crops of all batches, for those who take stems or mixtures in turn.
    """

    song: Song | TokenSong
    start: int
    num_samples: int
    turn: int = 0

    def wave(self, name: str) -> Tensor:
        """Read a stem, (S,) float32 in [-1, 1], of stereo (2, S); "mixture" is vocals and accompaniment together."""
        if name == "mixture":
            return self.wave("vocals") + self.wave("accompaniment")
        wave = torch.from_numpy(self.song.read(name, self.start, self.start + self.num_samples))
        return wave.movedim(0, -1).float() / 32768

    def lyrics(self, sample_rate: int) -> str:
        """Give the words that lie wholly inside; the whole text of a song without times if the crop covers the song."""
        if self.song.words:
            start, end = self.start / sample_rate, (self.start + self.num_samples) / sample_rate
            return " ".join(word.text for word in self.song.words if start <= word.start and word.end <= end)
        covers = self.start == 0 and self.num_samples >= self.song.num_samples
        return self.song.text or "" if covers else ""

    def notes(self, sample_rate: int) -> list[int]:
        """Give the units of the accompaniment's notes that start inside, their pitches plus 1, by onset and pitch."""
        start, end = self.start / sample_rate, (self.start + self.num_samples) / sample_rate
        return [note.midi + 1 for note in self.song.notes if start <= note.onset < end]


class CropSampler:
    """Draws random crops of the training songs, a song as often as it is long, and fixed crops of the held-out ones."""

    def __init__(self, songs: Sequence[Song | TokenSong], crop_samples: int, seed: int, overhang: int = 0) -> None:
        """Draw crops of `crop_samples` that reach up to `overhang` samples beyond a song's end."""
        self._songs, self._crop_samples, self._seed, self._overhang = songs, crop_samples, seed, overhang
        durations = np.array([song.num_samples for song in songs], np.float64)
        self._ends = (durations / durations.sum()).cumsum()

    def draw(self, step: int, micro: int, count: int) -> list[Crop]:
        """Draw the crops of a micro-batch."""
        generator = np.random.default_rng((self._seed, step, micro))
        chosen = np.searchsorted(self._ends, generator.random(count), side="right").clip(max=len(self._songs) - 1)
        first = step + micro * count  # so that inputs change over the steps, too, where a step has few crops
        return [
            self._crop(self._songs[i], share, first + turn)
            for turn, (i, share) in enumerate(zip(chosen, generator.random(count), strict=True))
        ]

    def spread(self, count: int) -> list[Crop]:
        """Place crops at equal distances over all songs, the same ones whenever asked."""
        places = (np.arange(count) + 0.5) / count
        chosen = np.searchsorted(self._ends, places, side="right").clip(max=len(self._songs) - 1)
        starts = np.concatenate(([0.0], self._ends))
        shares = (places - starts[chosen]) / (starts[chosen + 1] - starts[chosen])
        return [self._crop(self._songs[i], share, turn) for turn, (i, share) in enumerate(zip(chosen, shares, strict=True))]

    def _crop(self, song: Song | TokenSong, share: float, turn: int) -> Crop:
        room = max(0, song.num_samples - self._crop_samples + self._overhang)
        return Crop(song, min(int(share * (room + 1)), room), self._crop_samples, turn)


def stack_waves(crops: Sequence[Crop], names: Sequence[str]) -> Tensor:
    """Stack one stem of each crop, `names[i]` of `crops[i]`: (B, S) float32, of stereo (B, 2, S)."""
    return torch.stack([crop.wave(name) for crop, name in zip(crops, names, strict=True)])


def stack_lyrics(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Turn lyrics into units (B, L) int64, at least one wide, padded with blanks, and their lengths (B,) int64."""
    return stack_units([encode(text) for text in texts])


def stack_units(units: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Stack units of CTC as (B, L) int64, at least one wide, padded with blanks, and their lengths (B,) int64."""
    lengths = torch.tensor([len(row) for row in units], dtype=torch.int64)
    padded = torch.zeros(len(units), max(1, *map(len, units)), dtype=torch.int64)
    for row, unit in zip(padded, units, strict=True):
        row[: len(unit)] = torch.tensor(unit, dtype=torch.int64)
    return padded, lengths

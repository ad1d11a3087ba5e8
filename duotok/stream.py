"""One song's samples on their way into codes, piece by piece, with no more of them held than a window needs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .audio import RATES
from .integrity import LARGEST_SAMPLE
from .windows import TrackWindows

if TYPE_CHECKING:
    from .tokenizer import DuoTok

Wave = Tensor | np.ndarray
_MAX_CHANNELS = 256


class EncodeStream:
    """One song's samples on their way into codes; made by `DuoTok.stream`.

    Attributes:
        num_samples: pushed so far.
        num_frames: codes given so far; the song's T after `finish`.
    """

    def __init__(self, tokenizer: DuoTok, sample_rate: int) -> None:
        rate = int(sample_rate) if isinstance(sample_rate, Integral) else 0
        if rate not in RATES:
            raise ValueError(
                f"expected a sample rate of {RATES[0]} to {RATES[-1]} Hz, a whole number; got {sample_rate!r}; "
                "pass the waves' own rate"
            )
        self._tokenizer, self._sample_rate, self._policy = tokenizer, rate, tokenizer.config.windows
        self._tracks = [
            TrackWindows(self._policy, rate, tokenizer.sample_rate, tokenizer.frame_rate) for _ in range(tokenizer.num_tracks)
        ]
        self.num_samples = self.num_frames = 0
        self._ended = False

    def push(self, vocals: Wave, accompaniment: Wave) -> Tensor:
        """Take the next samples, (n,) or (C, n) of each track, and return the codes (2, t) that are ready."""
        return self._codes(self.feed(vocals, accompaniment))

    def finish(self, num_frames: int | None = None) -> Tensor:
        """End the song and return its last codes (2, t).

        Args:
            num_frames: T of the song, where its source had another rate than the samples pushed (separated stems).
        """
        given = self.num_frames
        windows = self.end(num_frames)
        return self._codes(windows)[:, : self.num_frames - given]

    def feed(self, vocals: Wave, accompaniment: Wave) -> list[tuple[int, np.ndarray]]:
        """Like `push`, but return the complete windows, (track, wave (S,)), for `DuoTok.encode_windows`."""
        if self._ended:
            raise ValueError("stream: expected no samples after finish; got some; start another stream")
        waves = [_mono(vocals), _mono(accompaniment)]
        if len(waves[0]) != len(waves[1]):
            raise ValueError(
                f"expected vocals and accompaniment of one length; got {len(waves[0])} and {len(waves[1])} samples; "
                "cut or pad one of them"
            )
        self.num_samples += len(waves[0])
        windows = [(i, window) for i, wave in enumerate(waves) for window in self._tracks[i].push(wave)]
        self.num_frames = self._tracks[0].num_windows * self._policy.stride_frames
        return windows

    def end(self, num_frames: int | None = None) -> list[tuple[int, np.ndarray]]:
        """Like `finish`, but return the windows, (track, wave (S,))."""
        if self._ended:
            raise ValueError("stream: expected one finish; got another; start another stream")
        total = self._tokenizer.num_frames(self.num_samples, self._sample_rate) if num_frames is None else num_frames
        self.num_frames, self._ended = total, True
        count = -(-total // self._policy.stride_frames)
        return [(i, window) for i, track in enumerate(self._tracks) for window in track.finish(count)]

    def _codes(self, windows: list[tuple[int, np.ndarray]]) -> Tensor:
        pieces = [[torch.empty(0, dtype=torch.int64)] for _ in self._tracks]
        for track, codes in self._tokenizer.encode_windows((track, track, wave) for track, wave in windows):
            pieces[track].append(codes)
        return torch.stack([torch.cat(codes) for codes in pieces])


def _mono(wave: Wave) -> np.ndarray:
    """Turn (n,) or (C, n), floats or int16, into (n,) float32."""
    if isinstance(wave, Tensor):
        wave = (wave.float() if wave.is_floating_point() else wave).detach().cpu().numpy()
    array = np.asarray(wave)
    if array.ndim not in (1, 2) or not (array.dtype == np.int16 or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"expected a wave (n,) or (C, n) of floats or int16; got {array.shape} {array.dtype}; convert it")
    if array.ndim == 2 and not 0 < len(array) <= _MAX_CHANNELS:
        raise ValueError(f"expected a wave (C, n) of 1 to {_MAX_CHANNELS} channels; got {array.shape}; transpose it")
    array = array.astype(np.float32) / (32_768 if array.dtype == np.int16 else 1)
    if not np.isfinite(array).all():
        raise ValueError("expected finite samples; got NaN or infinity; repair the wave")
    if (peak := np.abs(array).max(initial=0)) >= LARGEST_SAMPLE:
        raise ValueError(f"expected samples of about -1 to 1; got a peak of {peak:g}; divide floats of 16 bits by 32768")
    return array if array.ndim == 1 else array.mean(axis=0)


def list_songs(waves: Wave | Sequence[Wave]) -> list[Wave]:
    """Part waves (S,), (B, S) or (B, C, S), or a list of (S_i,) and (C, S_i), into songs.

    Raises:
        ValueError: for other shapes.
    """
    if isinstance(waves, list | tuple):
        return list(waves)
    if not isinstance(waves, Tensor | np.ndarray) or waves.ndim not in (1, 2, 3):
        found = getattr(waves, "shape", type(waves).__name__)
        raise ValueError(f"encode: expected waves (S,), (B, S) or (B, C, S); got {found}; reshape them")
    if waves.ndim > 1 and 0 < waves.shape[-1] < len(waves):
        raise ValueError(
            f"encode: expected waves (B, S) or (B, C, S), samples last; got {tuple(waves.shape)}, {len(waves)} songs of "
            f"{waves.shape[-1]} samples; transpose them, or pass a list"
        )
    return [waves] if waves.ndim == 1 else list(waves)

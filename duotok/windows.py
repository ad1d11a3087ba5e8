"""Canonical windows: how a song of any length, arriving in any pieces, becomes pieces of one fixed shape.

Window k covers the frames [stride k - margin, stride k - margin + window) of the song, silence beyond its ends, and answers
for the frames [stride k, stride k + stride). Where a window lies depends on nothing but k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .audio import Resampler


@dataclass(frozen=True)
class WindowPolicy:
    """Canonical windows; part of a tokenizer's fingerprint.

    Attributes:
        window_frames: frames a window sees; 750 are 30 s.
        stride_frames: frames a window answers for; 625 are 25 s. The rest is margin, the smaller half of it in front.
        batch_size: windows computed together, always exactly so many (silence fills the last batch).
    """

    window_frames: int = 750
    stride_frames: int = 625
    batch_size: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.stride_frames <= self.window_frames or self.batch_size < 1:
            raise ValueError(
                f"expected 0 < stride_frames <= window_frames and batch_size >= 1; got {self.stride_frames}, "
                f"{self.window_frames} and {self.batch_size}; correct them"
            )

    @property
    def margin_frames(self) -> int:
        """Frames a window sees before the first it answers for."""
        return (self.window_frames - self.stride_frames) // 2


def count_frames(num_samples: int, sample_rate: int, frame_rate: int) -> int:
    """Count the frames of a song: T = ceil(num_samples * frame_rate / sample_rate), always."""
    return -(-num_samples * frame_rate // sample_rate)


class TrackWindows:
    """One track's samples on their way into windows: resampled, cut, and no more of them held than a window needs."""

    def __init__(self, policy: WindowPolicy, sample_rate: int, model_rate: int, frame_rate: int) -> None:
        """Start a track whose samples come at `sample_rate` for a model that listens at `model_rate` (Hz)."""
        hop = model_rate // frame_rate
        self._window, self._stride = policy.window_frames * hop, policy.stride_frames * hop
        self._resampler = Resampler(sample_rate, model_rate)
        self._held = np.zeros(policy.margin_frames * hop, np.float32)
        self._pending: list[np.ndarray] = []
        self._num_held = len(self._held)
        self.num_windows = 0

    def push(self, samples: np.ndarray) -> list[np.ndarray]:
        """Take samples (n,) float32 and return the windows (S,) that are complete."""
        return self._cut(self._resampler.push(samples))

    def finish(self, num_windows: int) -> list[np.ndarray]:
        """End the track and return the windows (S,) left of `num_windows` in all, filled up with silence."""
        windows = self._cut(self._resampler.finish())
        held = np.concatenate((self._held, *self._pending))
        while self.num_windows < num_windows:
            windows.append(np.pad(held[: self._window], (0, max(0, self._window - len(held)))))
            held = held[self._stride :]
            self.num_windows += 1
        return windows

    def _cut(self, samples: np.ndarray) -> list[np.ndarray]:
        self._pending.append(samples)
        self._num_held += len(samples)
        windows = []
        if self._num_held >= self._window:
            held = np.concatenate((self._held, *self._pending))
            while len(held) >= self._window:
                windows.append(held[: self._window].copy())
                held = held[self._stride :]
            self._held, self._pending, self._num_held = held.copy(), [], len(held)
        self.num_windows += len(windows)
        return windows

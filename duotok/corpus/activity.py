"""How loud the vocals are in each second of a song: the column `vocal_activity`, by which users find or skip instrumentals.

The scale: the level in dBFS, clipped to [-100, 0], plus 100, rounded. So 0 is silence, 100 is full scale (the RMS of a square
wave; a sine's is 97), and a step is 1 dB. Sung seconds are mostly above 60; what a separator leaves of instruments is below.
Our own scale; the level is the RMS of the mono vocals over the second, without weighting.
"""

from __future__ import annotations

import numpy as np

FLOOR_DB = -100


class VocalActivity:
    """Levels of vocals that arrive in blocks; how they are cut changes nothing."""

    def __init__(self, sample_rate: int) -> None:
        """Start a song of `sample_rate` Hz."""
        self._rate, self._held = sample_rate, np.zeros(0, np.float32)
        self._levels: list[int] = []

    def push(self, vocals: np.ndarray) -> None:
        """Take the next samples (n,) float32."""
        held = np.concatenate((self._held, vocals))
        whole = len(held) // self._rate * self._rate
        self._levels += [_level(second) for second in held[:whole].reshape(-1, self._rate)]
        self._held = held[whole:]

    def finish(self, num_seconds: int) -> list[int]:
        """Return the level of each second, 0 to 100; the last one may be shorter.

        Args:
            num_seconds: the song's length, rounded up; separated stems may be a sample longer or shorter.
        """
        levels = self._levels + ([_level(self._held)] if len(self._held) else [])
        return (levels + [0] * num_seconds)[:num_seconds]


def _level(samples: np.ndarray) -> int:
    power = np.square(samples, dtype=np.float64).mean()
    return round(min(0.0, max(float(FLOOR_DB), 10 * np.log10(power + 1e-30)))) - FLOOR_DB

"""T = ceil(n * 25 / rate) for both tracks, whatever the length and the rate; and frame t is what sounds at t / 25 seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from duotok.audio import Resampler
from duotok.stream import EncodeStream
from duotok.windows import WindowPolicy, count_frames

RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000]
MODEL_RATE, FRAME_RATE, LONGEST = 24_000, 25, 200_000
SMALL = WindowPolicy(window_frames=30, stride_frames=25)
NO_MARGIN = WindowPolicy(window_frames=25, stride_frames=25)


@dataclass
class Clock:
    """A tokenizer whose code of a frame is the time that its samples tell: they rise by 1 in 100 s."""

    windows: WindowPolicy
    sample_rate: int = MODEL_RATE
    frame_rate: int = FRAME_RATE
    num_tracks: int = 2
    shapes: set = field(default_factory=set)

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(windows=self.windows)

    def num_frames(self, num_samples: int, sample_rate: int) -> int:
        return count_frames(num_samples, sample_rate, self.frame_rate)

    def encode_windows(self, windows: Iterator) -> Iterator:
        for key, _, wave in windows:
            self.shapes.add(wave.shape)
            frames = wave.reshape(self.windows.window_frames, -1).mean(1, dtype=np.float64)
            kept = frames[self.windows.margin_frames :][: self.windows.stride_frames]
            yield key, torch.from_numpy(np.floor(kept * 100 * FRAME_RATE + 1e-3)).long()


def ramp(rate: int, length: int = LONGEST) -> np.ndarray:
    return (np.arange(length) / rate / 100).astype(np.float32)


def codes_of(clock: Clock, rate: int, *waves: np.ndarray, num_frames: int | None = None) -> torch.Tensor:
    stream = EncodeStream(clock, rate)
    pieces = [stream.push(*waves), stream.finish(num_frames)]
    assert stream.num_frames == sum(piece.shape[1] for piece in pieces)
    return torch.cat(pieces, dim=1)


def frames_in_place(codes: torch.Tensor) -> bool:
    """Whether frame t of both tracks tells the time t; the last three hold the resampler's ringing at the end of the ramp."""
    sure = max(0, codes.shape[1] - 3)
    return torch.equal(codes[:, :sure], torch.arange(sure).expand(2, -1))


def lengths(rate: int) -> list[int]:
    """Around every frame (and so every stride) up to 200,000 samples, and every length of the first frames."""
    frames = range(LONGEST * FRAME_RATE // rate + 1)
    edges = {ceil(frame * Fraction(rate, FRAME_RATE)) + d for frame in frames for d in (-1, 0, 1)}
    return sorted({n for n in edges | set(range(1, 40)) | {LONGEST} if 0 < n <= LONGEST})


@pytest.mark.parametrize("rate", RATES)
def test_every_length_has_its_frames_in_their_place(rate):
    wave, clock = ramp(rate), Clock(SMALL)
    for length in lengths(rate):
        codes = codes_of(clock, rate, wave[:length], wave[:length])
        expected = ceil(Fraction(length * FRAME_RATE, rate))
        assert codes.shape == (2, expected), f"{length} samples at {rate} Hz"
        assert frames_in_place(codes), f"{length} samples at {rate} Hz"
    assert clock.shapes == {(30 * MODEL_RATE // FRAME_RATE,)}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("policy", [WindowPolicy(), NO_MARGIN])
def test_lengths_around_the_strides_of_a_policy(rate, policy):
    stride = policy.stride_frames * rate // FRAME_RATE
    edges = [k * stride + frames * rate // FRAME_RATE for k in (1, 2, 3) for frames in (0, policy.margin_frames)]
    wave, clock = ramp(rate, max(edges) + 2), Clock(policy)
    for length in (edge + d for edge in edges for d in (-1, 0, 1)):
        codes = codes_of(clock, rate, wave[:length], wave[:length])
        assert codes.shape == (2, ceil(Fraction(length * FRAME_RATE, rate))), f"{length} samples at {rate} Hz"


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100])
def test_the_tokenizer_keeps_the_clock(tokenizer, rate):
    """The model itself, around the first frames and the stride of 25 s."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(25 * rate + 1)).astype(np.float32)
    chosen = [1, rate // 25 + 1, 25 * rate, 25 * rate + 1]
    songs = [noise[:length] for length in chosen]
    codes = tokenizer.encode(songs, [np.zeros_like(song) for song in songs], rate)
    assert codes.lengths.tolist() == [ceil(Fraction(length * FRAME_RATE, rate)) for length in chosen]
    for song, length in enumerate(codes.lengths.tolist()):
        assert (codes.tensor[song, :, :length] >= 0).all() and (codes.tensor[song, :, length:] == -1).all()


def test_the_formula_is_exact_where_floats_are_not():
    for num_samples in (1, 881, 883, 44_100 * 3600 * 24, 2**53 + 1, 10**18 + 7):
        for rate in (*RATES, 44_099, 192_000):
            assert count_frames(num_samples, rate, FRAME_RATE) == ceil(Fraction(num_samples * FRAME_RATE, rate))
    assert count_frames(0, 24_000, FRAME_RATE) == 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("separator_rate", [44_100, 8_000])
def test_separated_stems_keep_the_clock_of_their_source(rate, separator_rate):
    """Stems come at the separator's rate, where their length is rounded: T is still that of the source."""
    clock, wave = Clock(SMALL), ramp(rate)
    for length in lengths(rate)[::29]:
        resampler = Resampler(rate, separator_rate)
        stem = np.concatenate((resampler.push(wave[:length]), resampler.finish()))
        assert abs(len(stem) - length * separator_rate / rate) <= 1
        expected = ceil(Fraction(length * FRAME_RATE, rate))
        codes = codes_of(clock, separator_rate, stem, stem, num_frames=expected)
        assert codes.shape == (2, expected)
        assert frames_in_place(codes)

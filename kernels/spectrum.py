"""Power spectra of framed audio: what the spectral ops share.

A clip is padded at both of its own ends and cut into frames; frame t begins `pad` samples before sample t * hop_length, so
pad = n_fft // 2 centres it there, as librosa and torch.stft do. Reflection goes on as often as needed: clips shorter than a
window and ragged batches are framed like any other.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal

import torch
from torch import Tensor

_WINDOWS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "rectangular": torch.ones,
}


@dataclass(frozen=True)
class Framing:
    """How a wave becomes frames.

    Attributes:
        sample_rate: of the waves, in Hz.
        n_fft, win_length, hop_length: in samples; the window stands in the middle of the n_fft samples of a frame.
        window: "hann", "hamming", "blackman" (all periodic, as spectral analysis wants them) or "rectangular".
        pad: samples added at both ends before framing; None adds n_fft // 2, which centres the frames; 0 adds none.
        pad_mode: "reflect" without repeating the end, or "constant" for zeros.

    Raises:
        ValueError: if a value is out of range.
    """

    sample_rate: int = 24_000
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 240
    window: Literal["hann", "hamming", "blackman", "rectangular"] = field(default="hann", kw_only=True)
    pad: int | None = field(default=None, kw_only=True)
    pad_mode: Literal["reflect", "constant"] = field(default="reflect", kw_only=True)

    def __post_init__(self) -> None:
        self._expect_kind(Integral, "a whole number", "n_fft", "win_length", "hop_length", *(("pad",) * (self.pad is not None)))
        self._expect_kind(Real, "a number", "sample_rate")
        for name in ("sample_rate", "n_fft", "hop_length"):
            self._expect(getattr(self, name) >= 1, name, "at least 1")
        self._expect(1 <= self.win_length <= self.n_fft, "win_length", f"1 to n_fft = {self.n_fft}")
        self._expect(self.pad is None or 0 <= self.pad <= self.n_fft, "pad", f"None or 0 to n_fft = {self.n_fft}")
        self._expect(self.window in _WINDOWS, "window", f"one of {', '.join(_WINDOWS)}")
        self._expect(self.pad_mode in ("reflect", "constant"), "pad_mode", "reflect or constant")

    def _expect(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            kind = type(self).__name__
            raise ValueError(f"{kind}.{name}: expected {expected}; got {getattr(self, name)!r}; correct this value")

    def _expect_kind(self, kind: type, expected: str, *names: str) -> None:
        for name in names:
            self._expect(isinstance(getattr(self, name), kind), name, expected)

    @property
    def num_padded(self) -> int:
        """Samples added at each end of a clip."""
        return self.n_fft // 2 if self.pad is None else self.pad

    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Count the frames of a clip, (S + 2 pad - n_fft) // hop_length + 1 or none; a tensor (B,) for a batch."""
        return num_frames(num_samples, self.n_fft, self.hop_length, self.num_padded)

    def analysis_window(self) -> Tensor:
        """Make the window, (win_length,) float64 on the CPU, the same tensor each time."""
        return _window(self.window, self.win_length)


def num_frames(num_samples: int | Tensor, n_fft: int, hop_length: int, pad: int) -> int | Tensor:
    """Count the frames of a clip with `pad` samples more at both ends; a tensor (B,) for a batch."""
    count = (num_samples + 2 * pad - n_fft) // hop_length + 1
    return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)


def power_spectrum(
    wave: Tensor, framing: Framing, power: float = 2.0, lengths: Tensor | None = None, window: Tensor | None = None
) -> Tensor:
    """Compute |STFT|^power.

    Args:
        wave: (B, S), or (B, C, S) for the mean of its channels; float, or int16 read as sample / 32,768.
        framing: how it becomes frames.
        power: 2 for power, 1 for magnitude.
        lengths: (B,) int64 valid samples, at least 1; None if all S are.
        window: (win_length,) to use instead of the framing's own.

    Returns:
        (B, T, n_fft // 2 + 1) float32 (float64 for float64 input), T = framing.num_frames(S); frames beyond a clip's own
        end are zero.
    """
    wave = wave / 32768 if wave.dtype == torch.int16 else wave.to(torch.promote_types(wave.dtype, torch.float32))
    wave = wave.mean(1) if wave.ndim == 3 else wave
    num_frames = framing.num_frames(wave.shape[1])
    if len(wave) == 0 or num_frames == 0:  # not every FFT takes nothing
        return wave.new_zeros(len(wave), num_frames, framing.n_fft // 2 + 1)
    window = framing.analysis_window() if window is None else window
    frames = _pad(wave, framing, lengths).unfold(1, framing.n_fft, framing.hop_length)  # (B, T, n_fft)
    spectrum = torch.fft.rfft(frames * centred(window.to(wave), framing.n_fft))
    out = spectrum.real.square() + spectrum.imag.square() if power == 2 else spectrum.abs().pow(power)
    if lengths is not None:
        beyond = torch.arange(out.shape[1], device=wave.device) >= framing.num_frames(lengths)[:, None]
        out = out.masked_fill(beyond[..., None], 0)
    return out


def _pad(wave: Tensor, framing: Framing, lengths: Tensor | None) -> Tensor:
    """Pad each clip of (B, S) at its own ends: (B, S + 2 pad)."""
    pad, num_samples = framing.num_padded, wave.shape[1]
    position = torch.arange(-pad, num_samples + pad, device=wave.device)
    if lengths is None:  # all but the ends stays as it is
        if framing.pad_mode == "constant":
            return torch.nn.functional.pad(wave, (pad, pad))
        before, behind = (wave[:, reflect(ends, num_samples)] for ends in (position[:pad], position[pad + num_samples :]))
        return torch.cat((before, wave, behind), dim=1)
    padded = wave.gather(1, reflect(position, lengths[:, None]))
    outside = (position < 0) | (position >= lengths[:, None])
    return padded if framing.pad_mode == "reflect" else padded.masked_fill(outside, 0)


LOGS = ("db", "ln", "log10", "none")


def log_of(sums: Tensor, log: str, floor: float) -> Tensor:
    """Take the logarithm of (...), raised to the floor first: "db" (10 log10), "ln", "log10" or "none"."""
    if log == "none":
        return sums
    raised = sums.clamp(min=floor)
    return raised.log() if log == "ln" else raised.log10() * (10 if log == "db" else 1)


def reflect(index: Tensor, size: int | Tensor) -> Tensor:
    """Fold sample positions (n,) of any sign into [0, size) by reflection that does not repeat the end; size may be (B, 1)."""
    period = 2 * (size - 1)
    folded = index.remainder(period.clamp(min=1) if isinstance(period, Tensor) else max(period, 1))
    return torch.minimum(folded, period - folded).clamp(min=0)


def centred(window: Tensor, n_fft: int) -> Tensor:
    """Put a window (W,) in the middle of (n_fft,)."""
    left = (n_fft - len(window)) // 2
    return torch.nn.functional.pad(window, (left, n_fft - len(window) - left))


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def _window(name: str, win_length: int) -> Tensor:
    return _WINDOWS[name](win_length, dtype=torch.float64)


def check_wave(op: str, wave: Tensor, lengths: Tensor | None) -> None:
    """Refuse what no backend of the op takes: a wave that is not (B, S) or (B, C, S), or lengths that do not fit it.

    Lengths on a GPU are not read, which would wait for it, nor are those of a compiled graph.

    Raises:
        ValueError: for such a wave or such lengths.
    """
    if wave.ndim not in (2, 3) or 0 in wave.shape[1:]:
        raise ValueError(
            f"{op}: expected a wave (B, S) or (B, C, S) of at least one sample; got {tuple(wave.shape)}; reshape the wave"
        )
    if not wave.is_floating_point() and wave.dtype != torch.int16:
        raise ValueError(f"{op}: expected a wave of floats or int16; got {wave.dtype}; convert the wave")
    if lengths is None:
        return
    if lengths.dtype != torch.int64 or lengths.shape != wave.shape[:1] or lengths.device != wave.device:
        raise ValueError(
            f"{op}: expected int64 lengths of {wave.shape[0]} clips on {wave.device}; "
            f"got {lengths.dtype} {tuple(lengths.shape)} on {lengths.device}; convert the lengths"
        )
    if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = lengths[(lengths < 1) | (lengths > wave.shape[-1])]
        if len(wrong):
            raise ValueError(
                f"{op}: expected lengths of 1 to {wave.shape[-1]} samples; got {wrong[0]}; leave out clips without samples"
            )

"""Drop-in spectrograms: torchaudio's classes, with the same constructors, state_dict keys and results, over `filter_spectrum`.

    from duotok.kernels.modules import MelSpectrogram, ChromaSpectrogram

`MelSpectrogram` is torchaudio.transforms', `ChromaSpectrogram` torchaudio.prototype.transforms' (torchaudio 2.1 to 2.8). Both
take int16, too, and clips shorter than a window, and refuse what the originals have besides: a complex spectrum (power None), a
pad_mode replicate or circular, bands without width. Windows and banks are buffers: loaded, moved or written to, they are used
as they are, save after writes through `.data` or numpy, which torch does not count: `buffer.mul_(1)` makes those known.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chroma import pitch_filter_bank
from .filter_spectrum import filter_spectrum
from .log_mel import MelSpec, mel_filter_bank
from .spectrum import Framing, check_wave, power_spectrum

Normalized = bool | Literal["window", "frame_length"]


class MelSpectrogram(nn.Module):
    """`torchaudio.transforms.MelSpectrogram`: (..., F, T) from a waveform (..., S).

    With `log` it takes the logarithm in the same pass: "db" is what AmplitudeToDB("power") with top_db None makes of it, "ln"
    and "log10" are the logarithms of max(sum, floor). `onesided` has no influence, as in the original.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        pad: int = 0,
        n_mels: int = 128,
        window_fn: Callable[..., Tensor] = torch.hann_window,
        power: float = 2.0,
        normalized: Normalized = False,
        wkwargs: dict[str, Any] | None = None,
        center: bool = True,
        pad_mode: Literal["reflect", "constant"] = "reflect",
        onesided: bool | None = None,
        norm: Literal["slaney"] | None = None,
        mel_scale: Literal["htk", "slaney"] = "htk",
        *,
        log: Literal["none", "db", "ln", "log10"] = "none",
        floor: float = 1e-10,
    ) -> None:
        """Take the original's arguments, and the logarithm.

        Raises:
            ValueError: for a value out of range, or a pad_mode other than those two.
        """
        super().__init__()
        # The original ends its bins and bands at sample_rate // 2, which an odd rate halves short.
        spec = MelSpec(
            sample_rate // 2 * 2, n_fft, n_fft, 1, n_mels, f_min, f_max, power, mel_scale, norm, log, floor
        )  # fmt: skip
        self.sample_rate, self.n_mels, self.f_min, self.f_max = sample_rate, n_mels, f_min, f_max
        self.log, self.floor = log, floor
        self.spectrogram = _Spectrogram(
            n_fft, win_length, hop_length, pad, window_fn, power, normalized, wkwargs, center, pad_mode
        )
        self.n_fft, self.pad, self.power, self.normalized = n_fft, pad, power, normalized
        self.win_length, self.hop_length = self.spectrogram.win_length, self.spectrogram.hop_length
        self.mel_scale = _Bank(mel_filter_bank(spec))

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute (..., F, T) from (..., S)."""
        return self.spectrogram.filtered(waveform, self.mel_scale.fb, self.log, self.floor)


class ChromaSpectrogram(nn.Module):
    """`torchaudio.prototype.transforms.ChromaSpectrogram`: (..., n_chroma, T) from a waveform (..., S)."""

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        *,
        win_length: int | None = None,
        hop_length: int | None = None,
        pad: int = 0,
        window_fn: Callable[..., Tensor] = torch.hann_window,
        power: float = 2.0,
        normalized: Normalized = False,
        wkwargs: dict[str, Any] | None = None,
        center: bool = True,
        pad_mode: Literal["reflect", "constant"] = "reflect",
        n_chroma: int = 12,
        tuning: float = 0.0,
        ctroct: float = 5.0,
        octwidth: float | None = 2.0,
        norm: float = 2,
        base_c: bool = True,
    ) -> None:
        """Take the original's arguments.

        Raises:
            ValueError: for a value out of range, or a pad_mode other than those two.
        """
        super().__init__()
        self.spectrogram = _Spectrogram(
            n_fft, win_length, hop_length, pad, window_fn, power, normalized, wkwargs, center, pad_mode
        )
        # As in MelSpectrogram; its bins, too, end there if n_fft is odd.
        even = sample_rate // 2 * 2, n_fft // 2 * 2
        self.chroma_scale = _Bank(pitch_filter_bank(*even, n_chroma, tuning, ctroct, octwidth, norm, base_c))

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute (..., n_chroma, T) from (..., S)."""
        return self.spectrogram.filtered(waveform, self.chroma_scale.fb)


class _Bank(nn.Module):
    """Holds a bank (n_fft // 2 + 1, F) under the original's name."""

    def __init__(self, bank: Tensor) -> None:
        super().__init__()
        self.register_buffer("fb", bank.to(torch.get_default_dtype(), copy=True))

    def forward(self, spectrum: Tensor) -> Tensor:
        """Sum the bands (..., F, T) of a spectrum (..., n_fft // 2 + 1, T)."""
        return (spectrum.mT @ self.fb.to(spectrum)).mT


class _Spectrogram(nn.Module):
    """Holds the window (win_length,) and the options of torchaudio.transforms.Spectrogram under their names."""

    def __init__(
        self,
        n_fft: int,
        win_length: int | None,
        hop_length: int | None,
        pad: int,
        window_fn: Callable[..., Tensor],
        power: float,
        normalized: Normalized,
        wkwargs: dict[str, Any] | None,
        center: bool,
        pad_mode: str,
    ) -> None:
        super().__init__()
        if normalized not in (False, True, "window", "frame_length"):
            raise ValueError(
                f"Spectrogram: expected normalized to be a bool, window or frame_length; got {normalized!r}; correct it"
            )
        if not (isinstance(power, Real) and power > 0):
            raise ValueError(f"Spectrogram: expected power to be a positive number; got {power!r}; take 2 or 1")
        self.n_fft, self.win_length = n_fft, win_length or n_fft
        self.hop_length = self.win_length // 2 if hop_length is None else hop_length
        self.pad, self.power, self.normalized, self.center, self.pad_mode = pad, power, normalized, center, pad_mode
        self.framing = Framing(
            n_fft=n_fft, win_length=self.win_length, hop_length=self.hop_length, pad=None if center else 0, pad_mode=pad_mode
        )
        self.register_buffer("window", window_fn(self.win_length, **(wkwargs or {})))

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the spectrum (..., n_fft // 2 + 1, T) of a waveform (..., S)."""
        wave = self._readied(waveform)
        check_wave("Spectrogram", wave, None)
        out = power_spectrum(wave, self.framing, self.power, window=self.window).mT
        return out.reshape(*waveform.shape[:-1], *out.shape[1:])

    def filtered(self, waveform: Tensor, bank: Tensor, log: str = "none", floor: float = 1e-10) -> Tensor:
        """Compute bands (..., F, T) of a waveform (..., S)."""
        wave = self._readied(waveform)
        out = filter_spectrum(wave, self.framing, self.window, bank, self.power, log, floor, bands_first=True)
        return out.view(*waveform.shape[:-1], *out.shape[1:])

    def _readied(self, waveform: Tensor) -> Tensor:
        """Bring a waveform (..., S) to (B, S), padded, of the wider dtype of it and the window, and normalized."""
        wave = F.pad(waveform.reshape(-1, waveform.shape[-1]), (self.pad, self.pad))
        dtype = torch.promote_types(wave.dtype, self.window.dtype)
        if wave.is_floating_point():
            wave = wave.to(dtype)
        elif wave.dtype == torch.int16 and (self.normalized or dtype == torch.float64):
            wave = wave.to(torch.promote_types(dtype, torch.float32)) / 32768
        if self.normalized and wave.is_floating_point():  # what is neither is refused as it came
            wave = wave * (self.n_fft**-0.5 if self.normalized == "frame_length" else self.window.square().sum().rsqrt())
        return wave

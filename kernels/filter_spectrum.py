"""Filter banks over spectra, with a window and a bank of the caller's own: what the drop-in spectrograms stand on.

filter_spectrum(wave (B, S) | (B, C, S), framing, window (W,), bank (K, F)) -> (B, T, F),  K = n_fft // 2 + 1
"""

from __future__ import annotations

import functools
from numbers import Real

import torch
from torch import Tensor

from . import native
from .dispatch import Op
from .spectrum import LOGS, Framing, check_wave, log_of, num_frames, power_spectrum


@Op
def filter_spectrum(
    wave: Tensor,
    framing: Framing,
    window: Tensor,
    bank: Tensor,
    power: float = 2.0,
    log: str = "none",
    floor: float = 1e-10,
    bands_first: bool = False,
) -> Tensor:
    """Compute log(max(|STFT|^power bank, floor)).

    A bank whose bands are runs of few bins costs little, whatever their number; gradients reach wave, window and bank.

    Args:
        wave: (B, S), or (B, C, S) for the mean of its channels; in [-1, 1] of any floating dtype, or int16.
        framing: how it becomes frames; its window is not used.
        window: (win_length,) of the framing.
        bank: (n_fft // 2 + 1, F).
        power: 2 for power, 1 for magnitude.
        log: "none", "db" (10 log10), "ln" or "log10".
        floor: sums are raised to this before the logarithm.
        bands_first: return (B, F, T).

    Returns:
        (B, T, F), T = framing.num_frames(S), in wave's dtype (float32 for int16).

    Raises:
        ValueError: for a wave of another shape or dtype, a window or bank that does not fit the framing, or another power, log
            or floor.
    """
    spectrum = power_spectrum(wave, framing, power, window=window)
    out = log_of(spectrum @ bank.to(spectrum), log, floor)
    out = out.transpose(1, 2).contiguous() if bands_first else out
    return out.to(wave.dtype) if wave.is_floating_point() else out


@filter_spectrum.checked
def _check(
    wave: Tensor,
    framing: Framing,
    window: Tensor,
    bank: Tensor,
    power: float = 2.0,
    log: str = "none",
    floor: float = 1e-10,
    bands_first: bool = False,
) -> None:
    check_wave("filter_spectrum", wave, None)
    if log not in LOGS:
        raise ValueError(f"filter_spectrum: expected log to be db, ln, log10 or none; got {log!r}; correct it")
    for name, value in (("power", power), ("floor", floor)):
        if not isinstance(value, Real) or (name == "power" and not value > 0):
            raise ValueError(f"filter_spectrum: expected power positive and floor a number; got {name} {value!r}; correct it")
    if window.shape != (framing.win_length,):
        raise ValueError(
            f"filter_spectrum: expected a window ({framing.win_length},); got {tuple(window.shape)}; "
            "make it as long as the framing's win_length"
        )
    num_bins = framing.n_fft // 2 + 1
    if bank.ndim != 2 or len(bank) != num_bins:
        raise ValueError(
            f"filter_spectrum: expected a bank ({num_bins}, F) for n_fft {framing.n_fft}; got {tuple(bank.shape)}; "
            "make it for the framing's n_fft"
        )


def _why_not(
    device: str,
    wave: Tensor,
    framing: Framing,
    window: Tensor,
    bank: Tensor,
    power: float = 2.0,
    log: str = "none",
    floor: float = 1e-10,
    bands_first: bool = False,
) -> str | None:
    return native.why_not_spectra(device, wave, framing, power, window, bank)


@filter_spectrum.register("cuda", unless=functools.partial(_why_not, "cuda"))
@filter_spectrum.register("cpu", unless=functools.partial(_why_not, "cpu"))
def _native(
    wave: Tensor,
    framing: Framing,
    window: Tensor,
    bank: Tensor,
    power: float = 2.0,
    log: str = "none",
    floor: float = 1e-10,
    bands_first: bool = False,
) -> Tensor:
    # An operator's first call imports the compiler, a second and a half of every process.
    compute = _operator if torch.compiler.is_compiling() else _compute
    return compute(
        wave,
        window,
        bank,
        framing.n_fft,
        framing.hop_length,
        framing.num_padded,
        framing.pad_mode,
        power,
        log,
        floor,
        bands_first,
    )


def _compute(
    wave: Tensor,
    window: Tensor,
    bank: Tensor,
    n_fft: int,
    hop_length: int,
    pad: int,
    pad_mode: str,
    power: float,
    log: str,
    floor: float,
    bands_first: bool,
) -> Tensor:
    framing = Framing(n_fft=n_fft, win_length=len(window), hop_length=hop_length, pad=pad, pad_mode=pad_mode)
    mel = native.Mel(bank, log, floor)
    return native.spectra(wave, framing, power=power, bands_first=bands_first, window=window, mel=mel)[0]


# Opaque to torch.compile, which cannot trace a ctypes call.
_operator = torch.library.custom_op("duotok::filter_spectrum", _compute, mutates_args=(), device_types=("cpu", "cuda"))


@_operator.register_fake
def _(wave: Tensor, window: Tensor, bank: Tensor, n_fft: int, hop_length: int, pad: int, *rest: object) -> Tensor:
    return native.empty(wave, num_frames(wave.shape[-1], n_fft, hop_length, pad), bank.shape[1], bool(rest[-1]))

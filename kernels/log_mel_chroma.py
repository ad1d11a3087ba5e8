"""Log-Mel spectrograms and chromagrams in one pass over one spectrum.

log_mel_chroma(wave (B, S) | (B, C, S), mel_spec, chroma_spec, lengths=None) -> (B, T, F), (B, T, 12)
"""

from __future__ import annotations

import functools
from dataclasses import fields

from torch import Tensor

from . import native
from .chroma import ChromaSpec, chroma, native_chroma
from .dispatch import Op
from .log_mel import MelSpec, log_mel, native_mel
from .spectrum import Framing, check_wave

_FRAMING = tuple(field.name for field in fields(Framing))


@Op
def log_mel_chroma(
    wave: Tensor, mel_spec: MelSpec, chroma_spec: ChromaSpec, lengths: Tensor | None = None, bands_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute what `log_mel` and `chroma` do, from one spectrum.

    Args:
        wave: (B, S), or (B, C, S) for the mean of its channels; in [-1, 1] of any floating dtype, or int16.
        mel_spec, chroma_spec: their definitions; both must make the same frames.
        lengths: (B,) int64 valid samples of each clip, at least 1; None if all S are.
        bands_first: return (B, F, T) and (B, 12, T).

    Returns:
        Log-Mel bands (B, T, F) and pitch classes (B, T, 12).

    Raises:
        ValueError: if the specs make different frames, for a wave of another shape or dtype, or lengths that do not fit it.
    """
    return (
        log_mel.reference(wave, mel_spec, lengths, bands_first),
        chroma.reference(wave, chroma_spec, lengths, bands_first),
    )


@log_mel_chroma.checked
def _check(
    wave: Tensor, mel_spec: MelSpec, chroma_spec: ChromaSpec, lengths: Tensor | None = None, bands_first: bool = False
) -> None:
    check_wave("log_mel_chroma", wave, lengths)
    for name in _FRAMING:
        ours, theirs = getattr(mel_spec, name), getattr(chroma_spec, name)
        if ours != theirs:
            raise ValueError(
                f"log_mel_chroma: expected specs of the same frames; got {name} {ours!r} and {theirs!r}; make them equal, "
                "or call log_mel and chroma"
            )


def _why_not(
    device: str,
    wave: Tensor,
    mel_spec: MelSpec,
    chroma_spec: ChromaSpec,
    lengths: Tensor | None = None,
    bands_first: bool = False,
) -> str | None:
    if mel_spec.power != 2:
        return f"needs power 2, of which the pitch classes are; got {mel_spec.power}"
    return native.why_not_spectra(device, wave, mel_spec, 2)


@log_mel_chroma.register("cuda", unless=functools.partial(_why_not, "cuda"))
@log_mel_chroma.register("cpu", unless=functools.partial(_why_not, "cpu"))
def _native(
    wave: Tensor, mel_spec: MelSpec, chroma_spec: ChromaSpec, lengths: Tensor | None = None, bands_first: bool = False
) -> tuple[Tensor, Tensor]:
    return _operator(wave, lengths, bands_first, mel_spec, chroma_spec)


@native.operator("log_mel_chroma", MelSpec, ChromaSpec)
def _operator(
    wave: Tensor, lengths: Tensor | None, bands_first: bool, mel_spec: MelSpec, chroma_spec: ChromaSpec
) -> tuple[Tensor, Tensor]:
    mel, chroma = native_mel(mel_spec), native_chroma(chroma_spec)
    return native.spectra(wave, mel_spec, lengths=lengths, bands_first=bands_first, mel=mel, chroma=chroma)

"""The compiled library (csrc/duotok_native.h), loaded once on first use through ctypes.

    why_not() -> None or the reason why there is no library
    mel_chroma(wave (B, S), window, hop_length, ...) -> (mel (B, T, F) | None, chroma (B, T, 12) | None)

An install without a C++ compiler has no library; the ops' references serve then. A call releases the interpreter's lock
and uses as many threads as torch does, unless told otherwise.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ABI_VERSION = 1
N_FFT_SIZES = (256, 512, 1024, 2048, 4096)

_LOG_MODES = {"none": 0, "db": 1, "ln": 2}
_SAMPLE_TYPES = {torch.float32: 0, torch.int16: 1}


@dataclass(frozen=True)
class Bands:
    """A filter bank whose bands are runs of bins.

    Attributes:
        first: (F,) int32 lowest bin of each band.
        offset: (F + 1,) int64 where the weights of each band begin; the last is their number.
        weights: float32, band after band.
        num_bins: of the spectrum that the bank is for.
    """

    first: Tensor
    offset: Tensor
    weights: Tensor
    num_bins: int


@torch.compiler.assume_constant_result
def why_not() -> str | None:
    """Say why the compiled library cannot be used; None if it can."""
    library = _load()
    return library if isinstance(library, str) else None


def why_not_spectrum(wave: Tensor, n_fft: int, power: float, lengths: Tensor | None) -> str | None:
    """Say why `mel_chroma` cannot take these arguments; None if it can."""
    if why_not() is not None:
        return why_not()
    if wave.device.type != "cpu" or (lengths is not None and lengths.device.type != "cpu"):
        return f"needs CPU tensors; got {wave.device.type if wave.device.type != 'cpu' else lengths.device.type}"
    if wave.dtype not in _SAMPLE_TYPES:
        return f"needs float32 or int16 samples; got {wave.dtype}"
    if wave.requires_grad and torch.is_grad_enabled():
        return "needs a wave without gradient, for it has no backward; got one that requires it"
    if wave.dim() != 2 or wave.shape[1] == 0:
        return f"needs a wave (B, S) of at least one sample; got {tuple(wave.shape)}"
    if lengths is not None and (lengths.dtype != torch.int64 or lengths.shape != wave.shape[:1]):
        return f"needs int64 lengths, one per clip; got {lengths.dtype} {tuple(lengths.shape)} for {wave.shape[0]} clips"
    if n_fft not in N_FFT_SIZES:
        return f"needs n_fft to be a power of two from 256 to 4096; got {n_fft}"
    if power not in (1, 2):
        return f"needs power 1 or 2; got {power}"
    return None


def cpu_isa() -> str:
    """Name the instruction set in use: avx512, avx2, simd128 or plain."""
    return _library().duotok_cpu_isa().decode()


def use_cpu_isa(name: str | None) -> None:
    """Use the named instruction set in this process, None for the best; for tests and measurements.

    Raises:
        ValueError: if this build or this processor does not have it.
    """
    _check(_library().duotok_use_cpu_isa(None if name is None else name.encode()))


def bands(bank: Tensor) -> Bands:
    """Turn a dense bank (bins, F) into runs of bins.

    A band without weight keeps one bin of weight zero, so that NaN reaches it as in a dense product.
    """
    num_bins = bank.shape[0]
    bins = torch.arange(num_bins)[:, None]
    used = bank != 0
    end = torch.where(used, bins + 1, 1).amax(0)
    first = torch.where(used, bins, num_bins).amin(0).minimum(end - 1)
    offset = torch.cat((end.new_zeros(1), (end - first).cumsum(0)))
    inside = (bins >= first) & (bins < end)
    return Bands(first.int(), offset, bank.T[inside.T].float(), num_bins)


def mel_chroma(
    wave: Tensor,
    window: Tensor,
    hop_length: int,
    *,
    power: int = 2,
    lengths: Tensor | None = None,
    mel_bands: Bands | None = None,
    log: str = "none",
    floor: float = 0.0,
    chroma_bank: Tensor | None = None,
    normalize_chroma: bool = False,
    num_threads: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute log-Mel bands, chroma or both from one spectrum.

    Args:
        wave: (B, S) float32 or int16 on the CPU, strided as it likes.
        window: (n_fft,), n_fft a power of two from 256 to 4096.
        hop_length: in samples.
        power: 2 for power, 1 for magnitude.
        lengths: (B,) int64 valid samples of each clip, 1 to S; None if all S are.
        mel_bands: F bands; None for no Mel output.
        log: "none", "db" or "ln" of the sums.
        floor: the sums are raised to it first, unless log is "none".
        chroma_bank: (n_fft // 2 + 1, 12); None for no chroma.
        normalize_chroma: divide each frame by its largest value.
        num_threads: at least 1; None for torch's number. Results do not depend on it.

    Returns:
        (B, T, F) and (B, T, 12) float32, None where not asked for; T = S // hop_length + 1.

    Raises:
        ValueError: for arguments that `why_not_spectrum` or the library refuses.
        MemoryError: if there is none for the tables of a call.
    """
    library = _library()
    reason = why_not_spectrum(wave, len(window), power, lengths)
    if reason is not None:
        raise ValueError(f"mel_chroma {reason}")
    wave = wave if wave.stride(1) == 1 else wave.contiguous()
    window = window.to(torch.float32).contiguous()
    shape = (wave.shape[0], wave.shape[1] // max(hop_length, 1) + 1)
    args = _Args(
        wave=wave.data_ptr(),
        batch=wave.shape[0],
        samples=wave.shape[1],
        row_stride=wave.stride(0),
        hop=hop_length,
        window=window.data_ptr(),
        n_fft=len(window),
        sample_type=_SAMPLE_TYPES[wave.dtype],
        power=power,
        num_threads=torch.get_num_threads() if num_threads is None else num_threads,
    )
    if lengths is not None:
        lengths = lengths.contiguous()
        args.lengths = lengths.data_ptr()
    mel = chroma = None
    if mel_bands is not None:
        mel = _set_mel(args, shape, mel_bands, log, floor)
    if chroma_bank is not None:
        chroma_bank = chroma_bank.to(torch.float32).contiguous()
        chroma = _set_chroma(args, shape, chroma_bank, normalize_chroma)
    # The output of no clips has no address, which the library would take for an output not wanted.
    if len(wave):
        _check(library.duotok_mel_chroma(ctypes.byref(args)))
    return mel, chroma


class _Args(ctypes.Structure):
    """duotok_mel_chroma_args of csrc/duotok_native.h, field by field."""

    _fields_ = [
        ("wave", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("hop", ctypes.c_int64),
        ("window", ctypes.c_void_p),
        ("n_fft", ctypes.c_int32),
        ("sample_type", ctypes.c_int32),
        ("power", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
        ("mel", ctypes.c_void_p),
        ("mel_size", ctypes.c_int64),
        ("band_first", ctypes.c_void_p),
        ("band_offset", ctypes.c_void_p),
        ("band_weights", ctypes.c_void_p),
        ("band_size", ctypes.c_int64),
        ("num_bands", ctypes.c_int32),
        ("band_bins", ctypes.c_int32),
        ("log_mode", ctypes.c_int32),
        ("floor", ctypes.c_float),
        ("chroma", ctypes.c_void_p),
        ("chroma_size", ctypes.c_int64),
        ("chroma_bank", ctypes.c_void_p),
        ("chroma_bins", ctypes.c_int32),
        ("chroma_normalize", ctypes.c_int32),
    ]


def _set_mel(args: _Args, shape: tuple[int, int], bank: Bands, log: str, floor: float) -> Tensor:
    args.num_bands = len(bank.first)
    mel = torch.empty(*shape, args.num_bands)
    args.mel, args.mel_size = mel.data_ptr(), mel.numel()
    args.band_first, args.band_offset, args.band_weights = (t.data_ptr() for t in (bank.first, bank.offset, bank.weights))
    args.band_size, args.band_bins = len(bank.weights), bank.num_bins
    args.log_mode, args.floor = _LOG_MODES[log], floor
    return mel


def _set_chroma(args: _Args, shape: tuple[int, int], bank: Tensor, normalize: bool) -> Tensor:
    chroma = torch.empty(*shape, 12)
    args.chroma, args.chroma_size = chroma.data_ptr(), chroma.numel()
    args.chroma_bank, args.chroma_bins, args.chroma_normalize = bank.data_ptr(), bank.shape[0], normalize
    return chroma


def _check(status: int) -> None:
    if status:
        raise (MemoryError if status == 2 else ValueError)(_library().duotok_last_error().decode())


def _library() -> ctypes.CDLL:
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(f"expected the compiled library; it {library}")
    return library


@functools.cache
def _load() -> ctypes.CDLL | str:
    """Load the library, or say why not."""
    path = Path(__file__).with_name("_native.dll" if os.name == "nt" else "_native.so")
    if not path.exists():
        return "needs the compiled library; this install was built without a compiler; reinstall with g++"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"needs the compiled library; {path} does not load ({error}); reinstall with g++"
    library.duotok_abi_version.restype = ctypes.c_int32
    found = library.duotok_abi_version()
    if found != ABI_VERSION:
        return f"needs the compiled library with ABI {ABI_VERSION}; {path} has {found}; reinstall"
    library.duotok_cpu_isa.restype = library.duotok_last_error.restype = ctypes.c_char_p
    library.duotok_use_cpu_isa.argtypes = [ctypes.c_char_p]
    library.duotok_mel_chroma.argtypes = [ctypes.POINTER(_Args)]
    return library

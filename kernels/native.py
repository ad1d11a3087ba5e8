"""The compiled libraries (csrc/duotok_native.h), each loaded once on first use through ctypes.

    why_not(device) -> None, or the reason why there is no library for the device
    spectra(wave (B, S) | (B, C, S), framing, ...) -> (bands (B, T, F), chroma (B, T, 12))

`_native` computes on the CPU and `_native_cuda` on a GPU; an install without g++ or nvcc lacks one or both, and the ops'
references serve then. A call releases the interpreter's lock; on the CPU it uses as many threads as torch does.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .available import constant, why_not_plain
from .spectrum import Framing, centred

ABI_VERSION = 2
N_FFT_SIZES = (256, 512, 1024, 2048, 4096)

_LOG_MODES = {"none": 0, "db": 1, "ln": 2, "log10": 3}
_PAD_MODES = {"reflect": 0, "constant": 1}
_SAMPLE_TYPES = {torch.float32: 0, torch.int16: 1}
_ERRORS = {1: ValueError, 2: MemoryError}
# Device -> library, what its installation needs.
_LIBRARIES = {"cpu": ("_native", "g++"), "cuda": ("_native_cuda", "nvcc")}


class Mel(NamedTuple):
    """Bands wanted of a spectrum: a bank (n_fft // 2 + 1, F), and what follows its sums; no bank for no bands."""

    bank: Tensor | None = None
    log: str = "none"
    floor: float = 0.0
    mean: float = 0.0
    scale: float = 1.0


class Chroma(NamedTuple):
    """Pitch classes wanted of a spectrum: a bank (n_fft // 2 + 1, 12); no bank for none."""

    bank: Tensor | None = None
    normalize: bool = False


@constant
def why_not(device: str = "cpu") -> str | None:
    """Say why the compiled library for "cpu" or "cuda" cannot be used; None if it can."""
    library = _load(device)
    return library if isinstance(library, str) else None


def why_not_spectra(device: str, wave: Tensor, framing: Framing, power: float, *tables: Tensor) -> str | None:
    """Say why `spectra` cannot compute this on the device; None if it can.

    Args:
        device: "cpu" or "cuda".
        wave: (B, S) or (B, C, S).
        framing: how it becomes frames.
        power: of the spectrum.
        tables: the window (win_length,) and banks (n_fft // 2 + 1, F) that may require gradients.
    """
    if wave.device.type != device:
        return f"needs a {device.upper()} tensor; got {wave.device.type}"
    if why_not(device) is not None:
        return why_not(device)
    if device == "cuda" and (capability := torch.cuda.get_device_capability(wave.device)) < (8, 0):
        return f"needs an architecture of sm_80 or later; got sm_{capability[0]}{capability[1]}"
    if wave.dtype not in _SAMPLE_TYPES:
        return f"needs float32 or int16 samples; got {wave.dtype}"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (wave, *tables)):
        return "needs tensors without gradient, for it has no backward; got one that requires it"
    if framing.n_fft not in N_FFT_SIZES:
        return f"needs n_fft to be a power of two from 256 to 4096; got {framing.n_fft}"
    if power not in (1, 2):
        return f"needs power 1 or 2; got {power}"
    if torch.jit.is_tracing():
        return "needs to run, because a trace does not see it"
    return why_not_plain(wave, *tables)


def spectra(
    wave: Tensor,
    framing: Framing,
    *,
    power: float = 2.0,
    lengths: Tensor | None = None,
    bands_first: bool = False,
    window: Tensor | None = None,
    mel: Mel = Mel(),  # noqa: B008 - a NamedTuple does not change
    chroma: Chroma = Chroma(),  # noqa: B008
) -> tuple[Tensor | None, Tensor | None]:
    """Compute bands, chroma or both from one spectrum, without autograd.

    Args:
        wave: (B, S), or (B, C, S) for the mean of its channels; float32 or int16, strided as it likes.
        framing: how it becomes frames; n_fft a power of two from 256 to 4096.
        power: 2 for power, 1 for magnitude.
        lengths: (B,) int64 valid samples of each clip, 1 to S; None if all S are.
        bands_first: return (B, F, T) and (B, 12, T).
        window: (win_length,) to use instead of the framing's own.
        mel: the bands wanted.
        chroma: the pitch classes wanted.

    Returns:
        (B, T, F) and (B, T, 12) float32, None where not wanted; T = framing.num_frames(S). Neither depends on the number of
        threads. Tables on a GPU are read back once, and again after torch counts a write to them: `.data` writes are not.

    Raises:
        ValueError: for arguments that the library refuses.
        MemoryError: if there is none for the tables of a call.
        RuntimeError: if CUDA fails.
    """
    samples = wave[:, None] if wave.ndim == 2 else wave  # (B, C, S)
    if samples.stride(2) != 1 or samples.data_ptr() % samples.element_size():  # a view of bytes may begin anywhere
        samples = samples.clone(memory_format=torch.contiguous_format)
    lengths = lengths if lengths is None else lengths.contiguous()
    window = centred(_host_floats(framing.analysis_window() if window is None else window), framing.n_fft)
    args = _Args(
        wave=samples.data_ptr(),
        lengths=None if lengths is None else lengths.data_ptr(),
        batch=samples.shape[0],
        channels=samples.shape[1],
        samples=samples.shape[2],
        row_stride=samples.stride(0),
        channel_stride=samples.stride(1),
        hop=framing.hop_length,
        pad=framing.num_padded,
        window=window.data_ptr(),
        n_fft=framing.n_fft,
        sample_type=_SAMPLE_TYPES[wave.dtype],
        power=int(power),
        num_threads=torch.get_num_threads(),
        pad_mode=_PAD_MODES[framing.pad_mode],
        bands_first=bands_first,
    )
    frames = framing.num_frames(wave.shape[-1])
    mel_out, chroma_out = (
        None if table is None else empty(wave, frames, table.shape[1], bands_first) for table in (mel.bank, chroma.bank)
    )
    if mel_out is not None:
        runs = _bands(mel.bank)
        args.set_mel(mel_out, runs, mel)
    if chroma_out is not None:
        bank = _host_floats(chroma.bank)
        args.set_chroma(chroma_out, bank, chroma)
    # An output without elements has no address, which the library would take for an output not wanted.
    if len(wave) and frames:
        _call(wave.device, args)
    return mel_out, chroma_out


def empty(wave: Tensor, frames: int, num_bands: int, bands_first: bool) -> Tensor:
    """Make an output (B, T, F), or (B, F, T), for a wave (B, ..., S)."""
    shape = (num_bands, frames) if bands_first else (frames, num_bands)
    return wave.new_empty((len(wave), *shape), dtype=torch.float32)


def operator(name: str, *kinds: type[Framing]) -> Callable[[Callable], Callable]:
    """Make an operator of torch's, on every device, of a function of (wave, lengths, bands_first, *specs).

    It is opaque to torch.compile, which cannot trace a ctypes call; so specs travel as their fields. Otherwise the function is
    called itself: an operator's first call imports the compiler, a second and a half of every process.

    Args:
        name: of the operator, behind "duotok::".
        kinds: classes of its specs; it gives a tensor (B, T, num_bands) for each.
    """
    names = [[field.name for field in fields(kind)] for kind in kinds]
    arguments = [f"{_schema_type(field)} spec{i}_{field.name}" for i, kind in enumerate(kinds) for field in fields(kind)]
    result = "Tensor" if len(kinds) == 1 else f"({', '.join(['Tensor'] * len(kinds))})"
    schema = f"(Tensor wave, Tensor? lengths, bool bands_first, {', '.join(arguments)}) -> {result}"

    def specs_of(values: tuple) -> list[Framing]:
        rest = iter(values)
        return [kind(**dict(zip(own, rest))) for kind, own in zip(kinds, names, strict=True)]  # noqa: B905 - takes its share

    def decorate(function: Callable) -> Callable:
        def kernel(wave: Tensor, lengths: Tensor | None, bands_first: bool, *values: Any) -> Any:
            return function(wave, lengths, bands_first, *specs_of(values))

        def fake(wave: Tensor, lengths: Tensor | None, bands_first: bool, *values: Any) -> Any:
            out = [empty(wave, s.num_frames(wave.shape[-1]), s.num_bands, bands_first) for s in specs_of(values)]
            return out[0] if len(out) == 1 else tuple(out)

        made = torch.library.custom_op(f"duotok::{name}", kernel, mutates_args=(), device_types=("cpu", "cuda"), schema=schema)
        made.register_fake(fake)

        def call(wave: Tensor, lengths: Tensor | None, bands_first: bool, *specs: Framing) -> Any:
            if not torch.compiler.is_compiling():
                return function(wave, lengths, bands_first, *specs)
            values = [getattr(spec, field) for spec, own in zip(specs, names, strict=True) for field in own]
            return made(wave, lengths, bands_first, *values)

        return call

    return decorate


def _schema_type(field: Field) -> str:
    """The type of a spec's field, such as `float | None` or a Literal of texts, in the language of torch's schemas."""
    text = "str" if field.type.startswith("Literal") else field.type.removesuffix(" | None")
    return text + ("?" if field.type.endswith(" | None") else "")


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


def bands(bank: Tensor) -> Bands:
    """Turn a dense bank (bins, F) into runs of bins.

    A band without weight keeps one bin of weight zero, so that NaN reaches it as in a dense product.
    """
    bank = bank.detach().cpu()
    num_bins = bank.shape[0]
    bins = torch.arange(num_bins)[:, None]
    used = bank != 0
    end = torch.where(used, bins + 1, 1).amax(0)
    first = torch.where(used, bins, num_bins).amin(0).minimum(end - 1)
    offset = torch.cat((end.new_zeros(1), (end - first).cumsum(0)))
    inside = (bins >= first) & (bins < end)
    return Bands(first.int(), offset, bank.T[inside.T].float(), num_bins)


class _Derived:
    """A function of a tensor whose result is kept until the tensor dies, moves or is written to."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function = function
        self._kept: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __call__(self, tensor: Tensor) -> Any:
        if tensor.is_inference():  # torch counts no writes to it
            return self._function(tensor)
        state = (tensor._version, tensor.data_ptr(), tensor.device, tensor.dtype)
        known, result = self._kept.get(tensor, (None, None))
        if known != state:
            result = self._function(tensor)
            self._kept[tensor] = (state, result)
        return result


_bands = _Derived(torch.inference_mode(False)(bands))
_host_floats = _Derived(torch.inference_mode(False)(lambda t: t.detach().to("cpu", torch.float32).contiguous()))


class _Args(ctypes.Structure):
    """duotok_mel_chroma_args of csrc/duotok_native.h, field by field."""

    _fields_ = [
        ("wave", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("channel_stride", ctypes.c_int64),
        ("hop", ctypes.c_int64),
        ("pad", ctypes.c_int64),
        ("window", ctypes.c_void_p),
        ("n_fft", ctypes.c_int32),
        ("sample_type", ctypes.c_int32),
        ("power", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
        ("pad_mode", ctypes.c_int32),
        ("bands_first", ctypes.c_int32),
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
        ("mean", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("chroma", ctypes.c_void_p),
        ("chroma_size", ctypes.c_int64),
        ("chroma_bank", ctypes.c_void_p),
        ("chroma_bins", ctypes.c_int32),
        ("chroma_normalize", ctypes.c_int32),
    ]

    def set_mel(self, out: Tensor, bank: Bands, mel: Mel) -> None:
        """Point to an output (B, T, F) and to its bands."""
        self.mel, self.mel_size = out.data_ptr(), out.numel()
        self.log_mode, self.floor, self.mean, self.scale = _LOG_MODES[mel.log], mel.floor, mel.mean, mel.scale
        self.band_first, self.band_offset, self.band_weights = (t.data_ptr() for t in (bank.first, bank.offset, bank.weights))
        self.band_size, self.num_bands, self.band_bins = len(bank.weights), len(bank.first), bank.num_bins

    def set_chroma(self, out: Tensor, bank: Tensor, chroma: Chroma) -> None:
        """Point to an output (B, T, 12) and to a bank (bins, 12)."""
        self.chroma, self.chroma_size = out.data_ptr(), out.numel()
        self.chroma_bank, self.chroma_bins, self.chroma_normalize = bank.data_ptr(), bank.shape[0], chroma.normalize


def cpu_isa() -> str:
    """Name the instruction set in use: avx512, avx2, simd128 or plain."""
    return _library("cpu").duotok_cpu_isa().decode()


def use_cpu_isa(name: str | None) -> None:
    """Use the named instruction set in this process, None for the best; for tests and measurements.

    Raises:
        ValueError: if this build or this processor does not have it.
    """
    library = _library("cpu")
    _check(library, library.duotok_use_cpu_isa(None if name is None else name.encode()))


def _call(device: torch.device, args: _Args) -> None:
    library = _library(device.type)
    if device.type == "cpu":
        _check(library, library.duotok_mel_chroma(ctypes.byref(args)))
        return
    # Copies made for the call may be freed before the kernel runs: torch gives their memory to later work of this stream.
    stream = torch.cuda.current_stream(device).cuda_stream
    _check(library, library.duotok_mel_chroma_cuda(ctypes.byref(args), device.index, stream))


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise _ERRORS.get(status, RuntimeError)(library.duotok_last_error().decode())


def _library(device: str) -> ctypes.CDLL:
    library = _load(device)
    if isinstance(library, str):
        raise RuntimeError(f"expected the compiled library; it {library}")
    return library


@functools.cache
def _load(device: str) -> ctypes.CDLL | str:
    """Load the library of a device, or say why not."""
    name, compiler = _LIBRARIES[device]
    path = Path(__file__).with_name(name + (".dll" if os.name == "nt" else ".so"))
    if not path.exists():
        return f"needs the compiled library {path.name}; this install was built without {compiler}; reinstall with {compiler}"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"needs the compiled library {path.name}; it does not load ({error}); reinstall with {compiler}"
    library.duotok_abi_version.restype = ctypes.c_int32
    found = library.duotok_abi_version()
    if found != ABI_VERSION:
        return f"needs the compiled library {path.name} with ABI {ABI_VERSION}; it has {found}; reinstall with {compiler}"
    library.duotok_last_error.restype = ctypes.c_char_p
    if device == "cpu":
        library.duotok_cpu_isa.restype = ctypes.c_char_p
        library.duotok_use_cpu_isa.argtypes = [ctypes.c_char_p]
        library.duotok_mel_chroma.argtypes = [ctypes.POINTER(_Args)]
    else:
        library.duotok_mel_chroma_cuda.argtypes = [ctypes.POINTER(_Args), ctypes.c_int32, ctypes.c_void_p]
    return library

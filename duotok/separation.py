"""Source separation behind one small interface: a mixture's vocals, and the mixture minus those.

A separator works on windows of 30 s that start every 25 s; where two overlap, one fades into the next. So memory is flat,
and what a second of a song separates into depends on the 30 s around it, never on the song's length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .fixed_math import fixed_math

if TYPE_CHECKING:
    from torch import Tensor, nn

SEPARATORS = ("demucs", "spleeter", "none")
WINDOW_S, STRIDE_S = 30, 25


class Separator(Protocol):
    """What a separator is.

    Attributes:
        identity: name and hash of the weights, stored with the tokens.
        sample_rate: of the mixtures it takes, in Hz; they are stereo.
    """

    identity: str
    sample_rate: int

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        """Estimate the vocals (2, n) float32 in a mixture (2, n) float32."""
        ...


def separate(blocks: Iterable[np.ndarray], separator: Separator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Separate a stream.

    Args:
        blocks: (2, n) float32 at the separator's rate, of any lengths.
        separator: what separates a window.

    Yields:
        (vocals, accompaniment), (2, m) float32 each; together as long as the input, and their sum is the input.
    """
    window, stride = WINDOW_S * separator.sample_rate, STRIDE_S * separator.sample_rate
    fade = np.linspace(0, 1, window - stride, dtype=np.float32)
    held, tail = np.zeros((2, 0), np.float32), None

    def step(mixture: np.ndarray, ready: int) -> tuple[np.ndarray, np.ndarray]:
        nonlocal tail
        padded = np.pad(mixture, ((0, 0), (0, window - mixture.shape[1])))
        vocals = separator.vocals(padded)
        if tail is not None:
            vocals[:, : len(fade)] = tail * (1 - fade) + vocals[:, : len(fade)] * fade
        tail = vocals[:, stride:].copy()
        return vocals[:, :ready], mixture[:, :ready] - vocals[:, :ready]

    for block in blocks:
        held = np.concatenate((held, block), axis=1)
        while held.shape[1] >= window:
            yield step(held[:, :window], stride)
            held = held[:, stride:]
    while held.shape[1]:  # up to two windows are left, of which the last is padded with silence
        ready = min(held.shape[1], stride)
        yield step(held[:, :window], ready)
        held = held[:, ready:]


class Demucs:
    """htdemucs of the `demucs` package (Rouard et al., arXiv 2211.08553): the separator that the paper names.

    Weights are safetensors only: the file of the hub repository `adefossez/HTDemucs`, or a local copy of it.
    """

    REPOSITORY, FILE = "adefossez/HTDemucs", "955717e8.safetensors"

    def __init__(self, weights: str | Path | None = None, device: str = "cpu") -> None:
        """Load the model.

        Raises:
            ValueError: if demucs is not installed, the file is absent, or it does not hold an HTDemucs.
        """
        try:
            from demucs.hf import load_safetensors_model
        except ImportError:
            raise ValueError(
                "separator demucs: expected the package demucs; it is not installed; "
                "install the extra: pip install 'duotok[separate]'"
            ) from None
        path = self._download() if weights is None else Path(weights)
        self._refuse_other_models(path)
        try:
            self._model = load_safetensors_model(path).eval().to(device)
            self._vocals = self._model.sources.index("vocals")
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise ValueError(f"{path}: expected an htdemucs that has vocals; got {reason}; download the file again") from error
        self._device = device
        self.sample_rate = int(self._model.samplerate)
        self.identity = f"htdemucs:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"

    def _download(self) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.REPOSITORY, self.FILE))
        except OSError as error:
            raise ValueError(
                f"separator demucs: expected to fetch {self.REPOSITORY}/{self.FILE}; got {type(error).__name__}; "
                "go online once, or pass a copy with --separator-weights"
            ) from error

    @staticmethod
    def _refuse_other_models(path: Path) -> None:
        """Check the class named in the file before demucs imports it: a weights file must not choose code to run.

        A `structure`, which demucs writes for quantized models alone, can name further classes.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: expected safetensors of htdemucs; got {error}; download the file again") from error
        named = metadata.get("klass")
        if named != "demucs.htdemucs.HTDemucs" or "structure" in metadata:
            kind = "a quantized one" if "structure" in metadata else repr(named)
            raise ValueError(f"{path}: expected an htdemucs model; got {kind}; use {Demucs.REPOSITORY}/{Demucs.FILE}")

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        """Estimate the vocals (2, n) in a mixture (2, n); the level is normalised within the window, as Demucs expects."""
        import torch

        wave = torch.from_numpy(np.ascontiguousarray(mixture)).to(self._device)
        mean, std = wave.mean(), wave.mean(0).std() + 1e-8
        with fixed_math():
            stems = apply_demucs(self._model, (wave - mean) / std, at_once=wave.device.type != "cpu")
        return (stems[self._vocals] * std + mean).cpu().numpy()


def apply_demucs(model: nn.Module, wave: Tensor, at_once: bool) -> Tensor:
    """Apply an HTDemucs to a wave that is longer than its segments, as demucs' `apply_model` does with an overlap of a quarter.

    Args:
        model: the model.
        wave: (2, n), normalised.
        at_once: compute all segments in one batch, which fills a GPU; False for one after another, in less memory.

    Returns:
        (sources, 2, n).
    """
    import torch
    from demucs.apply import TensorChunk, apply_model
    from demucs.utils import center_trim

    if not at_once:
        return apply_model(model, wave[None], shifts=0, split=True, overlap=0.25)[0]  # shifts=0: the default shift is random
    size = int(model.samplerate * model.segment)
    chunks = [TensorChunk(wave[None], offset, size) for offset in range(0, wave.shape[1], int(0.75 * size))]
    with torch.no_grad():
        parts = model(torch.cat([chunk.padded(size) for chunk in chunks]))  # (segments, sources, 2, size)
    rising = torch.arange(1, size + 1, device=wave.device)
    weight = torch.minimum(rising, rising.flip(0)) / ((size + 1) // 2)
    total, stems = wave.new_zeros(wave.shape[1]), wave.new_zeros(len(parts[0]), *wave.shape)
    for chunk, part in zip(chunks, parts, strict=True):
        here = slice(chunk.offset, chunk.offset + chunk.length)
        stems[..., here] += weight[: chunk.length] * center_trim(part, chunk.length)
        total[here] += weight[: chunk.length]
    return stems / total


def make_separator(name: str, weights: str | Path | None = None, device: str = "cpu") -> Separator | None:
    """Make the separator of that name; None for "none".

    Raises:
        ValueError: for an unknown name, or if it cannot be loaded.
    """
    if name not in SEPARATORS:
        raise ValueError(f"separator: expected one of {', '.join(SEPARATORS)}; got {name!r}; choose one of those")
    if name == "spleeter":
        from .spleeter import Spleeter

        return Spleeter(weights, device)
    return Demucs(weights, device) if name == "demucs" else None

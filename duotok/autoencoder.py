"""Autoencoders on disk, and waves of any length through them, piece by piece.

A frame depends on no more than `context_frames` on either side, so pieces that see so many give what the whole would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from . import config as configuration
from . import storage
from .model.vae import EAR_VAE, Autoencoder, AutoencoderConfig, make_autoencoder

FORMAT_VERSION = 1
# Latent frames encoded at a time.
_PIECE = 1500
# Latent frames over which decoded pieces are faded into one another.
_FADE = 2


@dataclass(frozen=True)
class AutoencoderFile:
    """Everything an autoencoder's config.yaml holds.

    Attributes:
        format_version: of the files.
        model: the autoencoder.
    """

    format_version: int = FORMAT_VERSION
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)


def fingerprint(autoencoder: Autoencoder) -> str:
    """Compute sha256 over an autoencoder's configuration and its weights as they are stored."""
    return storage.fingerprint(autoencoder.config, storage.halved(autoencoder.state_dict()))


def save_autoencoder(folder: Path, autoencoder: Autoencoder, **notes: str) -> None:
    """Write config.yaml, model.safetensors (float16) and fingerprint.txt; `notes` go into the weights' header."""
    text = configuration.dump(AutoencoderFile(model=autoencoder.config))
    storage.write(folder, text, storage.halved(autoencoder.state_dict()), fingerprint(autoencoder), notes)


def load_autoencoder(folder: Path) -> Autoencoder:
    """Read an autoencoder, frozen, in eval mode.

    Args:
        folder: that `save_autoencoder` wrote, or a tokenizer's with a sub-folder of that kind.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    inside = folder / storage.AUTOENCODER
    folder = inside if inside.is_dir() else folder
    autoencoder = make_autoencoder(storage.read_config(folder, AutoencoderFile, FORMAT_VERSION).model)
    storage.read_weights(folder, autoencoder)
    storage.check_fingerprint(folder, fingerprint(autoencoder))
    return autoencoder.eval().requires_grad_(False)


def read_ear_vae(path: Path, config: AutoencoderConfig = EAR_VAE) -> Autoencoder:
    """Read the published checkpoint of the ear-VAE, frozen, in eval mode; `save_autoencoder` makes it a folder like any other.

    Args:
        path: its .pyt or .ckpt file, or the same tensors as .safetensors. Of a pickle, torch reads tensors and containers alone
            (`weights_only`); a file with anything else is refused, never run.
        config: sizes, the public release's.

    Raises:
        CheckpointError: if the file cannot be read, or holds other tensors.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        autoencoder = make_autoencoder(config)
        autoencoder.load_state_dict(found.get("state_dict", found))
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise storage.CheckpointError(
            f"{path}: expected the tensors of an ear-VAE; got {reason}; download the published checkpoint again"
        ) from None
    return autoencoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_wave(autoencoder: Autoencoder, wave: Tensor) -> Tensor:
    """Encode a wave (C, S) of any length to the means of its latents (T, D), T = ceil(S / hop_length)."""
    hop, context = autoencoder.hop_length, autoencoder.context_frames
    total, found = -(-wave.shape[1] // hop), []
    for first in range(0, total, _PIECE):
        start = max(0, first - context)
        latents = autoencoder.encode(wave[None, :, start * hop : (first + _PIECE + context) * hop])[0]
        found.append(latents[first - start : first - start + _PIECE])
    return torch.cat(found)


@torch.no_grad()
def decode_pieces(autoencoder: Autoencoder, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Decode consecutive latents (B, n, D) to consecutive waves (B, C, m), m in all n * hop_length.

    Pieces are faded into one another: where an autoencoder looks further than its context, as the ear-VAE's attention does,
    they differ a little.
    """
    hop, context = autoencoder.hop_length, autoencoder.context_frames
    held, done = None, 0  # latents still needed, and how many of them are already sound
    tail: Tensor | None = None  # the last sound of the piece before, to be faded out

    def take(stop: int, fade: int) -> Iterator[Tensor]:
        nonlocal held, done, tail
        if stop - fade <= done:
            return
        wave = autoencoder.decode(held)[..., done * hop : stop * hop]
        if tail is not None:
            ramp = (torch.arange(tail.shape[-1], device=wave.device) + 1) / (tail.shape[-1] + 1)
            wave[..., : tail.shape[-1]] = torch.lerp(tail, wave[..., : tail.shape[-1]], ramp.to(wave.dtype))
        yield wave[..., : wave.shape[-1] - fade * hop]
        tail, done = wave[..., wave.shape[-1] - fade * hop :], stop - fade
        first = max(0, done - context)
        held, done = held[:, first:], done - first

    for piece in pieces:
        held = piece if held is None else torch.cat((held, piece), dim=1)
        yield from take(held.shape[1] - context, _FADE)
    if held is not None:
        yield from take(held.shape[1], 0)

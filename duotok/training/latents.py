"""What stage 4 learns from, computed once: the latents and the codes of every song, kept on disk.

    latents (2, T, D) float16, the means of the autoencoder's posterior;  codes (2, T') int32;  vocals first

A file's name is a hash of everything that made it: the fingerprints of tokenizer and autoencoder, and the song's waves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from duotok.autoencoder import encode_wave, fingerprint
from duotok.dataset.songs import Song
from duotok.files import make_folder, write_atomically
from duotok.model.bottleneck import TRACKS
from duotok.model.vae import Autoencoder
from duotok.tokenizer import DuoTok

from .data import Crop


@dataclass(frozen=True)
class LatentSong:
    """A song's file."""

    path: Path

    def read(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Read latents (2, stop - first, D) float32, and all codes (2, T') int64."""
        with safe_open(self.path, "pt") as file:
            return file.get_slice("latents")[:, first:stop].float(), file.get_tensor("codes").long()


def cache_latents(
    songs: Sequence[Song],
    folder: Path,
    tokenizer: DuoTok,
    autoencoder: Autoencoder,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, LatentSong]:
    """Compute what the folder does not hold yet.

    Args:
        songs: whose waves are at the autoencoder's rate.
        folder: of the files.
        tokenizer, autoencoder: what makes codes and latents, on the devices where they are.
        progress: called with the songs that are done and their total.

    Returns:
        the files by song id.
    """
    make_folder(folder)
    makers = {"tokenizer": tokenizer.fingerprint, "autoencoder": fingerprint(autoencoder)}
    found = {}
    for done, song in enumerate(songs, 1):
        waves = [song.waves[name].name for name in TRACKS]  # named after their files, times and rate
        key = " ".join((*makers.values(), *waves, str(song.num_samples)))
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.safetensors"
        if not path.exists():
            write_atomically(path, save(_tensors(song, tokenizer, autoencoder), metadata={**makers, "song": song.id}))
        found[song.id] = LatentSong(path)
        if progress:
            progress(done, len(songs))
    return found


def _tensors(song: Song, tokenizer: DuoTok, autoencoder: Autoencoder) -> dict[str, Tensor]:
    device = next(autoencoder.parameters()).device
    waves = [Crop(song, 0, song.num_samples).wave(name) for name in TRACKS]  # (S,), or (C, S)
    codes = tokenizer.encode(waves[:1], waves[1:], autoencoder.sample_rate)[0]
    latents = [encode_wave(autoencoder, wave.to(device).expand(autoencoder.channels, -1)) for wave in waves]
    return {"latents": torch.stack(latents).half().cpu(), "codes": codes.to(torch.int32)}

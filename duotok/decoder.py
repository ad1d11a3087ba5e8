"""From codes back to sound: what stage 4 adds to a tokenizer.

    codes (2, T) -> proj_out(q), at the latents' rate -> DiT -> latents -> autoencoder -> waves, mix = sum of tracks

Latents are sampled in windows at fixed positions, one after the other. Windows overlap; there, at every step, the clean
latents that a window estimates are faded in over those that the window before has estimated at the same step, as
MultiDiffusion (Bar-Tal et al., arXiv 2302.08113) blends views, and the noise is a function of a frame's position. So a
window starts where the one before left off, and no more than one is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import autoencoder as autoencoders
from . import config as configuration
from . import storage
from .codes import Codes, check_codes
from .model.bottleneck import TRACKS, DualSimVQ
from .model.diffusion import Sampler, frame_noise, sample
from .model.dit import DiT, DiTConfig
from .model.vae import Autoencoder
from .storage import CheckpointError

if TYPE_CHECKING:
    from .tokenizer import DuoTok

FORMAT_VERSION = 1


@dataclass(frozen=True)
class DecoderConfig:
    """Everything a decoder's config.yaml holds.

    Attributes:
        format_version: of the files.
        tokenizer, autoencoder: fingerprints of those it was trained with.
        frame_rate: codes per second and track.
        window_frames, overlap_frames: latent frames that are sampled together, and that two windows share.
        dit: the network.
    """

    format_version: int = FORMAT_VERSION
    tokenizer: str = ""
    autoencoder: str = ""
    frame_rate: int = 25
    window_frames: int = 1500
    overlap_frames: int = 300
    dit: DiTConfig = field(default_factory=DiTConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_frames <= self.window_frames // 2:
            raise ValueError(
                f"expected overlap_frames from 0 to half of window_frames; got {self.overlap_frames} and {self.window_frames}; "
                "change one"
            )


@dataclass(frozen=True)
class Sampling:
    """How latents are drawn.

    Attributes:
        steps, guidance: 50 and 1.5; defaults, not from the paper: Codec-Evaluation's wrapper of LeVo.
        seed: of the noise.
        sampler: see `duotok.model.diffusion.sample`; default, own choice.
    """

    steps: int = 50
    guidance: float = 1.5
    seed: int = 0
    sampler: Sampler = "dpm"

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise ValueError(f"expected guidance, a number such as 1.5; got {self.guidance}; correct it")


class Decoded(NamedTuple):
    """Waves (B, C, S) at the decoder's rate, zero beyond a song's own end; the mix is the sum of the tracks."""

    mix: Tensor
    vocals: Tensor
    accompaniment: Tensor


class Decoder(nn.Module):
    """A DiT and an autoencoder; `waves` streams songs of any length."""

    def __init__(self, config: DecoderConfig, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.config = config
        self.dit = DiT(config.dit).eval().requires_grad_(False)
        self.autoencoder = autoencoder.eval().requires_grad_(False)

    @property
    def sample_rate(self) -> int:
        """Rate of the waves in Hz."""
        return self.autoencoder.sample_rate

    @property
    def fingerprint(self) -> str:
        """sha256 over the configuration, which names tokenizer and autoencoder, and the DiT's weights as they are stored."""
        return storage.fingerprint(self.config, storage.halved(self.dit.state_dict()))

    def num_samples(self, num_frames: int) -> int:
        """Count the samples of so many codes."""
        return num_frames * self.sample_rate // self.config.frame_rate

    @torch.no_grad()
    def waves(self, slot: DualSimVQ, codes: Tensor, sampling: Sampling, tracks: Sequence[int] = (0, 1)) -> Iterator[Tensor]:
        """Decode a song, block by block.

        Args:
            slot: the tokenizer's bottleneck.
            codes: (2, T) int64.
            sampling: how latents are drawn.
            tracks: wanted, 0 vocals and 1 accompaniment; each is the same whether or not the other is wanted.

        Yields:
            (len(tracks), C, n) waves.
        """
        joint = self.config.dit.joint
        groups = [tuple(range(len(TRACKS)))] if joint else [(track,) for track in tracks]
        streams = [autoencoders.decode_pieces(self.autoencoder, self._latents(slot, codes, g, sampling)) for g in groups]
        left = self.num_samples(codes.shape[1])
        for blocks in zip(*streams, strict=True):
            wave = torch.cat(blocks)[..., :left]
            left -= wave.shape[-1]
            yield wave[list(tracks)] if joint else wave

    def _latents(self, slot: DualSimVQ, codes: Tensor, group: tuple[int, ...], sampling: Sampling) -> Iterator[Tensor]:
        """Sample the latents (S, n, D) of one pass's tracks, window by window."""
        window, overlap = self.config.window_frames, self.config.overlap_frames
        total = num_latents(codes.shape[1], self.config.frame_rate, self.autoencoder)
        shared: list[Tensor] = []
        first, stop = 0, 0
        while stop < total:
            stop = min(first + window, total)
            condition = self._condition(slot, codes, group, first, stop)
            latents, estimates = self._window(condition, group, first, shared, sampling)
            kept = latents[:, : None if stop == total else window - overlap]
            yield rearrange(kept, "1 n (s d) -> s n d", s=len(group))
            shared = [estimate[:, window - overlap :] for estimate in estimates] if overlap else []
            first += window - overlap

    def _window(
        self, condition: Tensor, group: tuple[int, ...], first: int, shared: Sequence[Tensor], sampling: Sampling
    ) -> tuple[Tensor, list[Tensor]]:
        """Sample a window's latents (1, n, S D), and list what was estimated of them at every step.

        `shared` lists what the window before estimated of the first frames; empty in the first window.
        """
        noises = [
            frame_noise(sampling.seed, i, first, condition.shape[1], self.autoencoder.latent_dim, condition.device)
            for i in group
        ]
        tracks = torch.tensor(group[:1], device=condition.device)
        overlap = shared[0].shape[1] if shared else 0
        ramp = (torch.arange(overlap, device=condition.device) + 1).to(condition.dtype)[:, None] / (overlap + 1)
        estimates: list[Tensor] = []

        def denoise(z: Tensor, t: float) -> Tensor:
            clean = self.dit.denoise(z, t, condition, tracks, sampling.guidance)
            if shared:
                clean[:, :overlap] = torch.lerp(shared[len(estimates)], clean[:, :overlap], ramp)
            estimates.append(clean)
            return clean

        noise = torch.cat(noises, dim=-1)[None].to(condition.dtype)
        return sample(denoise, noise, sampling.steps, sampling.sampler), estimates

    def _condition(self, slot: DualSimVQ, codes: Tensor, group: tuple[int, ...], first: int, stop: int) -> Tensor:
        """Give what the DiT is told of latent frames first..stop: (1, n, S D')."""
        chosen = codes_of_latents(first, stop, self.config.frame_rate, self.autoencoder).clamp(max=codes.shape[1] - 1)
        device = self.dit.enter.weight.device
        expanded = torch.stack([slot.branches[track].expand(codes[track, chosen].to(device)) for track in group])
        normed = self.dit.normalise(expanded.to(self.dit.enter.weight.dtype), torch.tensor(group, device=device))
        return rearrange(normed, "s n d -> 1 n (s d)")

    def save(self, folder: Path, **notes: str) -> None:
        """Write decoder/ and autoencoder/ into a tokenizer's folder; `notes` go into the header of the DiT's weights."""
        text, weights = configuration.dump(self.config), storage.halved(self.dit.state_dict())
        storage.write(folder / storage.DECODER, text, weights, self.fingerprint, notes)
        autoencoders.save_autoencoder(folder / storage.AUTOENCODER, self.autoencoder)


def load_decoder(folder: Path | None, tokenizer: str) -> Decoder:
    """Read the decoder of a tokenizer.

    Args:
        folder: the tokenizer's; None for one that was never stored.
        tokenizer: its fingerprint.

    Raises:
        CheckpointError: if there is no decoder, it is damaged, or it belongs to another tokenizer or autoencoder.
    """
    if not storage.has_decoder(folder):
        raise CheckpointError(
            f"{folder or 'tokenizer'}: expected decoder weights in a sub-folder {storage.DECODER}; got none; train stage 4 "
            "with --export, or load a tokenizer that has them"
        )
    inside = folder / storage.DECODER
    config = storage.read_config(inside, DecoderConfig, FORMAT_VERSION)
    decoder = Decoder(config, autoencoders.load_autoencoder(folder / storage.AUTOENCODER))
    check_origin(inside, decoder, tokenizer)
    storage.read_weights(inside, decoder.dit)
    storage.check_fingerprint(inside, decoder.fingerprint)
    return decoder


def check_origin(place: Path, decoder: Decoder, tokenizer: str) -> None:
    """Compare tokenizer (a fingerprint) and autoencoder with those that the decoder at a place was trained with.

    Raises:
        CheckpointError: if one is another.
    """
    for what, expected, found in (
        ("tokenizer", decoder.config.tokenizer, tokenizer),
        ("autoencoder", decoder.config.autoencoder, autoencoders.fingerprint(decoder.autoencoder)),
    ):
        if expected != found:
            raise CheckpointError(
                f"{place}: expected the {what} it was trained with, {expected[:16]}; got {found[:16]}; "
                "train stage 4 for this one"
            )


def num_latents(num_frames: int, frame_rate: int, autoencoder: Autoencoder) -> int:
    """Count the latent frames that cover so many codes."""
    return -(-num_frames * autoencoder.sample_rate // (frame_rate * autoencoder.hop_length))


def codes_of_latents(first: int, stop: int, frame_rate: int, autoencoder: Autoencoder) -> Tensor:
    """Name the code in whose time the middle of each latent frame first..stop lies, (n,) int64: nearest upsampling."""
    twice = 2 * torch.arange(first, stop) + 1
    return twice * autoencoder.hop_length * frame_rate // (2 * autoencoder.sample_rate)


def decode(tokenizer: DuoTok, codes: Codes | Tensor | Sequence[Tensor], sampling: Sampling) -> Decoded:
    """Decode songs; see `DuoTok.decode`."""
    decoder, slot = tokenizer.decoder, tokenizer.model.trunk.bottleneck
    songs = [torch.cat(list(decoder.waves(slot, song, sampling)), dim=-1) for song in _songs(tokenizer, codes)]
    longest = max((song.shape[-1] for song in songs), default=0)
    tracks = torch.stack([F.pad(song, (0, longest - song.shape[-1])) for song in songs])  # (B, 2, C, S)
    return Decoded(tracks.sum(1), *tracks.unbind(1))


def _songs(tokenizer: DuoTok, codes: Codes | Tensor | Sequence[Tensor]) -> list[Tensor]:
    """List the codes (2, T) of every song, checked."""
    if isinstance(codes, Codes):
        if codes.fingerprint != tokenizer.known_fingerprint:
            raise ValueError(
                f"decode: expected codes of this tokenizer, {tokenizer.known_fingerprint[:16]}; got those of another, "
                f"{codes.fingerprint[:16]}; load the tokenizer that made them"
            )
        songs = [codes[i] for i in range(len(codes))]
    else:
        codes = list(codes) if isinstance(codes, list | tuple) else torch.as_tensor(codes)
        songs = list(codes) if isinstance(codes, Tensor) and codes.ndim == 3 else [codes]
    if not songs:
        raise ValueError("decode: expected the codes of at least one song; got none; pass some")
    return [check_codes(list(song), tokenizer.codebook_size) for song in songs]

"""Autoencoders behind one small interface: waves to latents, latents to waves.

    encode  wave (B, C, S)        -> latents (B, T, D), T = ceil(S / hop_length)
    decode  latents (B, T, D)     -> wave (B, C, T * hop_length)

"spectral" is one that a CPU can train (spectral.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from duotok.kernels import replace_noise

from .spectral import SpectralConfig, SpectralDecoder, SpectralEncoder


@dataclass(frozen=True)
class AutoencoderConfig:
    """Which autoencoder, and its sizes.

    Attributes:
        kind: "spectral" or "ear".
        sample_rate: of the waves, in Hz.
        channels: 1 for mono, 2 for stereo.
        latent_dim: D.
        spectral: sizes of the spectral autoencoder.
    """

    kind: Literal["ear", "spectral"] = "spectral"
    sample_rate: int = 24_000
    channels: int = 1
    latent_dim: int = 32
    spectral: SpectralConfig = field(default_factory=SpectralConfig)

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.spectral.hop_length

    @property
    def latent_rate(self) -> float:
        """Latents per second."""
        return self.sample_rate / self.hop_length


@dataclass(frozen=True)
class Posterior:
    """What an encoder says of its latents: mean and standard deviation, each (B, T, D)."""

    mean: Tensor
    std: Tensor

    def sample(self, seed: Tensor) -> Tensor:
        """Draw latents (B, T, D); `seed` is (2,) int64, see `replace_noise`."""
        return self.mean + self.std * replace_noise(self.mean.new_zeros(self.mean.shape), 1.0, 1.0, seed)


class Autoencoder(nn.Module):
    """An encoder and a decoder; latents outside have about zero mean and unit variance in every dimension."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SpectralEncoder(config.spectral, config.channels, config.latent_dim)
        self.decoder = SpectralDecoder(config.spectral, config.channels, config.latent_dim)
        # Its running statistics are those of the latents; it is never applied as a layer.
        self.latent_norm = nn.BatchNorm1d(config.latent_dim, eps=1e-5, affine=False, momentum=0.02)

    @property
    def sample_rate(self) -> int:
        """Rate of the waves in Hz."""
        return self.config.sample_rate

    @property
    def channels(self) -> int:
        """Channels of the waves."""
        return self.config.channels

    @property
    def latent_dim(self) -> int:
        """Width of a latent frame."""
        return self.config.latent_dim

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.config.hop_length

    @property
    def latent_rate(self) -> float:
        """Latents per second."""
        return self.config.latent_rate

    @property
    def context_frames(self) -> int:
        """Latent frames on either side that a frame depends on, encoding or decoding."""
        return self.config.spectral.context_frames

    def encode(self, wave: Tensor, seed: Tensor | None = None) -> Tensor:
        """Turn waves into latents.

        Args:
            wave: (B, C, S) in [-1, 1] at `sample_rate`; silence is added to fill the last frame.
            seed: (2,) int64 draws from the posterior; None takes its mean.

        Returns:
            (B, T, D), T = ceil(S / hop_length).

        Raises:
            ValueError: if the waves have another number of channels.
        """
        posterior = self.posterior(wave)
        latents = posterior.mean if seed is None else posterior.sample(seed)
        return (latents - self.latent_norm.running_mean) / self._latent_std

    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, T, D) into waves (B, C, T * hop_length)."""
        return self.decoder(latents * self._latent_std + self.latent_norm.running_mean)

    def posterior(self, wave: Tensor) -> Posterior:
        """Encode waves (B, C, S) to the distribution of the latents before they are normalised."""
        if wave.ndim != 3 or wave.shape[1] != self.channels:
            raise ValueError(
                f"expected waves (B, {self.channels}, S); got {tuple(wave.shape)}; mix or repeat channels to {self.channels}"
            )
        missing = -wave.shape[2] % self.hop_length
        mean, scale = self.encoder(F.pad(wave, (0, missing))).float().chunk(2, dim=-1)
        return Posterior(mean, F.softplus(scale))

    @property
    def _latent_std(self) -> Tensor:
        return (self.latent_norm.running_var + self.latent_norm.eps).sqrt()


def make_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """Build an autoencoder with random weights."""
    return Autoencoder(config)

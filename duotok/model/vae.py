"""Autoencoders behind one small interface: waves to latents, latents to waves.

    encode  wave (B, C, S)     -> latents (B, T, D), T = ceil(S / hop_length)
    decode  latents (B, T, D)  -> wave (B, C, T * hop_length)

"ear" is the ear-VAE (oobleck.py), which the paper's decoder stands on; "spectral" is one that a CPU can train (spectral.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from duotok.kernels import replace_noise

from .oobleck import EarConfig, LatentTransformer, make_decoder, make_encoder
from .spectral import SpectralConfig, SpectralDecoder, SpectralEncoder


@dataclass(frozen=True)
class AutoencoderConfig:
    """Which autoencoder, and its sizes.

    Attributes:
        kind: "spectral" or "ear".
        sample_rate: of the waves, in Hz.
        channels: 1 for mono, 2 for stereo.
        latent_dim: D.
        spectral, ear: sizes of the two kinds; only those of `kind` count.
    """

    kind: Literal["ear", "spectral"] = "spectral"
    sample_rate: int = 24_000
    channels: int = 1
    latent_dim: int = 32
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    ear: EarConfig = field(default_factory=EarConfig)

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or self.channels not in (1, 2) or self.latent_dim < 1:
            raise ValueError(
                "expected a positive sample_rate, 1 or 2 channels and a positive latent_dim; got "
                f"{self.sample_rate}, {self.channels} and {self.latent_dim}; correct them"
            )
        if self.kind == "ear" and self.latent_dim % self.ear.head_dim:
            raise ValueError(f"expected latent_dim a multiple of ear.head_dim {self.ear.head_dim}; got {self.latent_dim}")

    @property
    def sizes(self) -> SpectralConfig | EarConfig:
        """Sizes of the kind that is built."""
        return self.ear if self.kind == "ear" else self.spectral


# The public release (Eps-Acoustic-Revolution-Lab/EAR_VAE).
EAR_VAE = AutoencoderConfig("ear", sample_rate=44_100, channels=2, latent_dim=64)


@dataclass(frozen=True)
class Posterior:
    """What an encoder says of its latents: mean and standard deviation, each (B, T, D)."""

    mean: Tensor
    std: Tensor

    def sample(self, seed: Tensor) -> Tensor:
        """Draw latents (B, T, D); `seed` is (2,) int64, see `replace_noise`."""
        return self.mean + self.std * replace_noise(self.mean.new_zeros(self.mean.shape), 1.0, 1.0, seed)


class Autoencoder(nn.Module):
    """An encoder, a decoder, and latents normalised in between; `make_autoencoder` builds the kinds.

    Attributes:
        config: what it was built from.
        sample_rate: of the waves, in Hz.
        channels: of the waves.
        latent_dim: width of a latent frame.
        hop_length: samples per latent frame.
        context_frames: latent frames on either side that one depends on, encoding or decoding: windows that overlap by twice as
            many, cut in the middle of the overlap, give what the whole would give. The ear-VAE's Transformer attends to all
            frames of a window; there this holds for the convolutions.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.channels, self.latent_dim = config.sample_rate, config.channels, config.latent_dim
        self.hop_length, self.context_frames = config.sizes.hop_length, config.sizes.context_frames

    @property
    def latent_rate(self) -> float:
        """Latents per second."""
        return self.sample_rate / self.hop_length

    def encode(self, wave: Tensor, seed: Tensor | None = None) -> Tensor:
        """Turn waves into latents.

        Args:
            wave: (B, C, S) in [-1, 1] at `sample_rate`; silence is added to fill the last frame.
            seed: (2,) int64 draws from the posterior; None takes its mean.

        Returns:
            (B, T, D), T = ceil(S / hop_length).

        Raises:
            ValueError: if the waves have no sample or another number of channels.
        """
        posterior = self.posterior(wave)
        return self._normalize(posterior.mean if seed is None else posterior.sample(seed))

    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, T, D) into waves (B, C, T * hop_length).

        Raises:
            ValueError: if the latents have no frame or another width.
        """
        if latents.ndim != 3 or latents.shape[2] != self.latent_dim or not latents.shape[1]:
            raise ValueError(f"expected latents (B, T, {self.latent_dim}); got {tuple(latents.shape)}; reshape them")
        return self.synthesize(self._restore(latents))

    def posterior(self, wave: Tensor) -> Posterior:
        """Encode waves (B, C, S) to the distribution of the latents before they are normalised, in float32."""
        if wave.ndim != 3 or wave.shape[1] != self.channels or not wave.shape[2]:
            raise ValueError(
                f"expected waves (B, {self.channels}, S); got {tuple(wave.shape)}; mix or repeat channels to {self.channels}"
            )
        mean, scale = self.analyse(F.pad(wave, (0, -wave.shape[2] % self.hop_length))).float().chunk(2, dim=-1)
        return Posterior(mean, F.softplus(scale))

    def analyse(self, wave: Tensor) -> Tensor:
        """Encode waves (B, C, T * hop_length) to means and raw scales (B, T, 2D)."""
        raise NotImplementedError

    def synthesize(self, latents: Tensor) -> Tensor:
        """Decode latents (B, T, D) that are not normalised, to waves (B, C, T * hop_length)."""
        raise NotImplementedError

    def observe(self, latents: Tensor) -> None:
        """Note the statistics of latents (B, T, D) in training, where the kind keeps them."""

    def _normalize(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def _restore(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


class SpectralAutoencoder(Autoencoder):
    """Fourier transforms outside, blocks at the latents' rate inside; latents have zero mean and unit variance outside."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        self.encoder = SpectralEncoder(config.spectral, config.channels, config.latent_dim)
        self.decoder = SpectralDecoder(config.spectral, config.channels, config.latent_dim)
        # Keeps running statistics, which a run's checkpoints and processes share as any batch norm's; normalises outside only.
        self.latent_norm = nn.BatchNorm1d(config.latent_dim, affine=False, momentum=0.02)

    def analyse(self, wave: Tensor) -> Tensor:
        """Encode waves (B, C, T * hop_length) to means and raw scales (B, T, 2D)."""
        return self.encoder(wave)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Decode latents (B, T, D) that are not normalised, to waves (B, C, T * hop_length)."""
        return self.decoder(latents)

    def observe(self, latents: Tensor) -> None:
        """Move the running statistics towards those of latents (B, T, D), in training mode."""
        self.latent_norm(latents.detach().transpose(1, 2))

    def _normalize(self, latents: Tensor) -> Tensor:
        return (latents - self.latent_norm.running_mean) / (self.latent_norm.running_var + self.latent_norm.eps).sqrt()

    def _restore(self, latents: Tensor) -> Tensor:
        return latents * (self.latent_norm.running_var + self.latent_norm.eps).sqrt() + self.latent_norm.running_mean


class EarAutoencoder(Autoencoder):
    """The ear-VAE; its state_dict has the names and shapes of the public release."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        sizes = (config.ear, config.channels, config.latent_dim)
        self.transformers = LatentTransformer(config.ear, config.latent_dim)
        self.encoder, self.decoder = make_encoder(*sizes), make_decoder(*sizes)

    def analyse(self, wave: Tensor) -> Tensor:
        """Encode waves (B, C, T * hop_length) to means and raw scales (B, T, 2D)."""
        return self.encoder(wave).transpose(1, 2)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Decode latents (B, T, D) that are not normalised, to waves (B, C, T * hop_length)."""
        return self.decoder(self.transformers(latents).transpose(1, 2))

    def _normalize(self, latents: Tensor) -> Tensor:
        return latents / self.config.ear.latent_std

    def _restore(self, latents: Tensor) -> Tensor:
        return latents * self.config.ear.latent_std


def make_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """Build an autoencoder with random weights."""
    return {"spectral": SpectralAutoencoder, "ear": EarAutoencoder}[config.kind](config)

"""Small autoencoders and decoders for tests: random weights, but not silent ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from duotok.autoencoder import fingerprint
from duotok.decoder import Decoder, DecoderConfig
from duotok.model.dit import DiTConfig
from duotok.model.spectral import SpectralConfig
from duotok.model.vae import Autoencoder, AutoencoderConfig, make_autoencoder
from duotok.tokenizer import DuoTok

DIM = 4
TINY_DIT = DiTConfig(latent_dim=DIM, condition_dim=128, width=32, depth=1, num_heads=2, time_features=8)


def toy_autoencoder(seed: int = 0, channels: int = 1) -> Autoencoder:
    """An autoencoder of 50 latents a second, normalised to noise."""
    spectral = SpectralConfig(width=16, encoder_blocks=1, decoder_blocks=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make_autoencoder(AutoencoderConfig(channels=channels, latent_dim=DIM, spectral=spectral)).eval()
        latents = made.posterior(0.1 * torch.randn(1, channels, 24_000)).mean[0]
    made.latent_norm.running_mean.copy_(latents.mean(0).detach())
    made.latent_norm.running_var.copy_(latents.var(0).detach())
    return made


def toy_decoder(tokenizer: DuoTok, seed: int = 0, channels: int = 1, window: tuple[int, int] = (100, 20), **dit) -> Decoder:
    """A decoder for a tokenizer, whose weights are random everywhere; `window` has its frames and their overlap."""
    autoencoder = toy_autoencoder(channels=channels)
    prints = {"tokenizer": tokenizer.fingerprint, "autoencoder": fingerprint(autoencoder)}
    config = DecoderConfig(**prints, window_frames=window[0], overlap_frames=window[1], dit=replace(TINY_DIT, **dit))
    decoder = Decoder(config, autoencoder)
    generator = torch.Generator().manual_seed(seed)
    for parameter in decoder.dit.parameters():
        nn.init.normal_(parameter, std=0.15, generator=generator)
    return decoder


def decoding_tokenizer(folder: Path, tokenizer: DuoTok | None = None, **options) -> DuoTok:
    """Save a tokenizer, an untrained one if none is given, with a toy decoder, and load it."""
    tokenizer = tokenizer or DuoTok.from_config("tiny/tokenizer")
    tokenizer.save(folder)
    toy_decoder(tokenizer, **options).save(folder)
    return DuoTok.from_pretrained(folder)


def random_codes(num_frames: int, seed: int = 0) -> torch.Tensor:
    """Codes (2, T) of the tiny tokenizer."""
    return torch.randint(0, 32_768, (2, num_frames), generator=torch.Generator().manual_seed(seed))

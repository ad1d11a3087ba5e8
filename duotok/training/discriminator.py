"""A discriminator of waves on short-time spectra, and the adversarial losses (EnCodec: Défossez et al., arXiv 2210.13438).

The generator's terms see the discriminator's weights as constants, and the discriminator's term sees the generator's wave as
one; so both learn in one step with one optimiser, and neither gives the other a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from duotok.model.spectral import stft

_DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of the discriminator.

    Attributes:
        sizes: windows in samples, one network each, the hop being a quarter; default, not from the paper:
            stable-audio-tools'.
        width: channels of the convolutions; 64 there, 32 in EnCodec.
    """

    sizes: list[int] = field(default_factory=lambda: [2048, 1024, 512, 256, 128])
    width: int = 64

    def __post_init__(self) -> None:
        if any(size < 8 or size % 8 for size in self.sizes) or not self.sizes or self.width < 1:
            raise ValueError(f"expected sizes, multiples of 8, and a positive width; got {self.sizes} and {self.width}")


class StftDiscriminator(nn.Module):
    """Convolutions over time and frequency on the complex spectrum of one window length."""

    def __init__(self, size: int, width: int, channels: int) -> None:
        super().__init__()
        self.size = size
        layers = [_convolution(2 * channels, width, (3, 9))]
        layers += [_convolution(width, width, (3, 9), (1, 2), (dilation, 1)) for dilation in _DILATIONS]
        self.layers = nn.ModuleList([*layers, _convolution(width, width, (3, 3))])
        self.last = _convolution(width, 1, (3, 3))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """Judge waves (B, C, S): features (B, width, T, F) of every layer, and last the logits (B, 1, T, F)."""
        hop = self.size // 4
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = stft(wave[..., : wave.shape[-1] // hop * hop].float(), self.size, hop) * self.size**0.5
        x = rearrange(torch.view_as_real(spectrum), "b c t f p -> b (c p) t f")
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.last(x)]


class Discriminator(nn.Module):
    """One `StftDiscriminator` for each window length."""

    def __init__(self, config: DiscriminatorConfig, channels: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(StftDiscriminator(size, config.width, channels) for size in config.sizes)

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """Judge waves (B, C, S): features and logits (B, ?, T, F) of each part."""
        return [part(wave) for part in self.parts]


def adversarial_losses(discriminator: Discriminator, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Compute the three adversarial losses ().

    Args:
        discriminator: that judges.
        predicted, target: (B, C, S).

    Returns:
        "adversarial", hinge: the prediction's logits should exceed 1; "features": L1 distance of features, relative to the
        target's; both for the generator alone. "discriminator", hinge: the target's logits should exceed 1, the prediction's
        fall below -1; for the discriminator alone.
    """
    real, fake = discriminator(target), discriminator(predicted.detach())
    judged = torch.func.functional_call(discriminator, {n: p.detach() for n, p in discriminator.named_parameters()}, predicted)
    losses = {
        "adversarial": [F.relu(1 - maps[-1]).mean() for maps in judged],
        "features": [
            (ours - theirs.detach()).abs().mean() / theirs.detach().abs().mean().clamp(min=1e-6)
            for maps, true in zip(judged, real, strict=True)
            for ours, theirs in zip(maps[:-1], true[:-1], strict=True)
        ],
        "discriminator": [
            F.relu(1 - true[-1]).mean() + F.relu(1 + maps[-1]).mean() for maps, true in zip(fake, real, strict=True)
        ],
    }
    return {name: torch.stack([value.float() for value in values]).mean() for name, values in losses.items()}


def _convolution(
    in_channels: int,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    padding = tuple((size - 1) * step // 2 for size, step in zip(kernel, dilation, strict=True))
    return weight_norm(nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation))

"""The trunk: downsampling to 25 Hz, the front blocks, a bottleneck slot, the back blocks (figures F2 to F4 of the paper).

mel (B, 4T, F) -> downsample -> (B, T, D) -> 12 blocks -> [bottleneck] -> 12 blocks -> norm -> (B, T, D)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from duotok.kernels import convolution

from .bottleneck import BottleneckConfig, BottleneckOutput, make_bottleneck
from .transformer import Linear, Stack, TransformerConfig

DOWNSAMPLING = 4


@dataclass(frozen=True)
class TrunkConfig:
    """The trunk's sizes.

    Attributes:
        front_blocks, back_blocks: 12 and 12 in the paper's figures.
        block: of every Transformer block.
        downsample_channels: of the convolutions; default, not from the paper: MusicFM's Conv2dSubsampling.
    """

    front_blocks: int = 12
    back_blocks: int = 12
    block: TransformerConfig = field(default_factory=TransformerConfig)
    downsample_channels: int = 512


class ResidualConv(nn.Module):
    """Two 3x3 convolutions beside a strided one, halving time and frequency: (B, C, T, F) -> (B, C', T/2, F/2)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Halve time and frequency of x (B, C, T, F)."""
        first, norm, _, second, last_norm = self.path
        if self.training or norm.running_mean is None:
            return (self.path(x) + self.shortcut(x)).relu_()
        hidden = convolution(x, *_folded(first, norm), stride=2, relu=True)
        beside = convolution(x, *_folded(*self.shortcut), stride=2)
        return convolution(hidden, *_folded(second, last_norm), relu=True, add=beside)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Compute weight and bias of the one convolution that equals this one and a BatchNorm in use."""
    wide = torch.promote_types(conv.weight.dtype, torch.float32)
    scale = norm.weight.to(wide) * (norm.running_var.to(wide) + norm.eps).rsqrt()
    weight, bias = conv.weight * scale[:, None, None, None], (conv.bias - norm.running_mean) * scale + norm.bias
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


class Downsample(nn.Module):
    """Four Mel frames become one of width D, after the idea of Conv2dSubsampling in MusicFM (Won et al., 2023)."""

    def __init__(self, n_mels: int, channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(ResidualConv(1, channels), ResidualConv(channels, channels))
        self.project = Linear(channels * -(-n_mels // DOWNSAMPLING), width)

    def forward(self, mel: Tensor) -> Tensor:
        """Map mel (B, 4T, F) to (B, T, D)."""
        x = self.convolutions(mel[:, None])  # (B, C, T, F/4)
        return self.project(rearrange(x, "b c t f -> b t (c f)"))


@dataclass(frozen=True)
class TrunkOutput:
    """What the trunk returns: `hidden` (B, T, D) after the last norm, and the bottleneck's own output."""

    hidden: Tensor
    bottleneck: BottleneckOutput


class Trunk(nn.Module):
    """Downsampling, front blocks, bottleneck, back blocks."""

    def __init__(self, config: TrunkConfig, bottleneck: BottleneckConfig, n_mels: int) -> None:
        super().__init__()
        width = config.block.width
        self.downsample = Downsample(n_mels, config.downsample_channels, width)
        self.front = Stack(config.block, config.front_blocks)
        self.bottleneck = make_bottleneck(bottleneck, width)
        self.back = Stack(config.block, config.back_blocks)
        self.norm = nn.LayerNorm(width)

    def encode(self, mel: Tensor) -> Tensor:
        """Run the front half, which is all that tokenizing needs: mel (B, 4T, F) -> (B, T, D)."""
        return self.front(self.downsample(mel))

    def forward(self, mel: Tensor, tracks: Tensor | None = None, seed: Tensor | None = None) -> TrunkOutput:
        """Run the whole trunk.

        Args:
            mel: (B, 4T, F) normalised log-Mel frames.
            tracks: (B,) int64, 0 vocals and 1 accompaniment; needed by the dual bottlenecks.
            seed: (2,) int64; needed by Gaussian replacement while training.
        """
        slot = self.bottleneck(self.encode(mel), tracks, seed)
        return TrunkOutput(self.norm(self.back(slot.hidden)), slot)

"""The ear-VAE's networks: convolutions on the wave, and a small Transformer on the latents (arXiv 2509.14912).

    wave (B, C, T * hop) -> strided convolutions -> (B, 2D, T)
    latents (B, T, D) -> Transformer -> (B, T, D);  (B, D, T) -> transposed convolutions -> wave (B, C, T * hop)

The convolutions are Oobleck (Stability-AI/stable-audio-tools), after DAC (Kumar et al., arXiv 2306.06546). Names and shapes of
all parameters are those of the public release (Eps-Acoustic-Revolution-Lab/EAR_VAE, Apache-2.0), so that its checkpoint loads;
hence `layers` by number and weights as `weight_g` and `weight_v`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from duotok.kernels import attention

from .transformer import rotate

_DILATIONS = (1, 3, 9)
_KERNEL = 7


@dataclass(frozen=True)
class EarConfig:
    """Sizes of the ear-VAE; defaults are the public release's.

    Attributes:
        width: channels at the wave's own rate.
        multiples: channels behind each stride, in widths.
        strides: of the encoder; their product is the hop. The paper's 50 Hz at 48 kHz needs 960: [2, 4, 4, 5, 6], inferred.
        transformer_blocks, head_dim: of the Transformer before the decoder.
        latent_std: what latents are divided by outside; 1 leaves them as the release gives them.

    Raises:
        ValueError: if there are not as many multiples as strides.
    """

    width: int = 128
    multiples: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    strides: list[int] = field(default_factory=lambda: [2, 4, 4, 4, 8])
    transformer_blocks: int = 2
    head_dim: int = 32
    latent_std: float = 1.0

    def __post_init__(self) -> None:
        if len(self.multiples) != len(self.strides) or min(self.strides, default=0) < 2 or self.latent_std <= 0:
            raise ValueError(
                "expected as many multiples as strides, strides of at least 2 and a positive latent_std; got "
                f"{self.multiples}, {self.strides} and {self.latent_std}; correct them"
            )

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.strides)

    @property
    def context_frames(self) -> int:
        """Latent frames on either side that convolutions reach; the Transformer attends to all that it is given."""
        units, edge, hop = sum(_DILATIONS) * (_KERNEL // 2), _KERNEL // 2, self.hop_length
        first, last = -edge, hop - 1 + edge  # what the decoder's last convolution hears for one latent frame
        for stride in self.strides:
            first, last = first - units, last + units
            first, last = -((2 * stride - 1 - _padding(stride) - first) // stride), (last + _padding(stride)) // stride
        decoder = max(edge - first, last + edge)
        first, last = -1, 1  # what the encoder's last convolution hears
        for stride in reversed(self.strides):
            first, last = first * stride - _padding(stride), (last + 2) * stride - 1 - _padding(stride)
            first, last = first - units, last + units
        encoder = -(-max(edge - first, last + edge - (hop - 1)) // hop)
        return max(encoder, decoder)

    def channels(self) -> list[int]:
        """List the channels before each stride and behind the last."""
        return [self.width, *(self.width * multiple for multiple in self.multiples)]


class Snake(nn.Module):
    """x + sin^2(a x) / b for each channel, a and b kept as logarithms (Ziyin et al., arXiv 2006.08195; BigVGAN's SnakeBeta)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Bend x (B, C, T)."""
        alpha, beta = self.alpha[:, None].exp(), self.beta[:, None].exp()
        return x + (alpha * x).sin().square() / (beta + 1e-9)


class Convolution(nn.Module):
    """A convolution, or a transposed one, whose weight is g v / |v| (Salimans & Kingma, arXiv 1602.07868)."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1, transposed: bool = False,
        bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        make = nn.ConvTranspose1d if transposed else nn.Conv1d
        like = make(in_channels, channels, kernel)  # for its start
        self.weight_g = nn.Parameter(like.weight.detach().norm(dim=(1, 2), keepdim=True))
        self.weight_v = nn.Parameter(like.weight.detach())
        self.bias = nn.Parameter(like.bias.detach()) if bias else None
        self.stride, self.dilation, self.transposed = stride, dilation, transposed

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, T) to (B, C', T / stride), or to (B, C', T * stride) where transposed."""
        weight = torch._weight_norm(self.weight_v, self.weight_g, 0)
        if self.transposed:
            # An odd stride leaves one sample too few.
            return F.conv_transpose1d(x, weight, self.bias, self.stride, _padding(self.stride), self.stride % 2)
        kernel = weight.shape[-1]
        padding = _padding(self.stride) if self.stride > 1 else self.dilation * (kernel // 2)
        return F.conv1d(x, weight, self.bias, self.stride, padding, self.dilation)


class ResidualUnit(nn.Module):
    """A dilated convolution and a pointwise one, beside a residual."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(channels), Convolution(channels, channels, _KERNEL, dilation=dilation),
            Snake(channels), Convolution(channels, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (B, C, T)."""
        return x + self.layers(x)


class Layers(nn.Module):
    """A run of layers under the release's name."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (B, C, T)."""
        return self.layers(x)


def make_encoder(config: EarConfig, channels: int, latent_dim: int) -> Layers:
    """Build the encoder: waves (B, C, T * hop) to means and raw scales (B, 2D, T)."""
    widths = config.channels()
    blocks = [
        Layers(*_units(narrow), Snake(narrow), Convolution(narrow, wide, 2 * stride, stride))
        for narrow, wide, stride in zip(widths, widths[1:], config.strides, strict=False)
    ]
    first, last = Convolution(channels, widths[0], _KERNEL), Convolution(widths[-1], 2 * latent_dim, 3)
    return Layers(first, *blocks, Snake(widths[-1]), last)


def make_decoder(config: EarConfig, channels: int, latent_dim: int) -> Layers:
    """Build the decoder: latents (B, D, T) to waves (B, C, T * hop)."""
    widths = config.channels()
    blocks = [
        Layers(Snake(wide), Convolution(wide, narrow, 2 * stride, stride, transposed=True), *_units(narrow))
        for narrow, wide, stride in zip(widths, widths[1:], config.strides, strict=False)
    ]
    first = Convolution(latent_dim, widths[-1], _KERNEL)
    last = Convolution(widths[0], channels, _KERNEL, bias=False)
    return Layers(first, *blocks[::-1], Snake(widths[0]), last)


class LatentTransformer(nn.Module):
    """The Transformer on the latents, `transformers` in the release."""

    def __init__(self, config: EarConfig, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerBlock(latent_dim, config.head_dim) for _ in range(config.transformer_blocks))
        self.rotary_pos_emb = RotaryAngles(config.head_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Transform latents (B, T, D)."""
        table = self.rotary_pos_emb(latents.shape[1])
        for layer in self.layers:
            latents = layer(latents, table)
        return latents


class RotaryAngles(nn.Module):
    """Angles of rotary positions (Su et al., arXiv 2104.09864) from frequencies that the checkpoint holds."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10_000.0 ** (-torch.arange(0, dim, 2) / dim))

    def forward(self, num_frames: int) -> Tensor:
        """Compute cosines and sines, (2, T, dim / 2), in float32 as the release does."""
        angles = torch.outer(torch.arange(num_frames, device=self.inv_freq.device, dtype=torch.float32), self.inv_freq)
        return torch.stack((angles.cos(), angles.sin()))


class TransformerBlock(nn.Module):
    """Attention and a gated feed-forward network, each behind a norm and beside a residual; both start as nothing."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.pre_norm, self.ff_norm = Norm(width), Norm(width)
        self.self_attn, self.ff = SelfAttention(width, head_dim), FeedForward(width)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Transform x (B, T, D); `table` (2, T, head_dim / 2) holds the rotary angles."""
        x = x + self.self_attn(self.pre_norm(x), table)
        return x + self.ff(self.ff_norm(x))


class Norm(nn.Module):
    """A layer norm without a learned shift, which the release keeps as zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, T, D)."""
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class SelfAttention(nn.Module):
    """Attention of all frames to all."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = width // head_dim
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Mix frames of x (B, T, D)."""
        q, k, v = rearrange(self.to_qkv(x), "b t (three h d) -> three b t h d", three=3, h=self.num_heads)
        return self.to_out(attention(rotate(q, table), rotate(k, table), v).flatten(2))


class FeedForward(nn.Module):
    """A gated network (SwiGLU; Shazeer, arXiv 2002.05202) four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(Gated(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))
        nn.init.zeros_(self.ff[-1].weight)
        nn.init.zeros_(self.ff[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (B, T, D)."""
        return self.ff(x)


class Gated(nn.Module):
    """Half of a projection times the SiLU of the other half."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, D) to (B, T, hidden)."""
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.silu(gate)


def _units(channels: int) -> list[ResidualUnit]:
    return [ResidualUnit(channels, dilation) for dilation in _DILATIONS]


def _padding(stride: int) -> int:
    return -(-stride // 2)

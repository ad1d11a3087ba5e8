"""Pre-norm Transformer blocks with rotary positions (Su et al., arXiv 2104.09864)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from duotok.kernels import attention, linear


@dataclass(frozen=True)
class TransformerConfig:
    """One Transformer block. The paper names no sizes.

    Attributes:
        width, num_heads, ffn_width, dropout, rope_base: default, not from the paper: wav2vec2-conformer-rope-large as MuCodec
            and LeVo ship it, with plain Transformer blocks as the paper's figures show.
    """

    width: int = 1024
    num_heads: int = 16
    ffn_width: int = 4096
    dropout: float = 0.1
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width < 1 or self.width % (2 * self.num_heads):
            raise ValueError(
                f"expected width to be an even multiple of num_heads; got {self.width} and {self.num_heads}; change one"
            )


def rotary_table(num_frames: int, dim: int, base: float, device: torch.device) -> Tensor:
    """Compute the angles' cosines and sines, (2, T, dim // 2) float32, in float64 so that they are exact on every device."""
    frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.outer(torch.arange(num_frames, dtype=torch.float64), frequencies)
    return torch.stack((angles.cos(), angles.sin())).to(device, torch.float32)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate pairs (i, i + D/2) of x (B, T, H, D) by the angles of `rotary_table`, one for all items or (2, B, T, D / 2)."""
    cos, sin = table[..., : x.shape[1], None, :].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Linear(nn.Linear):
    """A linear layer that can do what follows it in the same pass; see `duotok.kernels.linear`."""

    def forward(self, x: Tensor, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        """Transform x (..., K); `add` (..., N) is the residual stream."""
        return linear(x, self.weight, self.bias, gelu, add)


class Block(nn.Module):
    """Self-attention and a feed-forward network, each behind a LayerNorm and beside a residual."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.ffn_in = Linear(config.width, config.ffn_width)
        self.ffn_out = Linear(config.ffn_width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, table: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Transform x (B, T, D); `table` is `rotary_table`'s, `lengths` (B,) the valid frames."""
        qkv = self.qkv(self.attention_norm(x))
        qkv = rearrange(qkv, "b t (heads d) -> b t heads d", heads=3 * self.num_heads)
        q, k = rotate(qkv[:, :, : 2 * self.num_heads], table).chunk(2, dim=2)
        mixed = attention(q, k, qkv[:, :, 2 * self.num_heads :], lengths)
        x = self._add(x, self.out, rearrange(mixed, "b t h d -> b t (h d)"))
        return self._add(x, self.ffn_out, self.dropout(self.ffn_in(self.ffn_norm(x), gelu=True)))

    def _add(self, x: Tensor, layer: Linear, hidden: Tensor) -> Tensor:
        """Add what the layer makes of hidden to the residual stream, dropout between them."""
        return x + self.dropout(layer(hidden)) if self.training else layer(hidden, add=x)


class Stack(nn.Module):
    """A run of blocks that share one table of rotary angles."""

    def __init__(self, config: TransformerConfig, num_blocks: int) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(num_blocks))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Transform x (B, T, D) by every block in turn."""
        config = self.config
        table = rotary_table(x.shape[1], config.width // config.num_heads, config.rope_base, x.device)
        for block in self.blocks:
            x = block(x, table, lengths)
        return x

"""A causal language model over both tracks: one hidden state a frame predicts the next frame's two codes in parallel.

    codes (B, 2, T) -> logits (B, T, K) of each track

The paper's unconditional protocol (figure 5): <SOA>, then one (vocals, accompaniment) pair a step, no delay pattern. The
network is the one of Codec-Evaluation's perplexity benchmark: Qwen2 decoder blocks (RMSNorm, grouped key and value heads,
rotary positions, SwiGLU); each track has its own embedding and its own head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .transformer import rotary_table, rotate


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes of the language model.

    Attributes:
        codebook_size: codes of a track.
        num_tracks: 2.
        width, num_blocks, num_heads, num_key_heads, ffn_width, rope_base, norm_eps: default, not from the paper:
            Codec-Evaluation's model of 85 M parameters without embeddings.
        embedding_dim: of a code before it is mapped to `width`; None is `width` itself, as in Codec-Evaluation.
    """

    codebook_size: int = 32_768
    num_tracks: int = 2
    width: int = 768
    num_blocks: int = 10
    num_heads: int = 12
    num_key_heads: int = 2
    ffn_width: int = 3072
    rope_base: float = 1e6
    norm_eps: float = 1e-6
    embedding_dim: int | None = None

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads) or self.num_heads % self.num_key_heads:
            raise ValueError(
                "expected width to be an even multiple of num_heads, and num_heads a multiple of num_key_heads; got "
                f"{self.width}, {self.num_heads} and {self.num_key_heads}; change one"
            )


class CausalBlock(nn.Module):
    """Causal self-attention with grouped key heads, and SwiGLU, each behind an RMSNorm and beside a residual."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_key_heads = config.num_heads, config.num_key_heads
        head = config.width // config.num_heads
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.qkv = nn.Linear(config.width, (config.num_heads + 2 * config.num_key_heads) * head)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn_in = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.ffn_out = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Transform x (B, T, D); `table` is `rotary_table`'s."""
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (self.num_heads + 2 * self.num_key_heads, -1))
        q, k, v = heads.split((self.num_heads, self.num_key_heads, self.num_key_heads), dim=2)
        q, k, v = (rearrange(part, "b t h d -> b h t d") for part in (rotate(q, table), rotate(k, table), v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(rearrange(mixed, "b h t d -> b t (h d)"))
        gate, value = self.ffn_in(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.ffn_out(F.silu(gate) * value)


class DualTrackLM(nn.Module):
    """The language model; `forward` gives the hidden states that `logits` turns into scores of the next codes."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embedding_dim or config.width
        self.embeddings = nn.ModuleList(nn.Embedding(config.codebook_size, dim) for _ in range(config.num_tracks))
        self.start = nn.Parameter(torch.zeros(config.width))
        self.project = nn.Linear(config.num_tracks * dim, config.width, bias=False)
        self.blocks = nn.ModuleList(CausalBlock(config) for _ in range(config.num_blocks))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.narrow = nn.ModuleList(
            nn.Linear(config.width, dim) if config.embedding_dim else nn.Identity() for _ in range(config.num_tracks)
        )
        self.heads = nn.ModuleList(nn.Linear(dim, config.codebook_size) for _ in range(config.num_tracks))
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        """Read codes.

        Args:
            codes: (B, 2, T) int64.

        Returns:
            (B, T, D) hidden states; that of frame t has seen the frames before t alone.
        """
        embedded = torch.cat([embed(codes[:, track]) for track, embed in enumerate(self.embeddings)], dim=-1)
        x = self.project(embedded)
        x = torch.cat((self.start.to(x.dtype).expand(len(x), 1, -1), x[:, :-1]), dim=1)
        config = self.config
        table = rotary_table(x.shape[1], config.width // config.num_heads, config.rope_base, x.device)
        for block in self.blocks:
            x = block(x, table)
        return self.norm(x)

    def logits(self, hidden: Tensor, track: int) -> Tensor:
        """Score the codes of a track: hidden (..., D) -> (..., K)."""
        return self.heads[track](self.narrow[track](hidden))

"""A causal language model over both tracks: one hidden state a step predicts the next step's codes in parallel.

    steps (B, 2, L) -> hidden (B, L, D) -> logits (B, L, K) of each track

A step holds a code of each track, of one alone (NOTHING in the other's place), or a mark (START, PREFIX) in both. Positions
count from the last mark, so that where one track follows the other (protocols.py) codes of one time have one position
(default, own choice). The network is the one of Codec-Evaluation's perplexity benchmark: Qwen2 decoder blocks (RMSNorm,
grouped key and value heads, rotary positions, SwiGLU); each track has its own embedding and its own head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .transformer import rotary_table, rotate

# What a step may hold instead of a code: no code of this track; <SOA>; the mark between vocals and accompaniment.
NOTHING, START, PREFIX = -1, -2, -3


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes of the language model.

    Attributes:
        codebook_size: codes of a track.
        num_tracks: 2.
        width, num_blocks, num_heads, num_key_heads, ffn_width, rope_base, norm_eps: default, not from the paper:
            Codec-Evaluation's model of 85 M parameters without embeddings.
        embedding_dim: of a code before it is mapped to `width`; None is `width` itself, as in Codec-Evaluation.
        has_end: whether the heads know one more symbol, `codebook_size`: <EOA>, the song's end.
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
    has_end: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads) or self.num_heads % self.num_key_heads:
            raise ValueError(
                "expected width to be an even multiple of num_heads, and num_heads a multiple of num_key_heads; got "
                f"{self.width}, {self.num_heads} and {self.num_key_heads}; change one"
            )


class Cache:
    """Keys and values of the steps that a model has read without gradients, to read on; made by `DualTrackLM.cache`."""

    def __init__(self, config: LanguageModelConfig, num_items: int, capacity: int, like: Tensor) -> None:
        """Hold up to `capacity` steps of every item, on the device and in the dtype of `like` (...)."""
        head = config.width // config.num_heads
        shape = (config.num_blocks, 2, num_items, config.num_key_heads, capacity, head)
        self.keys_values = like.new_zeros(shape)
        self.table = rotary_table(capacity + 1, head, config.rope_base, like.device)
        self.position = torch.zeros(num_items, dtype=torch.int64, device=like.device)  # of the last step
        self.length = 0

    def extend(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, n, d) of a block; return all so far, (B, H, length + n, d)."""
        stop = self.length + k.shape[2]
        keys, values = self.keys_values[block]
        keys[:, :, self.length : stop], values[:, :, self.length : stop] = k, v
        return keys[:, :, :stop], values[:, :, :stop]


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

    def forward(self, x: Tensor, table: Tensor, cache: Cache | None = None, block: int = 0) -> Tensor:
        """Transform x (B, T, D); `table` (2, B, T, d / 2) has the angles; `block` is this one's number in the cache."""
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (self.num_heads + 2 * self.num_key_heads, -1))
        q, k, v = heads.split((self.num_heads, self.num_key_heads, self.num_key_heads), dim=2)
        q, k, v = (rearrange(part, "b t h d -> b h t d") for part in (rotate(q, table), rotate(k, table), v))
        mask = None
        if cache:
            k, v = cache.extend(block, k, v)
        if k.shape[2] > x.shape[1]:
            mask = torch.ones(x.shape[1], k.shape[2], dtype=torch.bool, device=x.device).tril(cache.length)
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
        x = x + self.out(rearrange(mixed, "b h t d -> b t (h d)"))
        gate, value = self.ffn_in(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.ffn_out(F.silu(gate) * value)


class DualTrackLM(nn.Module):
    """The language model; `read` gives the hidden states that `logits` turns into scores of the next codes."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embedding_dim or config.width
        self.embeddings = nn.ModuleList(nn.Embedding(config.codebook_size, dim) for _ in range(config.num_tracks))
        self.start = nn.Parameter(torch.zeros(config.width))
        self.prefix = nn.Parameter(torch.zeros(config.width))
        self.project = nn.Linear(config.num_tracks * dim, config.width, bias=False)
        self.blocks = nn.ModuleList(CausalBlock(config) for _ in range(config.num_blocks))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.narrow = nn.ModuleList(
            nn.Linear(config.width, dim) if config.embedding_dim else nn.Identity() for _ in range(config.num_tracks)
        )
        symbols = config.codebook_size + config.has_end
        self.heads = nn.ModuleList(nn.Linear(dim, symbols) for _ in range(config.num_tracks))
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.02)

    @torch.no_grad()
    def begin_at(self, priors: Sequence[Tensor], vectors: Sequence[Tensor] | None = None) -> None:
        """Start from what is known without training.

        Args:
            priors: probabilities (K,) of each track's symbols, which the heads' biases take over.
            vectors: code vectors (K, d) of each track, d being `embedding_dim`: where codes lie, for embeddings and heads,
                which then predict `priors` exactly.
        """
        for track, prior in enumerate(priors):
            self.heads[track].bias.copy_(prior.log())
            if vectors is not None:
                normal = (vectors[track] - vectors[track].mean(0)) / vectors[track].std().clamp(min=1e-12)
                self.embeddings[track].weight.copy_(normal)
                self.heads[track].weight.zero_()[: len(normal)] = normal
                self.narrow[track].weight.zero_()
                self.narrow[track].bias.zero_()

    def cache(self, num_items: int, capacity: int) -> Cache:
        """Make an empty cache for up to `capacity` steps of a batch."""
        return Cache(self.config, num_items, capacity, self.start)

    def forward(self, codes: Tensor) -> Tensor:
        """Read pairs of codes behind a START.

        Args:
            codes: (B, 2, T) int64.

        Returns:
            (B, T, D) hidden states; that of frame t has seen the frames before t alone.
        """
        return self.read(F.pad(codes[..., :-1], (1, 0), value=START))

    def read(self, steps: Tensor, cache: Cache | None = None) -> Tensor:
        """Read steps, going on behind those in the cache, if there is one.

        Args:
            steps: (B, 2, L) int64, codes, NOTHING, or marks.
            cache: gets the steps appended.

        Returns:
            (B, L, D) hidden states; each has seen its own step and those before.
        """
        x, config, count = self._embed(steps), self.config, steps.shape[-1]
        places = torch.arange(count, device=steps.device)
        before = -1 - cache.position[:, None] if cache else -torch.ones_like(steps[:, 0, :1])
        last_mark = torch.where(steps[:, 0] < NOTHING, places, before).cummax(1).values
        positions = places - last_mark  # (B, L)
        head = config.width // config.num_heads
        table = cache.table if cache else rotary_table(count + 1, head, config.rope_base, x.device)
        for number, block in enumerate(self.blocks):
            x = block(x, table[:, positions], cache, number)
        if cache:
            cache.length, cache.position = cache.length + count, positions[:, -1]
        return self.norm(x)

    def _embed(self, steps: Tensor) -> Tensor:
        """Embed steps (B, 2, L) as (B, L, D)."""
        parts = [
            embed(steps[:, track].clamp(min=0)) * (steps[:, track] >= 0)[..., None]
            for track, embed in enumerate(self.embeddings)
        ]
        x = self.project(torch.cat(parts, dim=-1))
        marks = steps[:, 0, :, None]
        return x + (marks == START) * self.start.to(x.dtype) + (marks == PREFIX) * self.prefix.to(x.dtype)

    def logits(self, hidden: Tensor, track: int) -> Tensor:
        """Score the symbols of a track: hidden (..., D) -> (..., K), with `has_end` (..., K + 1)."""
        return self.heads[track](self.narrow[track](hidden))

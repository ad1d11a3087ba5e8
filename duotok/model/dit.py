"""DiT over latent frames (Peebles & Xie, arXiv 2212.09748): noisy latents and what the codes say in, a velocity out.

    z (B, T, S D), condition (B, T, S D'), t (B,), tracks (B,) -> velocity (B, T, S D)

S streams are 1, a track at a time, or 2, both tracks in one network, their channels side by side (LeVo's way). Conditions
are the tokenizer's proj_out(q) at the latents' rate, concatenated to the latents on channels (LeVo); time and track
modulate every layer (adaLN-Zero). Positions are rotary (Su et al., arXiv 2104.09864).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from duotok.kernels import attention, gated_residual, modulate

from .bottleneck import TRACKS
from .transformer import Linear, rotary_table, rotate


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the network. The paper names none.

    Attributes:
        latent_dim: D, the autoencoder's; 64 is the ear-VAE's.
        condition_dim: D', the tokenizer's width; 1,024 as in its trunk.
        joint: both tracks in one network; default, own choice: a track at a time.
        width, depth, num_heads, time_features: default, not from the paper: stable-audio-tools' stable_audio_2_0.
        ffn_ratio: width of the feed-forward networks over `width`; default, not from the paper: the DiT's.
        rope_base: of the rotary positions; default, as in the trunk.
    """

    latent_dim: int = 64
    condition_dim: int = 1024
    joint: bool = False
    width: int = 1536
    depth: int = 24
    num_heads: int = 24
    time_features: int = 256
    ffn_ratio: int = 4
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width % (2 * self.num_heads) or self.time_features % 2:
            raise ValueError(
                "expected width to be an even multiple of num_heads, and time_features even; got "
                f"{self.width}, {self.num_heads} and {self.time_features}; change them"
            )

    @property
    def num_streams(self) -> int:
        """S, tracks in one pass."""
        return len(TRACKS) if self.joint else 1


class DiTBlock(nn.Module):
    """Attention and a feed-forward network, each modulated before and gated after."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.width
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.ffn_in = Linear(width, config.ffn_ratio * width)
        self.ffn_out = Linear(config.ffn_ratio * width, width)
        _zero(self.modulation)

    def forward(self, x: Tensor, context: Tensor, table: Tensor) -> Tensor:
        """Transform x (B, T, W) under context (B, W); `table` is `rotary_table`'s."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = _exact(self.modulation, context).chunk(6, dim=-1)
        qkv = self.qkv(modulate(x, shift, scale))
        q, k, v = rearrange(qkv, "b t (three h d) -> three b t h d", three=3, h=self.num_heads)
        mixed = attention(rotate(q, table), rotate(k, table), v)
        x = gated_residual(x, self.out(rearrange(mixed, "b t h d -> b t (h d)")), gate)
        hidden = F.gelu(self.ffn_in(modulate(x, ffn_shift, ffn_scale)), approximate="tanh")
        return gated_residual(x, self.ffn_out(hidden), ffn_gate)


class DiT(nn.Module):
    """The network: `forward` is what training needs, `denoise` what samplers need."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        streams, width = config.num_streams, config.width
        # Statistics of conditions by track, so that they enter with zero mean and unit variance; fitted, not learned.
        self.register_buffer("condition_mean", torch.zeros(len(TRACKS), config.condition_dim))
        self.register_buffer("condition_std", torch.ones(len(TRACKS), config.condition_dim))
        self.no_condition = nn.Parameter(torch.zeros(streams * config.condition_dim))
        self.enter = nn.Linear(streams * (config.latent_dim + config.condition_dim), width)
        self.time = nn.Sequential(nn.Linear(config.time_features, width), nn.SiLU(), nn.Linear(width, width))
        self.track = nn.Embedding(len(TRACKS), width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, streams * config.latent_dim)
        _zero(self.modulation, self.leave)

    @torch.no_grad()
    def fit(self, conditions: Tensor, track: int) -> None:
        """Take the mean and deviation of a track's conditions (N, D')."""
        self.condition_mean[track] = conditions.mean(0)
        self.condition_std[track] = conditions.std(0).clamp(min=1e-3)

    def normalise(self, conditions: Tensor, tracks: Tensor) -> Tensor:
        """Give conditions (B, T, D') of tracks (B,) zero mean and unit variance."""
        return (conditions - self.condition_mean[tracks][:, None]) / self.condition_std[tracks][:, None]

    def forward(self, z: Tensor, t: Tensor, condition: Tensor, tracks: Tensor, keep: Tensor | None = None) -> Tensor:
        """Predict the velocity.

        Args:
            z: (B, T, S D) noisy latents.
            t: (B,) times in [0, 1].
            condition: (B, T, S D') normalised.
            tracks: (B,) int64, 0 vocals and 1 accompaniment; only looked at if S is 1.
            keep: (B,) bool, False for items without a condition; None keeps all.

        Returns:
            (B, T, S D) float32 (float64 for float64 latents).
        """
        if keep is not None:
            condition = torch.where(keep[:, None, None], condition, self.no_condition)
        x = self.enter(torch.cat((z, condition), dim=-1)).to(z.dtype)  # the residual stream stays wide under autocast
        context = _exact(self.time, _fourier(t, self.config.time_features).to(z.dtype))
        context = F.silu(context if self.config.joint else context + self.track(tracks))
        table = rotary_table(z.shape[1], self.config.width // self.config.num_heads, self.config.rope_base, z.device)
        for block in self.blocks:
            x = block(x, context, table)
        x = modulate(x, *_exact(self.modulation, context).chunk(2, dim=-1))
        return _exact(self.leave, x)

    @torch.no_grad()
    def denoise(self, z: Tensor, t: float, condition: Tensor, tracks: Tensor, guidance: float) -> Tensor:
        """Estimate clean latents (B, T, S D) of z at one time, with classifier-free guidance (Ho & Salimans, 2207.12598).

        Args:
            z: (B, T, S D).
            t: in [0, 1].
            condition: (B, T, S D') normalised.
            tracks: (B,) int64.
            guidance: 1 takes the condition as it is, 0 ignores it, more exaggerates it.
        """
        both = guidance != 1
        items = 2 * len(z) if both else len(z)
        keep = torch.arange(items, device=z.device) < len(z)
        repeated = [torch.cat((x, x)) if both else x for x in (z, condition, tracks)]
        velocity = self(repeated[0], z.new_full((items,), t), *repeated[1:], keep if both else None)
        if both:
            given, free = velocity.chunk(2)
            velocity = free + guidance * (given - free)
        angle = t * math.pi / 2
        return math.cos(angle) * z - math.sin(angle) * velocity


def _fourier(t: Tensor, num_features: int) -> Tensor:
    """Describe times (B,) by cosines and sines (B, num_features) of 1 to 1,000 radians."""
    rates = torch.logspace(0, 3, num_features // 2, device=t.device)
    angles = t.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _exact(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a small layer in its weights' precision whatever the autocast: it decides the scale of everything."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x)


def _zero(*layers: nn.Linear) -> None:
    """Start layers at zero, so that every block starts as the identity (adaLN-Zero) and the velocity at 0."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)

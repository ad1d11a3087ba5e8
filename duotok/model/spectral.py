"""A spectral encoder and decoder that a CPU can train: short-time Fourier transforms outside, ConvNeXt blocks between.

    wave (B, C, T * hop) -> STFT, compressed -> patches of R frames -> blocks over T -> (B, T, 2D)
    latents (B, T, D) -> blocks over T -> patches of R frames -> inverse STFT -> wave (B, C, T * hop)

Everything between the transforms runs at the rate of the latents, R spectral frames to each. Blocks at one rate and a Fourier
transform behind them are the idea of Vocos (Siuzdak, arXiv 2306.00814), the blocks are ConvNeXt's (Liu et al., arXiv
2201.03545). Frames hang over their hop equally on both sides, so T * R of them belong to T * hop samples exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# Magnitude below which compression is linear: -100 dB of a full-scale sine.
_FLOOR = 1e-5


@dataclass(frozen=True)
class SpectralConfig:
    """Sizes of the spectral autoencoder; defaults, own choice: the tiny preset's.

    Attributes:
        hop_length: samples per latent frame.
        stft_hop_length, n_fft: of the transforms, in samples; a Hann window of n_fft.
        compression: exponent of the magnitudes that the networks see and make; 0.3 is near the ear's loudness.
        width, kernel_size, expansion: of every block.
        encoder_blocks, decoder_blocks: how many.

    Raises:
        ValueError: if the hops do not divide one another.
    """

    hop_length: int = 480
    stft_hop_length: int = 240
    n_fft: int = 960
    compression: float = 0.3
    width: int = 256
    kernel_size: int = 7
    expansion: int = 3
    encoder_blocks: int = 3
    decoder_blocks: int = 6

    def __post_init__(self) -> None:
        hop, inner, n_fft = self.hop_length, self.stft_hop_length, self.n_fft
        if (
            inner < 1
            or hop < 1
            or hop % inner
            or n_fft < inner
            or n_fft % 2
            or (n_fft - inner) % 2
            or self.kernel_size % 2 == 0
        ):
            raise ValueError(
                "expected hop_length a multiple of stft_hop_length, n_fft and n_fft - stft_hop_length even, and an odd "
                f"kernel_size; got {hop}, {inner}, {n_fft} and {self.kernel_size}; change them"
            )

    @property
    def frames_per_latent(self) -> int:
        """Spectral frames that one latent frame stands for."""
        return self.hop_length // self.stft_hop_length

    @property
    def context_frames(self) -> int:
        """Latent frames on either side that a frame depends on, encoding or decoding."""
        blocks = max(self.encoder_blocks, self.decoder_blocks) + 1  # one for the convolution before them
        overhang = (self.n_fft - self.stft_hop_length) // 2
        return blocks * (self.kernel_size // 2) + -(-overhang // self.hop_length)


def stft(wave: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Transform waves (..., J * hop_length) to spectra (..., J, n_fft / 2 + 1), a full-scale sine being 1/2 at its peak."""
    overhang = (n_fft - hop_length) // 2
    window = torch.hann_window(n_fft, device=wave.device)
    frames = F.pad(wave, (overhang, overhang)).unfold(-1, n_fft, hop_length)
    return torch.fft.rfft(frames * (window / window.sum()))


def istft(spectrum: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Transform spectra (N, J, n_fft / 2 + 1) back to waves (N, J * hop_length), `stft`'s exact inverse (Griffin & Lim, 1984).

    Frames are windowed again, added where they overlap, and divided by the sum of the squared windows.
    """
    num_frames, overhang = spectrum.shape[1], (n_fft - hop_length) // 2
    window = torch.hann_window(n_fft, device=spectrum.device)
    frames = torch.fft.irfft(spectrum, n=n_fft) * (window * window.sum())
    weights = window.square().expand(1, num_frames, n_fft)
    whole = slice(overhang, overhang + num_frames * hop_length)  # the very ends are in no window: 0 / 0
    return _overlap_add(frames, hop_length)[:, whole] / _overlap_add(weights, hop_length)[:, whole]


def _overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Add frames (N, J, n_fft), each `hop_length` behind the one before: (N, n_fft + (J - 1) * hop_length)."""
    n_fft = frames.shape[2]
    length = n_fft + (frames.shape[1] - 1) * hop_length
    return F.fold(frames.transpose(1, 2), (1, length), (1, n_fft), stride=(1, hop_length))[:, 0, 0]


class Block(nn.Module):
    """A depthwise convolution over time and a pointwise network, beside a residual."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel_size
        self.convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.expansion * width)
        self.contract = nn.Linear(config.expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (B, T, D)."""
        hidden = self.norm(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.contract(F.gelu(self.expand(hidden)))


class Blocks(nn.Module):
    """A convolution from another width, a run of blocks and a norm: (B, T, D') -> (B, T, D)."""

    def __init__(self, config: SpectralConfig, in_width: int, num_blocks: int) -> None:
        super().__init__()
        self.enter = nn.Linear(in_width, config.width)
        kernel = config.kernel_size
        self.convolution = nn.Conv1d(config.width, config.width, kernel, padding=kernel // 2, groups=config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (B, T, D')."""
        x = self.enter(x)
        x = x + self.convolution(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class SpectralEncoder(nn.Module):
    """Waves to the means and raw scales of latents."""

    def __init__(self, config: SpectralConfig, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.blocks = Blocks(config, channels * _patch(config), config.encoder_blocks)
        self.leave = nn.Linear(config.width, 2 * latent_dim)

    def forward(self, wave: Tensor) -> Tensor:
        """Encode waves (B, C, T * hop_length) to (B, T, 2D)."""
        config = self.config
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = stft(wave.float(), config.n_fft, config.stft_hop_length)  # (B, C, T * R, F)
            parts = torch.view_as_real(spectrum)
            power = parts.square().sum(-1, keepdim=True) + _FLOOR**2
            patches = rearrange(
                parts * power ** ((config.compression - 1) / 2), "b c (t r) f p -> b t (c r f p)", r=config.frames_per_latent
            )
        return self.leave(self.blocks(patches))


class SpectralDecoder(nn.Module):
    """Latents to waves."""

    def __init__(self, config: SpectralConfig, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.blocks = Blocks(config, latent_dim, config.decoder_blocks)
        self.leave = nn.Linear(config.width, channels * _patch(config))
        nn.init.normal_(self.leave.weight, std=0.1 * config.width**-0.5)  # begin near the level of quiet music
        nn.init.zeros_(self.leave.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode latents (B, T, D) to waves (B, C, T * hop_length)."""
        config = self.config
        hidden = self.blocks(latents)
        with torch.autocast(latents.device.type, enabled=False):  # a phase in bfloat16 would be off by a tenth
            patches = self.leave(hidden.float())
            parts = rearrange(
                patches, "b t (c r f p) -> (b c) (t r) f p", c=self.channels, r=config.frames_per_latent, p=2
            ).contiguous()
            power = parts.square().sum(-1, keepdim=True) + _FLOOR**2
            spectrum = torch.view_as_complex(parts * power ** ((1 / config.compression - 1) / 2))
            wave = istft(spectrum, config.n_fft, config.stft_hop_length)
        return rearrange(wave, "(b c) s -> b c s", c=self.channels)


def _patch(config: SpectralConfig) -> int:
    """Numbers of one channel that a latent frame stands for."""
    return config.frames_per_latent * (config.n_fft // 2 + 1) * 2

"""The guardrail heads behind the last block (figure F3): chroma, Mel, source-separation masks, lyrics; and notes.

Each maps hidden (B, T, D) at 25 Hz to its own target; the losses belong to training.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from duotok.kernels.chroma import NUM_PITCH_CLASSES

from .trunk import DOWNSAMPLING

STEMS = ("drums", "bass", "other", "vocals")
NUM_PITCHES = 128  # of MIDI
# Default, not from the paper: BS-RoFormer's bands (Lu et al., arXiv 2309.02612), bins per band of a 2,048-point STFT.
BANDS = (*[2] * 24, *[4] * 12, *[12] * 8, *[24] * 8, *[48] * 8, 128, 129)


@dataclass(frozen=True)
class HeadsConfig:
    """Which heads exist and their sizes; stage 3 drops the masks (figure F4).

    Attributes:
        mel, chroma, masks, lyrics: whether the head exists.
        hidden: channels of the convolutional upsampling; default, own choice.
        band_dim, band_expansion: width of a band's vector and of its MLP; default, not from the paper: BS-RoFormer's mask
            estimator of depth 2 and expansion 4, here fed by one linear map from a single vector.
        vocab_size: text units without the CTC blank, which is 0; default, own choice: the 256 bytes.
        notes: whether there is a head for the accompaniment's notes; not in the paper, which names MIDI-CTC as future work.
    """

    mel: bool = True
    chroma: bool = True
    masks: bool = False
    lyrics: bool = True
    hidden: int = 512
    band_dim: int = 64
    band_expansion: int = 4
    vocab_size: int = 256
    notes: bool = field(default=False, kw_only=True)


class Upsample(nn.Module):
    """Transposed convolutions (kernel 4, stride 2, GELU) from 25 Hz to the Mel rate: (B, T, D) -> (B, 4T, C)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(DOWNSAMPLING.bit_length() - 1):
            layers += [nn.ConvTranspose1d(width, hidden, 4, stride=2, padding=1), nn.GELU()]
            width = hidden
        self.layers = nn.Sequential(*layers)

    def forward(self, hidden: Tensor) -> Tensor:
        """Upsample hidden (B, T, D) to (B, 4T, C)."""
        return rearrange(self.layers(rearrange(hidden, "b t d -> b d t")), "b c t -> b t c")


class FrameHead(nn.Sequential):
    """Upsampling and a linear map: normalised log-Mel (B, 4T, F) or chroma (B, 4T, 12) from hidden (B, T, D)."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(Upsample(width, hidden), nn.Linear(hidden, out))


class MaskHead(nn.Module):
    """Real masks in [0, 1] for four stems: hidden (B, T, D) -> (B, 4T, 4, 1,025), stems in the order of `STEMS`.

    Every stem has its own MLP for every band; bands of equal size are computed together.
    """

    def __init__(self, width: int, config: HeadsConfig) -> None:
        super().__init__()
        dim, inner, stems = config.band_dim, config.band_dim * config.band_expansion, len(STEMS)
        self.upsample = Upsample(width, config.hidden)
        self.split = nn.Linear(config.hidden, len(BANDS) * dim)
        self.sizes = sorted(set(BANDS))
        counts = [BANDS.count(size) for size in self.sizes]
        self.first = nn.ParameterList(_uniform(dim, stems, n, dim, inner) for n in counts)
        self.first_bias = nn.ParameterList(_uniform(dim, stems, n, inner) for n in counts)
        self.second = nn.ParameterList(
            _uniform(inner, stems, n, inner, 2 * size) for n, size in zip(counts, self.sizes, strict=True)
        )
        self.second_bias = nn.ParameterList(
            _uniform(inner, stems, n, 2 * size) for n, size in zip(counts, self.sizes, strict=True)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Estimate the masks."""
        bands = self.split(self.upsample(hidden)).unflatten(-1, (len(BANDS), -1))  # (B, 4T, 62, band_dim)
        pieces, start = [], 0
        for group, size in enumerate(self.sizes):
            stop = start + BANDS.count(size)
            inner = torch.einsum("btnd,sndh->btsnh", bands[:, :, start:stop], self.first[group]) + self.first_bias[group]
            both = torch.einsum("btsnh,snhk->btsnk", inner.tanh(), self.second[group]) + self.second_bias[group]
            pieces.append(nn.functional.glu(both).flatten(-2))  # (B, 4T, 4, n * size)
            start = stop
        return torch.cat(pieces, dim=-1).sigmoid()


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    """Initialise as `torch.nn.Linear` does."""
    return nn.Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


def make_heads(config: HeadsConfig, width: int, n_mels: int) -> nn.ModuleDict:
    """Build the configured heads for a trunk of the given width."""
    heads: dict[str, nn.Module] = {}
    if config.mel:
        heads["mel"] = FrameHead(width, config.hidden, n_mels)
    if config.chroma:
        heads["chroma"] = FrameHead(width, config.hidden, NUM_PITCH_CLASSES)
    if config.masks:
        heads["masks"] = MaskHead(width, config)
    if config.lyrics:
        heads["lyrics"] = nn.Linear(width, config.vocab_size + 1)  # logits (B, T, V + 1), blank first
    if config.notes:
        heads["notes"] = nn.Linear(width, NUM_PITCHES + 1)  # logits (B, T, 129), blank first
    return nn.ModuleDict(heads)

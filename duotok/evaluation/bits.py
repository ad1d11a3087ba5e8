"""Bits per token: a unigram model, and how much a small language model gains over it.

Both learn from the training songs' codes and are scored on the held-out songs'. The unigram model mixes the counts with a
uniform distribution, whose weight makes each training song likeliest, given the counts of the others (deleted interpolation,
Jelinek & Mercer, 1980): what a new song brings is judged by songs that were not counted. The language model starts there: its
heads' biases are the unigram's logarithms, its embeddings and heads the tokenizer's own code vectors, so that even codes seen
once or never have neighbours. The recipe is one for every tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duotok.model.language_model import DualTrackLM, LanguageModelConfig


@dataclass(frozen=True)
class BitsConfig:
    """The small language model and its training; own choices, sized for a CPU.

    Attributes:
        width, num_blocks, num_heads, num_key_heads, ffn_width: of the model, see `LanguageModelConfig`.
        steps, batch_size, frames: of training; crops of `frames` frames.
        lr, warmup_steps, weight_decay: AdamW with a cosine to a tenth.
        seed: of weights and crops.
    """

    width: int = 128
    num_blocks: int = 3
    num_heads: int = 4
    num_key_heads: int = 2
    ffn_width: int = 384
    steps: int = 400
    batch_size: int = 4
    frames: int = 250
    lr: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class TrackBits:
    """Held-out bits per token of one track.

    Attributes:
        unigram: under the unigram model.
        language_model: under the language model.
        entropy: of the held-out codes' own distribution, which no unigram model can beat.
    """

    unigram: float
    language_model: float
    entropy: float

    @property
    def gain(self) -> float:
        """Bits per token that the language model saves over the unigram model of the training songs.

        Codes that a song shares with no other make this large: they ruin a unigram model, while the language model can still
        repeat what is near. `gain_over_any_unigram` is free of that.
        """
        return self.unigram - self.language_model

    @property
    def gain_over_any_unigram(self) -> float:
        """Bits per token that it saves over the best of all unigram models, the one made of the held-out codes themselves."""
        return self.entropy - self.language_model


def unigram(songs: Sequence[Tensor], codebook_size: int, iterations: int = 50) -> Tensor:
    """Estimate the probabilities (K,) float64 of codes from those of songs, (T,) int64 each; a single one is cut in halves.

    The weight is found by expectation and maximisation from one half, and is at least that of one token.
    """
    parts = list(songs) if len(songs) > 1 else list(songs[0].chunk(2))
    counts = [torch.bincount(part, minlength=codebook_size).double() for part in parts]
    total = torch.stack(counts).sum(0)
    others = torch.cat(
        [(total - own)[part] / (total - own).sum().clamp(min=1) for part, own in zip(parts, counts, strict=True)]
    )
    weight = torch.tensor(0.5, dtype=torch.float64)
    for _ in range(iterations):
        uniform = weight / codebook_size
        weight = (uniform / ((1 - weight) * others + uniform)).mean()
    weight = weight.clamp(min=1 / (total.sum() + 1))
    return (1 - weight) * total / total.sum() + weight / codebook_size


def entropy_bits(codes: Tensor, codebook_size: int) -> float:
    """Compute the entropy in bits of the empirical distribution of codes (N,) int64."""
    shares = torch.bincount(codes, minlength=codebook_size).double() / len(codes)
    return -torch.special.xlogy(shares, shares).sum().item() / math.log(2)


def measure_bits(
    train: Sequence[Tensor],
    held_out: Sequence[Tensor],
    vectors: Sequence[Tensor],
    config: BitsConfig,
    progress: Callable[[int, float], None] | None = None,
) -> list[TrackBits]:
    """Train the language model and score the held-out songs.

    Args:
        train, held_out: codes (2, T) int64 of each song.
        vectors: code vectors (K, d) of each track.
        config: the model and its training.
        progress: called with each step and its loss in bits per token.

    Returns:
        The bits of each track.

    Raises:
        ValueError: if no training song is longer than a crop.
    """
    long = [song for song in train if song.shape[1] > config.frames]
    if not long:
        raise ValueError(f"expected a training song of more than {config.frames} frames; got none; set frames lower")
    held, size = torch.cat(list(held_out), 1), len(vectors[0])
    priors = [unigram([song[track] for song in train], size) for track in range(len(vectors))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _make(config, vectors)
        model.begin_at(priors, vectors)
        _train(model, long, config, progress)
    losses = _score(model, held_out, config.frames)
    return [
        TrackBits(-priors[track][held[track]].log2().mean().item(), losses[track], entropy_bits(held[track], size))
        for track in range(len(vectors))
    ]


def _make(config: BitsConfig, vectors: Sequence[Tensor]) -> DualTrackLM:
    size, dim = vectors[0].shape
    return DualTrackLM(
        LanguageModelConfig(
            size, len(vectors), config.width, config.num_blocks, config.num_heads, config.num_key_heads, config.ffn_width,
            embedding_dim=dim,
        )
    )  # fmt: skip


def _losses(model: DualTrackLM, codes: Tensor) -> list[Tensor]:
    """Compute the cross-entropy in nats of every token of codes (B, 2, T): (B * T,) of each track."""
    hidden = model(codes).flatten(0, 1)
    return [
        F.cross_entropy(model.logits(hidden, track), codes[:, track].flatten(), reduction="none")
        for track in range(codes.shape[1])
    ]


def _train(model: DualTrackLM, songs: list[Tensor], config: BitsConfig, progress: Callable[[int, float], None] | None) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    lengths = torch.tensor([song.shape[1] for song in songs], dtype=torch.float64)
    for step in range(config.steps):
        rate = min(1.0, (step + 1) / config.warmup_steps) * (0.55 + 0.45 * math.cos(math.pi * step / config.steps))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        crops = []
        for song in torch.multinomial(lengths, config.batch_size, replacement=True).tolist():
            first = int(torch.randint(songs[song].shape[1] - config.frames, ()))
            crops.append(songs[song][:, first : first + config.frames])
        loss = torch.stack([part.mean() for part in _losses(model, torch.stack(crops))]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress:
            progress(step + 1, loss.item() / math.log(2))


@torch.no_grad()
def _score(model: DualTrackLM, songs: Sequence[Tensor], frames: int) -> list[float]:
    """Score songs in pieces of `frames` frames, each without what came before it: bits per token of each track."""
    totals, count = [0.0] * model.config.num_tracks, 0
    for song in songs:
        for piece in song.split(frames, dim=1):
            for track, loss in enumerate(_losses(model, piece[None])):
                totals[track] += loss.double().sum().item()
            count += piece.shape[1]
    return [total / count / math.log(2) for total in totals]

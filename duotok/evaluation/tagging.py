"""Music tagging from frozen codes: how much of 50 tags a probe finds in a codec's quantized embeddings.

The probe and its training are those of Codec-Evaluation (`probe/`). Its own code has trained this probe on the test split since
May 2025; here it learns from the train split, validates on the whole of the validation split, and is scored on the test split,
chunk by chunk, as published numbers are, and clip by clip, from the mean of a clip's chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec import Codec
from .perplexity import warmup_cosine
from .probe import auroc, average_precision
from .tagging_data import CodedClips

_REDUCTION = 16
_CHUNKS_AT_A_TIME = 64


@dataclass(frozen=True)
class TaggingConfig:
    """The probe's training; defaults are Codec-Evaluation's.

    Attributes:
        chunk_s: seconds of a chunk: 5 for DAC, X-Codec and YuE, 10 for the others.
        lr, betas, eps, weight_decay, warmup_steps, cosine_steps, floor: of AdamW; the rate stays at `floor` after the cosine.
        batch_size: clips.
        epochs: the weights of the lowest validation loss are scored.
        seed: of weights and order.
    """

    chunk_s: float = 10.0
    lr: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-5
    weight_decay: float = 0.08
    warmup_steps: int = 10
    cosine_steps: int = 10_000
    floor: float = 0.2
    batch_size: int = 64
    epochs: int = 50
    seed: int = 666


class SqueezeExcite(nn.Module):
    """Weigh the channels of x (B, T, D), which are its frames, by what their means say (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // _REDUCTION, bias=False)
        self.excite = nn.Linear(channels // _REDUCTION, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh x (B, T, D)."""
        weights = self.excite(F.relu(self.squeeze(x.mean(-1)))).sigmoid()
        return x * weights[..., None]


class TagProbe(nn.Module):
    """Embeddings (B, D, T) to logits of tags (B, tags); frames are the channels of its convolutions."""

    def __init__(self, dim: int, frames: int, num_tags: int) -> None:
        """Make a probe.

        Raises:
            ValueError: if frames or the embeddings' width are too few to be reduced.
        """
        super().__init__()
        if frames // 2 < _REDUCTION or dim < _REDUCTION:
            raise ValueError(
                f"expected chunks of at least {2 * _REDUCTION} frames and embeddings of width {_REDUCTION}; got {frames} and "
                f"{dim}; take longer chunks"
            )
        layers = []
        for width in (frames, frames // 2):
            layers += [SqueezeExcite(width) for _ in range(3)]
            layers.append(nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False))
            layers.append(nn.Conv1d(width, width // 2, 1, bias=False))
        self.layers = nn.Sequential(*layers)
        self.narrow = nn.Linear(dim, dim // _REDUCTION)
        self.out = nn.Linear(frames // 2 // 2 * (dim // _REDUCTION), num_tags)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Score the tags of embeddings (B, D, T): (B, tags)."""
        return self.out(self.narrow(self.layers(embeddings.mT)).flatten(1))


def measure_tagging(
    codec: Codec, train: CodedClips, valid: CodedClips, test: CodedClips, config: TaggingConfig,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train the probe on the train split and score it on the test split.

    Args:
        codec: that coded the clips.
        train, valid, test: from `code_clips`.
        config: of the training.
        progress: called with each epoch and its validation loss.

    Returns:
        `chunk_` and `clip_` with `ap` and `auroc`, means over tags; `chance_ap`, that of scores that say nothing; the number of
        `tags` that the test split can judge; `best_epoch`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        example = codec.embed(train.codes[:1])
        probe = TagProbe(example.shape[1], train.codes.shape[-1], train.labels.shape[1]).to(example.device)
        best = _train(codec, probe, train, valid, config, progress)
    scores = _scores(codec, probe, test.codes)
    clips = torch.zeros(len(test.labels), scores.shape[1]).index_add_(0, test.clips, scores)
    clips = clips / test.clips.bincount(minlength=len(clips))[:, None]
    by_chunk, by_clip = macro(scores, test.labels[test.clips]), macro(clips, test.labels)
    found = {f"chunk_{name}": value for name, value in by_chunk.items()} | {f"clip_{name}": v for name, v in by_clip.items()}
    return found | {"best_epoch": float(best)}


def macro(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Average over tags: of scores (M, tags) for labels (M, tags) bool, the `ap`, `auroc` and `chance_ap`, and their number.

    Tags that are true of none or of all are left out, as neither measure is defined for them.

    Raises:
        ValueError: if no tag is left.
    """
    judged = [tag for tag in range(labels.shape[1]) if 0 < labels[:, tag].sum() < len(labels)]
    if not judged:
        raise ValueError(f"expected a tag that some clips have and others lack; got none of {labels.shape[1]}; add clips")
    return {
        "ap": sum(average_precision(scores[:, tag], labels[:, tag]) for tag in judged) / len(judged),
        "auroc": sum(auroc(scores[:, tag], labels[:, tag]) for tag in judged) / len(judged),
        "chance_ap": labels[:, judged].double().mean().item(),
        "tags": float(len(judged)),
    }


def _train(
    codec: Codec, probe: TagProbe, train: CodedClips, valid: CodedClips, config: TaggingConfig,
    progress: Callable[[int, float], None] | None,
) -> int:  # fmt: skip
    """Train, leave the weights of the lowest validation loss in the probe, and return their epoch."""
    optimizer = torch.optim.AdamW(
        probe.parameters(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, config.warmup_steps, config.cosine_steps, config.floor)
    )
    best: tuple[float, int, dict[str, Tensor]] = (inf, 0, {})
    for epoch in range(1, config.epochs + 1):
        for clips in torch.randperm(len(train.labels)).split(config.batch_size):
            chunks = torch.isin(train.clips, clips).nonzero()[:, 0]
            loss = _loss(codec, probe, train, chunks)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            pieces = torch.arange(len(valid.clips)).split(_CHUNKS_AT_A_TIME)
            loss = sum(_loss(codec, probe, valid, piece).item() * len(piece) for piece in pieces) / len(valid.clips)
        if loss < best[0]:
            best = loss, epoch, {name: value.detach().clone() for name, value in probe.state_dict().items()}
        if progress:
            progress(epoch, loss)
    if not best[2]:
        raise ValueError("expected a finite validation loss; got none; lower lr")
    probe.load_state_dict(best[2])
    return best[1]


def _loss(codec: Codec, probe: TagProbe, clips: CodedClips, chunks: Tensor) -> Tensor:
    """Compute the binary cross-entropy of some chunks (m,)."""
    logits = probe(codec.embed(clips.codes[chunks]).float())
    return F.binary_cross_entropy_with_logits(logits, clips.labels[clips.clips[chunks]].to(logits))


@torch.no_grad()
def _scores(codec: Codec, probe: TagProbe, codes: Tensor) -> Tensor:
    """Give the probabilities (M, tags) of chunks (M, N, T)."""
    pieces = codes.split(_CHUNKS_AT_A_TIME)
    return torch.cat([probe(codec.embed(piece).float()).sigmoid().cpu() for piece in pieces])

"""Drawing codes from a language model, frame by frame, with temperature, top-k (Fan et al., arXiv 1805.04833) and top-p
(Holtzman et al., arXiv 1904.09751).

Each draw takes one number of its own, a function of (seed, item, frame, track), so a song depends on nothing that is drawn
beside it. A song longer than what the model was trained on is drawn in windows: each starts anew with the half window before
it as its past, as crops of training start in the middle of songs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from duotok.kernels.philox import philox, uniform

from .language_model import NOTHING, DualTrackLM
from .protocols import Protocol, make_steps, predicted_tracks


@dataclass(frozen=True)
class Draw:
    """How codes are drawn.

    Attributes:
        temperature: what scores are divided by; 0 takes the best.
        top_k: draw from the likeliest so many; 0 for all.
        top_p: draw from the fewest likeliest that together are as likely as this.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "expected temperature and top_k of at least 0, and top_p above 0 and at most 1; got "
                f"{self.temperature}, {self.top_k} and {self.top_p}; correct them"
            )


def pick(scores: Tensor, number: Tensor, draw: Draw) -> Tensor:
    """Draw symbols (B,) int64 by their scores (B, K) and uniform numbers (B,) in (0, 1)."""
    if draw.temperature == 0:
        return scores.argmax(-1)
    best, symbols = (scores.float() / draw.temperature).topk(min(draw.top_k or scores.shape[-1], scores.shape[-1]))
    shares = best.softmax(-1).double()
    sums = shares.cumsum(-1)
    kept = torch.where(sums - shares < draw.top_p, sums, 0).amax(-1, keepdim=True)
    place = torch.searchsorted(sums, number.double()[:, None] * kept, right=True).clamp(max=sums.shape[-1] - 1)
    return symbols.gather(-1, place)[:, 0]


@torch.no_grad()
def generate(
    model: DualTrackLM,
    protocol: Protocol,
    codes: Tensor,
    known: int,
    context: int,
    draw: Draw,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw what songs go on with.

    Args:
        model: with an <EOA>.
        protocol: that it was trained for.
        codes: (B, 2, T) int64; of the tracks to be drawn only the first `known` frames are read, of a given one all.
        known: frames that are there, the prompt.
        context: frames of a window, at most those of the training crops.
        draw: how.
        progress: called with the number of frames just drawn.

    Returns:
        (B, 2, T) int64, NOTHING in both tracks from a song's end on; an accompaniment ends with its vocals.
    """
    tracks, size = list(predicted_tracks(protocol)), model.config.codebook_size
    symbols = size + 1 if protocol == "unconditional" else size
    codes, num_frames = codes.clone(), codes.shape[-1]
    codes[:, tracks, known:] = NOTHING
    ended = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
    frame = known
    while frame < num_frames:
        first = 0 if frame < context else frame - context // 2
        stop = min(first + context, num_frames)
        steps = make_steps(protocol, codes[..., first:stop], frame - first)
        cache = model.cache(len(codes), steps.shape[-1] + stop - frame)
        for place in range(frame, stop):
            hidden = model.read(steps, cache)[:, -1]
            numbers = _numbers(draw.seed, len(codes), place, tracks, codes.device)
            row = [pick(model.logits(hidden, t)[:, :symbols], n, draw) for t, n in zip(tracks, numbers, strict=True)]
            drawn = torch.stack(row, dim=1)
            ended |= (drawn == size).any(1)
            codes[:, tracks, place] = drawn.masked_fill(ended[:, None], NOTHING)
            steps = make_steps(protocol, codes[..., place : place + 1])[..., -1:]
            if progress:
                progress(1)
        frame = stop
    return codes


def _numbers(seed: int, num_items: int, frame: int, tracks: list[int], device: torch.device) -> Tensor:
    """Draw a uniform number for each track and item, (S, B)."""
    key, place, last = (torch.tensor(word, device=device) for word in (seed, frame, 0))
    items, which = torch.arange(num_items, device=device), torch.tensor(tracks, device=device)[:, None]
    return uniform(philox(key, items, place, which, last)[..., 0])

"""What a language model reads and what it is to predict: the two protocols of the paper (figure 5).

    unconditional    <SOA>, then a (vocals, accompaniment) pair a step; every state predicts the next pair; last <EOA>
    accompaniment    all vocals, <PREFIX>, <SOA>, then the accompaniment; its codes and <EOA> alone are predicted

Symbols are those of language_model.py. The prefix, drawn as one token in the figure, is a mark that is learned (default, own
choice), as is that <EOA> is the end of a song: a crop that stops before has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .language_model import NOTHING, PREFIX, START, DualTrackLM

Protocol = Literal["unconditional", "accompaniment"]
IGNORED = -100


def predicted_tracks(protocol: Protocol) -> tuple[int, ...]:
    """Name the tracks that a protocol predicts: 0 vocals, 1 accompaniment."""
    return (0, 1) if protocol == "unconditional" else (1,)


def make_steps(protocol: Protocol, codes: Tensor, known: int | None = None) -> Tensor:
    """Lay out what the model reads.

    Args:
        codes: (..., 2, T) int64.
        known: frames of what is predicted that are there to read; None for all.

    Returns:
        (..., 2, L) steps; the last `known` + 1 predict the first `known` frames and what follows them.
    """
    known = codes.shape[-1] if known is None else known
    if protocol == "unconditional":
        return F.pad(codes[..., :known], (1, 0), value=START)
    vocals, accompaniment = codes.clone(), codes[..., :known].clone()
    vocals[..., 1, :] = NOTHING
    accompaniment[..., 0, :] = NOTHING
    return torch.cat((F.pad(vocals, (0, 1), value=PREFIX), F.pad(accompaniment, (1, 0), value=START)), dim=-1)


def make_targets(protocol: Protocol, codes: Tensor, end: int = IGNORED) -> Tensor:
    """Lay out what the model is to predict behind each step of `make_steps`.

    Args:
        codes: (2, T) int64.
        end: what follows the last frame: the number of <EOA>, or IGNORED where the song goes on.

    Returns:
        (2, L) int64, IGNORED where nothing is predicted.
    """
    targets = F.pad(codes, (0, 1), value=end)
    if protocol == "unconditional":
        return targets
    targets[0] = IGNORED
    return F.pad(targets, (codes.shape[-1] + 1, 0), value=IGNORED)


def code_losses(
    model: DualTrackLM,
    protocol: Protocol,
    codes: Tensor,
    seen: Tensor | None = None,
    last: int = 0,
    tracks: Sequence[int] | None = None,
) -> Tensor:
    """Score codes.

    Args:
        codes: (B, 2, T) int64, to be predicted.
        seen: (B, 2, T) int64 to predict them from; None for the codes themselves.
        last: how many frames at the end are scored; 0 for all.
        tracks: that are scored; None for all of `predicted_tracks`.

    Returns:
        (B, S, n) cross-entropies in nats.
    """
    count = last or codes.shape[-1]
    hidden = model.read(make_steps(protocol, codes if seen is None else seen))[:, -count - 1 : -1]
    losses = [
        F.cross_entropy(model.logits(hidden, track).float().movedim(-1, 1), codes[:, track, -count:], reduction="none")
        for track in (predicted_tracks(protocol) if tracks is None else tracks)
    ]
    return torch.stack(losses, dim=1)

"""Codes of songs, for the tests of what predicts codes."""

from __future__ import annotations

import torch


def code_songs(kind: str, count: int, seed: int) -> list[torch.Tensor]:
    """Codes (2, 300) of 64: "chain" moves by one of two known steps (1 bit a token), "noise" is uniform (6 bits)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(count):
        steps = torch.randint(2, (2, 300), generator=generator) * 5 + 1
        noise = torch.randint(64, (2, 300), generator=generator)
        drawn.append(steps.cumsum(1) % 64 if kind == "chain" else noise)
    return drawn

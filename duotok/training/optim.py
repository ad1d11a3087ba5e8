"""Optimisation: AdamW over parameter groups, learning-rate schedules as functions of the step, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Schedule = Literal["constant", "linear", "polynomial", "cosine"]


def lr_factor(step: int, steps: int, warmup_steps: int, schedule: Schedule, final_ratio: float, power: float = 1.0) -> float:
    """Compute what the peak learning rate is multiplied by at a step.

    It rises linearly to 1 at step `warmup_steps`, then falls to `final_ratio` at the last step, along 1 - p ("linear"),
    (1 - p)^power ("polynomial") or (1 + cos(pi p)) / 2 ("cosine"), p the share of the fall that has passed.

    Args:
        step: counted from 1.
        steps: the last step.
    """
    if step < warmup_steps:
        return step / warmup_steps
    passed = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    height = {
        "constant": 1.0,
        "linear": 1 - passed,
        "polynomial": (1 - passed) ** power,
        "cosine": (1 + math.cos(math.pi * passed)) / 2,
    }[schedule]
    return final_ratio + (1 - final_ratio) * height


def make_optimizer(
    groups: list[dict], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov & Hutter, arXiv 1711.05101), which is Adam where the weight decay is 0.

    Args:
        groups: `{"params": [...]}` with, optionally, "lr_scale" (of the learning rate, default 1) and "weight_decay".
    """
    scaled = [{"lr_scale": 1.0, **group} for group in groups]
    return torch.optim.AdamW(scaled, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of a `make_optimizer` optimizer its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class ExponentialMovingAverage:
    """Averaged weights: average <- decay * average + (1 - decay) * weight after every step.

    Buffers, such as the statistics of batch norms, are not averaged: they are the last ones.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start the average at the parameters of any shapes (...) as they are."""
        self._parameters = dict(parameters)
        self.decay = decay
        self.averages: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters."""
        torch._foreach_lerp_(list(self.averages.values()), list(self._parameters.values()), 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the parameters hold the averages for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            weight = parameter.clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(weight)

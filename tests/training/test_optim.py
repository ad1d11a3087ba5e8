"""Schedules against PyTorch's and closed forms, parameter groups against plain AdamW, averages against their sum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from duotok.training.optim import ExponentialMovingAverage, lr_factor, make_optimizer, set_lr

STEPS, WARMUP = 50, 10


def peer(schedule: str) -> list[float]:
    """Learning rates behind the warm-up as PyTorch's own schedulers give them, from 1 to 0.1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    length = STEPS - WARMUP
    made = {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "linear": lambda: lr_scheduler.LinearLR(optimizer, 1.0, 0.1, length),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, length, eta_min=0.1),
        "polynomial": lambda: lr_scheduler.LambdaLR(optimizer, lambda i: 0.1 + 0.9 * math.pow(1 - i / length, 2)),
    }[schedule]()
    rates = []
    for _ in range(length + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return rates


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "polynomial"])
def test_schedules_are_those_of_pytorch_behind_a_linear_warm_up(schedule):
    ours = [lr_factor(step, STEPS, WARMUP, schedule, 0.1, power=2) for step in range(1, STEPS + 1)]
    assert ours[:WARMUP] == pytest.approx([step / WARMUP for step in range(1, WARMUP + 1)])
    assert ours[WARMUP - 1 :] == pytest.approx(peer(schedule))


def test_schedules_without_warm_up_or_beyond_the_end():
    assert lr_factor(1, 10, 0, "linear", 0.0) == pytest.approx(0.9)
    assert lr_factor(10, 10, 0, "cosine", 0.0) == pytest.approx(0.0)
    assert lr_factor(11, 10, 0, "polynomial", 0.2) == pytest.approx(0.2)
    assert lr_factor(4, 4, 8, "cosine", 0.0) == 0.5  # the run ends inside the warm-up


def descend(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], before=lambda step: None) -> list[torch.Tensor]:
    for step in range(1, 6):
        before(step)
        optimizer.zero_grad()
        sum(((i + 1) * p - 0.3).square().sum() for i, p in enumerate(parameters)).backward()
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def two() -> list[nn.Parameter]:
    return [nn.Parameter(torch.linspace(-1, 1, 5)), nn.Parameter(torch.linspace(2, 3, 4))]


def test_groups_have_their_own_learning_rate_and_weight_decay():
    a, b = ours = two()
    groups = [{"params": [a]}, {"params": [b], "lr_scale": 0.1, "weight_decay": 0.0}]
    optimizer = make_optimizer(groups, lr=1.0, betas=(0.5, 0.9), eps=1e-6, weight_decay=0.2)
    mine = descend(optimizer, ours, before=lambda step: set_lr(optimizer, 0.01 * step))

    a, b = theirs = two()
    groups = [{"params": [a], "weight_decay": 0.2}, {"params": [b], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, betas=(0.5, 0.9), eps=1e-6)

    def rates(step: int) -> None:
        plain.param_groups[0]["lr"], plain.param_groups[1]["lr"] = 0.01 * step, 0.001 * step

    for x, y in zip(mine, descend(plain, theirs, before=rates), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


def test_without_weight_decay_it_is_adam():
    ours, theirs = two(), two()
    adam = torch.optim.Adam(theirs, lr=0.05, betas=(0.9, 0.98), eps=1e-6)
    mine = descend(make_optimizer([{"params": ours}], 0.05, (0.9, 0.98), 1e-6, 0.0), ours)
    for x, y in zip(mine, descend(adam, theirs), strict=True):
        assert torch.equal(x, y)


def test_average_is_the_weighted_sum_of_all_weights():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    ema, seen = ExponentialMovingAverage({"w": parameter}, 0.8), [parameter.detach().clone()]
    for step in range(1, 7):
        parameter.data.mul_(0.7).add_(step)
        ema.update()
        seen.append(parameter.detach().clone())
    expected = 0.8**6 * seen[0] + sum(0.2 * 0.8 ** (6 - k) * seen[k] for k in range(1, 7))
    torch.testing.assert_close(ema.averages["w"], expected)


def test_average_is_applied_for_a_while_even_if_that_fails():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    ema = ExponentialMovingAverage({"w": parameter}, 0.5)
    parameter.data.fill_(5.0)
    ema.update()
    average, weight = ema.averages["w"].clone(), parameter.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        assert torch.equal(parameter, average) and not torch.equal(average, weight)
        raise RuntimeError("inside")
    assert torch.equal(parameter, weight) and torch.equal(ema.averages["w"], average)

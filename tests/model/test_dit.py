"""The DiT: its start, its conditions, guidance, and both ways to hold two tracks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from make_decoder import DIM, TINY_DIT
from torch import nn

from duotok.model.dit import DiT, DiTConfig

B, T = 4, 12


def make(**changes) -> DiT:
    torch.manual_seed(0)
    return DiT(replace(TINY_DIT, condition_dim=8, **changes)).eval()


def shaken(**changes) -> DiT:
    """One whose every weight is random, where a new one has zeros."""
    dit = make(**changes)
    for parameter in dit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return dit


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "z": torch.randn(B, T, DIM, generator=generator), "t": torch.linspace(0.1, 0.9, B),
        "condition": torch.randn(B, T, 8, generator=generator), "tracks": torch.tensor([0, 1, 0, 1]),
    }  # fmt: skip


def test_it_starts_at_velocity_zero_and_every_weight_learns(inputs):
    assert torch.equal(make()(**inputs), torch.zeros(B, T, DIM))
    dit = shaken()
    keep = torch.tensor([True, False, True, True])
    dit(**inputs, keep=keep).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in dit.parameters())


@pytest.mark.parametrize("name", ["z", "t", "condition", "tracks"])
def test_every_input_matters(inputs, name):
    dit = shaken()
    changed = {**inputs, name: inputs[name].flip(0)}
    assert (dit(**inputs) - dit(**changed)).abs().amax((1, 2)).min() > 1e-3


def test_an_item_without_condition_does_not_see_it(inputs):
    dit, keep = shaken(), torch.tensor([True, True, False, False])
    other = {**inputs, "condition": inputs["condition"] + 1}
    same = (dit(**inputs, keep=keep) - dit(**other, keep=keep)).abs().amax((1, 2))
    assert same[:2].min() > 1e-3 and same[2:].max() == 0


def test_guidance_is_a_line_through_both_estimates(inputs):
    dit = shaken()
    arguments = {name: inputs[name] for name in ("z", "condition", "tracks")}
    free, given, far = (dit.denoise(t=0.6, guidance=g, **arguments) for g in (0.0, 1.0, 3.0))
    torch.testing.assert_close(far, free + 3 * (given - free), rtol=1e-4, atol=1e-5)
    assert (free - given).abs().max() > 1e-2
    velocity = dit(**{**inputs, "t": torch.full((B,), 0.6)})
    angle = torch.tensor(0.6 * torch.pi / 2)
    torch.testing.assert_close(given, angle.cos() * inputs["z"] - angle.sin() * velocity)


def test_joint_tracks_see_each_other(inputs):
    dit = shaken(joint=True)
    pair = {**inputs, "z": torch.cat((inputs["z"],) * 2, -1), "condition": torch.cat((inputs["condition"],) * 2, -1)}
    out = dit(**pair)
    assert out.shape == (B, T, 2 * DIM)
    other = pair["condition"].clone()
    other[..., 8:] += 1  # of the accompaniment alone
    assert (dit(**{**pair, "condition": other}) - out)[..., :DIM].abs().max() > 1e-3
    assert torch.equal(dit(**{**pair, "tracks": 1 - pair["tracks"]}), out)


def test_conditions_are_normalised_by_track():
    dit = make()
    rows = torch.randn(500, 8) * torch.arange(1, 9) + 5
    dit.fit(rows, 1)
    normed = dit.normalise(rows.view(2, 250, 8), torch.tensor([1, 1])).flatten(0, 1)
    torch.testing.assert_close(normed.mean(0), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(normed.std(0), torch.ones(8))
    assert torch.equal(dit.normalise(rows[None], torch.tensor([0]))[0], rows)


def test_reduced_precision_stays_close_and_comes_out_wide(inputs):
    dit = shaken()
    exact = dit(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = dit(**inputs)
    assert reduced.dtype == torch.float32
    assert (reduced - exact).abs().max() < 0.05 * exact.abs().max()


def test_paper_size():
    with torch.device("meta"):
        dit = DiT(DiTConfig())
    assert 1.0e9 < sum(p.numel() for p in dit.parameters()) < 1.1e9


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="expected width to be an even multiple of num_heads"):
        DiTConfig(width=100, num_heads=3)

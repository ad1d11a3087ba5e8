"""Linear probes against their definitions."""

from __future__ import annotations

import pytest
import torch

from duotok.evaluation.probe import auroc, fit_ridge, probe, r_squared, with_context


def test_ridge_finds_a_linear_map():
    x, w = torch.randn(500, 6), torch.randn(6, 3)
    weights, offset = fit_ridge(x, x @ w + 2.0, penalty=1e-9)
    torch.testing.assert_close(weights, w.double(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(offset, torch.full((3,), 2.0, dtype=torch.float64), atol=1e-4, rtol=1e-4)


def test_context_stacks_neighbours_and_pads_with_zeros():
    x = torch.arange(1.0, 5.0)[:, None]
    assert with_context(x, 1).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0]]


def test_auroc_is_the_share_of_ordered_pairs():
    scores, labels = torch.randint(0, 20, (200,)).float(), torch.rand(200) < 0.3
    high, low = scores[labels][:, None], scores[~labels][None]
    assert auroc(scores, labels) == pytest.approx(((high > low).double() + (high == low).double() / 2).mean().item())
    with pytest.raises(ValueError, match=r"expected both labels; got 0 of 3 true"):
        auroc(torch.randn(3), torch.zeros(3, dtype=torch.bool))


def test_r_squared_of_the_truth_the_mean_and_worse():
    y = torch.randn(100, 2)
    assert r_squared(y, y) == 1
    assert r_squared(y.double().mean(0).expand(100, 2), y) == pytest.approx(0)
    assert r_squared(-y, y) < 0


def test_probe_reads_held_out_songs_through_a_delay():
    def song(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(300, 4, generator=torch.Generator().manual_seed(seed))
        return x, x.roll(1, 0)[:, :2]  # the target is the frame before

    train, held_out = [song(i) for i in range(4)], [song(9)]
    assert r_squared(*probe(train, held_out, radius=1)) > 0.95
    assert r_squared(*probe(train, held_out, radius=0)) < 0.1

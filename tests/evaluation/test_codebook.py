"""Measures of codebooks beside scikit-learn and scipy, and on codebooks that collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from duotok.evaluation.codebook import measure_codebook, nearest_distances, overlap, usage


def test_nearest_distances_are_scikit_learn_s():
    neighbors = pytest.importorskip("sklearn.neighbors")
    table, other = torch.randn(1500, 5), torch.randn(300, 5)
    fitted = neighbors.NearestNeighbors().fit(table.numpy())
    own = fitted.kneighbors(table.numpy(), 2)[0][:, 1]
    np.testing.assert_allclose(nearest_distances(table, table, same=True), own, atol=1e-5)
    np.testing.assert_allclose(nearest_distances(other, table), fitted.kneighbors(other.numpy(), 1)[0][:, 0], atol=1e-5)


def test_usage_is_scipy_s_entropy_and_falls_when_codes_collapse():
    stats = pytest.importorskip("scipy.stats")
    codes = torch.randint(50, (4000,))
    whole = usage(codes, 64)
    assert whole["entropy_bits"] == pytest.approx(stats.entropy(np.bincount(codes), base=2))
    assert whole["perplexity"] == pytest.approx(2 ** whole["entropy_bits"])
    assert whole["used_share"] == 50 / 64 and whole["dead_codes"] == 14
    collapsed = usage(codes % 4, 64)
    for name in ("entropy_bits", "used_share", "perplexity", "distinct_per_1000"):
        assert collapsed[name] < whole[name]
    assert collapsed["dead_codes"] == 60


def test_overlap_of_hand_counted_tracks():
    found = overlap(torch.tensor([2, 2, 0, 0]), torch.tensor([0, 1, 3, 0]))
    assert found["used_jaccard"] == pytest.approx(1 / 3) and found["shared_mass"] == pytest.approx(0.25)
    assert overlap(torch.tensor([1, 3]), torch.tensor([1, 3])) == {"used_jaccard": 1, "shared_mass": 1}
    assert overlap(torch.tensor([0, 3]), torch.tensor([5, 0])) == {"used_jaccard": 0, "shared_mass": 0}


def test_tables_that_lie_apart_and_codes_that_are_equal_are_seen():
    table = torch.randn(200, 4)
    songs = [torch.randint(200, (2, 300)), torch.randint(200, (2, 100))]
    near = measure_codebook(songs, [table, torch.randn(200, 4)])
    far = measure_codebook(songs, [table, table + 10])
    same = measure_codebook(songs, [torch.cat((table[:100], table[:100])), torch.randn(200, 3)])
    assert near["pairs"][0]["nearest_ratio"] == pytest.approx(1, abs=0.25) and far["pairs"][0]["nearest_ratio"] > 10
    assert near["codebooks"][0]["duplicates"] == 0 and same["codebooks"][0]["duplicates"] == 1
    assert same["codebooks"][0]["nearest_mean"] == 0 and "nearest_ratio" not in same["pairs"][0]
    doubled = measure_codebook(songs, [2 * table, table])["codebooks"][0]  # in units of the codes' own spread
    assert doubled["nearest_mean"] == pytest.approx(near["codebooks"][0]["nearest_mean"], rel=1e-5)
    with pytest.raises(ValueError, match=r"expected songs coded in the codebooks; got codes of 2 and 1 codebooks"):
        measure_codebook(songs, [table])

"""Linear probes: what can be read from code vectors frame by frame, by ridge regression from training to held-out songs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fit_ridge(features: Tensor, targets: Tensor, penalty: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Fit targets from features by least squares with an L2 penalty, in float64.

    Args:
        features: (N, d).
        targets: (N, k).
        penalty: relative to the features' mean variance; own choice.

    Returns:
        Weights (d, k) and offsets (k,) float64.
    """
    x, y = features.double(), targets.double()
    mean, offset = x.mean(0), y.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    ridge = penalty * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(covariance + ridge, (x - mean).T @ (y - offset) / len(x))
    return weights, offset - mean @ weights


def with_context(features: Tensor, radius: int) -> Tensor:
    """Stack each frame of features (T, d) with its neighbours: (T, (2 radius + 1) d); frames beyond the ends are zero."""
    padded = torch.nn.functional.pad(features, (0, 0, radius, radius))
    return torch.cat([padded[shift : shift + len(features)] for shift in range(2 * radius + 1)], dim=1)


def r_squared(predicted: Tensor, targets: Tensor) -> float:
    """Compute the share of the variance of targets (N, k) that is explained, over all columns together."""
    residual = (targets.double() - predicted).square().sum()
    return (1 - residual / (targets.double() - targets.double().mean(0)).square().sum()).item()


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Compute the area under the ROC curve of scores (N,) for labels (N,) bool, ties counted half.

    Raises:
        ValueError: if the labels are all equal.
    """
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise ValueError(f"auroc: expected both labels; got {positives} of {len(labels)} true; score more songs")
    _, place, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0).double() - (counts - 1) / 2  # of each distinct score, mean of its ties
    total = ranks[place][labels].sum().item()
    return (total - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Compute the average precision of scores (N,) for labels (N,) bool: precision at each threshold times the recall it adds.

    Raises:
        ValueError: if no label is true.
    """
    if not labels.any():
        raise ValueError(f"average_precision: expected true labels; got none of {len(labels)}; score more songs")
    _, place, counts = (-scores.double()).unique(return_inverse=True, return_counts=True)
    hits = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, place, labels.double())
    precision = hits.cumsum(0) / counts.cumsum(0)
    return (precision * hits).sum().item() / int(labels.sum())


def probe(
    train: Sequence[tuple[Tensor, Tensor]], held_out: Sequence[tuple[Tensor, Tensor]], radius: int = 2
) -> tuple[Tensor, Tensor]:
    """Fit a probe on the training songs and apply it to the held-out ones.

    Args:
        train, held_out: of each song, features (T, d) and targets (T, k).
        radius: frames of context on each side.

    Returns:
        Predictions and targets of the held-out songs, (N, k) each.
    """
    features = torch.cat([with_context(x, radius) for x, _ in train])
    weights, offset = fit_ridge(features, torch.cat([y for _, y in train]))
    predicted = torch.cat([with_context(x, radius).double() @ weights + offset for x, _ in held_out])
    return predicted, torch.cat([y for _, y in held_out])

"""Waves for the tests of the spectral ops, and how far two results lie apart."""

from __future__ import annotations

import torch


def noise(*shape: int, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pcm(*shape: int) -> torch.Tensor:
    return (noise(*shape) * 32767).short()


def relative_to_peak(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error as a fraction of the frame's largest value; bands are last."""
    peak = exact.abs().amax(-1, keepdim=True)
    return ((got - exact).abs() / peak.where(peak > 0, 1)).max().item()


def assert_as_accurate_as_reference(op, wave, *arguments) -> None:
    """The CPU library's error against float64 is at most twice the reference's own in float32."""
    got = op.run("cpu", wave, *arguments)
    exact = op.reference(wave.double() / (32768 if wave.dtype == torch.int16 else 1), *arguments)
    own = op.reference(wave, *arguments)
    assert got.dtype == torch.float32 and got.shape == exact.shape
    if got.numel():
        assert relative_to_peak(got, exact) <= 2 * relative_to_peak(own, exact) + 1e-6

"""The schedule, its noise, the SI-SNR term by hand, and samplers where the exact answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from duotok.model.diffusion import draw_times, frame_noise, sample, schedule, si_snr, si_snr_improvement


def test_the_schedule_keeps_variance_and_ends_in_data_and_noise():
    alpha, sigma = schedule(torch.linspace(0, 1, 11, dtype=torch.float64))
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(11, dtype=torch.float64))
    assert (alpha[0], sigma[0], sigma[-1]) == (1, 0, 1) and abs(alpha[-1]) < 1e-15
    assert alpha[5].item() == pytest.approx(math.sqrt(0.5))


def gaussian(mean, std):
    """The posterior mean of z_0 ~ N(mean, std^2) given z_t: the perfect denoiser."""

    def denoise(z, t):
        alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (z - alpha * mean)

    return denoise


def error(mean, std, steps, sampler):
    """The mean distance to the exact flow, which takes noise e to mean + std * e."""
    noise = torch.linspace(-2, 2, 33, dtype=torch.float64)
    return (sample(gaussian(mean, std), noise, steps, sampler) - (mean + std * noise)).abs().mean().item()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5), (-2.0, 0.2)])
def test_samplers_find_the_exact_gaussian_and_the_second_order_one_sooner(mean, std):
    steps = (25, 50, 200, 800)
    ddim, dpm = ([error(mean, std, number, sampler) for number in steps] for sampler in ("ddim", "dpm"))
    assert all(second < first / 3 for first, second in zip(ddim, dpm, strict=True))
    assert ddim[2] / ddim[3] == pytest.approx(4, rel=0.05)  # first order: a fourth of the step, a fourth of the error
    assert dpm[2] / dpm[3] > 7
    assert dpm[3] < 1e-4


def test_one_step_is_one_look():
    seen = []
    result = sample(lambda z, t: seen.append((z, t)) or z + 3, torch.ones(2), 1)
    assert seen[0][1] == 1 and len(seen) == 1
    torch.testing.assert_close(result, torch.full((2,), 4.0))


def test_a_constant_estimate_is_reached_exactly():
    target = torch.tensor([1.0, -2.0, 0.5])
    for sampler in ("ddim", "dpm"):
        torch.testing.assert_close(sample(lambda z, t: target, torch.randn(3), 7, sampler), target)


@pytest.mark.parametrize(("steps", "sampler"), [(0, "dpm"), (5, "euler")])
def test_wrong_sampling_is_one_line(steps, sampler):
    with pytest.raises(ValueError, match=r"expected steps of at least 1 and sampler dpm or ddim; got"):
        sample(lambda z, t: z, torch.zeros(1), steps, sampler)


def test_si_snr_by_hand():
    target = torch.tensor([1.0, -1.0, 1.0, -1.0])[None, :, None]
    orthogonal = torch.tensor([1.0, 1.0, -1.0, -1.0])[None, :, None]
    expected = 10 * math.log10(1 / 0.25)  # the error has half the target's amplitude
    assert si_snr(target + 0.5 * orthogonal, target).item() == pytest.approx(expected, abs=1e-4)
    assert si_snr(7 * (target + 0.5 * orthogonal) + 3, target + 9).item() == pytest.approx(expected, abs=1e-4)
    improvement, moves = si_snr_improvement(target + 0.5 * orthogonal, target + 2 * orthogonal, target)
    assert improvement.item() == pytest.approx(expected - 10 * math.log10(1 / 4), abs=1e-4) and moves.item()
    still, moves = si_snr_improvement(orthogonal, target, torch.full_like(target, 5.0))
    assert still.isfinite().all() and not moves.item()


def test_si_snr_has_a_gradient_everywhere():
    target = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    target[0, :, 0] = 1.0
    for estimate in (torch.zeros_like(target), target.clone(), torch.ones_like(target)):
        estimate.requires_grad_()
        si_snr(estimate, target).sum().backward()
        assert estimate.grad.isfinite().all()


def test_noise_is_a_function_of_the_position():
    whole = frame_noise(7, 1, 0, 2000, 6, "cpu")
    assert torch.equal(frame_noise(7, 1, 1234, 100, 6, "cpu"), whole[1234:1334])
    assert not torch.equal(frame_noise(7, 0, 0, 2000, 6, "cpu"), whole)
    assert not torch.equal(frame_noise(8, 1, 0, 2000, 6, "cpu"), whole)
    assert whole.mean().abs() < 0.04 and (whole.std() - 1).abs() < 0.03
    correlation = whole.T.corrcoef() - torch.eye(6)
    assert correlation.abs().max() < 0.1


def test_times_are_uniform_and_spread_within_a_batch():
    batches = [draw_times(16, torch.tensor([5, step])) for step in range(300)]
    t = torch.stack([times for times, _ in batches])
    assert t.min() >= 0 and t.max() < 1
    assert torch.histc(t, 10, 0, 1).sub(480).abs().max() < 100
    assert t[:, 3].mean().sub(0.5).abs() < 0.07  # each item's own
    gaps = t.sort(dim=1).values.diff(dim=1)
    assert gaps.max() < 0.15  # 16 independent ones leave 0.2 and more
    dropped = torch.stack([number for _, number in batches])
    assert dropped.mean().sub(0.5).abs() < 0.02 and torch.equal(draw_times(16, torch.tensor([5, 3]))[0], t[3])

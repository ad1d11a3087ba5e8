"""Diffusion over latent frames: schedule, losses, noise and samplers (section 7 of the specification, Eq. 13-16).

    z_t = alpha_t z_0 + sigma_t eps,  alpha_t = cos(pi t / 2),  sigma_t = sin(pi t / 2),  t in [0, 1]

The network gives the velocity v = alpha eps - sigma z_0 (Salimans & Ho, arXiv 2202.00512). The noise and the clean latents
that the losses and samplers speak of follow from it without a division by alpha, which is 0 at t = 1:

    eps_hat = sigma z_t + alpha v,  z0_hat = alpha z_t - sigma v = (z_t - sigma eps_hat) / alpha

Samplers go from t = 1 to 0 in equal steps. DDIM (Song et al., arXiv 2010.02502) takes z0_hat for constant within a step;
DPM-Solver++(2M) (Lu et al., arXiv 2211.01095) continues the line through the last two of them in log(alpha / sigma).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from duotok.kernels.philox import normal, philox, uniform

Sampler = Literal["dpm", "ddim"]
# Energies below this are silence to SI-SNR; latents have unit variance. Own choice.
_SILENCE = 1e-6
# Share of a circle that spreads any number of points evenly: the golden section.
_GOLDEN = (5**0.5 - 1) / 2
# Last words of Philox counters, so that no two uses of a key draw the same numbers.
_NOISE, _TIMES = 0x64697400, 0x64697401


def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute alpha and sigma (...) of times t (...); default, from stable-audio-tools."""
    angle = t * (math.pi / 2)
    return angle.cos(), angle.sin()


def draw_times(count: int, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Draw t of a batch's items, uniform in [0, 1), and as many other uniform numbers; both (B,) float32.

    The times of a batch are spread evenly from one random start, which lowers the loss's variance (Kingma et al., arXiv
    2107.00630), own choice.

    Args:
        count: B.
        seed: (2,) int64 on the wanted device.
    """
    rows = torch.arange(count, device=seed.device)
    low, high = seed[1] & 0xFFFFFFFF, seed[1] >> 32
    numbers = uniform(philox(seed[0], rows, low, high, torch.full_like(low, _TIMES)))  # (B, 4)
    return (numbers[0, 0] + rows * _GOLDEN) % 1, numbers[:, 1]


def frame_noise(seed: int, track: int, first: int, num_frames: int, width: int, device: torch.device | str) -> Tensor:
    """Compute the noise (T, D) of latent frames from `first` on: a function of each frame's position, whatever the window."""
    frames = torch.arange(first, first + num_frames, device=device)[:, None]
    columns = torch.arange(-(-width // 4), device=device)
    key, word, last = (torch.tensor(value, device=device) for value in (seed, track, _NOISE))
    return normal(philox(key, frames, columns, word, last)).flatten(-2)[:, :width]


def si_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Compute the scale-invariant signal-to-noise ratio in dB over time, of zero-mean channels (Le Roux et al., 1811.02508).

    Args:
        estimate, target: (B, T, D).

    Returns:
        (B, D).
    """
    estimate, target = estimate - estimate.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    scale = (estimate * target).mean(1) / (target.square().mean(1) + _SILENCE)
    signal = scale[:, None] * target
    noise = estimate - signal
    return 10 * ((signal.square().mean(1) + _SILENCE) / (noise.square().mean(1) + _SILENCE)).log10()


def si_snr_improvement(estimate: Tensor, noisy: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute how far an estimate is above the noisy latents in SI-SNR, and where that means something.

    Args:
        estimate, noisy, target: (B, T, D).

    Returns:
        (B, D) dB, and (B, D) bool: False for channels that do not move.
    """
    moves = target.var(1, unbiased=False) > 1e3 * _SILENCE
    return si_snr(estimate, target) - si_snr(noisy, target), moves


def sample(denoise: Callable[[Tensor, float], Tensor], noise: Tensor, steps: int, sampler: Sampler = "dpm") -> Tensor:
    """Turn noise into latents.

    Args:
        denoise: estimates z0_hat (...) of z_t (...) at a time t in (0, 1].
        noise: (...) standard normal, z at t = 1.
        steps: calls of `denoise`.
        sampler: "ddim" is of first order; "dpm" of second, but for its first two steps and its last, where log(alpha /
            sigma) is infinite.

    Returns:
        (...) clean latents.

    Raises:
        ValueError: if steps or sampler are not among these.
    """
    if steps < 1 or sampler not in ("dpm", "ddim"):
        raise ValueError(f"expected steps of at least 1 and sampler dpm or ddim; got {steps} and {sampler!r}; correct them")
    angles = [math.pi / 2 * (1 - i / steps) for i in range(steps + 1)]
    heights = [-math.log(math.tan(angle)) for angle in angles[1:-1]]  # log(alpha / sigma), where finite
    z, before = noise, noise
    for i, (angle, following) in enumerate(itertools.pairwise(angles)):
        clean = estimate = denoise(z, 1 - i / steps)
        if sampler == "dpm" and 1 < i < steps - 1:
            ratio = (heights[i] - heights[i - 1]) / (heights[i - 1] - heights[i - 2])
            estimate = clean + ratio / 2 * (clean - before)
        kept = math.sin(following) / math.sin(angle)
        z, before = kept * z + (math.cos(following) - kept * math.cos(angle)) * estimate, clean
    return z

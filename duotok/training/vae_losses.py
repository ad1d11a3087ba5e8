"""The losses of an autoencoder's waves, each named after its source. All take (B, C, S) and compute in float32.

The ear-VAE (arXiv 2509.14912) weighs waves as the ear does before it compares them, compares magnitudes of mid, side, left and
right, phases of left and right by their derivatives, and the correlation of the two; forms that its abstract does not give are
our own choice and say so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from duotok.kernels.spectrum import Framing, power_spectrum
from duotok.model.spectral import stft

# Below -100 dB of full scale nothing is heard: keeps logarithms and quotients finite.
_FLOOR = 1e-5


def k_weighting(wave: Tensor, sample_rate: int) -> Tensor:
    """Filter waves (..., S) as loudness meters do: a shelf above 1.7 kHz and a high-pass at 38 Hz (ITU-R BS.1770-4, Annex 1).

    The standard's two filters, for `sample_rate` in Hz, are applied through their frequency response.
    """
    num_samples = wave.shape[-1]
    size = 2 ** math.ceil(math.log2(num_samples + sample_rate // 4))  # what rings on does not come round
    angle = torch.arange(size // 2 + 1, device=wave.device, dtype=torch.float64) * (2 * math.pi / size)
    delay = torch.polar(torch.ones_like(angle), -angle)
    response = torch.ones_like(delay)
    for numerator, denominator in k_weighting_filters(sample_rate):
        response = response * _polynomial(numerator, delay) / _polynomial(denominator, delay)
    return torch.fft.irfft(torch.fft.rfft(wave.float(), size) * response.to(torch.complex64), size)[..., :num_samples]


def k_weighting_filters(sample_rate: int) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
    """Compute the coefficients (numerator, denominator) of both filters.

    The standard lists them for 48 kHz only; the analogue filters behind them, warped to other rates, are De Man's ("Evaluation
    of implementations of the EBU R128 loudness measurement", 2018).
    """
    k, q = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    gain = 10 ** (3.999843853973347 / 20)
    middle = gain**0.4996667741545416
    scale = 1 + k / q + k * k
    poles = (1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale)
    zeros = ((gain + middle * k / q + k * k) / scale, 2 * (k * k - gain) / scale, (gain - middle * k / q + k * k) / scale)
    k, q = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    scale = 1 + k / q + k * k
    return (zeros, poles), ((1.0, -2.0, 1.0), (1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale))


def _polynomial(coefficients: tuple[float, ...], delay: Tensor) -> Tensor:
    return sum(c * delay**power for power, c in enumerate(coefficients))


def mid_side_left_right(wave: Tensor) -> Tensor:
    """Give the views (B, V, S) whose magnitudes are compared: of stereo mid, side, left and right, of mono the wave itself."""
    if wave.shape[1] == 1:
        return wave
    left, right = wave.unbind(1)
    return torch.stack(((left + right) / 2, (left - right) / 2, left, right), dim=1)


def multi_resolution_stft(predicted: Tensor, target: Tensor, sizes: list[int], sample_rate: int) -> Tensor:
    """Compare magnitudes (Yamamoto et al., arXiv 1910.11480): spectral convergence plus the L1 distance of logarithms, ().

    Args:
        predicted, target: (B, C, S), usually weighted.
        sizes: window lengths in samples, the hop being a quarter.
        sample_rate: in Hz.

    Returns:
        () mean over sizes and views.
    """
    waves = [mid_side_left_right(wave.float()).flatten(0, 1) for wave in (predicted, target)]
    losses = []
    for size in sizes:
        framing = Framing(sample_rate, size, size, max(1, size // 4))
        # Scaled like `stft`, so that the floor means the same at every size.
        ours, theirs = ((power_spectrum(wave, framing) * (2 / size) ** 2 + _FLOOR**2).sqrt() for wave in waves)
        convergence = torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs)
        losses.append(convergence + (ours.log() - theirs.log()).abs().mean())
    return torch.stack(losses).mean()


def phase_derivatives(predicted: Tensor, target: Tensor, size: int) -> Tensor:
    """Compare the phase's derivatives over time (instantaneous frequency) and frequency (group delay), () in [0, 2].

    The two are the ear-VAE's; own choice: 1 - cos of the difference, so that phases need no unwrapping, weighted by the
    target's magnitude, because bins of silence have no phase.

    Args:
        predicted, target: (B, C, S); phases of stereo are those of left and right.
        size: window in samples, the hop being a quarter.
    """
    ours, theirs = (stft(_whole_hops(wave.float(), size // 4), size, size // 4) for wave in (predicted, target))
    losses = []
    for dim in (-2, -1):
        weight = (_later(theirs, dim).abs() * _earlier(theirs, dim).abs()).sqrt()
        ours_turn, theirs_turn = (_unit(_later(s, dim) * _earlier(s, dim).conj()) for s in (ours, theirs))
        difference = 1 - (ours_turn * theirs_turn.conj()).real
        losses.append((difference * weight).sum() / (weight.sum() + _FLOOR))
    return torch.stack(losses).mean()


def stereo_correlation(predicted: Tensor, target: Tensor, size: int) -> Tensor:
    """Compare how left and right hang together in every bin, () in [0, 2]; mono has nothing to compare and gives 0.

    The term is the ear-VAE's; own choice: 1 - cos of the difference of their phases, weighted by the target's magnitude.

    Args:
        predicted, target: (B, C, S).
        size: window in samples, the hop being a quarter.
    """
    if target.shape[1] == 1:
        return predicted.new_zeros((), dtype=torch.float32)
    ours, theirs = (stft(_whole_hops(wave.float(), size // 4), size, size // 4) for wave in (predicted, target))
    weight = (theirs[:, 0].abs() * theirs[:, 1].abs()).sqrt()
    ours_turn, theirs_turn = (_unit(s[:, 0] * s[:, 1].conj()) for s in (ours, theirs))
    difference = 1 - (ours_turn * theirs_turn.conj()).real
    return (difference * weight).sum() / (weight.sum() + _FLOOR)


def compressed_spectrum(predicted: Tensor, target: Tensor, size: int, compression: float = 0.3) -> Tensor:
    """Compare complex spectra of compressed magnitude by L1 (Braun & Tashev, arXiv 2009.12286): phase where there is energy.

    Args:
        predicted, target: (B, C, S).
        size: window in samples, the hop being a quarter.
        compression: exponent of the magnitudes.
    """
    parts = []
    for wave in (predicted, target):
        spectrum = torch.view_as_real(stft(_whole_hops(wave.float(), size // 4), size, size // 4))
        power = spectrum.square().sum(-1, keepdim=True) + _FLOOR**2
        parts.append(spectrum * power ** ((compression - 1) / 2))
    return (parts[0] - parts[1]).abs().mean()


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """Measure the divergence of N(mean, std^2) (B, T, D) from N(0, 1), summed over D, a mean over frames: () in nats.

    Kingma & Welling, arXiv 1312.6114; the sum as stable-audio-tools and the ear-VAE take it.
    """
    variance = std.square() + 1e-6
    return 0.5 * (mean.square() + variance - variance.log() - 1).sum(-1).mean()


def _whole_hops(wave: Tensor, hop: int) -> Tensor:
    return wave[..., : wave.shape[-1] // hop * hop]


def _unit(spectrum: Tensor) -> Tensor:
    return spectrum / (spectrum.abs() + _FLOOR**2)


def _later(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 1, x.shape[dim] - 1)


def _earlier(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 0, x.shape[dim] - 1)

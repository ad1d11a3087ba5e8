"""Philox4x32-10: counter-based random numbers, the same bits on every backend.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A 64-bit key and a 128-bit counter give
four independent 32-bit words, so any element of a random tensor can be computed alone, in any order, on any device.

torch has no unsigned 32-bit arithmetic on every device, so words travel as int64 in [0, 2^32).

Compiled twins take logarithm, sine and cosine from the polynomials below, because a GPU's fast ones err by 4e-6 in a normal
number and its exact ones cost 200 instructions each. With u = (2 k + 1) 2^-24 exactly, k the upper 23 bits of a word:

    -2 ln(u) = -2 e ln 2 + t LOG(t)      where u = 2^e (1 + t), sqrt(1/2) <= 1 + t < sqrt(2)
    sin(f pi / 2) = f SINE(f^2), cos(f pi / 2) = COSINE(f^2)      where 4 u = q + f, |f| <= 1/2, q whole
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85

# Minimax fits, lowest power first, computed here; relative errors 3e-8, 5e-9 and 5e-11.
LOG = (
    -2.0, 0.9999995827674866, -0.6666831970214844, 0.5000589489936829, -0.39916834235191345, 0.3308747410774231,
    -0.298347532749176, 0.2896437644958496, -0.17919836938381195,
)  # fmt: skip
SINE = (1.5707963705062866, -0.6459634900093079, 0.07968022674322128, -0.004602177068591118)
COSINE = (1.0, -1.2337005138397217, 0.25366920232772827, -0.02086007222533226, 0.0009036316769197583)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32-bit words of a * b, in halves, because int64 would overflow."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(seed: Tensor, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> Tensor:
    """Run ten Philox rounds.

    Args:
        seed: () int64, the 64-bit key.
        c0, c1, c2, c3: the counter's words, int64 in [0, 2^32), of shapes that broadcast.

    Returns:
        (..., 4) int64, four words in [0, 2^32) for each counter.
    """
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    c0, c1, c2, c3 = torch.broadcast_tensors(c0, c1, c2, c3)
    for _ in range(10):
        high0, low0 = _multiply(_M0, c0)
        high1, low1 = _multiply(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return torch.stack((c0, c1, c2, c3), dim=-1)


def uniform(words: Tensor) -> Tensor:
    """Map words in [0, 2^32) to float32 in (0, 1): the upper 23 bits plus a half, so that neither end occurs."""
    return ((words >> 9).float() + 0.5) * 2.0**-23


def normal(words: Tensor) -> Tensor:
    """Turn words (..., 4) into standard normals (..., 4) float32 by Box-Muller, at most 5.77 in magnitude.

    Words 0 and 1 give numbers 0 (cosine) and 1 (sine); words 2 and 3 give numbers 2 and 3. In float64 until the end: an
    angle rounded to float32 would be off by 2e-7, and the number by 1.4e-6.
    """
    u = uniform(words).double()
    radius = (-2.0 * u[..., 0::2].log()).sqrt()
    angle = (2.0 * torch.pi) * u[..., 1::2]
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2).float()

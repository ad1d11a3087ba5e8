"""Gaussian replacement on the CPU with numba; the layout of randomness is in replace_noise.py.

Threads share the rows. A kept row costs one Philox call and a copy; a replaced row is not read, its noise is drawn in two
vectorised passes: words (64-bit lanes, as a product of two 32-bit words is 64 bits wide), then normals (32-bit lanes).
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
from torch import Tensor

from .available import jit, match_numba_threads
from .philox import COSINE, LOG, SINE
from .replace_noise import library_op, threshold

# Contraction to fused multiply-add and no signed zeros: what vectorises, without changing a result by more than a rounding.
_jit = functools.partial(jit, fastmath={"contract", "nsz"}, error_model="numpy")

_u32, _u64, _i32, _f32 = np.uint32, np.uint64, np.int32, np.float32
_LOW = _u64(0xFFFFFFFF)
_M0, _M1, _W0, _W1 = _u64(0xD2511F53), _u64(0xCD9E8D57), _u64(0x9E3779B9), _u64(0xBB67AE85)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (_f32(value) for value in LOG)
_S0, _S1, _S2, _S3 = (_f32(value) for value in SINE)
_C0, _C1, _C2, _C3, _C4 = (_f32(value) for value in COSINE)
_HALF, _ONE = _f32(0.5), _f32(1.0)
_MINUS_2_LN_2 = _f32(-1.3862943611198906)
_TURN = _f32(2.0**-32)
_ULP = _f32(2.0**-23)


@_jit
def _philox(c0: int, c1: int, c2: int, c3: int, k0: int, k1: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        product0, product1 = _M0 * c0, _M1 * c2
        c0, c1 = (product1 >> _u64(32)) ^ c1 ^ k0, product1 & _LOW
        c2, c3 = (product0 >> _u64(32)) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@_jit
def _draw(words: np.ndarray, row: int, step: int, stream: int, k0: int, k1: int) -> None:
    """Fill words (4, n) uint32 with those of the first 4 n columns of a row."""
    for c in range(words.shape[1]):
        a, b, d, e = _philox(row, step, _u64(c), stream, k0, k1)
        words[0, c], words[1, c], words[2, c], words[3, c] = _u32(a), _u32(b), _u32(d), _u32(e)


@_jit
def _normals(words: np.ndarray, noise: np.ndarray, sigma: float) -> None:
    """Turn words (4, n) into noise (4, n) float32, as philox.py says."""
    for pair in (0, 2):
        for c in range(words.shape[1]):
            w0, w1 = words[pair, c], words[pair + 1, c]
            bits = _f32((_f32(_i32(w0 >> _u32(9))) + _HALF) * _ULP).view(np.int32)
            exponent = _i32(_i32(bits - _i32(0x3F3504F3)) >> _i32(23))
            t = _i32(bits - _i32(exponent << _i32(23))).view(np.float32) - _ONE
            high = _L4 + t * (_L5 + t * (_L6 + t * (_L7 + t * _L8)))
            squared = _f32(exponent) * _MINUS_2_LN_2 + t * (_L0 + t * (_L1 + t * (_L2 + t * (_L3 + t * high))))
            radius = np.sqrt(squared)
            # The lower 30 bits as a signed fraction of a quarter turn; below the 23 bits used stands a half.
            f = _f32(_i32(_u32(_u32(w1 & _u32(0xFFFFFE00)) | _u32(0x100)) << _u32(2))) * _TURN
            g = f * f
            sine = f * (_S0 + g * (_S1 + g * (_S2 + g * _S3)))
            cosine = _C0 + g * (_C1 + g * (_C2 + g * (_C3 + g * _C4)))
            turned = _u32(w1 + _u32(0x20000000))  # bits 31 and 30: the quarter turn nearest to the angle
            odd = (turned & _u32(0x40000000)) != 0
            x = radius * (sine if odd else cosine)
            y = radius * (cosine if odd else sine)
            noise[pair, c] = sigma * (-x if _u32(turned + _u32(0x40000000)) & _u32(0x80000000) != 0 else x)
            noise[pair + 1, c] = sigma * (-y if turned & _u32(0x80000000) != 0 else y)


@_jit
def _interleave(source: np.ndarray, target: np.ndarray) -> None:
    """Put source (4, n) into target (D,), column by column."""
    whole = len(target) // 4
    for c in range(whole):
        for word in range(4):
            target[4 * c + word] = source[word, c]
    for word in range(len(target) - 4 * whole):
        target[4 * whole + word] = source[word, whole]


@_jit
def _keep(x: np.ndarray, y: np.ndarray, words: np.ndarray, limit: int) -> None:
    """Put x (D,) back into y (D,) where its word is not below the limit."""
    for column in range(len(x)):
        y[column] = y[column] if _u64(words[column]) < limit else x[column]


@_jit(parallel=True)
def _replace(
    x: np.ndarray, y: np.ndarray, seed: np.ndarray, limit: int, sigma: float, per_element: bool, additive: bool, backward: bool
) -> None:
    rows, width = x.shape
    key, step64 = _u64(seed[0]), _u64(seed[1])
    k0, k1 = key & _LOW, key >> _u64(32)
    step, stream = step64 & _LOW, _u64(2) * (step64 >> _u64(32))
    limit = _u64(limit)
    for i in numba.prange(rows):
        row = _u64(i)
        if not per_element and _philox(row, step, _u64(0), stream, k0, k1)[0] >= limit:
            y[i] = x[i]
        else:
            words = np.empty((4, (width + 3) // 4), np.uint32)
            if backward:
                y[i] = 0
            else:
                noise = np.empty(words.shape, np.float32)
                _draw(words, row, step, stream + _u64(1), k0, k1)
                _normals(words, noise, sigma)
                _interleave(noise, y[i])
                if additive:
                    y[i] += x[i]
            if per_element:
                decisions = np.empty(width, np.uint32)
                _draw(words, row, step, stream, k0, k1)
                _interleave(words, decisions)
                _keep(x[i], y[i], decisions, limit)


def launch(x: Tensor, p: float, sigma: float, seed: Tensor, per_element: bool, additive: bool, backward: bool) -> Tensor:
    """Run over x (..., D) with as many threads as torch uses."""
    source = x.detach().contiguous()
    y = torch.empty_like(source)
    if source.numel():
        match_numba_threads()
        shape = (-1, source.shape[-1])
        _replace(
            source.view(shape).numpy(), y.view(shape).numpy(), seed.detach().numpy(), threshold(p), _f32(sigma),
            per_element, additive, backward,
        )  # fmt: skip
    return y


forward = library_op("numba", launch)

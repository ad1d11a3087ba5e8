"""adaLN modulation on the CPU with numba, forward and backward; see modulate.py.

Threads share chunks of `_CHUNK` frames. A row (D,) stays in the first-level cache between its mean, its deviation and its
result, so memory sees one read and one write. The gradients of shift and scale are summed chunk by chunk, always alike.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
from torch import Tensor

from .available import jit, match_numba_threads
from .modulate import modulate_library_op

# Sums may be reordered to vectorise: always alike, as a row's length alone decides how.
_jit = functools.partial(jit, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")

_CHUNK = 16
_ONE = np.float32(1)


@_jit
def _statistics(x: np.ndarray, eps: float) -> tuple[float, float]:
    """Mean of a row (D,), and 1 / deviation."""
    size, mean, spread = np.float32(len(x)), np.float32(0), np.float32(0)
    for column in range(len(x)):
        mean += x[column]
    mean /= size
    for column in range(len(x)):
        apart = x[column] - mean
        spread += apart * apart
    return mean, _ONE / np.sqrt(spread / size + eps)


@_jit(parallel=True)
def _modulate(x: np.ndarray, shift: np.ndarray, scale: np.ndarray, y: np.ndarray, eps: float) -> None:
    items, frames, width = x.shape
    for row in numba.prange(items * frames):
        item, frame = row // frames, row % frames
        mean, inverse = _statistics(x[item, frame], eps)
        for column in range(width):
            normed = (x[item, frame, column] - mean) * inverse
            y[item, frame, column] = normed * (_ONE + scale[item, column]) + shift[item, column]


@_jit
def _row_backward(
    grad: np.ndarray, x: np.ndarray, scale: np.ndarray, dx: np.ndarray, dshift: np.ndarray, dscale: np.ndarray, eps: float
) -> None:
    """One row (D,): its dx, and its share of the sums dshift and dscale."""
    mean, inverse = _statistics(x, eps)
    size, average, along = np.float32(len(x)), np.float32(0), np.float32(0)
    for column in range(len(x)):
        normed, g = (x[column] - mean) * inverse, grad[column]
        dshift[column] += g
        dscale[column] += g * normed
        g *= _ONE + scale[column]
        dx[column] = g  # rounded once for both loops: what cancels below must be the same number
        average += g
        along += g * normed
    average, along = average / size, along / size
    for column in range(len(x)):
        normed = (x[column] - mean) * inverse
        dx[column] = inverse * (dx[column] - average - normed * along)


@_jit(parallel=True)
def _modulate_backward(
    grad: np.ndarray, x: np.ndarray, scale: np.ndarray, dx: np.ndarray, dshift: np.ndarray, dscale: np.ndarray, eps: float
) -> None:
    items, frames, _ = x.shape
    chunks = dshift.shape[1]
    for part in numba.prange(items * chunks):
        item, chunk = part // chunks, part % chunks
        for frame in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, frames)):
            _row_backward(
                grad[item, frame], x[item, frame], scale[item], dx[item, frame], dshift[item, chunk], dscale[item, chunk], eps
            )


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    match_numba_threads()
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _forward(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel():
        _modulate(*_arrays(x, shift, scale, y), np.float32(eps))
    return y


def _backward(grad: Tensor, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> list[Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dshift, dscale = (x.new_zeros((x.shape[0], -(-x.shape[1] // _CHUNK), x.shape[2])) for _ in range(2))
    if x.numel():
        _modulate_backward(*_arrays(grad, x, scale, dx, dshift, dscale), np.float32(eps))
    return [dx, dshift.sum(1), dscale.sum(1)]


modulate = modulate_library_op("numba", _forward, _backward)

"""SimVQ's losses and usage on the CPU with numba, beside one matrix product of torch; see simvq_loss.py.

Each pass reads what it needs once; the losses' sums are kept per row and added by torch, so threads change nothing.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .available import jit, match_numba_threads
from .simvq_loss import library_op

# Sums may be reordered to vectorise: always alike, as a row's length alone decides how.
_jit = functools.partial(jit, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")


@_jit(parallel=True)
def _errors(z: np.ndarray, code: np.ndarray, errors: np.ndarray) -> None:
    for row in numba.prange(len(z)):
        total = np.float32(0)
        for column in range(z.shape[1]):
            apart = z[row, column] - code[row, column]
            total += apart * apart
        errors[row] = total


@_jit
def _dot(a: np.ndarray, b: np.ndarray) -> float:
    total = np.float32(0)
    for column in range(len(a)):
        total += a[column] * b[column]
    return total


@_jit
def _rotate(grad: np.ndarray, z: np.ndarray, code: np.ndarray, dz: np.ndarray) -> None:
    """The transposed rotation of one row (D,) of the gradient, scaled by |code| / |z|."""
    tiny = np.float32(1e-12)
    source, target = max(np.sqrt(_dot(z, z)), tiny), max(np.sqrt(_dot(code, code)), tiny)
    one, two = np.float32(1), np.float32(2)
    for column in range(len(z)):
        dz[column] = z[column] * (one / source) + code[column] * (one / target)
    middle = max(np.sqrt(_dot(dz, dz)), tiny)
    along = two * _dot(grad, dz) / (middle * middle)
    across = two * _dot(grad, code) / target / source
    for column in range(len(z)):
        dz[column] = (grad[column] - along * dz[column] + across * z[column]) * (target / source)


@_jit(parallel=True)
def _gradients(
    grad: np.ndarray, z: np.ndarray, code: np.ndarray, pull: float, rotation: bool, dz: np.ndarray, residual: np.ndarray
) -> None:
    for row in numba.prange(len(z)):
        if rotation:
            _rotate(grad[row], z[row], code[row], dz[row])
        else:
            dz[row] = grad[row]
        for column in range(z.shape[1]):
            apart = code[row, column] - z[row, column]
            dz[row, column] -= pull * apart
            residual[row, column] = apart


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def launch(
    z: Tensor, indices: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Map the chosen rows of table (K, C), and measure their distances from z (N, D)."""
    quantized = F.linear(table[indices].float(), weight.float(), None if bias is None else bias.float())
    errors = torch.empty(len(z), dtype=torch.float32)
    if z.numel():
        match_numba_threads()
        _errors(*_arrays(z, quantized, errors))
    usage = torch.bincount(indices, minlength=len(table))
    return quantized, quantized.new_empty((0, z.shape[1])), errors.sum() / z.numel(), usage


def launch_backward(grad: Tensor, z: Tensor, code: Tensor, pull: Tensor, rotation: bool) -> tuple[Tensor, Tensor]:
    """Compute what is local to a row of z (N, D)."""
    dz, residual = torch.empty(z.shape), torch.empty(z.shape)
    if z.numel():
        match_numba_threads()
        _gradients(*_arrays(grad, z, code), np.float32(pull), rotation, dz.numpy(), residual.numpy())
    return dz, residual


simvq = library_op("numba", launch, launch_backward)

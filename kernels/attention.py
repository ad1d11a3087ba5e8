"""Bidirectional attention with lengths instead of masks.

    attention(q, k, v (B, S, H, D), lengths (B,) | None, scale | None) -> (B, S, H, D)

Frames at and beyond `lengths[b]` are neither attended to nor answered: their output is zero. No backend builds a mask tensor:
any mask switches the fast paths of scaled_dot_product_attention off, and cuDNN's backward is wrong with one
(pytorch/pytorch#196678). Ragged batches are packed without waiting for the device, or run length by length.

The order, from public measurements on each architecture (transformers #48163; the FlashAttention papers):

    sm_100  FlashAttention 4, cuDNN, SDPA            sm_80, 86, 89, 120  FlashAttention 2, SDPA, xformers
    sm_90   FlashAttention 3, cuDNN, FlashAttention 2, SDPA             others               SDPA

On a CPU, without gradients, oneDNN multiplies head by head where clips are long; SDPA does the rest. A ragged batch that none
of the packages takes goes to the packed attention that torch itself carries ("varlen", torch 2.11).
float32 is never narrowed: it goes to SDPA.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .available import has_tangent, installed, why_not_plain
from .dispatch import Op
from .onednn import product, why_not_onednn

# Shorter clips are faster in SDPA, which has no loop over heads.
_ONEDNN_FRAMES = 256


@Op
def attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Compute softmax(q k^T * scale) v for each head.

    Args:
        q, k, v: (B, S, H, D) of one floating dtype.
        lengths: (B,) integers, valid frames of each item, 1 to S; None if all S are. On a GPU, where nothing waits for them
            to be read, an item with any other length may give NaN instead of an error.
        scale: factor of the logits; 1 / sqrt(D) by default.

    Returns:
        (B, S, H, D) of the same dtype, computed in float32 (float64 for float64 input).

    Raises:
        ValueError: if shapes, dtypes or devices differ, lengths are no (B,) integers, or are read and out of range.
    """
    dtype, scale = q.dtype, q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (x.to(torch.promote_types(dtype, torch.float32)) for x in (q, k, v))
    if lengths is not None:
        beyond = torch.arange(q.shape[1], device=q.device) >= lengths[:, None]  # (B, S)
        q, k, v = (x.masked_fill(beyond[:, :, None, None], 0) for x in (q, k, v))  # else a NaN there reaches what is valid
    logits = torch.einsum("bshd,bthd->bhst", q, k) * scale
    if lengths is not None:
        logits = logits.masked_fill(beyond[:, None, None], -torch.inf)
    out = torch.einsum("bhst,bthd->bshd", logits.softmax(-1), v).to(dtype)
    return out if lengths is None else out.masked_fill(beyond[:, :, None, None], 0)


@attention.checked
def _check(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> None:
    if q.ndim != 4 or q.shape != k.shape or q.shape != v.shape:
        raise ValueError(
            f"attention: expected q, k and v of one shape (B, S, H, D); got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)}; reshape them"
        )
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype or not q.device == k.device == v.device:
        raise ValueError(
            f"attention: expected one floating dtype and device; got {q.dtype} {q.device}, {k.dtype} {k.device}, "
            f"{v.dtype} {v.device}; convert them"
        )
    if lengths is not None and (lengths.shape != q.shape[:1] or lengths.is_floating_point() or lengths.device != q.device):
        raise ValueError(
            f"attention: expected lengths ({len(q)},) integers on {q.device}; got {tuple(lengths.shape)} {lengths.dtype} "
            f"on {lengths.device}; pass one length an item"
        )
    if lengths is not None and lengths.device.type == "cpu" and not torch.compiler.is_compiling():
        _refuse_out_of_range(lengths.tolist(), q.shape[1])


def _refuse_out_of_range(lengths: list[int], size: int) -> None:
    wrong = [length for length in lengths if not 1 <= length <= size]
    if wrong:
        raise ValueError(f"attention: expected lengths of 1 to {size} frames; got {wrong[0]}; correct it or leave the item out")


@functools.cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _why_not_tensor_cores(q: Tensor, k: Tensor, v: Tensor, majors: tuple[int, ...]) -> str | None:
    """Why a GPU backend for half precision cannot take these tensors; `majors` are the architectures it is first for."""
    if q.device.type != "cuda":
        return f"needs CUDA tensors; got {q.device.type}"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"needs float16 or bfloat16; got {str(q.dtype).removeprefix('torch.')}, which is never narrowed"
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        return f"needs a head width that is a multiple of 8, at most 256; got {q.shape[-1]}"
    major = torch.cuda.get_device_capability(q.device)[0]
    if major not in majors:
        return f"needs an architecture of sm_{', sm_'.join(f'{m}x' for m in majors)}; got sm_{major}x"
    return why_not_plain(q, k, v)


def _why_not_flash(q: Tensor, k: Tensor, v: Tensor, majors: tuple[int, ...], module: str) -> str | None:
    reason = _why_not_tensor_cores(q, k, v, majors)
    return reason or (None if installed(module) else f"needs the package {module}; not installed")


def _why_not_flash4(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    return _why_not_flash(q, k, v, (10,), "flash_attn.cute")


@attention.register("flash4", unless=_why_not_flash4)
def _flash4(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    return _flash(_module("flash_attn.cute"), q, k, v, lengths, scale)


def _why_not_flash3(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    return _why_not_flash(q, k, v, (9,), "flash_attn_interface")


@attention.register("flash3", unless=_why_not_flash3)
def _flash3(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    return _flash(_module("flash_attn_interface"), q, k, v, lengths, scale)


def _why_not_cudnn(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    reason = _why_not_tensor_cores(q, k, v, (9, 10))
    if reason or lengths is not None:
        return reason or "needs a batch without lengths"
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    parameters = torch.backends.cuda.SDPAParams(*heads_first, None, 0.0, False, False)
    fits = torch.backends.cuda.can_use_cudnn_attention(parameters)
    return None if fits else "needs shapes that cuDNN supports; it refuses these"


@attention.register("cudnn", unless=_why_not_cudnn)
def _cudnn(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa_dense(q, k, v, scale)


def _why_not_flash2(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    return _why_not_flash(q, k, v, (8, 9, 12), "flash_attn")


@attention.register("flash2", unless=_why_not_flash2)
def _flash2(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    return _flash(_module("flash_attn"), q, k, v, lengths, scale)


def _why_not_varlen(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    if lengths is None:
        return "needs lengths; SDPA takes a dense batch"
    reason = _why_not_tensor_cores(q, k, v, (8, 9, 10, 12))
    if reason or not installed("torch.nn.attention.varlen"):
        return reason or "needs torch.nn.attention.varlen of torch 2.11; this torch is older"
    named = "scale" in inspect.signature(_module("torch.nn.attention.varlen").varlen_attn).parameters
    return None if named else "needs a varlen_attn that takes a scale, of torch 2.11; this torch is older"


@attention.register("varlen", unless=_why_not_varlen)
def _varlen(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    attend = _module("torch.nn.attention.varlen").varlen_attn
    return _packed(lambda q, k, v, bounds, size: attend(q, k, v, bounds, bounds, size, size, scale=scale), q, k, v, lengths)


def _why_not_onednn(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    if lengths is not None:
        return "needs a batch without lengths"
    if q.shape[1] < _ONEDNN_FRAMES:
        return f"needs {_ONEDNN_FRAMES} frames, below which SDPA is faster; got {q.shape[1]}"
    return why_not_onednn(q, k, v)


@attention.register("onednn", unless=_why_not_onednn)
def _onednn(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    queries = (q.float() * (q.shape[-1] ** -0.5 if scale is None else scale)).transpose(1, 2).contiguous()  # (B, H, S, D)
    keys, values = (x.float().transpose(1, 2).contiguous() for x in (k, v))
    out = torch.empty_like(q)
    for item in range(len(q)):
        for head in range(q.shape[2]):
            weights = product(queries[item, head], keys[item, head])
            torch.softmax(weights, -1, out=weights)
            out[item, :, head] = product(weights, values[item, head].t())  # oneDNN reads it as it lies
    return out


def _why_not_sdpa(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    if has_tangent(q, k, v):
        return "has no forward-mode derivative; got a tensor with a tangent"
    if lengths is None:
        return None
    if torch.compiler.is_compiling():
        return "needs to run eagerly, because it reads the lengths"
    if q.device.type == "cuda" and _why_not_xformers(q, k, v, lengths, scale) is None:
        return "runs length by length; xformers takes a ragged batch at once"
    return None


@attention.register("sdpa", unless=_why_not_sdpa)
def _sdpa(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    if lengths is None:
        return _sdpa_dense(q, k, v, scale)
    out = torch.zeros_like(q)
    different = lengths.unique().tolist()
    _refuse_out_of_range(different, q.shape[1])
    for length in different:  # items of one length together, none of them masked
        rows = (lengths == length).nonzero()[:, 0]
        alike = _sdpa_dense(*(x[rows, :length] for x in (q, k, v)), scale)
        out = out.index_put((rows,), F.pad(alike, (0, 0, 0, 0, 0, q.shape[1] - length)))
    return out


def _why_not_xformers(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> str | None:
    reason = _why_not_tensor_cores(q, k, v, (8, 9, 12))
    if reason or not installed("xformers"):
        return reason or "needs the package xformers; not installed"
    fmha = _module("xformers.ops.fmha")
    reasons = fmha.cutlass.FwOp.not_supported_reasons(fmha.Inputs(query=q, key=k, value=v))
    return f"needs what its CUTLASS kernel supports; {'; '.join(reasons)}" if reasons else None


@attention.register("xformers", unless=_why_not_xformers)
def _xformers(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, scale: float | None = None) -> Tensor:
    fmha = _module("xformers.ops.fmha")
    if lengths is None:
        return fmha.memory_efficient_attention(q, k, v, scale=scale)
    sizes = lengths.tolist()
    bias = fmha.attn_bias.BlockDiagonalMask.from_seqlens(sizes)
    flat = [torch.cat([item[:size] for item, size in zip(x, sizes, strict=True)])[None] for x in (q, k, v)]
    packed = fmha.memory_efficient_attention(*flat, attn_bias=bias, scale=scale)[0]
    return torch.stack([F.pad(item, (0, 0, 0, 0, 0, q.shape[1] - len(item))) for item in packed.split(sizes)])


def _sdpa_dense(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def _flash(module: ModuleType, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, scale: float | None) -> Tensor:
    """Call FlashAttention 2, 3 or 4: dense, or packed by cumulated lengths."""
    if lengths is None:
        return _first(module.flash_attn_func(q, k, v, softmax_scale=scale))

    def attend(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, size: int) -> Tensor:
        return _first(
            module.flash_attn_varlen_func(
                q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=size, max_seqlen_k=size, softmax_scale=scale
            )
        )

    return _packed(attend, q, k, v, lengths)


def _packed(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """Attend within items laid one behind the other: attend(q, k, v (B * S, H, D), bounds (B + 1,) int32, S) -> like q.

    The packed tensors keep B * S rows, of which only the first sum(lengths) are described by the cumulated lengths, and the
    longest item is said to have S frames: so nothing waits for the device to tell the lengths.
    """
    batch, size = q.shape[:2]
    lengths, given = lengths.clamp(1, size), lengths
    ends = lengths.to(torch.int32).cumsum(0, dtype=torch.int32)
    bounds = F.pad(ends, (1, 0))  # (B + 1,)
    row = torch.arange(batch * size, device=q.device)
    item = torch.searchsorted(ends, row, right=True).clamp(max=batch - 1)
    source = (item * size + row - bounds[item]).clamp(max=batch * size - 1)
    # Rows behind the last item are zero, and so is the gradient that comes back for them: the kernels leave it unwritten.
    beyond = (row >= ends[-1])[:, None, None]
    packed = attend(*(x.flatten(0, 1)[source].masked_fill(beyond, 0) for x in (q, k, v)), bounds, size)
    frame = torch.arange(size, device=q.device)
    back = (bounds[:-1, None] + frame).clamp(max=batch * size - 1)  # (B, S)
    out = packed[back].masked_fill((frame >= lengths[:, None])[:, :, None, None], 0)
    return out.masked_fill((given != lengths)[:, None, None, None], torch.nan)


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Take the output alone: some versions also return the log-sum-exp."""
    return out[0] if isinstance(out, tuple) else out

"""Attention's backends: FlashAttention and xformers are called as their real signatures demand, ragged batches included.

flash-attn is built from source only and is absent here, so fakes stand in for it: each has the signature of the release it is
named after and computes the documented result, with garbage where the real kernels write nothing.
"""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass

import pytest
import torch
from duotok.kernels import attention

op = attention


@pytest.fixture
def module():
    """The file kernels/attention.py, whose name the op shadows."""
    import sys

    return sys.modules["duotok.kernels.attention"]


class Packed(torch.autograd.Function):
    """Attention over packed items; what lies behind the last is left as garbage, in both directions."""

    @staticmethod
    def forward(ctx, q, k, v, bounds, scale):
        ctx.bounds, ctx.scale = bounds.tolist(), scale
        ctx.save_for_backward(q, k, v)
        out = torch.full_like(q, torch.nan)
        for a, b in zip(ctx.bounds, ctx.bounds[1:], strict=False):
            out[a:b] = op.reference(*(x[None, a:b] for x in (q, k, v)), None, scale)[0]
        return out

    @staticmethod
    def backward(ctx, grad):
        saved = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        grads = [torch.full_like(x, torch.nan) for x in saved]
        for a, b in zip(ctx.bounds, ctx.bounds[1:], strict=False):
            with torch.enable_grad():
                out = op.reference(*(x[None, a:b] for x in saved), None, ctx.scale)[0]
            for whole, part in zip(grads, torch.autograd.grad(out, saved, grad[a:b], retain_graph=False), strict=True):
                whole[a:b] = part[a:b]
        return *grads, None, None


def fake2():
    """flash-attn 2.8: dropout before the scale, lengths in the order q, k, max q, max k."""

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                        alibi_slopes=None, deterministic=False, return_attn_probs=False):  # fmt: skip
        assert dropout_p == 0 and not causal
        return op.reference(q, k, v, None, softmax_scale)

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                               softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
                               deterministic=False, return_attn_probs=False, block_table=None):  # fmt: skip
        assert dropout_p == 0 and not causal
        check_packing(q, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return Packed.apply(q, k, v, cu_seqlens_q, softmax_scale)

    return types.SimpleNamespace(flash_attn_func=flash_attn_func, flash_attn_varlen_func=flash_attn_varlen_func)


def fake3():
    """flash_attn_interface of FlashAttention 3: no dropout, used lengths before the scale."""

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
                        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,
                        deterministic=False, sm_margin=0, return_attn_probs=False):  # fmt: skip
        assert not causal and qv is None
        return op.reference(q, k, v, None, softmax_scale)

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
                               softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
                               window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,
                               deterministic=False, sm_margin=0, return_attn_probs=False):  # fmt: skip
        assert seqused_q is None and seqused_k is None and not causal
        check_packing(q, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return Packed.apply(q, k, v, cu_seqlens_q, softmax_scale), torch.zeros(())

    return types.SimpleNamespace(flash_attn_func=flash_attn_func, flash_attn_varlen_func=flash_attn_varlen_func)


def fake4():
    """flash_attn.cute of flash-attn-4 4.0.0b36: optional arguments before the lengths, the log-sum-exp returned beside."""

    def flash_attn_func(q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None),
                        learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False):  # fmt: skip
        assert qv is None and gather_kv_indices is None and not causal
        return op.reference(q, k, v, None, softmax_scale), None

    def flash_attn_varlen_func(q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
                               min_seqlen_k=None, seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None,
                               softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0,
                               num_splits=1, pack_gqa=None, deterministic=False):  # fmt: skip
        assert qv is None and min_seqlen_k is None and page_table is None and not causal
        check_packing(q, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return Packed.apply(q, k, v, cu_seqlens_q, softmax_scale), None

    return types.SimpleNamespace(flash_attn_func=flash_attn_func, flash_attn_varlen_func=flash_attn_varlen_func)


def check_packing(q, bounds_q, bounds_k, max_q, max_k):
    assert q.ndim == 3 and q.is_contiguous()
    for bounds in (bounds_q, bounds_k):
        assert bounds.dtype == torch.int32 and bounds[0] == 0 and bounds.is_contiguous()
    assert isinstance(max_q, int) and isinstance(max_k, int)
    assert (bounds_q.diff() <= max_q).all()


def inputs(batch=4, size=7):
    torch.manual_seed(0)
    return [torch.randn(batch, size, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]


LENGTHS = [None, [7, 3, 1, 5], [1, 1, 1, 1], [7, 7, 7, 7]]


@pytest.mark.parametrize("fake", [fake2, fake3, fake4])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("scale", [None, 0.2])
def test_flash_adapters_equal_the_reference_forward_and_backward(module, fake, lengths, scale):
    tensors = inputs()
    lengths = None if lengths is None else torch.tensor(lengths)
    expected = op.reference(*tensors, lengths, scale)
    up = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, tensors, up)
    got = module._flash(fake(), *tensors, lengths, scale)
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(torch.autograd.grad(got, tensors, up), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_packed_items_with_impossible_lengths_are_nan_and_harm_no_other(module):
    tensors, lengths = inputs(), torch.tensor([7, -1, 8, 5])
    got = module._flash(fake2(), *tensors, lengths, None)
    assert got[1:3].isnan().all()
    expected = op.reference(*(x[[0, 3]] for x in tensors), torch.tensor([7, 5]))
    torch.testing.assert_close(got[[0, 3]], expected)


@pytest.mark.parametrize("scale", [None, 0.2])
def test_torch_s_packed_attention_is_called_as_its_signature_demands(module, monkeypatch, scale):
    """The real function's signature; only the CUDA kernel behind it is replaced."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="this torch has no packed attention of its own")
    real, tensors, lengths = inspect.signature(varlen.varlen_attn), inputs(), torch.tensor([7, 3, 1, 5])
    if "scale" not in real.parameters:
        pytest.skip("this torch's packed attention takes no scale")

    def fake(*args, **kwargs):
        bound = real.bind(*args, **kwargs)
        bound.apply_defaults()
        names = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "scale", "window_size")
        q, k, v, bounds, other, max_q, max_k, factor, window = (bound.arguments[name] for name in names)
        check_packing(q, bounds, other, max_q, max_k)
        assert tuple(window) == (-1, -1)
        return Packed.apply(q, k, v, bounds, factor)

    monkeypatch.setattr(varlen, "varlen_attn", fake)
    got, expected = module._varlen(*tensors, lengths, scale), op.reference(*tensors, lengths, scale)
    torch.testing.assert_close(got, expected)
    up = torch.randn_like(got)
    for mine, theirs in zip(*(torch.autograd.grad(o, tensors, up) for o in (got, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; none is here")
@pytest.mark.parametrize("lengths", [None, [70, 33, 1, 5]], ids=str)
def test_gpu_backends_equal_the_reference(lengths):
    tensors = [torch.randn(4, 70, 3, 64, device="cuda", dtype=torch.float16, requires_grad=True) for _ in range(3)]
    lengths = None if lengths is None else torch.tensor(lengths, device="cuda")
    up, expected = torch.randn_like(tensors[0]), attention.reference(*tensors, lengths)
    wanted, reasons = torch.autograd.grad(expected, tensors, up), attention.explain(*tensors, lengths)
    running = [name for name, reason in reasons.items() if reason is None]
    assert running[0] != "reference"
    for name in running:
        got = attention.run(name, *tensors, lengths)
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=2e-3)
        for mine, theirs in zip(torch.autograd.grad(got, tensors, up), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=5e-3)


@pytest.mark.parametrize("lengths", LENGTHS[1:], ids=str)
def test_sdpa_by_length_equals_the_reference(lengths):
    tensors = inputs()
    lengths = torch.tensor(lengths)
    up = torch.randn_like(tensors[0])
    expected, got = op.reference(*tensors, lengths), attention.run("sdpa", *tensors, lengths)
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(*(torch.autograd.grad(o, tensors, up) for o in (got, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_xformers_is_called_as_its_signature_demands(module, monkeypatch):
    """The real package's functions and mask class; only the CUDA kernel behind them is replaced."""
    fmha = pytest.importorskip("xformers.ops.fmha", reason="the extra `cuda` is not installed", exc_type=ImportError)
    real = inspect.signature(fmha.memory_efficient_attention)
    seen = []

    def fake(*args, **kwargs):
        bound = real.bind(*args, **kwargs)
        bound.apply_defaults()
        q, k, v, bias = (bound.arguments[name] for name in ("query", "key", "value", "attn_bias"))
        seen.append(bias)
        if bias is None:
            return op.reference(q, k, v, None, bound.arguments["scale"])
        dense = bias.materialize((q.shape[1], k.shape[1]), dtype=torch.float64)
        logits = torch.einsum("bshd,bthd->bhst", q, k) * (bound.arguments["scale"] or q.shape[-1] ** -0.5) + dense
        return torch.einsum("bhst,bthd->bshd", logits.softmax(-1), v)

    monkeypatch.setattr(fmha, "memory_efficient_attention", fake)
    tensors, lengths = inputs(), torch.tensor([7, 3, 1, 5])
    torch.testing.assert_close(module._xformers(*tensors, lengths, 0.3), op.reference(*tensors, lengths, 0.3))
    torch.testing.assert_close(module._xformers(*tensors), op.reference(*tensors))
    assert isinstance(seen[0], fmha.attn_bias.BlockDiagonalMask) and seen[1] is None


@dataclass
class Described:
    """What the refusals look at, without a GPU."""

    device: torch.device
    dtype: torch.dtype = torch.float16
    shape: tuple = (2, 16, 4, 64)


CASES = [
    ("cpu", torch.float16, 64, None, "needs CUDA tensors; got cpu"),
    ("cuda", torch.float32, 64, 9, "needs float16 or bfloat16; got float32, which is never narrowed"),
    ("cuda", torch.float16, 60, 9, "needs a head width that is a multiple of 8, at most 256; got 60"),
    ("cuda", torch.float16, 264, 9, "at most 256; got 264"),
]


@pytest.mark.parametrize(("device", "dtype", "width", "major", "reason"), CASES)
@pytest.mark.parametrize("backend", ["flash4", "flash3", "flash2", "cudnn", "varlen", "xformers"])
def test_gpu_backends_refuse_with_a_reason(module, monkeypatch, backend, device, dtype, width, major, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    q = Described(torch.device(device), dtype, (2, 16, 4, width))
    lengths = torch.tensor([3, 4]) if backend == "varlen" else None
    assert reason in getattr(module, f"_why_not_{backend}")(q, q, q, lengths)


@pytest.mark.parametrize(
    ("major", "willing"),
    [(10, {"flash4", "cudnn"}), (9, {"flash3", "cudnn", "flash2"}), (8, {"flash2"}), (12, {"flash2"}), (7, set())],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_each_architecture_has_its_order(module, monkeypatch, major, willing, ragged):
    """With everything installed; cuDNN takes no ragged batch."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    monkeypatch.setattr(module, "installed", lambda name: True)
    monkeypatch.setattr(module, "why_not_plain", lambda *described: None)
    monkeypatch.setattr(torch.backends.cuda, "SDPAParams", lambda *a: a)
    monkeypatch.setattr(torch.backends.cuda, "can_use_cudnn_attention", lambda p: True)
    q = Described(torch.device("cuda"))
    q.transpose = lambda *a: q
    lengths = torch.tensor([3, 4]) if ragged else None
    names = [
        name
        for name in ("flash4", "flash3", "cudnn", "flash2")
        if getattr(module, f"_why_not_{name}")(q, q, q, lengths) is None
    ]
    assert set(names) == willing - ({"cudnn"} if ragged else set())
    assert [name for name in op.backends if name in names] == names


def test_missing_packages_are_named(module, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(module, "installed", lambda name: False)
    monkeypatch.setattr(module, "why_not_plain", lambda *described: None)
    q = Described(torch.device("cuda"))
    assert module._why_not_flash3(q, q, q) == "needs the package flash_attn_interface; not installed"
    assert module._why_not_xformers(q, q, q) == "needs the package xformers; not installed"


def test_attention_compiles_whole_forward_and_backward():
    tensors = [x.detach().float().requires_grad_() for x in inputs()]
    for lengths in (None, torch.tensor([7, 3, 1, 5])):
        compiled = torch.compile(lambda *a: attention(*a).square().sum(), fullgraph=True, backend="aot_eager")
        loss, expected = compiled(*tensors, lengths), attention(*tensors, lengths).square().sum()
        torch.testing.assert_close(loss, expected)
        for mine, theirs in zip(*(torch.autograd.grad(o, tensors) for o in (loss, expected)), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

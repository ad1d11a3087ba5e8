"""attention and modulate against plain formulas, with lengths, dtypes and gradients."""

from __future__ import annotations

import pytest
import torch
from duotok.kernels import attention, modulate


def heads(*shape: int, dtype=torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_softmax_of_products(backend, scale):
    q, k, v = heads(2, 11, 3, 8, dtype=torch.float64)
    out = attention.run(backend, q, k, v, None, scale)
    for b in range(2):
        for h in range(3):
            weights = (q[b, :, h] @ k[b, :, h].T * (8**-0.5 if scale is None else scale)).softmax(-1)
            torch.testing.assert_close(out[b, :, h], weights @ v[b, :, h])


def test_lengths_equal_items_alone():
    q, k, v = heads(3, 10, 2, 8)
    lengths = torch.tensor([10, 4, 1])
    out = attention(q, k, v, lengths)
    for item, length in enumerate(lengths.tolist()):
        alone = attention(*(x[item : item + 1, :length] for x in (q, k, v)))
        torch.testing.assert_close(out[item : item + 1, :length], alone)
        assert (out[item, length:] == 0).all()
    assert torch.allclose(attention.reference(q, k, v, lengths), out, atol=1e-6)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("filling", [0.0, torch.nan, torch.inf])
def test_what_lies_beyond_a_length_has_no_influence_and_no_gradient(backend, filling):
    q, k, v = heads(2, 6, 1, 4)
    expected = attention(*(x[:1, :3] for x in (q, k, v)))
    for x in (q, k, v):
        x[0, 3:] = filling
        x.requires_grad_()
    out = attention.run(backend, q, k, v, torch.tensor([3, 6]))
    torch.testing.assert_close(out[:1, :3], expected)
    out.square().sum().backward()
    for x in (q, k, v):
        assert (x.grad[0, 3:] == 0).all() and x.grad[0, :3].abs().sum() > 0 and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_outside(dtype):
    q, k, v = (x.to(dtype) for x in heads(1, 9, 2, 8))
    exact = attention(q.double(), k.double(), v.double())
    out = attention.run("reference", q, k, v)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)


def test_modulate_is_norm_scale_shift():
    torch.manual_seed(0)
    x, shift, scale = torch.randn(2, 5, 8).double(), torch.randn(2, 8).double(), torch.randn(2, 8).double()
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    expected = (x - mean) / (variance + 1e-6).sqrt() * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(modulate(x, shift, scale), expected)
    assert modulate(x.bfloat16(), shift.bfloat16(), scale.bfloat16()).dtype == torch.bfloat16


def test_modulate_gradients():
    arguments = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4), (2, 4), (2, 4))]
    assert torch.autograd.gradcheck(modulate, arguments)


def test_attention_gradients():
    arguments = [x.requires_grad_() for x in heads(1, 4, 2, 3, dtype=torch.float64)]
    assert torch.autograd.gradcheck(attention.reference, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v), r"one shape \(B, S, H, D\); got \(7, 2, 8\)"),
        (lambda q, k, v: (q, k[:, :3], v), r"one shape .*\(4, 3, 2, 8\)"),
        (lambda q, k, v: (q, k.float(), v), "one floating dtype and device; got torch.float64 cpu, torch.float32 cpu"),
        (lambda q, k, v: (q.long(), k.long(), v.long()), "one floating dtype"),
        (lambda q, k, v: (q, k.to("meta"), v), "got torch.float64 cpu, torch.float64 meta"),
        (lambda q, k, v: (q, k, v, torch.tensor([1, 2])), r"expected lengths \(4,\) integers on cpu; got \(2,\)"),
        (lambda q, k, v: (q, k, v, torch.ones(4)), "integers on cpu; got .*float32"),
        (lambda q, k, v: (q, k, v, torch.tensor([7, -1, 1, 5])), "lengths of 1 to 7 frames; got -1"),
        (lambda q, k, v: (q, k, v, torch.tensor([7, 3, 0, 5])), "lengths of 1 to 7 frames; got 0"),
        (lambda q, k, v: (q, k, v, torch.tensor([7, 3, 1, 8])), "lengths of 1 to 7 frames; got 8"),
    ],
)
def test_bad_input_is_named_before_any_backend_is_asked(change, message):
    with pytest.raises(ValueError, match=message):
        attention(*change(*heads(4, 7, 2, 8, dtype=torch.float64)))

"""oneDNN's twins equal their references, keep up with changed weights, and leave to torch what they cannot do."""

from __future__ import annotations

import gc

import pytest
import torch
from duotok.kernels import attention, convolution, linear, onednn

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
needs_onednn = pytest.mark.skipif(onednn.why_not_onednn(torch.ones(1)) is not None, reason="needs oneDNN on x86")


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_near(op, *arguments) -> None:
    """The twin is as close to float64 as its dtype allows."""
    reason = op.explain(*arguments)["onednn"]
    if reason is not None and "bfloat16" in reason:
        pytest.skip(f"onednn {reason}")
    exact = op.reference(*(a.double() if isinstance(a, torch.Tensor) else a for a in arguments))
    got, dtype = op.run("onednn", *arguments), arguments[0].dtype
    assert got.dtype == dtype and got.shape == exact.shape
    assert (got.double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()


@needs_onednn
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(5,), (2, 19), (3, 1, 7)])
@pytest.mark.parametrize("after", ["nothing", "gelu", "add"])
def test_linear(dtype, shape, after):
    x, weight, bias = normal(*shape, 24, dtype=dtype), normal(13, 24, dtype=dtype), normal(13, dtype=dtype)
    add = normal(*shape, 13, dtype=dtype) if after == "add" else None
    for given in (bias, None):
        assert_near(linear, x, weight, given, after == "gelu", add)
    assert_near(linear, x.transpose(-1, 0).contiguous().transpose(-1, 0), weight, bias, after == "gelu", add)


@needs_onednn
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_convolution(dtype, stride, relu, added):
    x, weight, bias = normal(2, 3, 19, 13, dtype=dtype), normal(5, 3, 3, 3, dtype=dtype), normal(5, dtype=dtype)
    add = normal(2, 5, -(-19 // stride), -(-13 // stride), dtype=dtype) if added else None
    assert_near(convolution, x, weight, bias, stride, relu, add)


@needs_onednn
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("lay_out", [lambda b: torch.stack([b, b + 9], 1)[:, 0], lambda b: b[:1].expand(len(b))])
def test_a_bias_may_lie_as_it_likes(dtype, lay_out):
    bias = lay_out(normal(13, dtype=dtype))
    assert_near(linear, normal(5, 24, dtype=dtype), normal(13, 24, dtype=dtype), bias)
    assert_near(convolution, normal(2, 3, 19, 13, dtype=dtype), normal(13, 3, 3, 3, dtype=dtype), bias)


@needs_onednn
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.detach()[:, :]])
def test_a_convolution_of_the_residual_branch_leaves_it_alone(view):
    x = normal(2, 8, 19, 13).contiguous(memory_format=torch.channels_last)
    add, before = view(x), x.clone()
    assert_near(convolution, x, normal(add.shape[1], 8, 3, 3), normal(add.shape[1]), 1, True, add)
    assert torch.equal(x, before)


@needs_onednn
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scale", [None, 0.5])
def test_attention(dtype, scale):
    q, k, v = (normal(2, 256, 3, 8, dtype=dtype) + shift for shift in (0, 0.1, 0.2))
    assert_near(attention, q, k, v, None, scale)


@needs_onednn
@pytest.mark.parametrize("change", ["in place", "moved", "another dtype", "numpy"])
def test_a_changed_weight_is_packed_again(change):
    layer, x = torch.nn.Linear(24, 13).requires_grad_(False), normal(5, 24)
    linear(x, layer.weight, layer.bias)
    if change == "in place":
        layer.weight.mul_(2)
    elif change == "moved":
        layer.weight.data = layer.weight.data * 3
    elif change == "numpy":
        layer.weight.numpy()[:] *= 2
        layer.weight.mul_(1)  # as the docstring says
    else:
        layer, x = layer.bfloat16(), x.bfloat16()
    assert_near(linear, x, layer.weight, layer.bias)


@needs_onednn
def test_packed_weights_die_with_their_weight():
    weight = normal(13, 24)
    linear(normal(5, 24), weight)
    before = len(onednn._packed)
    del weight
    gc.collect()
    assert len(onednn._packed) == before - 1


@needs_onednn
def test_the_number_of_threads_does_not_show():
    """Workers have each their own number."""
    x, weight, bias = normal(750, 512), normal(128, 512), normal(128)
    image, filters = normal(1, 16, 60, 32), normal(16, 16, 3, 3)
    heads = [normal(1, 256, 4, 32) for _ in range(3)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((linear(x, weight, bias), convolution(image, filters, normal(16)), attention(*heads)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: (w.double(),), "needs float32 or bfloat16 throughout; got float64"),
        (lambda w: (w.bfloat16(), w), "needs float32 or bfloat16 throughout; got float32"),
        (lambda w: (w.to("meta"),), "needs CPU tensors; got meta"),
        (lambda w: (w.requires_grad_(),), "has no backward; needs inputs without gradients"),
    ],
)
def test_refusals_have_reasons(change, reason):
    assert onednn.why_not_onednn(*change(normal(3, 3))) == reason


def test_gradients_autocast_and_short_clips_go_elsewhere():
    x, weight = normal(5, 24), normal(13, 24).requires_grad_()
    linear(x, weight).sum().backward()
    assert weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in onednn.why_not_onednn(x)
        assert linear(x, weight.detach()).dtype == torch.bfloat16
    assert "256 frames" in attention.explain(*[normal(1, 255, 2, 8)] * 3)["onednn"]
    assert "not both" in linear.explain(x, weight.detach(), None, True, normal(5, 13))["onednn"]


def test_nothing_in_or_out():
    assert linear(normal(5, 24), normal(0, 24)).shape == (5, 0) and linear(normal(5, 0), normal(13, 0)).shape == (5, 13)
    assert convolution(normal(0, 3, 9, 9), normal(4, 3, 3, 3), normal(4)).shape == (0, 4, 9, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear(normal(5, 24), normal(13, 23)), r"linear: expected x .*\(13, 23\) and None; match them"),
        (lambda: linear(normal(5, 24), normal(13, 24), None, False, normal(5, 12)), r"linear: expected add \(5, 13\)"),
        (lambda: convolution(normal(1, 2, 9, 9), normal(4, 3, 3, 3), normal(4)), r"convolution: expected x .*; match them"),
        (lambda: convolution(normal(1, 3, 9, 9), normal(4, 3, 3, 3), normal(4), 2, False, normal(1, 4, 9, 9)),
         r"convolution: expected add \(1, 4, 5, 5\)"),
    ],
)  # fmt: skip
def test_bad_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

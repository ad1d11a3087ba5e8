"""Twins of modulate and gated_residual: numba here, Triton interpreted in another process, machine code without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from duotok.kernels import modulate, report
from duotok.kernels.modulate import gated_residual

ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TWIN = (
    {"modulate": "triton", "gated_residual": "triton"} if INTERPRETED else {"modulate": "numba", "gated_residual": "reference"}
)
OPS = {"modulate": modulate, "gated_residual": gated_residual}


@pytest.mark.skipif(INTERPRETED, reason="this is the inner process")
def test_triton_passes_the_tests_of_twins_under_its_interpreter(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-k", "twin"]
    out = subprocess.run(
        [*command, "-p", "no:cacheprovider", __file__],
        cwd=tmp_path, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stdout[-4000:]


def arguments(op: str, items: int, frames: int, width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(items + frames + width)
    whole, condition = (items, frames, width), (items, width)
    shapes = (whole, condition, condition) if op == "modulate" else (whole, whole, condition)
    return [(torch.randn(shape) + 0.5).to(dtype).requires_grad_() for shape in shapes]


def with_gradients(function, tensors, up) -> list[torch.Tensor]:
    out = function(*tensors)
    return [out.detach(), *torch.autograd.grad(out, tensors, up.to(out.dtype))]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 37, 24), torch.float32),
        ((3, 5, 300), torch.float32),
        ((1, 1, 1), torch.float32),
        ((2, 19, 40), torch.float16),
        ((0, 3, 4), torch.float32),
        ((2, 0, 4), torch.float32),
    ],
)
def test_twin_errs_at_most_twice_as_much_as_the_reference(op, shape, dtype):
    tensors = arguments(op, *shape, dtype)
    if (reason := OPS[op].explain(*tensors)[TWIN[op]]) is not None:
        pytest.skip(reason)
    up = torch.randn(shape).to(dtype)
    exact = with_gradients(OPS[op].reference, [t.detach().double().requires_grad_() for t in tensors], up)
    theirs = with_gradients(OPS[op].reference, tensors, up)
    mine = with_gradients(lambda *t: OPS[op].run(TWIN[op], *t), tensors, up)
    for got, reference, truth in zip(mine, theirs, exact, strict=True):
        assert got.dtype == reference.dtype and got.shape == reference.shape
        if truth.numel():
            scale = max(1.0, truth.abs().max().item())
            allowed = 2 * (reference.double() - truth).abs().max() + 1e-6 * scale
            assert (got.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("op", OPS)
def test_twin_takes_what_is_not_contiguous(op):
    first, *rest = arguments(op, 3, 18, 24, torch.float32)
    turned = first.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    expected, got = OPS[op].reference(turned, *rest), OPS[op].run(TWIN[op], turned, *rest)
    torch.testing.assert_close(got, expected)
    theirs, mine = (torch.autograd.grad(y.sum(), (turned, *rest)) for y in (expected, got))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", OPS)
def test_twin_passes_opcheck(op):
    if TWIN[op] == "reference":
        pytest.skip("the reference is no torch.library op")
    __import__(f"duotok.kernels.modulate_{'triton' if INTERPRETED else 'cpu'}")
    tensors = arguments(op, 2, 3, 8, torch.float32)
    more = (1e-6,) if op == "modulate" else ()
    torch.library.opcheck(getattr(torch.ops.duotok, f"{op}_{TWIN[op]}"), (*tensors, *more))


@pytest.mark.parametrize("op", OPS)
def test_twin_is_traced_whole_by_compile(op):
    tensors = arguments(op, 2, 3, 8, torch.float32)
    expected = torch.autograd.grad(OPS[op](*tensors).square().sum(), tensors)
    compiled = torch.compile(lambda *t: OPS[op](*t).square().sum(), fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("op", OPS)
def test_gradients_in_float64(op):
    assert torch.autograd.gradcheck(OPS[op].reference, arguments(op, 2, 3, 4, torch.float64))


def test_gated_residual_is_its_definition():
    residual, x, gate = arguments("gated_residual", 2, 5, 8, torch.float64)
    torch.testing.assert_close(gated_residual(residual, x, gate), residual + gate[:, None] * x)
    assert gated_residual(residual.bfloat16(), x.bfloat16(), gate).dtype == torch.bfloat16


def test_refusals_are_sentences():
    x, shift, scale = arguments("modulate", 2, 3, 4, torch.float32)
    assert modulate.explain(x, shift, scale)["triton"] == (None if INTERPRETED else "needs a CUDA tensor; got cpu")
    assert modulate.explain(x.double(), shift, scale)["triton"].startswith("needs float16, bfloat16 or float32; got")
    wide = torch.empty(1, 1, 20_000), torch.empty(1, 20_000), torch.empty(1, 20_000)
    assert modulate.explain(*wide)["triton"] == "needs at most 16384 columns; got 20000"
    with pytest.raises(ValueError, match=r"modulate: expected shift \(2, 4\); got \(2, 3\)"):
        modulate(x, shift[:, :3], scale)
    with pytest.raises(ValueError, match=r"modulate: expected frames \(B, T, D\), floating; got \(3, 4\)"):
        modulate(x[0], shift, scale)
    with pytest.raises(ValueError, match=r"gated_residual: expected x \(2, 3, 4\); got \(2, 2, 4\)"):
        gated_residual(x, x[:, :2], scale)
    with pytest.raises(ValueError, match="gated_residual: expected gate on cpu; got meta"):
        gated_residual(x, x, scale.detach().to("meta"))


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled under the interpreter")
@pytest.mark.parametrize("capability", report.CAPABILITIES)
def test_machine_code_keeps_its_budgets(capability):
    pytest.importorskip("triton", reason="no Triton to compile with")
    from duotok.kernels.modulate_triton import ahead_of_time

    # Instructions per element of 1,536-wide rows, a quarter of whose block is idle.
    budgets = {"modulate": 26, "modulate backward": 48, "gated residual": 10, "gated residual backward": 10}
    for compilable in ahead_of_time():
        compiled = report.compile_ahead(compilable, capability)
        report.assert_fits(compiled)
        assert compiled.looped and compiled.per_unit <= budgets[compilable.name], (compilable.name, compiled.per_unit)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("op", OPS)
def test_gpu_equals_the_reference_and_itself(op):
    tensors = [t.detach().cuda().requires_grad_() for t in arguments(op, 3, 200, 384, torch.float32)]
    up = torch.randn(3, 200, 384, device="cuda")
    theirs = with_gradients(OPS[op].reference, tensors, up)
    first, second = (with_gradients(lambda *t: OPS[op].run("triton", *t), tensors, up) for _ in range(2))
    for a, b, c in zip(first, second, theirs, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)

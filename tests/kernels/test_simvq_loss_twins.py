"""Twins of simvq_loss: numba here, Triton's interpreter in a process of its own, Triton's machine code without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from duotok.kernels import report, simvq_loss

ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TWIN = "triton" if INTERPRETED else "numba"


@pytest.mark.skipif(INTERPRETED, reason="this is the inner process")
def test_triton_passes_the_tests_of_twins_under_its_interpreter(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-k", "twin"]
    out = subprocess.run(
        [*command, "-p", "no:cacheprovider", __file__],
        cwd=tmp_path, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stdout[-4000:]


def make(rows: int, width: int, table_width: int, dtype=torch.float32, bias: bool = True) -> list[torch.Tensor | None]:
    torch.manual_seed(rows + width)
    z = torch.randn(rows, width).to(dtype).requires_grad_()
    weight = torch.randn(width, table_width).requires_grad_()
    return [z, torch.randint(0, 50, (rows,)), torch.randn(50, table_width), weight, torch.randn(width).requires_grad_()][
        : 5 if bias else 4
    ] + ([] if bias else [None])


def exact(z, indices, table, weight, bias, beta, rotation, up):
    """Outputs and gradients by the formulas, in float64."""
    z, table, weight, up = (t.detach().double() for t in (z, table, weight, up))
    code = table[indices] @ weight.T + (0 if bias is None else bias.detach().double())
    straight = up
    if rotation:
        source, target = z.norm(dim=1, keepdim=True), code.norm(dim=1, keepdim=True)
        e, q = z / source, code / target
        middle = (e + q) / (e + q).norm(dim=1, keepdim=True)
        eye = torch.eye(z.shape[1], dtype=torch.float64)
        turn = eye - 2 * middle[:, :, None] * middle[:, None] + 2 * q[:, :, None] * e[:, None]  # R e = q
        straight = (target / source) * (turn.mT @ up[:, :, None])[..., 0]
    error = (z - code).square().mean()
    residual = 2 * (code - z) / z.numel()
    dz = straight - 3 * beta * residual
    gradients = [dz, 5 * residual.T @ table[indices]] + ([] if bias is None else [5 * residual.sum(0)])
    return [code, beta * error, error, *gradients]


def measured(backend, z, indices, table, weight, bias, beta, rotation, up):
    out = simvq_loss.run(backend, z, indices, table, weight, bias, beta, rotation)
    loss = (out.quantized * up).sum().float() + 3 * out.commitment + 5 * out.codebook
    gradients = torch.autograd.grad(loss, [t for t in (z, weight, bias) if t is not None])
    assert torch.equal(out.usage, torch.bincount(indices, minlength=50))
    return [t.detach() for t in (out.quantized, out.commitment, out.codebook, *gradients)]


@pytest.mark.parametrize(
    ("rows", "width", "table_width", "dtype", "bias", "rotation"),
    [
        (37, 13, 13, torch.float32, True, False),
        (37, 13, 13, torch.float32, False, True),
        (70, 140, 20, torch.float32, True, True),
        (1, 5, 8, torch.float32, True, True),
        (40, 24, 24, torch.float16, True, False),
        (40, 24, 24, torch.float16, True, True),
    ],
)
def test_twin_errs_at_most_twice_as_much_as_the_reference(rows, width, table_width, dtype, bias, rotation):
    if dtype == torch.float16 and TWIN == "numba":
        pytest.skip(simvq_loss.explain(*make(3, 4, 4, dtype))["numba"])
    arguments = (*make(rows, width, table_width, dtype, bias), 0.25, rotation, torch.randn(rows, width).to(dtype))
    theirs, mine, truth = measured("reference", *arguments), measured(TWIN, *arguments), exact(*arguments)
    for got, reference, true in zip(mine, theirs, truth, strict=True):
        assert got.dtype == reference.dtype
        allowed = 2 * (reference.double() - true).abs().max() + 1e-6 * max(1.0, true.abs().max())
        assert (got.double() - true).abs().max() <= allowed


def test_twin_takes_no_rows():
    arguments = make(0, 6, 6)
    out, expected = simvq_loss.run(TWIN, *arguments), simvq_loss.reference(*arguments)
    assert out.quantized.shape == (0, 6) and out.usage.sum() == 0
    assert out.codebook.isnan() and expected.codebook.isnan()
    (out.quantized.sum() + out.commitment + out.codebook).backward()
    assert arguments[0].grad.shape == (0, 6) and arguments[3].grad.shape == (6, 6)


def test_twin_takes_what_is_not_contiguous():
    z, indices, table, weight, bias = make(20, 8, 8)
    z, weight = z.detach().T.contiguous().T.requires_grad_(), weight.detach().T.contiguous().T.requires_grad_()
    results = []
    for backend in ("reference", TWIN):
        out = simvq_loss.run(backend, z, indices.repeat(2)[::2], table.T.contiguous().T, weight, bias)
        gradients = torch.autograd.grad(out.quantized.sum() + out.commitment + out.codebook, (z, weight, bias))
        results.append((*vars(out).values(), *gradients))
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_twin_gives_the_map_no_gradient_from_the_quantized_rows():
    """None, as from the reference, and not zeros, which an optimizer with weight decay would act upon."""
    z, indices, table, weight, bias = make(7, 4, 4)
    simvq_loss.run(TWIN, z, indices, table, weight, bias).quantized.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z)) and weight.grad is None and bias.grad is None
    simvq_loss.run(TWIN, z, indices, table, weight, bias).codebook.backward()
    assert weight.grad.abs().sum() > 0 and torch.equal(z.grad, torch.ones_like(z))


def test_twin_gives_the_same_bits_again():
    arguments = (*make(300, 16, 16), 0.25, False, torch.randn(300, 16))
    for a, b in zip(measured(TWIN, *arguments), measured(TWIN, *arguments), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not INTERPRETED, reason="numba has no block sizes")
def test_twin_gives_the_same_for_any_block():
    from duotok.kernels.simvq_loss_triton import launch

    arguments = [t.detach() for t in make(70, 24, 24)]
    first, *others = (launch(*arguments, rows_per_program=rows) for rows in (16, 32, 64))
    for other in others:
        for a, b in zip(first, other, strict=True):  # the interpreter's products are numpy's, whose order depends on the shape
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16] if INTERPRETED else [torch.float32])
def test_twin_passes_opcheck(dtype):
    __import__(f"duotok.kernels.simvq_loss_{'triton' if INTERPRETED else 'cpu'}")
    torch.library.opcheck(getattr(torch.ops.duotok, f"simvq_loss_{TWIN}"), (*make(6, 4, 4, dtype), 0.25, True))


@pytest.mark.parametrize("rotation", [False, True])
def test_twin_is_traced_whole_by_compile(rotation):
    def loss(z, indices, table, weight, bias):
        out = simvq_loss(z, indices, table, weight, bias, 0.25, rotation)
        return (out.quantized.square().sum() + out.commitment + out.codebook), out.usage

    arguments = make(9, 6, 6)
    leaves = (arguments[0], arguments[3], arguments[4])
    value, usage = torch.compile(loss, fullgraph=True, backend="aot_eager")(*arguments)
    expected, counted = loss(*arguments)
    assert torch.equal(usage, counted)
    for a, b in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_losses_pass_gradcheck():
    """Quadratic in every argument, so wide steps are exact and the float32 losses do no harm."""
    z, indices, table, weight, bias = (t.double() if t.is_floating_point() else t for t in make(5, 4, 4))
    z, weight, bias = (t.detach().requires_grad_() for t in (z, weight, bias))
    steps = {"eps": 0.1, "atol": 1e-4, "rtol": 1e-3}
    assert torch.autograd.gradcheck(
        lambda z: simvq_loss.reference(z, indices, table, weight, bias).commitment.double(), z, **steps
    )
    assert torch.autograd.gradcheck(
        lambda w, b: simvq_loss.reference(z.detach(), indices, table, w, b).codebook.double(), (weight, bias), **steps
    )


def test_rotation_turns_the_gradient_with_the_code_and_keeps_the_value():
    z, indices, table, weight, bias = make(30, 8, 8)
    out = simvq_loss.reference(z, indices, table, weight, bias, rotation=True)
    plain = simvq_loss.reference(z, indices, table, weight, bias)
    torch.testing.assert_close(out.quantized, plain.quantized, rtol=1e-4, atol=1e-5)
    # A gradient along the code is a gradient along z, longer by |q| / |z|.
    code = plain.quantized.detach()
    (along,) = torch.autograd.grad(out.quantized, z, code / code.norm(dim=1, keepdim=True))
    expected = z / z.norm(dim=1, keepdim=True) * (code.norm(dim=1) / z.norm(dim=1))[:, None]
    torch.testing.assert_close(along, expected.detach(), rtol=1e-4, atol=1e-5)


def test_rotation_is_that_of_vector_quantize_pytorch():
    peer = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch")
    z, indices, table, weight, bias = make(30, 8, 8)
    up = torch.randn(30, 8)
    out = simvq_loss(z, indices, table, weight, bias, rotation=True)
    (mine,) = torch.autograd.grad(out.quantized, z, up)
    rotated = peer.rotate_to(z, out.quantized.detach())
    torch.testing.assert_close(out.quantized, rotated, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine, torch.autograd.grad(rotated, z, up)[0], rtol=1e-4, atol=1e-5)


def test_refusals_are_sentences():
    z, indices, table, weight, bias = make(5, 4, 4)
    assert simvq_loss.explain(z.half(), indices, table, weight, bias)["numba"] == "needs float32; got torch.float16"
    expected = None if INTERPRETED else "needs a CUDA tensor; got cpu"
    assert simvq_loss.explain(z, indices, table, weight, bias)["triton"] == expected
    cases = {
        r"expected z \(N, D\) and table \(K, C\), floating; got \(4,\)": (z[0], indices, table, weight, bias),
        r"expected weight \(4, 4\) and bias \(4,\) or None; got \(3, 4\)": (z, indices, table, weight[:3], bias),
        r"expected indices \(5,\) int64; got \(5,\) torch.int32": (z, indices.int(), table, weight, bias),
        r"expected indices \(5,\) int64; got \(4,\)": (z, indices[:4], table, weight, bias),
        "expected table on cpu like z; got meta": (z, indices, table.to("meta"), weight, bias),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            simvq_loss(*arguments)


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled under the interpreter")
@pytest.mark.parametrize("capability", report.CAPABILITIES)
def test_machine_code_keeps_its_budgets(capability):
    pytest.importorskip("triton", reason="no Triton to compile with")
    from duotok.kernels.simvq_loss_triton import ahead_of_time

    budgets = {"forward": 14, "backward": 13, "backward rotation": 60}  # instructions per element
    tensor_core = {80: "HMMA", 90: "HGMMA", 100: "UTC.?.?MMA"}[capability]
    for compilable in ahead_of_time():
        compiled = report.compile_ahead(compilable, capability)
        report.assert_fits(compiled)
        assert compiled.per_unit <= budgets[compilable.name], (compilable.name, compiled.per_unit)
        assert (compiled.count(tensor_core) > 0) == (compilable.name == "forward")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_equals_the_formulas_and_itself():
    arguments = make(1000, 128, 128)
    up = torch.randn(1000, 128)
    truth = exact(*arguments, 0.25, False, up)
    there = [t.detach().cuda().requires_grad_(t.requires_grad) for t in arguments]
    first, second = (measured("triton", *there, 0.25, False, up.cuda()) for _ in range(2))
    for a, b, true in zip(first, second, truth, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a.cpu().double(), true, rtol=1e-4, atol=1e-4)

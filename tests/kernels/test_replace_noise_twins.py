"""Twins of replace_noise: numba here, Triton's interpreter in a process of its own, Triton's machine code without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from duotok.kernels import replace_noise, report
from duotok.kernels.replace_noise import replacement

ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TWIN = "triton" if INTERPRETED else "numba"
SEED = torch.tensor([-77, 3 + 2**33])


@pytest.mark.skipif(INTERPRETED, reason="this is the inner process")
def test_triton_passes_the_tests_of_twins_under_its_interpreter(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-k", "twin"]
    out = subprocess.run(
        [*command, "-p", "no:cacheprovider", __file__],
        cwd=tmp_path, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stdout[-4000:]


@pytest.mark.parametrize(
    ("shape", "dtype", "per_element", "additive"),
    [
        ((3, 19, 13), torch.float32, False, False),
        ((3, 19, 13), torch.float32, False, True),
        ((2, 9, 30), torch.float32, True, False),
        ((2, 9, 30), torch.float64, True, True),
        ((3, 2100), torch.float64, False, False),
        ((5, 64), torch.float16, False, False),
        ((5, 64), torch.float16, True, True),
        ((0, 6), torch.float32, False, False),
        ((6, 0), torch.float32, True, False),
    ],
)
def test_twin_equals_the_reference(shape, dtype, per_element, additive):
    if dtype == torch.float16 and TWIN == "numba":
        pytest.skip(replace_noise.explain(torch.zeros(1, 1).half(), 0.3, 1.5, SEED)["numba"])
    torch.manual_seed(0)
    x, up = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    options = (0.3, 1.5, SEED, per_element, additive)
    expected, got = replace_noise.reference(x, *options), replace_noise.run(TWIN, x, *options)
    tolerance = 1e-3 if dtype == torch.float16 else 1.5e-6  # noise of 1e-6 times sigma
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    assert additive or torch.equal(got == x, expected == x)
    theirs, mine = (torch.autograd.grad(y, x, up)[0] for y in (expected, got))
    assert torch.equal(mine, theirs)


def test_twin_takes_what_is_not_contiguous():
    x = torch.randn(13, 10, 3).transpose(0, 2).requires_grad_()
    expected, got = replace_noise.reference(x, 0.5, 1.0, SEED), replace_noise.run(TWIN, x, 0.5, 1.0, SEED)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    theirs, mine = (torch.autograd.grad(y.sum(), x)[0] for y in (expected, got))  # a gradient with strides 0
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_twin_at_the_ends_of_p(p):
    x = torch.randn(7, 6)
    torch.testing.assert_close(
        replace_noise.run(TWIN, x, p, 1.0, SEED), replace_noise.reference(x, p, 1.0, SEED), rtol=1e-6, atol=1e-6
    )


def test_twin_differentiates_twice():
    x, up = torch.randn(9, 5, requires_grad=True), torch.randn(9, 5, requires_grad=True)
    (once,) = torch.autograd.grad(replace_noise.run(TWIN, x, 0.5, 1.0, SEED), x, up, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), up)
    assert torch.equal(twice, (once != 0).float())


def test_twin_passes_opcheck():
    __import__(f"duotok.kernels.replace_noise_{'triton' if INTERPRETED else 'cpu'}")
    x = torch.randn(4, 6, requires_grad=True)
    torch.library.opcheck(getattr(torch.ops.duotok, f"replace_noise_{TWIN}"), (x, 0.5, 1.0, SEED, False, False))
    torch.library.opcheck(getattr(torch.ops.duotok, f"replace_noise_{TWIN}_backward"), (x, 0.5, SEED, True))


def test_twin_is_traced_whole_by_compile():
    def loss(x, seed):
        return (replace_noise(x, 0.5, 1.0, seed) * x).sum()

    x = torch.randn(9, 5, requires_grad=True)
    expected = torch.autograd.grad(loss(x, SEED), x)[0]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(x, SEED), x)[0], expected)
    other = SEED + 1  # the seed is an argument, not a constant of the graph
    assert torch.equal(torch.autograd.grad(compiled(x, other), x)[0], torch.autograd.grad(loss(x, other), x)[0])


@pytest.mark.skipif(not INTERPRETED, reason="numba has no block sizes")
@pytest.mark.parametrize("per_element", [False, True])
def test_twin_gives_the_same_bits_for_any_block(per_element):
    from duotok.kernels.replace_noise_triton import launch

    x = torch.randn(11, 70)
    results = [
        launch(x, 0.5, 1.0, SEED, per_element, False, False, rows, block) for rows, block in ((1, 32), (4, 64), (8, 128))
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is too slow for 10^7 draws")
@pytest.mark.parametrize("per_element", [False, True])
def test_share_mean_and_variance_over_ten_million_draws(per_element):
    rows, width, p = 500_000, 20, 0.2
    count = rows * width
    noise = replace_noise.run("numba", torch.zeros(rows, width), 1.0, 1.0, SEED).double()
    assert abs(noise.mean()) < 5 / count**0.5
    assert abs(noise.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs(noise.pow(4).mean() - 3) < 5 * (96 / count) ** 0.5
    assert abs((noise[:-1] * noise[1:]).mean()) < 5 / count**0.5
    decisions = count if per_element else rows
    kept = replace_noise.run("numba", torch.full((rows, width), 9.0), p, 1.0, SEED, per_element) == 9
    assert abs(1 - kept.double().mean() - p) < 5 * (p * (1 - p) / decisions) ** 0.5


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is too slow for many rows")
def test_mask_bits_and_noise_of_many_rows():
    x = torch.full((3000, 129), 9.0)
    for seed in (torch.tensor([1, 0]), torch.tensor([2**62 + 12345, 2**50 + 7])):
        mask, noise = replacement(x, 0.4, seed)
        got = replace_noise.run("numba", x, 0.4, 1.0, seed)
        assert torch.equal(got != 9, mask.expand_as(x))
        torch.testing.assert_close(got.where(mask, noise), noise, rtol=1e-6, atol=1e-6)
        mask, noise = replacement(x, 0.4, seed, per_element=True)
        assert torch.equal(replace_noise.run("numba", x, 0.4, 1.0, seed, True) != 9, mask)


def test_other_ranks_and_steps_draw_other_streams_and_a_resumed_run_the_same():
    x = torch.zeros(50, 16)
    draws = {(key, step): replace_noise(x, 1.0, 1.0, torch.tensor([key, step])) for key in (0, 1) for step in (5, 6)}
    assert torch.equal(draws[0, 5], replace_noise(x, 1.0, 1.0, torch.tensor([0, 5])))
    values = list(draws.values())
    for i, a in enumerate(values):
        for b in values[i + 1 :]:
            assert abs((a * b).mean()) < 5 / a.numel() ** 0.5 and (a == b).sum() == 0


def test_refusals_are_sentences():
    reasons = replace_noise.explain(torch.zeros(2, 3).half(), 0.2, 1.0, SEED)
    assert reasons["numba"] == "needs float32 or float64; got torch.float16"
    assert reasons["triton"] == (None if INTERPRETED else "needs a CUDA tensor; got cpu")
    for bad in (torch.tensor(1.0), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"expected x \(\.\.\., D\), floating; got"):
            replace_noise(bad, 0.2, 1.0, SEED)
    with pytest.raises(ValueError, match="expected seed on meta like x; got cpu"):
        replace_noise(torch.zeros(3, 4, device="meta"), 0.2, 1.0, SEED)


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled under the interpreter")
@pytest.mark.parametrize("capability", report.CAPABILITIES)
def test_machine_code_keeps_its_budgets(capability):
    pytest.importorskip("triton", reason="no Triton to compile with")
    from duotok.kernels.replace_noise_triton import ahead_of_time

    # Instructions per element, both sides of the row's branch counted: drawing noise, the decision and the copy.
    budgets = {
        "frames": 60, "frames additive": 60, "frames backward": 12, "elements": 60, "elements backward": 22
    }  # fmt: skip
    for compilable in ahead_of_time():
        compiled = report.compile_ahead(compilable, capability)
        report.assert_fits(compiled)
        assert compiled.looped and compiled.per_unit <= budgets[compilable.name], (compilable.name, compiled.per_unit)
        assert compiled.count("DMUL|DFMA|DADD") == 0  # no slow paths in double precision


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_equals_the_reference():
    x = torch.randn(300, 257, device="cuda", requires_grad=True)
    options = (0.3, 1.5, SEED.cuda())
    expected, got = replace_noise.reference(x, *options), replace_noise.run("triton", x, *options)
    torch.testing.assert_close(got, expected, rtol=1.5e-6, atol=1.5e-6)
    theirs, mine = (torch.autograd.grad(y.square().sum(), x)[0] for y in (expected, got))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)

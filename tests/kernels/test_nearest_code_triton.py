"""nearest_code's Triton twin: exact against float64 brute force, its bound, its machine code.

The kernels run under Triton's interpreter, which must be chosen before Triton is imported: the tests named `interpreted` run
in a process of their own, started by `test_triton_under_the_interpreter`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from duotok.kernels import nearest_code, prepare, use_backends
from duotok.kernels import nearest_code as op
from duotok.kernels.available import interpreting
from nearest_code_cases import brute_force, random_case

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton; it is not installed")
needs_interpreter = pytest.mark.skipif(not interpreting(), reason="runs in test_triton_under_the_interpreter's process")
compiled_only = pytest.mark.skipif(interpreting(), reason="the interpreter compiles nothing")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; none is here")


@needs_triton
@compiled_only
def test_triton_under_the_interpreter(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:]
    assert "passed" in run.stdout


@pytest.fixture
def small_blocks(monkeypatch):
    """Lets the interpreter work on blocks of 16 rows and 64 codes, in both orders of a tile."""
    from duotok.kernels import nearest_code_triton as twin

    chosen, order = twin.plan, {"quad": True}

    def plan(width: int, capability: int) -> twin.Plan:
        blocks = chosen(width, capability)
        return twin.Plan(blocks.columns, blocks.chunk, 16, 64, order["quad"], 4, 2)

    monkeypatch.setattr(twin, "plan", plan)
    return order


@needs_interpreter
def test_interpreted_cases_equal_brute_force(small_blocks):
    for seed in range(18):
        small_blocks["quad"] = seed % 4 < 2
        z, codes = random_case(seed + 7, 160, 6)
        got = op.run("triton", z, prepare(codes) if seed % 2 else codes)
        assert torch.equal(got, brute_force(z, codes)), f"seed {seed}"


@needs_interpreter
def test_interpreted_real_blocks_splits_and_dtypes(monkeypatch, small_blocks):
    from duotok.kernels import nearest_code_triton as twin

    z, codes = torch.randn(5, 20), torch.randn(300, 20)
    codes[[3, 200]] = codes[299].clone()
    z[0], z[1, 3] = codes[299], torch.nan
    expected = brute_force(z, codes)
    assert expected[0] == 3
    for programs in (1, 4, 264):
        monkeypatch.setattr(twin, "_PROGRAMS", programs)
        assert torch.equal(op.run("triton", z, codes), expected)
    assert torch.equal(op.run("triton", z.T.contiguous().T, codes), expected)
    assert torch.equal(op.run("triton", z.half(), codes.half()), brute_force(z.half(), codes.half()))
    assert op.run("triton", z[:0], codes).tolist() == []
    assert (op.run("triton", z, codes, fast=True) == expected).float().mean() >= 0.8
    monkeypatch.undo()
    assert torch.equal(op.run("triton", z[:2], codes[:300]), brute_force(z[:2], codes[:300]))
    torch.library.opcheck(torch.ops.duotok.nearest_code_triton, (z[:2], codes[:300], [], False))


@needs_interpreter
@pytest.mark.parametrize("fast", [False, True])
def test_interpreted_rows_out_of_range_are_measured(small_blocks, fast):
    z, codes = torch.randn(6, 20), torch.randn(150, 20)
    z[:4] *= torch.tensor([1e7, 1e8, 1e9, 1e12])[:, None]
    assert torch.equal(op.run("triton", z, codes, fast=fast)[:4], brute_force(z, codes)[:4])


@needs_interpreter
@pytest.mark.parametrize(("offset", "scale"), [(1e37, 3e36), (-3e38, 6e38)])
def test_interpreted_codes_near_the_end_of_float32(small_blocks, offset, scale):
    codes = offset + scale * torch.rand(150, 8, generator=torch.Generator().manual_seed(1))
    z = codes[::11] * 0.99
    assert torch.equal(op.run("triton", z, codes), brute_force(z, codes))


@needs_interpreter
def test_interpreted_search_is_traced_whole(small_blocks):
    z, codes = torch.randn(5, 20, requires_grad=True), torch.randn(70, 20)
    prepared = prepare(codes)
    _ = prepared.triton_form  # made once, before any graph
    with use_backends("triton"):
        for codebook in (codes, prepared):
            traced = torch.compile(lambda z, c=codebook: codes[nearest_code(z, c)] * z, fullgraph=True, backend="aot_eager")
            z.grad = None
            out = traced(z)
            torch.testing.assert_close(out, codes[brute_force(z, codes)] * z)
            out.sum().backward()
            torch.testing.assert_close(z.grad, codes[brute_force(z, codes)])


@needs_interpreter
def test_interpreted_group_maxima_stay_within_their_bound(monkeypatch, small_blocks):
    from duotok.kernels import nearest_code_triton as twin

    caught = []

    class Catch:
        def __getitem__(self, grid):
            def launch(z, codes, rows, tiles, norms, best, peak, scale, length, *rest, **options):
                caught.append((best, peak, scale, length))

            return launch

    monkeypatch.setattr(twin, "_decide", Catch())
    worst = 0.0
    for seed in range(8):
        z, codes = random_case(seed, 160, 6)
        z = z[z.isfinite().all(1)]
        if not len(z) or (codes == codes[0]).all():
            continue
        form = twin.prepare_form(codes)
        twin.search(z, codes, form)
        frame, best, peak, scale, length = (tensor.double() for tensor in (form[0], *caught.pop()))
        scale, length, columns = scale[: len(z), None], length[: len(z), None], twin.plan(z.shape[1], 90).columns
        rows, wide = (z.double() - frame[:-1]) * frame[-1] * scale, (codes.double() - frame[:-1]) * frame[-1]
        exact = rows @ wide.T - scale * wide.square().sum(1) / 2
        groups = torch.nn.functional.pad(exact, (0, len(peak) * 16 - len(codes)), value=-torch.inf)
        groups = groups.view(len(z), -1, 16).amax(2)
        added = (columns + 24) * 2.0**-22
        bound = (1.01 * 2.0**-10 + added) * length * peak + added * scale * peak**2 / 2
        bound += 2.0**-24 * columns**0.5 * (length + peak + 1)
        used = groups.isfinite() & (scale > 0)
        if used.any():
            worst = max(worst, ((best[: len(z)] - groups).abs() / bound)[used].max().item())
    assert 0.02 < worst <= 1.0, f"the error reaches {worst:.3f} of its bound"


def _machine_code():
    if interpreting() or importlib.util.find_spec("triton") is None:
        return []
    from duotok.kernels.nearest_code_triton import ahead_of_time

    return [pytest.param(c, c.capabilities[0], id=f"sm_{c.capabilities[0]} {c.name}") for c in ahead_of_time()]


@needs_triton
@compiled_only
@pytest.mark.parametrize(("compilable", "capability"), _machine_code())
def test_machine_code_fits_and_keeps_its_budget(compilable, capability):
    from duotok.kernels.report import assert_fits, compile_ahead

    compiled = compile_ahead(compilable, capability)
    assert_fits(compiled)
    if compilable.name.startswith("coarse"):
        assert compiled.count({80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}[capability], everywhere=True)
        if compilable.name in ("coarse d=64", "coarse d=128"):
            # sm_80 issues tensor-core instructions of a 16th of Hopper's size, 1.1 to 2.3 of them for each pair.
            assert compiled.per_unit <= {80: 6.0, 90: 2.2, 100: 2.2}[capability]
            assert compiled.half_rate_per_unit <= 1.15


@needs_gpu
@compiled_only
@pytest.mark.parametrize("width", [8, 64, 128, 256, 700])
def test_gpu_equals_the_reference(width):
    z, codes = torch.randn(1000, width, device="cuda") + 5, torch.randn(5001, width, device="cuda") + 5
    with use_backends("reference"):
        expected = nearest_code(z, codes)
    assert torch.equal(op.run("triton", z, codes), expected)
    assert torch.equal(op.run("triton", z, prepare(codes)), expected)
    assert torch.equal(torch.cat([op.run("triton", row[None], codes) for row in z[:20]]), expected[:20])

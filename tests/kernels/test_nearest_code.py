"""nearest_code's twins: exact against float64 brute force, their bounds, their machine code.

The Triton kernels run under Triton's interpreter, which must be chosen before Triton is imported: the tests named
`interpreted` run in a process of their own, started by `test_triton_under_the_interpreter`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tracemalloc

import pytest
import torch
from duotok.kernels import nearest_code, prepare, use_backends
from duotok.kernels import nearest_code as op
from duotok.kernels.available import interpreting

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba; it is not installed")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton; it is not installed")
needs_interpreter = pytest.mark.skipif(not interpreting(), reason="runs in test_triton_under_the_interpreter's process")
compiled_only = pytest.mark.skipif(interpreting(), reason="the interpreter compiles nothing")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; none is here")
BACKENDS = ["reference", pytest.param("numba", marks=needs_numba)]


def brute_force(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    distance = (z.double()[:, None] - codes.double()[None]).square().sum(-1)
    index = (distance == distance.amin(1, keepdim=True)).int().argmax(1)  # the first of the least
    return index.where(z.isfinite().all(1), 0)


def random_case(seed: int, most_codes: int = 600, most_rows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Shared offsets, huge and tiny norms, very unequal norms, duplicated codes, rows that are codes, far rows, NaN rows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    size, rows = draw(1, most_codes), draw(0, most_rows)
    width = draw(129, 300) if seed % 25 == 24 else draw(1, 70)
    scale, offset = 10.0 ** draw(-8, 9), 5.0 * draw(0, 2)
    codes = (torch.randn(size, width, generator=generator) + offset) * scale
    z = (torch.randn(rows, width, generator=generator) + offset) * scale
    if seed % 3 == 0:
        codes[torch.randint(0, size, (size // 2,), generator=generator)] = codes[0].clone()
    if seed % 5 == 0 and rows:
        z = codes[torch.randint(0, size, (rows,), generator=generator)].clone()
    if seed % 7 == 0:
        z = z * 1e6
    if seed % 11 == 0:
        codes = codes * torch.randn(size, 1, generator=generator).mul(4).exp()
    if seed % 13 == 0 and rows:
        z[rows // 2, width - 1] = (torch.nan, torch.inf, -torch.inf)[seed % 3]
    return z, codes


@compiled_only
@pytest.mark.parametrize("block", range(10))
def test_random_cases_equal_brute_force(block):
    for seed in range(100 * block, 100 * block + 100):
        z, codes = random_case(seed)
        expected = brute_force(z, codes)
        assert torch.equal(op.run("reference", z, codes), expected), f"reference, seed {seed}"
        if "numba" in op.backends and op.explain(z, codes)["numba"] is None:
            got = op.run("numba", z, prepare(codes) if seed % 2 else codes)
            assert torch.equal(got, expected), f"numba, seed {seed}"


@compiled_only
@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_rows_without_answer_and_odd_inputs(backend):
    codes = torch.randn(5000, 24)
    codes[[70, 700, 4999]] = codes[2600].clone()
    z = torch.cat((codes[[2600]], torch.randn(69, 24)))
    expected = brute_force(z, codes)
    assert expected[0] == 70 and torch.equal(op.run(backend, z, codes), expected)
    assert torch.equal(op.run(backend, z.T.contiguous().T, codes), expected)
    assert torch.equal(op.run(backend, z[::2], codes.T.contiguous().T), expected[::2])
    for dtype in (torch.float16, torch.bfloat16):
        narrow = op.run(backend, z.to(dtype), codes.to(dtype))
        assert torch.equal(narrow, brute_force(z.to(dtype), codes.to(dtype)))
    assert op.run(backend, z[:0], codes).tolist() == []
    assert op.run(backend, z[:1], codes).tolist() == [70]
    assert op.run(backend, z, codes[:1]).tolist() == [0] * 70
    bad = torch.full((3, 24), torch.nan)
    bad[1], bad[2] = torch.inf, torch.randn(24)
    assert op.run(backend, bad, codes).tolist() == brute_force(bad, codes).tolist()


@needs_numba
@compiled_only
def test_all_codes_equal_or_duplicated_beyond_the_list_of_candidates():
    codes = torch.randn(1, 8).repeat(3000, 1)
    assert op.run("numba", torch.randn(5, 8), codes).tolist() == [0] * 5
    codes[:1000] += 100.0
    assert op.run("numba", codes[2000:2003], codes).tolist() == [1000] * 3


@needs_numba
@compiled_only
def test_result_does_not_depend_on_tiles_threads_or_batch(monkeypatch):
    from duotok.kernels import nearest_code_cpu

    z, codes = torch.randn(150, 33) + 3, torch.randn(3001, 33) + 3
    expected = brute_force(z, codes)
    threads = torch.get_num_threads()
    try:
        for rows, size, together, count in ((512, 1024, 4096, 1), (7, 256, 20, 2), (64, 512, 4096, 3)):
            monkeypatch.setattr(nearest_code_cpu, "_ROWS", rows)
            monkeypatch.setattr(nearest_code_cpu, "_CODES", size)
            monkeypatch.setattr(nearest_code_cpu, "_SUPER", together)
            torch.set_num_threads(count)
            assert torch.equal(op.run("numba", z, codes), expected)
            assert torch.equal(op.run("numba", z, prepare(codes)), expected)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat([op.run("numba", row[None], codes) for row in z[:40]]), expected[:40])


@needs_numba
@compiled_only
@pytest.mark.parametrize("precision", ["medium", "high"])
def test_reduced_matmul_precision_changes_no_index(precision):
    z, codes = torch.randn(300, 64) + 5, torch.randn(4000, 64) + 5
    expected = brute_force(z[:50], codes)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(op.run("numba", z, codes)[:50], expected)
    finally:
        torch.set_float32_matmul_precision(before)


@needs_numba
@compiled_only
def test_bfloat16_products_change_no_index(monkeypatch):
    from duotok.kernels import nearest_code_cpu

    monkeypatch.setattr(nearest_code_cpu, "_multiplies_bfloat16", lambda: True)
    for seed in range(60):
        z, codes = random_case(seed)
        assert torch.equal(op.run("numba", z, prepare(codes) if seed % 2 else codes), brute_force(z, codes)), f"seed {seed}"


def _cpu_scores(z: torch.Tensor, codes: torch.Tensor, narrow: bool):
    """The numba twin's scores, the exact ones, and the bound on their difference, each (N, K)."""
    from duotok.kernels import nearest_code_cpu as twin

    frame, table, half, _ = twin.prepare_form(codes)
    rows, scale, length = torch.empty_like(z), torch.empty(len(z)), torch.empty(len(z))
    kept = torch.zeros(len(z), dtype=torch.int32).numpy()
    twin._scale_rows(0, len(z), z.numpy(), frame.numpy(), rows.numpy(), scale.numpy(), length.numpy(), kept)
    product = (rows.bfloat16() @ table.bfloat16().T).float() if narrow else rows @ table.T
    scores = (product - scale[:, None] * half).double()
    mean, factor = frame[:-1].double(), frame[-1].double()
    exact_rows, exact_codes = (z.double() - mean) * factor * scale[:, None].double(), (codes.double() - mean) * factor
    norms = scale[:, None].double() * exact_codes.square().sum(1) / 2
    size = length[:, None].double() * table.double().norm(dim=1)
    bound = twin._relative(z.shape[1], narrow) * (size + norms) + z.shape[1] * 2.0**-120
    return scores, exact_rows @ exact_codes.T - norms, bound


@needs_numba
@compiled_only
@pytest.mark.parametrize("narrow", [False, True])
def test_coarse_error_of_the_cpu_never_exceeds_its_bound(narrow):
    worst = 0.0
    for seed in range(150):
        z, codes = random_case(seed)
        z = z[z.isfinite().all(1)]
        if len(z) and not (codes == codes[0]).all():
            scores, exact, bound = _cpu_scores(z, codes, narrow)
            worst = max(worst, ((scores - exact).abs() / bound).max().item())
    assert 0.02 < worst <= 1.0, f"the error reaches {worst:.3f} of its bound"


@needs_numba
@compiled_only
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_fast_flips_few_rows(offset):
    z, codes = torch.randn(1000, 64) + offset, torch.randn(8192, 64) + offset
    flips = (nearest_code(z, codes, fast=True) != nearest_code(z, codes)).float().mean().item()
    assert flips <= 0.002
    assert 1 - (_fp16_groups(z, codes) == nearest_code(z, codes) // 64).float().mean().item() <= 0.004


def _fp16_groups(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The group of 64 codes of the best fp16 score, as the tensor cores compute it: what `fast` looks into on a GPU."""
    from duotok.kernels.nearest_code_triton import prepare_form

    frame, tiles, norms, _ = prepare_form(codes)
    rows = ((z - frame[:-1]) * frame[-1] / 16).half().float()
    scores = rows @ tiles[:, : z.shape[1]].float().T + norms.float().sum(1) / 16
    groups = scores.view(len(z), -1, 32, 4, 2).amax((2, 4))  # (N, tiles, 4)
    return groups.flatten(1).argmax(1)


@needs_numba
@compiled_only
def test_no_buffer_of_rows_by_codes():
    from duotok.kernels import nearest_code_cpu
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(t.untyped_storage().nbytes() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t))
            return out

    z, codes = torch.randn(2048, 32), torch.randn(16_384, 32)
    nearest_code_cpu.search(z[:10], codes, [])
    tracemalloc.start()  # numpy reports its arrays there
    try:
        with Watch():
            nearest_code_cpu.search(z, codes, [])
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(sizes) == codes.untyped_storage().nbytes() == 4 * 512 * 1024, "a tile is as large as these codes"
    assert arrays < 4e6


@compiled_only
def test_bad_input_is_named_before_any_kernel_starts():
    z, codes = torch.zeros(3, 8), torch.zeros(5, 8)
    for arguments, message in (
        ((z, codes[:, :7]), r"expected z \(N, 7\) to match the codebook; got \(3, 8\); reshape z"),
        ((z[0], codes), r"expected z \(N, 8\) to match the codebook; got \(8,\)"),
        ((z, codes[0]), r"expected a codebook \(K, D\), K > 0; got \(8,\)"),
        ((z, codes[:0]), r"expected a codebook \(K, D\), K > 0; got \(0, 8\)"),
        ((z.long(), codes), r"expected floating-point z and codes; got torch.int64"),
        ((z.to("meta"), codes), r"expected z and codes on one device; got meta and cpu; move one"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest_code(*arguments)
    with pytest.raises(ValueError, match=r"expected floating-point codes; got torch.int64"):
        prepare(codes.long())


@compiled_only
def test_every_refusal_has_a_reason():
    z, codes = torch.randn(3, 8), torch.randn(5, 8)
    assert op.backends == ("triton", "numba", "reference")
    assert op.explain(z, codes)["triton"] == "needs a CUDA tensor; got cpu"
    assert op.explain(z.double(), codes)["numba"] == "needs float32, float16 or bfloat16; got float64"
    assert op.explain(z, prepare(codes))["reference"] is None
    assert torch.equal(nearest_code(z.double(), codes.double()), brute_force(z, codes))


@needs_numba
@compiled_only
def test_opcheck_and_fullgraph_compile():
    z, codes = torch.randn(20, 8, requires_grad=True), torch.randn(300, 8)
    prepared = prepare(codes)
    for form in ([], prepared.numba_form):
        torch.library.opcheck(torch.ops.duotok.nearest_code_numba, (z.detach(), codes, form, False))
    expected = nearest_code(z, codes)
    assert expected.dtype == torch.int64 and not expected.requires_grad
    compiled = torch.compile(lambda z, codes: codes[nearest_code(z, codes)] + z, fullgraph=True, backend="aot_eager")
    out = compiled(z, codes)
    torch.testing.assert_close(out, codes[expected] + z)
    out.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    frozen = torch.compile(lambda z: nearest_code(z, prepared), fullgraph=True, backend="aot_eager")
    assert torch.equal(frozen(z.detach()), expected)


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
def test_interpreted_group_maxima_stay_within_their_bound(monkeypatch, small_blocks):
    from duotok.kernels import nearest_code_triton as twin

    caught = []

    class Catch:
        def __getitem__(self, grid):
            def launch(z, codes, frame, best, peak, scale, length, *rest, **options):
                caught.append((frame, best, peak, scale, length))

            return launch

    monkeypatch.setattr(twin, "_decide", Catch())
    worst = 0.0
    for seed in range(8):
        z, codes = random_case(seed, 160, 6)
        z = z[z.isfinite().all(1)]
        if not len(z) or (codes == codes[0]).all():
            continue
        twin.search(z, codes, [])
        frame, best, peak, scale, length = (tensor.double() for tensor in caught.pop())
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
            assert compiled.per_unit <= {80: 6.0, 90: 2.2, 100: 1.6}[capability]
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

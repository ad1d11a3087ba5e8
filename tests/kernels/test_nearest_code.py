"""nearest_code and its CPU twin: exact against float64 brute force, and the twin's bound."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tracemalloc

import pytest
import torch
from duotok.kernels import nearest_code, prepare
from duotok.kernels import nearest_code as op
from nearest_code_cases import brute_force, random_case

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba; it is not installed")
BACKENDS = ["reference", pytest.param("numba", marks=needs_numba)]


@pytest.mark.parametrize("block", range(10))
def test_random_cases_equal_brute_force(block):
    for seed in range(100 * block, 100 * block + 100):
        z, codes = random_case(seed)
        expected = brute_force(z, codes)
        assert torch.equal(op.run("reference", z, codes), expected), f"reference, seed {seed}"
        if "numba" in op.backends and op.explain(z, codes)["numba"] is None:
            got = op.run("numba", z, prepare(codes) if seed % 2 else codes)
            assert torch.equal(got, expected), f"numba, seed {seed}"


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
def test_all_codes_equal_or_duplicated_beyond_the_list_of_candidates():
    codes = torch.randn(1, 8).repeat(3000, 1)
    assert op.run("numba", torch.randn(5, 8), codes).tolist() == [0] * 5
    codes[:1000] += 100.0
    assert op.run("numba", codes[2000:2003], codes).tolist() == [1000] * 3


@needs_numba
def test_result_does_not_depend_on_tiles_threads_or_batch(narrow, monkeypatch):
    from duotok.kernels import nearest_code_cpu

    z, codes = torch.randn(150, 33) + 3, torch.randn(3001, 33) + 3
    expected = brute_force(z, codes)
    threads = torch.get_num_threads()
    try:
        for rows, size, together, count in ((512, 1024, 4096, 1), (7, 256, 20, 2), (64, 512, 4096, 3)):
            monkeypatch.setattr(nearest_code_cpu, "_ROWS", rows)
            monkeypatch.setattr(nearest_code_cpu, "_NARROW_ROWS", rows)
            monkeypatch.setattr(nearest_code_cpu, "_CODES", size)
            monkeypatch.setattr(nearest_code_cpu, "_SUPER", together)
            torch.set_num_threads(count)
            assert torch.equal(op.run("numba", z, codes), expected)
            prepared = prepare(codes)  # its last part is smaller, and threads are at different parts at a time
            assert all(torch.equal(op.run("numba", z, prepared), expected) for _ in range(20))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat([op.run("numba", row[None], codes) for row in z[:40]]), expected[:40])


@needs_numba
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
@pytest.mark.parametrize("setting", ["cuda.matmul", "mkldnn.matmul", "mkldnn"])
def test_precisions_of_the_newer_interface_change_no_index(setting):
    """In a process of its own: torch does not go back to the older interface."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("needs torch 2.9")
    program = f"""
import torch
from duotok.kernels import nearest_code, use_backends
z, codes = torch.randn(300, 64) + 5, torch.randn(4000, 64) + 5
with use_backends("reference"):
    expected = nearest_code(z, codes)
for precision in ("tf32", "ieee"):
    torch.backends.{setting}.fp32_precision = precision
    assert torch.equal(nearest_code.run("numba", z, codes), expected)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def narrow(request, monkeypatch):
    """Whether the CPU is taken to multiply bfloat16; one that does not emulates it."""
    from duotok.kernels import nearest_code_cpu

    monkeypatch.setattr(nearest_code_cpu, "_multiplies_bfloat16", lambda: request.param)
    return request.param


@needs_numba
def test_width_of_the_products_changes_no_index(narrow):
    for seed in range(60):
        z, codes = random_case(seed)
        assert torch.equal(op.run("numba", z, prepare(codes) if seed % 2 else codes), brute_force(z, codes)), f"seed {seed}"


@needs_numba
def test_rows_with_too_many_candidates_in_bfloat16_are_searched_in_float32(narrow):
    from duotok.kernels import nearest_code_cpu

    codes = torch.randn(4000, 32)
    codes[:500] = codes[0] + 0.05 * torch.randn(500, 32)  # nearer to one another than bfloat16 can tell
    z = codes[:50] + 1e-4 * torch.randn(50, 32)
    index, examined = nearest_code_cpu.search(z, codes, [])
    assert torch.equal(index, brute_force(z, codes))
    assert examined.max() < 500, "measured against the whole codebook"


def _cpu_scores(z: torch.Tensor, codes: torch.Tensor, narrow: bool):
    """The numba twin's scores, the exact ones, and the bound on their difference, each (N, K)."""
    from duotok.kernels import nearest_code_cpu as twin

    frame = twin._frame(codes)
    rows, lengths, _ = twin._rows(z, frame, narrow)
    part = twin._centred(codes, frame, 0, narrow)
    scores = (rows @ part.table.T).double()
    length, lost, left, scale = torch.from_numpy(lengths).double()[..., None].unbind(1)
    mean, factor = frame[:-1].double(), frame[-1].double()
    exact_rows, exact_codes = (z.double() - mean) * factor * scale, (codes.double() - mean) * factor
    norms = scale * exact_codes.square().sum(1) / 2
    peak, missing = part.reach.double().repeat_interleave(256, 0)[: len(codes)].unbind(1)
    bound = twin._relative(z.shape[1], narrow) * (length * peak + scale * peak.square() / 2) + z.shape[1] * 2.0**-120
    bound = bound + lost * peak + left * missing + (2.0**-8 if narrow else 0.0) * scores.abs()
    return scores, exact_rows @ exact_codes.T - norms, bound


@needs_numba
def test_coarse_error_of_the_cpu_never_exceeds_its_bound(narrow):
    worst = 0.0
    for seed in range(150):
        z, codes = random_case(seed)
        z = z[z.isfinite().all(1)].float()
        if len(z) and not (codes == codes[0]).all():
            scores, exact, bound = _cpu_scores(z, codes.float(), narrow)
            worst = max(worst, ((scores - exact).abs() / bound).max().item())
    assert 0.02 < worst <= 1.0, f"the error reaches {worst:.3f} of its bound"


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_fp16_as_fast_uses_it_on_a_gpu_flips_few_rows(offset):
    z, codes = torch.randn(1000, 64) + offset, torch.randn(8192, 64) + offset
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
def test_no_buffer_of_rows_by_codes(narrow):
    from duotok.kernels import nearest_code_cpu
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(t.untyped_storage().nbytes() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t))
            return out

    z, codes = torch.randn(4096, 32), torch.randn(16_384, 32)
    with Watch():  # compiles, and imports what torch watches with
        nearest_code_cpu.search(z[:10], codes, [])
    tracemalloc.start()  # numpy reports its arrays there
    try:
        with Watch():
            nearest_code_cpu.search(z, codes, [])
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(sizes) == (8 if narrow else 16) * 2**20, "where tiles of scores lie; all scores would be 128 or 256 MB"
    assert arrays < 8e6


@needs_numba
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_caller_s_inference_mode_and_give_torch_its_threads_back(narrow, threads):
    z, codes = torch.randn(40, 12), torch.randn(300, 12)
    expected, before = brute_force(z, codes), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for mode in (True, False):
            with torch.inference_mode(mode):
                prepared = prepare(codes + 0)
                assert torch.equal(op.run("numba", z + 0, prepared), expected)
            assert torch.equal(op.run("numba", z, prepared), expected)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_bad_input_is_named_before_any_kernel_starts():
    z, codes = torch.zeros(3, 8), torch.zeros(5, 8)
    for arguments, message in (
        ((z, codes[:, :7]), r"expected z \(N, 7\) to match the codebook; got \(3, 8\); give both one width"),
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


def test_every_refusal_has_a_reason():
    z, codes = torch.randn(3, 8), torch.randn(5, 8)
    assert op.backends == ("triton", "numba", "reference")
    assert op.explain(z, codes)["triton"] == "needs a CUDA tensor; got cpu"
    assert op.explain(z.double(), codes)["numba"] == "needs float32, float16 or bfloat16; got float64"
    assert op.explain(z, prepare(codes))["reference"] is None
    assert torch.equal(nearest_code(z.double(), codes.double()), brute_force(z, codes))


@needs_numba
def test_opcheck_and_fullgraph_compile():
    z, codes = torch.randn(20, 8, requires_grad=True), torch.randn(300, 8)
    prepared = prepare(codes)
    for form in ([], prepared.numba_form):
        torch.library.opcheck(torch.ops.duotok.nearest_code_numba, (z.detach(), codes, form))
    expected = nearest_code(z, codes)
    assert expected.dtype == torch.int64 and not expected.requires_grad
    compiled = torch.compile(lambda z, codes: codes[nearest_code(z, codes)] + z, fullgraph=True, backend="aot_eager")
    out = compiled(z, codes)
    torch.testing.assert_close(out, codes[expected] + z)
    out.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    frozen = torch.compile(lambda z: nearest_code(z, prepared), fullgraph=True, backend="aot_eager")
    assert torch.equal(frozen(z.detach()), expected)

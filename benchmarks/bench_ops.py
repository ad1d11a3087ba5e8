"""Every op on every backend that runs here, at the sizes of the paper's model, and the cost of choosing one."""

from __future__ import annotations

import time

import pytest
import torch
from duotok.kernels import OPS, Op, examples, nearest_code, prepare

CASES = [(name, backend) for name, op in OPS.items() for backend in op.backends]


@pytest.mark.parametrize(("name", "backend"), CASES, ids=lambda value: value)
def bench_op(benchmark, name, backend):
    """One op, one backend; groups put the rivals next to each other."""
    op, arguments = OPS[name], examples.real(name)
    if name == "nearest_code":
        arguments = (arguments[0], prepare(arguments[1]))
    reason = op.explain(*arguments)[backend]
    if reason:
        pytest.skip(f"{backend} {reason}")
    expected, got = op.reference(*arguments), op.run(backend, *arguments)
    if isinstance(got, torch.Tensor):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-2)
    benchmark.group = name
    benchmark(op.run, backend, *arguments)


def bench_cdist(benchmark):
    """What people use for nearest codes today: torch.cdist and argmin, with its N x K matrix."""
    z, codes = examples.real("nearest_code")
    assert (torch.cdist(z, codes).argmin(1) == nearest_code(z, codes)).float().mean() > 0.99
    benchmark.group = "nearest_code"
    benchmark(lambda: torch.cdist(z, codes).argmin(1))


def bench_dispatch_overhead(benchmark):
    """The time a call through `Op` takes beyond the bare function, with one twin that refuses and one that runs."""

    def bare(x):
        return x

    op = Op(bare)
    op.register("triton", unless=lambda x: "needs a CUDA tensor; got cpu")(lambda x: x)
    op.register("numba", unless=lambda x: None)(lambda x: x)
    assert op(7) == bare(7)

    def seconds(function, calls=1000) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            function(7)
        return (time.perf_counter() - start) / calls

    overhead = min(seconds(op) for _ in range(30)) - min(seconds(bare) for _ in range(30))
    benchmark.group = "dispatch"
    benchmark.extra_info["overhead_us"] = 1e6 * overhead
    benchmark(op, 7)
    assert overhead < 5e-6

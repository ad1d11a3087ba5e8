"""Every op on every backend that runs here, at the sizes of the paper's model, and the cost of choosing one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from duotok.kernels import OPS, Op, SimVQOutput, examples, nearest_code, prepare

CASES = [(name, backend) for name, op in OPS.items() for backend in op.backends]
BACKWARD = ("replace_noise", "simvq_loss", "attention", "modulate", "gated_residual", "linear", "convolution")
COMPILED = ("replace_noise", "simvq_loss", "attention", "modulate", "gated_residual")

sizes = pytest.mark.parametrize("size", ["small", "real"])
directions = pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])


def inputs_of(name: str, size: str, backward: bool) -> tuple:
    """The op's arguments; those that have gradients ask for them."""
    arguments = getattr(examples, size)(name)
    if name == "nearest_code":
        return (arguments[0], prepare(arguments[1]))
    wanted = [backward and isinstance(a, torch.Tensor) and a.is_floating_point() for a in arguments]
    if name == "simvq_loss":
        wanted[2] = False  # the table is frozen
    return tuple(a.requires_grad_() if yes else a for a, yes in zip(arguments, wanted, strict=True))


def whole(call: Callable, arguments: tuple) -> Callable[[], object]:
    """The call, and its backward if its arguments ask for it."""
    wanted = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]

    def both() -> object:
        out = call(*arguments)
        value = out if isinstance(out, torch.Tensor) else out.quantized.sum() + out.commitment + out.codebook
        return torch.autograd.grad(value.sum(), wanted)

    return both if wanted else lambda: call(*arguments)


def assert_same(got: object, expected: object) -> None:
    """Compare what two implementations gave: tensors, tuples of them, or all of a SimVQOutput."""
    if isinstance(got, SimVQOutput):
        got, expected = vars(got), vars(expected)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-2)


def bytes_and_flops(name: str, arguments: tuple, out: object) -> tuple[int, float]:
    """The least traffic, every tensor once, and the arithmetic of ops that are products."""
    tensors = [t for t in (*arguments, out) if isinstance(t, torch.Tensor)]
    x = arguments[0]
    flops = {
        "attention": lambda: 4.0 * x.numel() * x.shape[1],
        "linear": lambda: 2.0 * x.numel() * len(arguments[1]),
        "convolution": lambda: 2.0 * out.numel() * arguments[1][0].numel(),
        "nearest_code": lambda: 2.0 * x.numel() * len(arguments[1].codes),
    }.get(name, lambda: 0.0)()
    return sum(t.numel() * t.element_size() for t in tensors), flops


@directions
@sizes
@pytest.mark.parametrize(("name", "backend"), CASES, ids=lambda value: value)
def bench_op(record, name, backend, size, backward):
    """One op, one backend; groups put the rivals next to each other."""
    if backward and name not in BACKWARD:
        pytest.skip(f"{name} has no backward of its own")
    op, arguments = OPS[name], inputs_of(name, size, backward)
    reason = op.explain(*arguments)[backend]
    if reason:
        pytest.skip(f"{backend} {reason}")
    expected, got = whole(op.reference, arguments)(), whole(partial(op.run, backend), arguments)()
    assert_same(got, expected)
    group = f"{name}, {size}, {'forward and backward' if backward else 'forward'}"
    rates = (0, 0.0) if backward else bytes_and_flops(name, arguments, expected)
    record(group, {"ours": whole(partial(op.run, backend), arguments)}, *rates)


@pytest.mark.slow
@directions
@pytest.mark.parametrize("name", COMPILED)
def bench_compiled(record, name, backward):
    """The reference under torch.compile, beside ours."""
    op, arguments = OPS[name], inputs_of(name, "real", backward)
    ours, compiled = whole(op, arguments), whole(torch.compile(op.reference), arguments)
    got, expected = ours(), compiled()
    assert_same(got, expected)
    record(f"{name}, real, {'forward and backward' if backward else 'forward'}", {"ours": ours, "compiled": compiled})


def bench_cdist(record):
    """What people use for nearest codes today: torch.cdist and argmin, with its N x K matrix."""
    z, codes = examples.real("nearest_code")
    assert (torch.cdist(z, codes).argmin(1) == nearest_code(z, codes)).float().mean() > 0.99
    record("nearest_code, real, forward", {"ours": lambda: torch.cdist(z, codes).argmin(1)})


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

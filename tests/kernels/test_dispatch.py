"""The dispatcher picks the first twin that does not refuse, says why others do, and costs next to nothing."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from duotok.kernels import OPS, Op, examples, explain, prepare, use_backends


@pytest.fixture
def op() -> Op:
    @Op
    def double(x, times=2):
        """Double x."""
        return ("reference", x * times)

    @double.register("numba", unless=lambda x, times=2: None if x > 0 else f"needs x above 0; got {x}")
    def _numba(x, times=2):
        return ("numba", x * times)

    @double.register("cpu", unless=lambda x, times=2: None)
    def _cpu(x, times=2):
        return ("cpu", x * times)

    return double


def test_first_willing_backend_runs(op):
    assert op(3) == ("numba", 6)
    assert op(-3) == ("cpu", -6)
    assert op(-3, times=3) == ("cpu", -9)
    assert (op.name, op.__doc__, op.backends) == ("double", "Double x.", ("numba", "cpu", "reference"))


def test_numpy_arrays_are_refused_before_any_backend_is_asked(op):
    array = np.zeros((4, 8), "f4")
    message = r"expected tensors; got a numpy array \(4, 8\); wrap it in torch.from_numpy"
    for call in (lambda: op(array), lambda: op(3, times=array), lambda: op.run("cpu", array)):
        with pytest.raises(ValueError, match=f"double: {message}"):
            call()
    with pytest.raises(ValueError, match=f"prepare: {message}"):
        prepare(array)


@pytest.mark.parametrize("value", [[4, 8], (4, 8)])
def test_lists_and_tuples_are_refused_before_any_backend_is_asked(op, value):
    with pytest.raises(ValueError, match=f"double: expected tensors; got a {type(value).__name__}; wrap it in torch.tensor"):
        op(3, value)


@pytest.mark.parametrize("name", OPS)
def test_ops_are_found_again_by_pickle_and_copy(name):
    assert pickle.loads(pickle.dumps(OPS[name])) is OPS[name] and copy.deepcopy(OPS[name]) is OPS[name]


def test_explain_gives_every_reason(op):
    assert op.explain(-1) == {"numba": "needs x above 0; got -1", "cpu": None, "reference": None}
    with use_backends("numba"):
        assert op.explain(1)["cpu"] == "switched off by use_backends or DUOTOK_BACKENDS"


def test_use_backends_holds_inside_the_block_only(op):
    with use_backends("reference"):
        assert op(3)[0] == "reference"
    with pytest.raises(RuntimeError), use_backends("cpu"):
        assert op(3)[0] == "cpu"
        raise RuntimeError
    assert op(3)[0] == "numba"


def test_run_is_strict(op):
    assert op.run("cpu", 3)[0] == "cpu"
    assert op.run("reference", 3)[0] == "reference"
    with pytest.raises(ValueError, match="it needs x above 0; got -1"):
        op.run("numba", -1)
    with pytest.raises(ValueError, match=r"expected one of .*; got 'cuda'"):
        op.run("cuda", 3)


def test_register_refuses_what_does_not_fit(op):
    with pytest.raises(ValueError, match="expected the reference's parameters"):
        op.register("triton", unless=lambda x, times=2: None)(lambda x: x)
    with pytest.raises(ValueError, match="expected the reference's parameters"):
        op.register("triton", unless=lambda x: None)(lambda x, times=2: x)
    with pytest.raises(ValueError, match="got 'cpu' again"):
        op.register("cpu", unless=lambda x, times=2: None)
    with pytest.raises(ValueError, match="got 'fast'"):
        op.register("fast", unless=lambda x, times=2: None)


def test_environment_steers_and_is_checked():
    code = "from duotok.kernels import attention, examples; print(attention.explain(*examples.small('attention'))['sdpa'])"
    env = {"PATH": "", "DUOTOK_BACKENDS": "cpu"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert "switched off" in out
    env["DUOTOK_BACKENDS"] = "tritno"
    error = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stderr
    assert "DUOTOK_BACKENDS: expected backends out of" in error


def test_explain_by_name():
    assert explain("nearest_code", *examples.small("nearest_code"))["reference"] is None
    with pytest.raises(ValueError, match="expected an op out of log_mel"):
        explain("nearest")


@pytest.mark.parametrize("name", OPS)
def test_every_backend_that_runs_here_agrees_with_the_reference(name):
    op, arguments = OPS[name], examples.small(name)
    expected = op.reference(*arguments)
    for backend, reason in op.explain(*arguments).items():
        if reason is None:
            got = op.run(backend, *arguments)
            for mine, theirs in zip(_tensors(got), _tensors(expected), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def _tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return list(value if isinstance(value, tuple) else vars(value).values())


def test_dispatch_costs_less_than_five_microseconds():
    """A gate on the best of many rounds; benchmarks/bench_ops.py measures it properly."""

    @Op
    def nothing(x):
        return x

    nothing.register("numba", unless=lambda x: "needs something else; got this")(lambda x: x)

    def best(function) -> float:
        rounds = []
        for _ in range(50):
            start = time.perf_counter()
            for _ in range(200):
                function(1)
            rounds.append((time.perf_counter() - start) / 200)
        return min(rounds)

    assert best(nothing) - best(nothing.reference) < 5e-6


def test_numba_leaves_torch_its_number_of_threads():
    """In a fresh process, because numba's pool starts once: the same OpenMP may serve both."""
    program = (
        "import torch; from duotok.kernels import replace_noise; torch.set_num_threads(1);"
        "replace_noise.run('numba', torch.zeros(64, 64), 0.5, 1.0, torch.tensor([1, 2])); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"

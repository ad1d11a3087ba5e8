"""What a twin of an op needs in order to run at all, said in sentences, and what the numba twins are compiled and started with.

    why_not_triton(x, seed) -> None or, for example, "needs a CUDA tensor; got cpu"
    why_not_numba(x) -> None or, for example, "needs numba; it is not installed"
    why_not_numba_threads(x) -> None or, in a forked process, "needs numba's threads, ..."
    why_not_plain(x) -> None or, for example, "has no forward-mode derivative; got a tensor with a tangent"

Triton and numba are found without being imported: a twin's module imports them when it first runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def constant(function: Callable) -> Callable:
    """Let torch.compile take a function's result for a constant.

    This is `torch.compiler.assume_constant_result`, which imports the compiler to do it: a second and a half of every process.
    """
    function._dynamo_marked_constant = True
    return function


@constant
def interpreting() -> bool:
    """Say whether Triton kernels run on the CPU, one operation at a time (TRITON_INTERPRET=1): for tests alone."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@constant
def installed(package: str) -> bool:
    """Say whether the package can be imported, without importing it."""
    if package not in _found:
        try:
            _found[package] = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:  # the package that should hold it is absent
            _found[package] = False
    return _found[package]


_found: dict[str, bool] = {}


def has_tangent(*tensors: Tensor | None) -> bool:
    """Say whether one of the tensors (of any shape; None is left out) carries a derivative of forward-mode differentiation."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return False
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def why_not_plain(*tensors: Tensor | None) -> str | None:
    """Say why code that reads memory itself cannot take these tensors (of any shape; None is left out); None if it can.

    Such code knows nothing of what torch.func and forward-mode differentiation attach to a tensor, and would drop it.
    """
    if torch.compiler.is_compiling():
        return None
    inside = torch._C._functorch.peek_interpreter_stack() is not None  # asked first, as tensors outside need no look
    if inside and any(t is not None and torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors):
        return "needs plain tensors; got one inside a transform of torch.func"
    return "has no forward-mode derivative; got a tensor with a tangent" if has_tangent(*tensors) else None


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Give a context in which autocast narrows nothing on the device; entering it is free where none is on."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else contextlib.nullcontext()


def why_not_triton(*tensors: Tensor | None) -> str | None:
    """Say why a Triton kernel cannot take these tensors (of any shape; None is left out); None if it can."""
    if not installed("triton"):
        return "needs triton; it is not installed"
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cuda" and not interpreting():
            return f"needs a CUDA tensor; got {tensor.device.type}"
    return why_not_plain(*tensors)


def why_not_numba(*tensors: Tensor | None) -> str | None:
    """Say why a numba function cannot take these tensors (of any shape; None is left out); None if it can."""
    if not installed("numba"):
        return "needs numba; it is not installed"
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            return f"needs a CPU tensor; got {tensor.device.type}"
    return why_not_plain(*tensors)


def why_not_numba_threads(*tensors: Tensor | None) -> str | None:
    """Say why a numba function that shares its work among threads cannot take these tensors (of any shape); None if it can."""
    if _left_threads_behind:
        return "needs numba's threads, which this process was forked away from; start it by spawn or forkserver"
    return why_not_numba(*tensors)


_launched = _left_threads_behind = False


def _after_fork() -> None:
    global _left_threads_behind
    _left_threads_behind = _launched


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def match_numba_threads() -> None:
    """Let numba's next launch use as many threads as torch does.

    Both may stand on one OpenMP, whose number numba sets to that of all cores when its pool starts: torch's is set back.
    """
    global _launched
    import numba

    _launched, threads = True, torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def jit(function: Callable | None = None, **options: object) -> Callable:
    """Do what `numba.njit` does, without the interpreter's lock; keep what was compiled on disk where there is a place for it.

    Args:
        function: to compile; None gives a decorator.
        options: of `numba.njit`.
    """
    import numba

    if function is None:
        return functools.partial(jit, **options)
    try:
        return numba.njit(function, nogil=True, cache=True, **options)
    except RuntimeError as error:  # neither the package's folder nor the user's can be written to
        if "no locator available" not in str(error):
            raise
        return numba.njit(function, nogil=True, **options)

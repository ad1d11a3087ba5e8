"""Op: the one place where the implementation of an operation is chosen.

An op file defines its reference in plain torch, which is the specification, and registers faster twins below it:

    @Op
    def nearest_code(z, codebook): ...

    @nearest_code.register("triton", unless=why_not_triton)
    def _triton(z, codebook): ...

`unless(*args)` is pure: it returns None when the twin can run and otherwise a sentence that says why not, for example
"needs a CUDA tensor, got cpu". The first registered twin that does not refuse runs; the reference never refuses. Nothing
is caught: a twin that fails, fails aloud.

Steering: the environment variable `DUOTOK_BACKENDS=cpu,reference`, `with use_backends("reference"):`, and the strict
`op.run("triton", ...)` of tests and benchmarks.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BACKENDS = (
    "cuda", "triton", "flash4", "flash3", "flash2", "cudnn", "varlen", "xformers", "onednn", "sdpa", "cpu", "numba",
    "reference",
)  # fmt: skip


@dataclass(frozen=True)
class Backend:
    """One twin of an op: its `function`, and `unless`, which says why it cannot run on given arguments."""

    name: str
    function: Callable
    unless: Callable[..., str | None]


def _checked(names: tuple[str, ...], source: str) -> frozenset[str]:
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise ValueError(f"{source}: expected backends out of {', '.join(BACKENDS)}; got {unknown[0]!r}; correct the name")
    return frozenset(names)


def _from_environment() -> frozenset[str] | None:
    names = os.environ.get("DUOTOK_BACKENDS", "")
    return _checked(tuple(name.strip() for name in names.split(",")), "DUOTOK_BACKENDS") if names else None


_allowed = _from_environment()
_ARRAYS = (np.ndarray, list, tuple)


@contextlib.contextmanager
def use_backends(*names: str) -> Iterator[None]:
    """Let only the named backends (and the reference, which always serves) run inside the block.

    The choice holds for the whole process, not for one thread: it is meant for tests and benchmarks.

    Args:
        names: backends out of `BACKENDS`.

    Raises:
        ValueError: for an unknown name.
    """
    global _allowed
    before, _allowed = _allowed, _checked(names, "use_backends")
    try:
        yield
    finally:
        _allowed = before


class Op:
    """An operation: a reference implementation and its faster twins, called like the reference itself."""

    def __init__(self, reference: Callable) -> None:
        functools.update_wrapper(self, reference)
        self.name = reference.__name__
        self.reference = reference
        self._backends: list[Backend] = []
        self._check: Callable[..., None] | None = None

    def __call__(self, *args, **kwargs):
        self._refuse(args, kwargs)
        for backend in self._backends:
            if (_allowed is None or backend.name in _allowed) and backend.unless(*args, **kwargs) is None:
                return backend.function(*args, **kwargs)
        return self.reference(*args, **kwargs)

    def __reduce__(self) -> str:
        """Let pickle and copy find the op by its name: an op is one object of its module."""
        return self.__qualname__

    def _refuse(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Raise ValueError for arguments that no backend takes."""
        refuse_arrays(self.name, *args, *kwargs.values())
        if self._check is not None:
            self._check(*args, **kwargs)

    def register(self, name: str, *, unless: Callable[..., str | None]) -> Callable[[Callable], Callable]:
        """Add a twin behind those already registered.

        Args:
            name: one of `BACKENDS`.
            unless: takes the op's arguments; returns None if the twin can run, else the reason.

        Raises:
            ValueError: if the name is unknown or taken, or if a signature differs from the reference's.
        """
        _checked((name,), f"{self.name}.register")
        if name in self.backends:
            raise ValueError(f"{self.name}.register: expected a new backend; got {name!r} again; remove one of the two")

        def decorate(function: Callable) -> Callable:
            for candidate in (function, unless):
                if _parameters(candidate) != _parameters(self.reference):
                    raise ValueError(
                        f"{self.name}.register({name!r}): expected the reference's parameters "
                        f"{_parameters(self.reference)}; got {_parameters(candidate)}; make them equal"
                    )
            self._backends.append(Backend(name, function, unless))
            return function

        return decorate

    def checked(self, check: Callable[..., None]) -> Callable[..., None]:
        """Let `check`, which takes the op's arguments, refuse bad ones (ValueError) before any backend is asked."""
        self._check = check
        return check

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the backends in the order in which they are asked, the reference last."""
        return (*(backend.name for backend in self._backends), "reference")

    def explain(self, *args, **kwargs) -> dict[str, str | None]:
        """Say of every backend why it would not run on these arguments; None where it would."""
        reasons = {}
        for backend in self._backends:
            off = _allowed is not None and backend.name not in _allowed
            reasons[backend.name] = (
                "switched off by use_backends or DUOTOK_BACKENDS" if off else backend.unless(*args, **kwargs)
            )
        return {**reasons, "reference": None}

    def run(self, backend: str, *args, **kwargs) -> Any:
        """Run exactly the named backend.

        Raises:
            ValueError: if it does not exist or refuses these arguments, with its reason.
        """
        self._refuse(args, kwargs)
        if backend == "reference":
            return self.reference(*args, **kwargs)
        for candidate in self._backends:
            if candidate.name == backend:
                reason = candidate.unless(*args, **kwargs)
                if reason is not None:
                    raise ValueError(f"{self.name}: expected {backend} to run; it {reason}; choose another of {self.backends}")
                return candidate.function(*args, **kwargs)
        raise ValueError(f"{self.name}: expected one of {self.backends}; got {backend!r}; choose one of those")


def refuse_arrays(name: str, *values: object) -> None:
    """Raise ValueError if one of the values given to `name` is a numpy array, a list or a tuple."""
    for value in values:
        if isinstance(value, _ARRAYS):
            array = isinstance(value, np.ndarray)
            got, remedy = (f"numpy array {value.shape}", "from_numpy") if array else (type(value).__name__, "tensor")
            raise ValueError(f"{name}: expected tensors; got a {got}; wrap it in torch.{remedy}")


def _parameters(function: Callable) -> list[tuple[str, object]]:
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

"""How the numba twins are compiled: without the interpreter's lock, and kept on disk where there is a place for it.

_jit = functools.partial(jit, error_model="numpy")

@_jit(parallel=True)
def add(x, y): ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba


def jit(function: Callable | None = None, **options: object) -> Callable:
    """Do what `numba.njit` does; where neither the package's folder nor the user's can be written to, compile in every process.

    Args:
        function: to compile; None gives a decorator.
        options: of `numba.njit`.
    """
    if function is None:
        return functools.partial(jit, **options)
    try:
        return numba.njit(function, nogil=True, cache=True, **options)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return numba.njit(function, nogil=True, **options)

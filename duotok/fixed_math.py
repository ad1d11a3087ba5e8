"""Arithmetic whose last bit depends on the input and the device alone, for models that are run window by window.

What it sets belongs to the whole process, in which several threads may compute at once: one decodes and separates while another
encodes. So settings go back only when the last of them is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

_lock, _turn = threading.Lock(), threading.RLock()
_inside, _before = 0, ExitStack()


@contextmanager
def exact_math() -> Iterator[None]:
    """Compute full float32 products and deterministic convolutions, whatever the process is set to."""
    global _inside
    with _lock:
        if not _inside:
            _enter()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _before.close()


def _enter() -> None:
    settings, found = _settings(), []
    for read, write, _ in settings:
        with suppress(RuntimeError):  # the older interface does not tell what was set through the newer one
            found.append(partial(write, read()))
    for back in reversed(found):
        _before.callback(back)
    for _, write, exact in settings:
        write(exact)


def _settings() -> list[tuple[Callable[[], object], Callable[[object], None], object]]:
    """List what decides, as (read, write, exact value): torch's older interface first, for it writes what the newer one has."""
    import torch

    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    named = [
        (cudnn, "enabled", True),
        (cudnn, "benchmark", False),
        (cudnn, "deterministic", True),
        (cudnn, "allow_tf32", False),
    ]
    newer = [(cuda, "matmul"), (cudnn, "conv"), (cudnn, "rnn"), (mkldnn, "matmul"), (mkldnn, "conv"), (mkldnn, "rnn")]
    finer = [getattr(backend, operation, None) for backend, operation in newer]  # torch 2.9
    named += [(owner, "fp32_precision", "ieee") for owner in finer if hasattr(owner, "fp32_precision")]
    return [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        *((partial(getattr, owner, name), partial(setattr, owner, name), exact) for owner, name, exact in named),
    ]


@contextmanager
def fixed_math() -> Iterator[None]:
    """Compute exactly, and on one CPU thread: more of them change the last bit, and workers have each their own number.

    One thread of a process at a time, as the number is that of them all; more processes separate faster.
    """
    import torch

    with _turn, exact_math():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

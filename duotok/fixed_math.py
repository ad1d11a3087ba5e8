"""Arithmetic whose last bit depends on the input and the device alone, for models that are run window by window.

What it sets belongs to the whole process, in which several threads may compute at once: one decodes and separates while another
encodes. So settings go back only when the last of them is done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock, _turn = threading.Lock(), threading.RLock()
_inside, _settings = 0, ExitStack()


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
                _settings.close()


def _enter() -> None:
    import torch

    _settings.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("highest")
    _settings.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False))


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
